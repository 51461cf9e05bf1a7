"""Files that say that a process is at something: those of killed processes are free again, whatever killed them."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dassl.utils.logger import log_once

try:
    import fcntl
except ImportError:  # not on Windows: processes that race there do their work at the same time
    fcntl = None  # type: ignore[assignment]


@contextmanager
def alone(path: Path, waiting: str) -> Iterator[Callable[[], None]]:
    """Run the block while no other process runs one on the same path; others wait for its end, or its process's.

    The block is given what to call if waiting is in vain: those who wait then go on, all at once. Where files cannot be
    locked, blocks run at the same time.

    Args:
        path: of a file that is there for the time of the block.
        waiting: what to log, the first time that it waits in this process.
    """
    lock = _locked(path, waiting)
    try:
        yield lambda: None if lock is None else os.ftruncate(lock, 1)
    finally:
        if lock is not None:
            with suppress(OSError):
                path.unlink()  # while it is locked: who waited finds it gone, and asks again
            fcntl.flock(lock, fcntl.LOCK_UN)  # to close it is not enough: workers forked meanwhile have it open, too
            os.close(lock)


def _locked(path, waiting):
    """The descriptor of a file that is locked and still there; None where waiting was in vain or there are no locks."""
    for _ in range(1000):  # it is gone whenever another was first
        lock = _lock(path, waiting)
        if lock is None:
            break
        in_vain = os.fstat(lock).st_size > 0
        if not in_vain and _is_at(lock, path):
            return lock
        os.close(lock)
        if in_vain:
            break
    return None


def remove_if_free(path: Path) -> None:
    """Remove a lock file that a killed process left."""
    lock = _lock(path)
    if lock is not None:  # else somebody is at work
        if _is_at(lock, path):
            path.unlink()
        os.close(lock)


def _lock(path, waiting=None):
    """The descriptor of a file, locked; None where that is not possible, or another has it and is not waited for."""
    if fcntl is None:
        return None
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                raise
            log_once(logging.INFO, waiting)
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        os.close(lock)
        return None
    return lock


def _is_at(lock, path):
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except OSError:
        return False
