"""Files and folders: read with errors that name the path, written whole or not at all."""

import errno
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dassl.errors import UserError

logger = logging.getLogger(__name__)


class WriteError(UserError):
    """A file or folder cannot be written: the disk is full, read-only or someone else's.

    Args:
        what: could not be done, in words.
        error: why.
    """

    def __init__(self, what: str, error: OSError) -> None:
        self.reason = error.strerror or str(error)
        super().__init__(f"cannot {what}: {self.reason}")


def mkdir_if_missing(dirname: str | Path) -> None:
    """Create a folder and those above it. Raises WriteError where that is not possible."""
    try:
        os.makedirs(dirname, exist_ok=True)
    except OSError as error:
        raise WriteError(f"create the folder {dirname}", error) from error


@contextmanager
def atomic_path(path: str | Path, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it at the end of the block, or removed if the block raises.

    Its suffix is that of `path`, and it is hidden: no glob over the folder meets a half-written file.

    Args:
        path: of a file.
        durable: have the file on the disk before it takes the place of another, and then the folder: after a power cut
            there is one of the two, whole. Not for what shows on reading that it is not whole, and can be made again.

    Raises:
        WriteError: the block, or what comes after it, raised OSError.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        yield temporary
        if durable:
            force_to_disk(temporary)
        os.replace(temporary, path)
        if durable:
            force_to_disk(path.parent)
    except OSError as error:
        raise WriteError(f"write {path}", error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def force_to_disk(path: str | Path) -> None:
    """Return when a file's content, or a folder's list of names, is on the disk; where the system can say so."""
    try:
        opened = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder, on Windows
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not of this kind of disk
            raise
    finally:
        os.close(opened)


def remove_half_written(folder: str | Path) -> None:
    """Remove the temporary files that `atomic_path` blocks left in a folder when their process was killed.

    Only the folder's owner may do this: what another process is writing looks the same.
    """
    for path in Path(folder).glob(".*.*"):
        if re.match(r"\.[0-9a-f]{32}\.", path.name) and path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path`, moved to it at the end of the block, or removed if the block raises.

    Another process may do the same at the same time: the first one's folder stays.

    Raises:
        WriteError: the folder, or what the block writes in it, cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    mkdir_if_missing(temporary)
    try:
        yield temporary
        if not path.is_dir():
            os.rename(temporary, path)
    except OSError as error:
        if not path.is_dir():
            raise WriteError(f"write the folder {path}", error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_json(fpath: str | Path) -> Any:
    """The content of a JSON file. Raises UserError if it is missing or no JSON."""
    try:
        with open(fpath, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise UserError(f"cannot read {fpath}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # neither JSON nor UTF-8; too deep
        raise UserError(f"{fpath} is not valid JSON: {error}") from error


def write_json(obj: Any, fpath: str | Path) -> None:
    """Write a JSON file, whole or not at all, in a folder created where missing."""
    mkdir_if_missing(os.path.dirname(fpath) or ".")
    with atomic_path(fpath) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(obj, file, indent=4, default=float)  # numpy and torch scalars
        file.write("\n")


def check_isfile(fpath: str | Path) -> bool:
    """Whether there is a file at fpath; a warning is logged if not."""
    found = os.path.isfile(fpath)
    if not found:
        logger.warning("No file at %s", fpath)
    return found


def listdir_nohidden(path: str | Path, sort: bool = False) -> list[str]:
    """The names in a folder that do not start with a dot. Raises UserError if the folder cannot be listed."""
    try:
        names = [name for name in os.listdir(path) if not name.startswith(".")]
    except OSError as error:
        raise UserError(f"cannot list the folder {path}: {error.strerror}") from error
    return sorted(names) if sort else names
