"""Files of weights that other people's code reads: whether they are whole, and what is in them, before it does."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from dassl.utils import UserError
from dassl.utils.digests import sha256
from dassl.utils.zips import members

WEIGHTS = (".weight", ".bias")
"""How names end of what is of floating point in every model; buffers may count or index."""

FLOATING = ("F", "BF")
"""How safetensors' names of such types begin."""


def check(path: Path) -> Mapping[str, tuple[int, ...]]:
    """The shapes of the tensors in a file, a safetensors file or torch's, by name.

    Its checksums are compared where it has any: torch's files do, and those that a hub's client named by their content.

    Raises:
        UserError: a bit of it flipped, or it holds something else.
    """
    blob = path.resolve()
    is_named = re.fullmatch("[0-9a-f]{64}", blob.name) is not None
    if is_named and sha256(path) != blob.name:
        raise UserError(f"{path} is damaged (its SHA-256 is not that of what was published): delete {blob}")
    try:
        found = _in_safetensors(path) if path.suffix == ".safetensors" else _in_torchs(path, is_named)
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is damaged, or was saved before torch 1.6 ({error})") from error
    wrong = [name for name, (is_real, _) in found.items() if name.endswith(WEIGHTS) and not is_real]
    if wrong:
        raise UserError(f"{path} does not hold weights: {wrong[0]} in it is not a floating-point tensor")
    return {name: shape for name, (_, shape) in found.items()}


def _in_safetensors(path):
    with safe_open(path, "pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}
        return {name: (part.get_dtype().startswith(FLOATING), tuple(part.get_shape())) for name, part in parts.items()}


def _in_torchs(path, is_whole):
    if not is_whole:
        members(path)
    weights = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    weights = weights.get("state_dict", weights)
    return {
        name.removeprefix("module."): (torch.is_tensor(v) and v.is_floating_point(), tuple(getattr(v, "shape", ())))
        for name, v in weights.items()
    }
