"""Weights in another precision than their file's, in memory that the runs of a machine share.

Weights that are computed with as they are in their file are its pages, and the system has each page once however many
processes map it. Of OpenAI's archives, in half precision, float32 would be a copy in each run: so it is kept in a file
of its own, under the digest of what it was made from, and that is mapped. It is safe to delete at any time; runs that
have it keep it. Its bytes are not read again to verify them, only what they should be.
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from dassl.utils import UserError, atomic_path, cache_dir

try:
    import fcntl
except ImportError:  # not on Windows: runs there each have a copy
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("dassl.prompting")

FROM = 64 * 2**20
"""Bytes of weights from which on a file is worth it."""

KEPT = 4
"""Files; of more, that goes which was not used for the longest time."""


def converted(due: Mapping[str, tuple[torch.Tensor, torch.dtype]]) -> dict[str, torch.Tensor]:
    """{name: the tensor in that precision} of {name: (tensor, precision)}; to the bit what Tensor.to gives.

    They may be written to: a process then has a page of its own.
    """
    size = sum(tensor.numel() * dtype.itemsize for tensor, dtype in due.values())
    if fcntl is None or size < FROM or any(tensor.device.type != "cpu" for tensor, _ in due.values()):
        return _made(due)
    try:
        path = cache_dir("weights") / f"{_digest(due)}.pt"
        with open(path.with_suffix(".lock"), "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of runs that begin together one makes it
            if (found := _read(path, due)) is not None:
                return found
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                torch.save(_made(due), file)
            _drop_old(path.parent)
            return _read(path, due) or _made(due)
    except (OSError, RuntimeError, UserError) as error:
        logger.warning("Weights are not shared with other runs: %s", error)
        return _made(due)


def _made(due):
    return {name: tensor.to(dtype) for name, (tensor, dtype) in due.items()}


def _digest(due):
    digest = hashlib.blake2b(digest_size=20)
    for name, (tensor, dtype) in due.items():
        digest.update(repr((name, tensor.dtype, dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read(path, due):
    """What a file holds, or None where there is none or it is damaged."""
    try:
        found = torch.load(path, weights_only=True, mmap=True)
        if {k: (v.shape, v.dtype) for k, v in found.items()} != {k: (t.shape, dtype) for k, (t, dtype) in due.items()}:
            raise ValueError("it holds something else")
        os.utime(path)
        return found
    except FileNotFoundError:
        return None
    except Exception as error:  # torch raises almost anything on a damaged file
        logger.warning("Making the damaged file %s again (%s)", path, type(error).__name__)
        return None


def _drop_old(folder: Path) -> None:
    files = sorted(folder.glob("[!.]*.pt"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[KEPT:]:
        file.unlink(missing_ok=True)
