"""Weights in another precision than their file's, in memory that the runs of a machine share.

Weights that are computed with as they are in their file are its pages, and the system has each page once however many
processes map it. Of OpenAI's archives, in half precision, float32 would be a copy in each run: so it is kept in a file
of its own, under a digest of what it was made from, and that is mapped. The file is the numbers, one tensor after the
other, and a checksum of them all, which each run compares. It is safe to delete at any time: runs that have it keep it.
"""

import hashlib
import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch

from dassl.utils import UserError, atomic_path, cache_dir
from dassl.utils.caches import LOCK
from dassl.utils.locks import alone
from prompting.feature_store import shrink

logger = logging.getLogger("dassl.prompting")

FOLDER = "weights"
"""In the project's folder for derived files."""

FROM = 64 * 2**20
"""Bytes of weights from which on a file is worth it."""

LIMIT = 8 * 2**30
"""Bytes that all files may have; of more, those go that were not used for the longest time."""

ALIGNED = 64
"""Bytes, of which each tensor begins at a multiple."""

CHECKSUM = 4
"""Bytes of the checksum (CRC-32) at a file's end."""

WAITING = "Waiting for another run that converts the same weights"

Due = Mapping[str, tuple[torch.Tensor, torch.dtype]]


def converted(due: Due) -> dict[str, torch.Tensor]:
    """{name: the tensor in that precision} of {name: (tensor, precision)}; to the bit what Tensor.to gives.

    They may be written to: a process then has a page of its own.
    """
    size = sum(tensor.numel() * dtype.itemsize for tensor, dtype in due.values())
    if not FROM <= size <= LIMIT or any(tensor.device.type != "cpu" for tensor, _ in due.values()):
        return _made(due)
    try:
        path = cache_dir(FOLDER) / _key(due)
        with alone(path.with_name(f".{path.name}{LOCK}"), WAITING):  # of runs that begin together one makes it
            found = _read(path, due)
            if found is None:
                with atomic_path(path, durable=False) as temporary:
                    _write(temporary, due)
                shrink(path.parent, LIMIT, spare=path)
                found = _read(path, due)
        return found or _made(due)
    except (OSError, UserError) as error:
        logger.warning("Weights are not shared with other runs: %s", error)
        return _made(due)


def _made(due):
    return {name: tensor.to(dtype) for name, (tensor, dtype) in due.items()}


def _key(due):
    digest = hashlib.sha256()
    for name, (tensor, dtype) in due.items():
        content = zlib.crc32(_bytes(tensor.contiguous()))
        digest.update(repr((name, tensor.dtype, dtype, tensor.shape, tensor.stride(), content)).encode())
    return digest.hexdigest()[:40]


def _write(path: Path, due: Due) -> None:
    total = 0
    with open(path, "wb") as file:
        for tensor, dtype in due.values():
            for part in (_bytes(tensor.to(dtype)), bytes(-tensor.numel() * dtype.itemsize % ALIGNED)):
                file.write(part)
                total = zlib.crc32(part, total)
        file.write(total.to_bytes(CHECKSUM, "little"))


def _read(path: Path, due: Due) -> dict[str, torch.Tensor] | None:
    """What a file holds, mapped; None where there is none or it is damaged."""
    if not path.exists():
        return None
    found, end = {}, 0
    try:
        size = path.stat().st_size - CHECKSUM
        mapped = torch.UntypedStorage.from_file(str(path), False, size)
        for name, (tensor, dtype) in due.items():
            made = tensor.to("meta", dtype)
            start, end = end, end + made.nbytes
            found[name] = torch.empty(0, dtype=dtype).set_(mapped[start:end]).as_strided(made.shape, made.stride())
            end += -end % ALIGNED
        with open(path, "rb") as file:
            file.seek(size)
            total = int.from_bytes(file.read(), "little")
        if end != size or zlib.crc32(torch.empty(0, dtype=torch.uint8).set_(mapped).numpy()) != total:
            raise ValueError("its bytes are not those that were written")
        os.utime(path)
    except Exception as error:  # torch raises almost anything on a file that is too short
        logger.warning("Making the damaged file %s again (%s)", path, error)
        return None
    return found


def _bytes(tensor: torch.Tensor) -> memoryview:
    """Of a dense tensor, in the order in which they are in memory."""
    return memoryview(tensor.detach().as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy())
