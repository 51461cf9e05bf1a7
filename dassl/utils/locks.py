"""Files that say that a process is at something: those of killed processes are free again, whatever killed them."""

import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dassl.errors import UserError
from dassl.utils.files import WriteError
from dassl.utils.logger import log_once

try:
    import fcntl
except ImportError:  # not on Windows: processes that race there do their work at the same time
    fcntl = None  # type: ignore[assignment]

BEAT = 10.0
"""Seconds: how often a lock that is `owned` is touched. Another host's is free after two of them without."""

_owned: dict[str, int] = {}  # path of a lock of this process -> descriptor
_held: dict[str, int] = {}  # folder that this process reads -> descriptor


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


def hold(folder: Path) -> None:
    """Have a folder of files that this process reads stay until the process ends; see `unheld`."""
    if fcntl is None:
        return
    key = os.path.realpath(folder)
    with suppress(OSError):  # it is gone, or its disk knows no locks
        while key not in _held or not _is_at(_held[key], folder):
            lock = os.open(folder, os.O_RDONLY)
            idle: int | None = lock
            try:
                fcntl.flock(lock, fcntl.LOCK_SH)  # once nobody is removing it
                if _is_at(lock, folder):
                    idle, _held[key] = _held.get(key), lock
            finally:
                if idle is not None:
                    os.close(idle)


@contextmanager
def unheld(folder: Path) -> Iterator[bool]:
    """Whether no process holds a folder; if so none does during the block."""
    if fcntl is None:
        yield True
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # no locks on this kind of disk
            pass
        yield True
    finally:
        os.close(lock)


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


@contextmanager
def owned(path: Path, wait: bool = False) -> Iterator[None]:
    """Run the block as the only process, on all machines that share the disk, that has a lock.

    The file says host and process, and is there for the time of the block. On one machine it is free again whatever
    ended the process. Some file systems do not tell of other machines' locks: one that names another host is waited
    for, until it is touched or two BEATs are over since it was. A block in a block has the lock already.

    Args:
        path: of a file, in a folder that exists.
        wait: for another process's end, instead of refusing.

    Raises:
        UserError: another process has it (names it).
        WriteError: the file cannot be written.
    """
    key = os.path.realpath(path)
    if fcntl is None or key in _owned:
        yield
        return
    lock = _taken(path, wait)
    _owned[key] = lock
    ended = threading.Event()
    beat = threading.Thread(target=_touch, args=(lock, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        if _owned.pop(key, None) is not None:
            with suppress(OSError):
                path.unlink()  # while it is locked, as above
            os.close(lock)


def owner(path: Path) -> str | None:
    """Who has a lock of `owned`, in words; None: it is free."""
    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return _owner(lock, path, fcntl.LOCK_SH)[0] if fcntl else None
    finally:
        os.close(lock)


def _taken(path, wait):
    """The descriptor of a lock that is ours now."""
    tried, beats = time.monotonic(), set()
    while True:
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise WriteError(f"write {path}", error) from error
        other, beat = _owner(lock, path, fcntl.LOCK_EX)
        if other is None and _is_at(lock, path):
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{socket.gethostname()} {os.getpid()}\n".encode(), 0)
            return lock
        os.close(lock)
        if beat:
            beats.add(beat)
        if other and wait:
            log_once(logging.INFO, f"Waiting for {other}, which is at the run in {path.parent}")
        elif beat and len(beats) == 1:  # whose node may be lost, or its container have another name now
            log_once(logging.WARNING, f"Waiting {2 * BEAT:.0f} s at most for a sign of life of {other}")
        elif other and time.monotonic() - tried > 1:  # `owner` has it for a moment
            raise UserError(
                f"{other} is working on the run in {path.parent}: wait until it ends, or choose another folder"
            )
        time.sleep(0.5 if beat else 0.05)


def _owner(lock, path, how):
    """Who else has an opened lock, in words, and when it was touched if only that tells; None: it is locked now."""
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        host, number = _said(lock)
        return f"process {number} on {host}", None
    except OSError:  # no locks on this kind of disk
        pass
    host, number = _said(lock)
    if host in ("", socket.gethostname()):  # its process is not any more
        return None, None
    beat = os.fstat(lock).st_mtime
    if abs(_time_on_disk(path.parent) - beat) > 2 * BEAT:  # before it, where a clock was set back
        return None, None
    return f"process {number} on {host} (remove {path} if it has ended)", beat


def _time_on_disk(folder):
    """Another machine's clock, where it is one's disk."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def _said(lock):
    host, _, number = os.pread(lock, 1000, 0).decode(errors="replace").strip().partition(" ")
    return (host, number) if number.isdigit() else ("", "")


def _touch(lock, ended):
    while not ended.wait(BEAT):
        with suppress(OSError):
            os.utime(lock)


def _forget():
    """In a forked process: the lock is its parent's, and ends with it."""
    while _owned:
        os.close(_owned.popitem()[1])


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)
