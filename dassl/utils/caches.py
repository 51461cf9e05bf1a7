"""The project's folder for derived files, kept clear of what killed processes left in it."""

import functools
import os
import re
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path

from dassl.utils.files import mkdir_if_missing
from dassl.utils.locks import remove_if_free, unheld

STALE = 3600
"""Seconds after which what nobody writes or locks was left by a killed process."""

OURS = re.compile(r"\.[0-9a-f]{32,}\.")
"""How names of temporary files, temporary folders and locks begin."""

LOCK = ".lock"


def cache_dir(*parts: str) -> Path:
    """The project's folder for derived files joined with `parts`, as a Path, created.

    It is $MOCOOP_CACHE, else mocoop in $XDG_CACHE_HOME, else ~/.cache/mocoop.
    """
    root = os.environ.get("MOCOOP_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "mocoop")
    path = Path(root, *parts).expanduser()
    mkdir_if_missing(path)
    _sweep_once(path)
    return path


def sweep(folder: Path) -> None:
    """Remove the temporary files, temporary folders and locks in a folder that nobody has touched for an hour."""
    for path in folder.glob(".*"):
        with suppress(OSError):  # another process was first, or it is someone else's
            if not OURS.match(path.name) or time.time() - _last_write(path) < STALE:
                continue
            if path.suffix == LOCK:
                remove_if_free(path)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def free(folder: Path) -> bool:
    """Remove a folder of the cache; False, and nothing is removed, where a running process reads files in it.

    Of a folder of mere files, each of which is safe to remove, what a process is making stays.
    """
    with unheld(folder) as is_free:
        if not is_free:
            return False
        inside = list(folder.iterdir())
        if any(path.is_dir() and not OURS.match(path.name) for path in inside):  # made as a whole, and goes as a whole
            gone = folder.with_name(f".{uuid.uuid4().hex}.{folder.name}")
            folder.rename(gone)
            shutil.rmtree(gone)
            return True
        for path in inside:
            if not path.name.startswith("."):
                path.unlink(missing_ok=True)
        sweep(folder)
        with suppress(OSError):  # something is being made
            folder.rmdir()
    return True


_sweep_once = functools.cache(sweep)


def _last_write(path):
    return max(part.lstat().st_mtime for part in (path, *path.rglob("*")))
