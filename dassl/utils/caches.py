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

MADE = {
    "image_features": r"[^.].*\.(safetensors|pt)",
    "weights": r"[0-9a-f]{40}",
    "splits": r"[^.].*-[0-9a-f]{16}\.json",
    r"(icons|cifar-100)-[0-9a-f]{12}(-[^.]+)?": "",
}
"""What the names of the project's folders in the cache match, and those of the files in them; nothing for a folder that
is made as a whole and goes as a whole. Other things stay: others may use the same folder as their cache."""


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


def folders() -> dict[str, Path]:
    """{name: path} of the folders in the cache that the project made. Links are not followed."""
    paths = (path for path in sorted(cache_dir().iterdir()) if _files_of(path) is not None)
    return {path.name: path for path in paths if path.is_dir() and not path.is_symlink()}


def files(folder: Path) -> list[Path]:
    """What the project made in one of the `folders`."""
    names = _files_of(folder)
    paths = (path for path in folder.rglob("*") if os.path.isfile(path) and not path.is_symlink())
    return [path for path in paths if not names or path.parent == folder and re.fullmatch(names, path.name)]


def free(folder: Path) -> bool:
    """Remove one of the `folders`; False, and nothing is removed, where a running process reads files in it.

    Of a folder of mere files, each of which is safe to remove, what a process is making stays, and what is not ours.
    """
    with unheld(folder) as is_free:
        if not is_free:
            return False
        if not _files_of(folder):
            gone = folder.with_name(f".{uuid.uuid4().hex}.{folder.name}")
            folder.rename(gone)
            shutil.rmtree(gone)
            return True
        for path in files(folder):
            path.unlink(missing_ok=True)
        sweep(folder)
        with suppress(OSError):  # something stays
            folder.rmdir()
    return True


def _files_of(folder):
    """The pattern of a folder's files in MADE; None: the folder is not the project's."""
    return next((names for pattern, names in MADE.items() if re.fullmatch(pattern, folder.name)), None)


_sweep_once = functools.cache(sweep)


def _last_write(path):
    return max(part.lstat().st_mtime for part in (path, *path.rglob("*")))
