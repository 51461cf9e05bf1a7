"""What files, tensors and plain values hold, in one number each: what records of runs and keys of caches compare."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from dassl.errors import UserError
from dassl.utils.images import check_regular

CHUNK = 2**20

_known: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()
"""Of weights and of data sets: the state that they were in, and the digest of their content."""


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal; of a file that did not change it is computed once.

    Raises:
        OSError: it cannot be read.
    """
    stat = os.stat(path)
    return _sha256(os.path.realpath(path), stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _sha256(path: str, inode: int, size: int, written: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def once(owner: Any, state: Any, compute: Callable[[], str]) -> str:
    """What `compute` gave for an object when it was last in this state; computed anew for one that takes no weak
    reference."""
    try:
        known = _known.get(owner)
    except TypeError:  # a list, for one, takes no weak reference
        return compute()
    if known is None or known[0] != state:
        known = _known[owner] = (state, compute())
    return known[1]


def of_value(value: Any) -> str:
    """Of a value that JSON can hold; the order of a dict's keys makes no difference."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Of names, types, shapes and bits, in their order; what is no tensor counts by its repr."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            digest.update(repr((name, tensor)).encode())
            continue
        tensor = tensor.detach().cpu().contiguous()
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def of_images(owner: Any, paths: Sequence[str]) -> str:
    """Of the content of a data set's image files, in order; read once for each `owner`.

    Raises:
        UserError: one cannot be read.
    """
    return once(owner, list(paths), lambda: _of_contents(paths))


def _of_contents(paths: Iterable[str]) -> str:
    with ThreadPoolExecutor() as pool:  # hashing and reading release the GIL
        return hashlib.sha256(b"".join(pool.map(_of_image, paths))).hexdigest()


def _of_image(path):
    check_regular(path)
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).digest()
    except OSError as error:
        raise UserError(f"cannot read the image {path}: {error.strerror}") from error
