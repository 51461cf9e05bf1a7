"""Folders of files made of a data set's own: in the cache, made once, looked at before every use."""

import json
import logging
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from dassl.utils import WriteError, atomic_folder, write_json
from dassl.utils.locks import alone, hold

logger = logging.getLogger("dassl.datasets")

STALE = 3600
"""Seconds after which a half-written folder is one of a killed process."""

CHECKSUMS = "checksums.json"
"""In such a folder: {file: CRC-32 of its content}."""


def derived(folder: Path, make: Callable[[Path], None], part: str = "") -> Path:
    """The folder, whole: made where it is missing, and made again where a file of it is gone or is not as it was.

    Runs that start at once may all come here. `python -m benchmark clean` leaves it alone while this process runs.

    Args:
        make: fills the folder that it is given.
        part: the folder in there that is to be looked at; "": all of it.

    Raises:
        WriteError: the folder cannot be written.
    """
    hold(folder)
    if _is_whole(folder, part):
        return folder
    with alone(folder.with_name(f".{folder.name}.lock"), f"Another process is making {folder}"):
        hold(folder)
        if _is_whole(folder, part):
            return folder
        if folder.is_dir():
            logger.warning("%s is damaged or of an earlier version: it is made again", folder)
            _remove(folder)
        for left in folder.parent.glob(f".*.{folder.name}"):
            if left.is_dir() and time.time() - left.stat().st_mtime > STALE:
                _remove(left)
        with atomic_folder(folder) as temporary:
            make(temporary)
            files = [path for path in temporary.rglob("*") if path.is_file()]
            sums = {path.relative_to(temporary).as_posix(): zlib.crc32(path.read_bytes()) for path in files}
            write_json(sums, temporary / CHECKSUMS)
        hold(folder)
    return folder


def _is_whole(folder, part):
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        return all(zlib.crc32((folder / name).read_bytes()) == s for name, s in sums.items() if name.startswith(part))
    except (OSError, ValueError, AttributeError):
        return False


def _remove(folder):
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise WriteError(f"remove the damaged folder {folder}", error) from error
