"""Mutated files and arguments: whoever reads them succeeds, or says in one line what is wrong.

Readers get many inputs in a process; commands one, in a process of its own that may take some seconds and GiB.
"""

import contextlib
import io
import os
import random
import resource
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dassl.errors import UserError
from tests.attack import fuzz_commands, fuzz_readers
from tests.attack.child import Outcome, call
from tests.attack.harness import Attack, Attempt

BATCH = 100
"""Inputs that a process of readers gets."""

SECONDS = 20
"""Of the processor's that a reader may take for one."""


class Fuzz(Attack):
    __doc__ = __doc__
    name = "fuzz"

    def targets(self) -> list[str]:
        return [*fuzz_readers.TARGETS, *fuzz_commands.TARGETS]

    def batch(self, target: str) -> int:
        return BATCH if target in fuzz_readers.TARGETS else 1

    def attempt(self, target: str, seed: int) -> Attempt:
        return self.attempts(target, seed, 1)

    def attempts(self, target: str, seed: int, count: int) -> Attempt:
        start = self.once("start", lambda: fuzz_commands.prepare(self.folder))
        place = self.place(target)
        environment = {"MOCOOP_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        fell: list[tuple[int, str]] = []
        if target in fuzz_commands.TARGETS:
            outcome = call(fuzz_commands.command, target, seed, str(place), start, environment=environment)
            fell = [(seed, what)] if (what := wrong(outcome)) else []
        else:
            args = target, seed, count, str(place), start
            outcome = call(read, *args, environment=environment, patience=600)
            if outcome.value is None:  # it did not come to the end: which one was it?
                if count == 1:
                    fell = [(seed, outcome.complaint() or f"exit status {outcome.status}")]
                else:
                    halves = (seed, count // 2), (seed + count // 2, count - count // 2)
                    fell = [one for half in halves for one in self.attempts(target, *half).fell]
            else:
                fell = [(which, what) for which, what in outcome.value]
        if not fell:
            shutil.rmtree(place, ignore_errors=True)
        return Attempt(fell, count)


def wrong(outcome: Outcome) -> str | None:
    """What is wrong with how a command took an input."""
    if outcome.value in ("not finite", "nothing said"):
        return f"success, with numbers that are {outcome.value}" if outcome.value == "not finite" else outcome.value
    return outcome.complaint()


class Slow(BaseException):
    """A reader takes too long."""


def _too_long(*_):
    raise Slow


def read(target: str, seed: int, count: int, place: str, start: dict[str, str]) -> list[tuple[int, str]]:
    """Give a reader some inputs: (seed, what is wrong) of those that it did not take well. Called in a process."""
    reader = fuzz_readers.TARGETS[target](start)
    signal.signal(signal.SIGPROF, _too_long)
    resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY,) * 2)  # of all together
    fell = []
    for which in range(seed, seed + count):
        folder = Path(place, str(which))
        folder.mkdir()
        if what := _reading(reader, random.Random(f"{target} {which}"), folder):
            fell.append((which, what))
        shutil.rmtree(folder, ignore_errors=True)
    return fell


def _reading(reader: Callable[[random.Random, Path], Any], rng: random.Random, folder: Path) -> str | None:
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            found = reader(rng, folder)
        if isinstance(found, str):
            return found
        lines = err.getvalue().splitlines()
        if found == 1 and not (lines and lines[-1].startswith("error: ")):
            return f"exit status 1, and on stderr {lines[-1:]}"
    except UserError as error:
        return None if str(error).strip() else "an error without words"
    except SystemExit as end:
        return None if end.code in (0, 2) else f"exit with {end.code}"
    except Slow:
        return f"it takes more than {SECONDS} s"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:100]} at {_frames(error)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def _frames(error):
    here = os.path.dirname(__file__)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(here)]
    ours = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in ours[-3:][::-1])
