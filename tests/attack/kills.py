"""Runs are killed, and the same command is given again until it ends: the result is that of a run left alone.

Killed at random moments, before operations on files, and as by a power cut, once or up to three times; with the last
checkpoint alone, with all of them, or with the best on val; from features that are kept, or making them.
"""

import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

from tests.attack import runs
from tests.attack.child import call
from tests.attack.faults import Fault
from tests.attack.harness import Attack, Attempt, succeeded

VARIANTS = ((), ("TRAIN.CHECKPOINT_FREQ", "2"), ("TEST.FINAL_MODEL", "best_val"))


class Kills(Attack):
    __doc__ = __doc__
    name, long = "kills", 500
    do = staticmethod(runs.do)

    def targets(self) -> list[str]:
        return runs.names()

    def attempt(self, target: str, seed: int) -> Attempt:
        rng = random.Random(f"{target} {seed}")
        small = runs.Small(target, str(self.folder / "data"), rng.choice(VARIANTS))
        whole, operations, seconds = self.once(small, lambda: self.whole(small))
        place = self.place(target)
        output, kept = place / "run", rng.random() < 0.7
        cache = self.folder / "cache" if kept else place / "cache"
        words, environment, kills, how = small.words(output), runs.environment(cache), 0, []
        for _ in range(rng.choice((1, 1, 2, 3))):
            way = rng.choice(("moment", "kill", "kill", "power"))
            if way == "moment":
                moment = rng.uniform(0, seconds)
                outcome = call(self.do, words, kill_after=moment, environment=environment)
                how.append(f"after {moment:.2f} s")
            else:
                at = 1 + int(rng.random() * operations)
                outcome = call(self.do, words, fault=Fault(way, str(place), at), environment=environment)
                how.append(f"{way} at operation {at}")
            kills += outcome.status < 0
            if outcome.status >= 0 and (outcome.status or outcome.complaint()):
                what = outcome.complaint() or outcome.err[-300:].strip()
                return Attempt([(seed, f"{', '.join(how)}: {what}")], kills)
        _age(place / "cache")
        outcome = call(self.do, words, environment=environment)
        if outcome.status or outcome.complaint():
            fell: str | None = outcome.complaint() or outcome.err[-300:].strip()
        else:
            fell = runs.difference(whole, runs.result(output)) or (None if kept else _leftovers(cache))
        if not fell:
            shutil.rmtree(place)
        return Attempt([(seed, f"{', '.join(how)}: {fell}")] if fell else [], kills)

    def whole(self, small: runs.Small) -> tuple[dict[str, Any], int, float]:
        """Of a run left alone: its result, how many operations on files it does, and its seconds."""
        environment = runs.environment(self.folder / "cache")
        for _ in range(2):  # the first keeps what it computes, the second finds it
            output = self.place(small.trainer) / "run"
            outcome = succeeded(
                call(runs.do, small.words(output), fault=Fault("", str(output)), environment=environment)
            )
        return runs.result(output), outcome.operations, outcome.seconds


def _age(cache: Path) -> None:
    """Let hours pass: what is younger may be somebody's at work."""
    for path in cache.rglob(".*"):
        os.utime(path, (0, time.time() - 24 * 3600))


def _leftovers(cache: Path) -> str | None:
    """Hidden files that nobody will need. Locks, which are empty, go when something is next kept."""
    hidden = [path for path in cache.rglob(".*") if path.is_file() and path.stat().st_size]
    left = [path.relative_to(cache).as_posix() for path in hidden]
    return f"left over in the cache: {left}" if left else None
