"""Faults of a disk or a machine, at the n-th operation that a process does on files of a folder.

    kill       the process is killed before it
    power      so it is, and of files that were not forced to the disk only a beginning remains
    full       from there on no file can grow
    read-only  from there on nothing can be changed

An audit hook sees the operations: python tells it of every file that it opens, renames, removes or truncates, and of
folders. A full disk is the limit that the kernel keeps on the size of files, so that writing by any library fails.
"""

import errno
import os
import random
import resource
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

EVENTS = {"os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.truncate": 1, "shutil.copyfile": 2}
"""How many of the first arguments are paths."""

KINDS = ("kill", "power", "full", "read-only")


@dataclass
class Fault:
    """What happens, where and when.

    Args:
        kind: one of KINDS, or "" to count only.
        folder: operations on what is below it count.
        at: the number of the operation, from 1; 0: at once, for the processes that it starts, too (a full disk).
    """

    kind: str
    folder: str
    at: int = 0

    def arm(self) -> None:
        """Begin, for the rest of this process's life."""
        self.count, self.unsafe, self.off = 0, set[str](), False
        self.pid = os.getpid()
        self.rng = random.Random(self.at)
        real = os.fsync

        def fsync(file: Any) -> None:
            path = os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")
            self.operation(path)
            real(file)
            self.unsafe.discard(path)

        os.fsync = fsync
        sys.addaudithook(self.hook)
        if self.kind == "full" and not self.at:
            self.fill()

    def done(self) -> int:
        """The operations so far."""
        self.off = True
        return self.count

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.off:
            return
        if event == "open":
            path, mode, flags = args
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and isinstance(path, str | bytes | os.PathLike):
                self.operation(os.fsdecode(path))
                self.unsafe.add(os.path.abspath(os.fsdecode(path)))
        elif event in EVENTS:
            paths = [os.path.abspath(os.fsdecode(path)) for path in args[: EVENTS[event]] if not isinstance(path, int)]
            if paths:
                self.operation(paths[0], *paths[1:])
            if event == "os.rename" and len(paths) == 2 and paths[0] in self.unsafe:
                self.unsafe.remove(paths[0])
                self.unsafe.add(paths[1])

    def operation(self, *paths: str) -> None:
        """One operation begins."""
        if not any(os.path.abspath(path).startswith(self.folder) for path in paths) or os.getpid() != self.pid:
            return
        self.count += 1
        if not self.kind or self.count < self.at:
            return
        if self.kind == "read-only":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), paths[0])
        if self.kind == "full":
            return self.fill()
        self.off = True
        if self.kind == "power":
            for path in sorted(self.unsafe):
                with suppress(OSError):
                    if path.startswith(self.folder):
                        os.truncate(path, self.rng.randint(0, os.path.getsize(path)))
        os.kill(os.getpid(), signal.SIGKILL)

    def fill(self) -> None:
        """Let no file grow any more."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
