"""Ctrl-C and SIGTERM end a program in one line, at a place from which the same command goes on.

SIGTERM is how a cluster takes a machine back: Slurm sends it at the end of a job's time, or where another job comes
first, and SIGKILL some 30 seconds later. A program that heeds it ends with status GO_ON_LATER. `heeding` is told what
it may finish first; a second SIGTERM ends it at once. One that follows within SAME seconds is the same: launchers pass
on what a cluster has sent to all processes.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, NoReturn

from dassl.errors import GO_ON_LATER, INTERRUPTED, Stopped, UserError

SAME = 2.0
"""Seconds."""

UNWINDING = 5.0
"""Seconds that a program has at least to end after Stopped, which what it runs may swallow."""

_is_program = False
_heard: float | None = None  # when SIGTERM came
_finishing: Callable[[], str | None] | None = None


def grace() -> float:
    """Seconds that a run has after SIGTERM, at most: $MOCOOP_GRACE, else 25. Raises UserError if it is no number."""
    said = os.environ.get("MOCOOP_GRACE") or "25"
    try:
        seconds = float(said)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UserError(f'MOCOOP_GRACE is "{said}": give the seconds that a run has after SIGTERM, such as 25')
    return seconds


@contextmanager
def heeding(finishing: Callable[[], str | None] | None = None) -> Iterator[None]:
    """SIGTERM in the block says so in a line on stderr, and raises Stopped. Blocks may be in each other.

    Args:
        finishing: asked when it comes; what is to be finished before, in words, and it is for the block to call `stop`
            then, at the latest `grace` seconds later, when the process is ended. None: nothing is, at once.
    """
    global _heard, _finishing
    # the main thread alone hears; not on Windows
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    grace()
    before, asked = signal.getsignal(signal.SIGTERM), _finishing
    _finishing = finishing
    try:
        signal.signal(signal.SIGTERM, _on_term)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        yield
    finally:
        _finishing = asked
        if before is not _on_term:
            # a program's work is done: that it ends must not look like a kill
            signal.signal(signal.SIGTERM, signal.SIG_IGN if _is_program else before or signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _heard = None


def heard() -> bool:
    """Whether SIGTERM came, in a `heeding` block."""
    return _heard is not None


def stop() -> NoReturn:
    """Raise Stopped; processes that load data for this one end."""
    _end_loading()
    raise Stopped


def end_in_one_line() -> None:
    """Say that this process is a program, whose file calls this before other imports: Ctrl-C is one line anywhere.

    In `dassl.errors.exit_status` it is a KeyboardInterrupt, as ever. But modules turn one that meets them on their
    import into other errors, and outside there is nobody to catch it: there the process is ended.
    """
    global _is_program
    _is_program = True
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_interrupt)


def outlast_term(_worker: int = 0) -> None:
    """To be called in a process that loads data for a run, which may finish an epoch after SIGTERM to all processes.

    It ends with the run, a second SIGTERM ends it at once.
    """

    def later(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, grace() + SAME)

    signal.signal(signal.SIGTERM, later)


def _on_term(number: int, frame: FrameType | None) -> None:
    global _heard
    now = time.monotonic()
    if _heard is not None:
        if now - _heard > SAME:
            _leave()
        return
    _heard = now
    first = None if _finishing is None else _finishing()
    if first is not None:
        _say(f"SIGTERM: {first} is finished first; the same command goes on after it")
        _leave_in(max(grace(), 1e-3))
        return
    _say(str(Stopped()))
    if _imports(frame):
        _leave()
    _leave_in(max(grace(), UNWINDING))
    stop()


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    if _imports(frame) or not _is_in("exit_status", frame):
        _say(INTERRUPTED)
        os._exit(130)
    raise KeyboardInterrupt


def _imports(frame: FrameType | None) -> bool:
    return any(code.co_filename.startswith("<frozen importlib.") for code in _stack(frame))


def _is_in(function: str, frame: FrameType | None) -> bool:
    return any(code.co_name == function for code in _stack(frame))


def _stack(frame: FrameType | None) -> Iterator[CodeType]:
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def _say(line: str) -> None:
    """Not by print, which may be what the signal interrupted; of processes that train together, one speaks."""
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{chr(10) * os.isatty(2)}{line}\n".encode())  # below a progress bar


def _leave_in(seconds: float) -> None:
    """Unless the `heeding` block is left before."""
    signal.signal(signal.SIGALRM, _leave)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _leave(*_: Any) -> NoReturn:
    _end_loading()
    os._exit(GO_ON_LATER)


def _end_loading() -> None:
    """At once: asked to end by themselves, they finish what they load. What a grid has started is not daemonic."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch takes it for a mishap
    multiprocessing: Any = sys.modules.get("multiprocessing")
    loading = [p for p in multiprocessing.active_children() if p.daemon] if multiprocessing else []
    for process in loading:
        process.kill()
    for process in loading:
        process.join(1)


def _forget() -> None:
    """In a forked process, which others stop."""
    for number, handler in ((signal.SIGTERM, _on_term), (signal.SIGINT, _on_interrupt)):
        if signal.getsignal(number) is handler:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)
