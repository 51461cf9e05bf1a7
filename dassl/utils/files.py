"""Files and folders: read with errors that name the path, written whole or not at all."""

import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from dassl.errors import UserError

logger = logging.getLogger(__name__)


def mkdir_if_missing(dirname: str | Path) -> None:
    """Create a folder and those above it. Raises UserError where that is not possible."""
    try:
        os.makedirs(dirname, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {dirname}: {error.strerror}") from error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it at the end of the block, or removed if the block raises.

    Its suffix is that of `path`, and it is hidden: no glob over the folder meets a half-written file.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
        UserError: the folder, or what the block writes in it, cannot be written.
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
            raise UserError(f"cannot write the folder {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def cache_dir(*parts: str) -> Path:
    """The project's folder for derived files joined with `parts`, as a Path, created.

    It is $MOCOOP_CACHE, else mocoop in $XDG_CACHE_HOME, else ~/.cache/mocoop.
    """
    root = os.environ.get("MOCOOP_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "mocoop")
    path = Path(root, *parts).expanduser()
    mkdir_if_missing(path)
    return path


def read_json(fpath: str | Path) -> Any:
    """The content of a JSON file. Raises UserError if it is missing or no JSON."""
    try:
        with open(fpath, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise UserError(f"cannot read {fpath}: {error.strerror}") from error
    except ValueError as error:  # neither JSON nor UTF-8
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


def read_image(path: str | Path) -> Image.Image:
    """The image file as an RGB PIL image, pixels loaded. Raises UserError naming the path it cannot read."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise UserError(f"no image at {path}: is the dataset complete?") from error
    except Exception as error:  # a damaged file makes PIL's decoders raise almost anything
        raise UserError(f"cannot read the image {path} ({error}): replace the file") from error


def listdir_nohidden(path: str | Path, sort: bool = False) -> list[str]:
    """The names in a folder that do not start with a dot. Raises UserError if the folder cannot be listed."""
    try:
        names = [name for name in os.listdir(path) if not name.startswith(".")]
    except OSError as error:
        raise UserError(f"cannot list the folder {path}: {error.strerror}") from error
    return sorted(names) if sort else names
