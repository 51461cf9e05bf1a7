"""Tensors on disk under a key of their content: read, or made once and kept.

An entry is one file, KEY.safetensors: a tensor, what it is, and the digest of all the file's other bytes. It appears
whole or not at all. One run makes it while others wait, and whoever reads it checks every bit; what does not hold is
made again. A folder that cannot be written costs no run more than the time to compute. When a folder grows beyond its
limit, what was used longest ago goes, last use being the time of modification: a read sets it.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from dassl.utils import WriteError, atomic_path
from dassl.utils.caches import LOCK
from dassl.utils.locks import alone
from dassl.utils.logger import log_once

logger = logging.getLogger("dassl.prompting")

LIMIT_GB = 20.0
SUFFIX = ".safetensors"
EARLIER = ".pt"
"""Of the entries of earlier versions, which nobody reads any more."""

WAITING = "Waiting for another run that computes the same image features"

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DIGEST, BLANK = "sha256", "0" * 64
LONGEST_HEAD = 2**16


class Entry(NamedTuple):
    """A file of a store, its bytes, and when it was last used, in seconds since 1970."""

    path: Path
    size: int
    used: float


class FeatureStore:
    """A folder of tensors.

    Args:
        folder: where; it exists.
        limit_gb: GiB that it may hold.
    """

    def __init__(self, folder: Path, limit_gb: float = LIMIT_GB) -> None:
        self.folder = folder
        self.limit = int(limit_gb * 2**30)

    def get(
        self, key: str, rows: int, make: Callable[[], torch.Tensor], about: Mapping[str, str]
    ) -> tuple[torch.Tensor, Path | None]:
        """The tensor of a key, its own copy on the CPU, and the file that it was read from; None if it was made now.

        Args:
            key: of all that decides the numbers, fit for a file's name.
            rows: the length of the first axis.
            make: gives the tensor, of floating point.
            about: what it is, for those who look at the folder.
        """
        path = self.folder / f"{key}{SUFFIX}"
        features = self._read(path, rows)
        if features is not None:
            return features, path
        with alone(self.folder / f".{key}{LOCK}", WAITING) as not_kept:
            features = self._read(path, rows, warn=True)  # another run has made it meanwhile, or it is damaged
            if features is not None:
                return features, path
            features = make().detach().cpu().contiguous()
            if not self._keep(path, features, about):
                not_kept()
        return features, None

    def _read(self, path, rows, warn=False):
        try:
            features = read(path)
            if len(features) != rows:
                raise ValueError(f"{len(features)} rows, not {rows}")
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged file may raise anything
            if warn:
                logger.warning("Making the damaged cache file %s again (%s)", path, error)
            return None
        with suppress(OSError):  # in a folder of someone else's
            os.utime(path)
        return features

    def _keep(self, path, features, about):
        """Whether the tensor is on disk now."""
        if features.nbytes > self.limit or features.dtype not in DTYPES.values() or not torch.isfinite(features).all():
            return False
        try:
            with atomic_path(path, durable=False) as temporary:
                write(temporary, features, about)
        except WriteError as error:
            log_once(logging.WARNING, f"Image features are not kept: cannot write in {path.parent} ({error.reason})")
            return False
        with suppress(OSError):  # somebody removes the folder
            shrink(self.folder, self.limit, spare=path)
        return True


def write(path: Path, features: torch.Tensor, about: Mapping[str, str]) -> None:
    """Write a tensor, on the CPU and contiguous, as a safetensors file."""
    dtype = next(name for name, dtype in DTYPES.items() if dtype == features.dtype)
    place = {"dtype": dtype, "shape": list(features.shape), "data_offsets": [0, features.nbytes]}
    text = json.dumps({"__metadata__": {**about, DIGEST: BLANK}, "features": place})
    head = (text + " " * (-len(text) % 8)).encode()
    head = len(head).to_bytes(8, "little") + head
    with open(path, "wb") as file:
        file.write(head.replace(BLANK.encode(), _digest(head, features), 1))
        file.write(_bytes(features))


def read(path: Path) -> torch.Tensor:
    """The tensor of an entry. Raises FileNotFoundError, or any Exception where a bit of it is not as it was written.

    It is not mapped into memory: a mapped file that another machine removes would kill the process.
    """
    with open(path, "rb") as file:
        head, about, place = _head(file)
        shape, dtype = place["shape"], DTYPES[place["dtype"]]
        if math.prod(shape) * dtype.itemsize != os.fstat(file.fileno()).st_size - len(head):
            raise ValueError("cut short")
        features = torch.empty(shape, dtype=dtype)
        file.readinto(_bytes(features))
    digest = about[DIGEST].encode()
    if len(digest) != len(BLANK) or _digest(head.replace(digest, BLANK.encode(), 1), features) != digest:
        raise ValueError("its bytes are not those that were written")
    if not torch.isfinite(features).all():
        raise ValueError("not finite")
    return features


def about_of(path: Path) -> dict[str, str]:
    """What an entry is, with its "shape" and "dtype"; not verified. Empty where the file does not say, or is gone."""
    try:
        with open(path, "rb") as file:
            _, told, place = _head(file)
        return told | {"shape": " x ".join(map(str, place["shape"])), "dtype": place["dtype"]}
    except Exception:  # a damaged file may raise anything
        return {}


def _head(file):
    """What stands before the tensor's bytes: all of it, what the tensor is, and its dtype and shape."""
    start = file.read(8)
    size = int.from_bytes(start, "little")
    if size > LONGEST_HEAD:
        raise ValueError("no head")
    text = file.read(size)
    told = json.loads(text)
    return start + text, told["__metadata__"], told["features"]


def _bytes(features):
    return memoryview(features.reshape(-1).view(torch.uint8).numpy())


def _digest(head, features):
    digest = hashlib.sha256(head)
    digest.update(_bytes(features))
    return digest.hexdigest().encode()


# The folder as a whole


def entries(folder: Path) -> list[Entry]:
    """What a store holds, whatever version or part of the project wrote it, from what was used longest ago."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if not path.name.startswith("."):
            with suppress(OSError):  # another process removed it just now
                stat = path.stat()
                found.append(Entry(path, stat.st_size, stat.st_mtime))
    return sorted(found, key=lambda entry: entry.used)


def remove(entry: Entry) -> bool:
    """Remove an entry; whether it is gone."""
    with suppress(OSError):  # someone else's, say
        entry.path.unlink(missing_ok=True)
    return not entry.path.exists()


def shrink(folder: Path, limit: float, spare: Path | None = None) -> list[Entry]:
    """Remove what was used longest ago until the entries of a folder fit into a limit.

    Args:
        folder: a store's.
        limit: bytes.
        spare: an entry that stays.

    Returns:
        The entries removed.
    """
    found, gone = entries(folder), []
    over = sum(entry.size for entry in found) - limit
    for entry in found:
        if over > 0 and entry.path != spare and remove(entry):
            gone.append(entry)
            over -= entry.size
    return gone
