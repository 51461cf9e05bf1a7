"""What is attacked runs in processes of its own, forked from a server that has imported everything: a run in a second.

`call` gives a function to such a process, with a fault or none, and returns what became of it.
"""

import os
import re
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from benchmark.runner import CONTEXT
from tests.attack.faults import Fault

CONTEXT.set_forkserver_preload(["benchmark.server", "benchmark.worker", "tests.attack.warm"])

PATIENCE = 300.0
"""Seconds after which what was called hangs, on a machine that does other things, too."""

PROCESSOR = 60
"""Seconds of the processor's after which it does so as well."""

MEMORY = 8 * 2**30
"""Bytes that it may allocate."""

_ALONE = threading.Lock()
"""Starting a process asks after all others; of two threads that do so one would miss the answer."""

TRACES = ("Traceback (most recent call last)", "--- Logging error ---", "Exception ignored in")


@dataclass
class Outcome:
    """What became of a process.

    Attributes:
        status: its exit status; the negative number of the signal that ended it.
        out, err: what it printed.
        value: what the function returned; None where it did not come to that.
        operations: file operations that it did below the fault's folder.
        seconds: from its start to its end.
        hung: it was killed after its time was over.
    """

    status: int = 0
    out: str = ""
    err: str = ""
    value: Any = None
    operations: int = 0
    seconds: float = 0.0
    hung: bool = False

    def complaint(self) -> str | None:
        """Why this is no end for a command of ours: neither success nor a line that tells the user's mistake."""
        printed = self.out + self.err
        if self.hung or self.status == -signal.SIGXCPU:
            return f"it hangs: still there after {self.seconds:.0f} s"
        if any(mark in printed for mark in TRACES):
            return "a traceback: " + _innermost(printed)
        if self.status in (0, 2) or (self.status == 1 and self.one_line()):
            return None
        lines = len(self.err.splitlines())
        return f"exit status {self.status}, and {lines} lines on stderr, the last {self.err[-200:]!r}"

    def one_line(self) -> bool:
        """Whether it ended in one line on stderr that begins with "error:"."""
        lines = self.err.splitlines()
        return sum(line.startswith("error: ") for line in lines) == 1 and lines[-1].startswith("error: ")


def call(
    function: Callable[..., Any],
    *args: Any,
    fault: Fault | None = None,
    kill_after: float | None = None,
    environment: Mapping[str, str] | None = None,
    patience: float = PATIENCE,
) -> Outcome:
    """Call a module's function in a process of its own; an int that it returns is the exit status.

    Args:
        fault: what happens to its files.
        kill_after: seconds after which it is killed.
        environment: what is added to this process's.
        patience: seconds after which it and its children are killed, and have hung.
    """
    outcome = Outcome()
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(3)]
    told = {**os.environ, **(environment or {})}
    process = CONTEXT.Process(target=_child, args=([end for _, end in pipes], told, fault, function, args))
    started = time.monotonic()
    with _ALONE:
        process.start()
    for _, end in pipes:
        end.close()
    out, err, result = (start for start, _ in pipes)
    printed: dict[Any, bytes] = {out: b"", err: b""}
    while True:
        spent = time.monotonic() - started
        if kill_after is not None and spent >= kill_after:
            with suppress(ProcessLookupError):  # it has ended
                os.kill(process.pid, signal.SIGKILL)
        if spent >= patience and not outcome.hung:
            outcome.hung = True
            end_group(process.pid)
        if not _drain(printed, result, outcome, process.sentinel, min(patience, kill_after or patience) - spent):
            break
    with _ALONE:
        process.join()
    outcome.seconds = time.monotonic() - started
    outcome.out, outcome.err = (printed[pipe].decode(errors="replace") for pipe in (out, err))
    for pipe, _ in pipes:
        pipe.close()
    outcome.status = process.exitcode or 0
    return outcome


def end_group(pid: int) -> None:
    """Kill a process that `call` started, and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def left_behind(mark: str, seconds: float = 10.0) -> list[str]:
    """The processes that still have a text in their environment after some time: "pid command"."""
    end = time.monotonic() + seconds
    while found := [line for line in _processes() if mark in line[1]]:
        if time.monotonic() > end:
            break
        time.sleep(0.2)
    return [line[0] for line in found]


def _processes():
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z" and int(folder.name) != os.getpid():
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield f"{folder.name} {command[:80]}", (folder / "environ").read_bytes().decode(errors="replace")


def _drain(printed, result, outcome, sentinel, seconds):
    """Take what came meanwhile; whether more may come."""
    alive = [sentinel] if not connection.wait([sentinel], 0) else []
    ready = connection.wait([*printed, result, *alive], max(0.01, seconds) if alive else 0)
    got = False
    for pipe in ready:
        if pipe is result:
            with suppress(EOFError, OSError):
                outcome.value, outcome.operations = result.recv()
                got = True
        elif pipe is not sentinel and (text := os.read(pipe.fileno(), 2**16)):
            printed[pipe] += text
            got = True
    return bool(alive) or got


def _child(pipes, environment, fault, function, args):
    import multiprocessing

    import torch

    from benchmark import worker

    worker.end_with_parent()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})  # which the server had blocked
    out, err, result = pipes
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    out.close()
    err.close()
    os.environ.clear()
    os.environ.update(environment)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR, resource.RLIM_INFINITY))
    torch.set_num_threads(1)
    multiprocessing.set_start_method(None, force=True)  # as under train.py
    if fault is not None:
        fault.arm()
    status, value = 1, None
    try:
        value = function(*args)
        status = value if isinstance(value, int) else 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    with suppress(OSError, ValueError):
        result.send((value if _plain(value) else None, fault.done() if fault else 0))
    sys.exit(status)


def _plain(value):
    return isinstance(value, str | int | float | bytes | list | tuple | dict | None)


def _innermost(printed):
    """The last project frame of the last traceback and its error."""
    lines = printed.splitlines()
    frames = re.findall(r'^ *File "(.*)", line (\d+)', printed, re.MULTILINE)
    ours = [f"{Path(file).name}:{line}" for file, line in frames if "/site-packages/" not in file]
    last = [line for line in lines if line and not line.startswith((" ", "Traceback", "error:"))]
    return f"{last[-1][:160] if last else '?'} at {' < '.join(ours[-3:][::-1]) or '?'}"
