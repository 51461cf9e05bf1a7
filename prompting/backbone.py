"""Backbones by name: what is known about one, and the model itself. prompting/backbones/ lists them."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import nn
from yacs.config import CfgNode

from dassl import plugins
from dassl.utils import UserError, nearest
from dassl.utils.digests import sha256
from prompting import backbones
from prompting.backbones import Backbone, NotAtHand
from prompting.shared_weights import converted
from prompting.tokenizers import Tokenizer

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Loaded:
    """The files of a backbone that this process computes with, as they were when it loaded them; they are mapped."""

    files: dict[Path, os.stat_result]
    digest: str = ""


_loaded: dict[tuple[str, str], Loaded] = {}
"""By name and family."""


@cache
def _found() -> tuple[dict[str, Backbone], list[ModuleType], list[str]]:
    """Backbones by name, families whose names are no list, and what failed and is therefore left out."""
    records, modules, left_out = plugins.collect(backbones.__name__, "mocoop.backbones", "BACKBONES")
    return records, [module for module in modules if hasattr(module, "find")], left_out


def known_names(image_encoder: str = "") -> list[str]:
    """The names that are no path; only of those with such an image encoder, if one is given."""
    return [name for name, record in _found()[0].items() if image_encoder in ("", record.image_encoder)]


def left_out() -> list[str]:
    """The families that failed, and why."""
    return _found()[2]


def is_clip(name: str) -> bool:
    """Whether a MODEL.BACKBONE.NAME is one that `load_backbone` may know, by name or as a file."""
    records, families, _ = _found()
    return name in records or any(family.takes(name) for family in families)


def find(name: str, family: str = "") -> Backbone:
    """What is known of a backbone.

    Args:
        name: a name of `known_names`, or what a family takes: a path to OpenAI's archive or to a plain state dict,
            open_clip:ARCH/TAG, hf:NAME and the like.
        family: what the user says of it (MODEL.BACKBONE.FAMILY); "": nothing.

    Raises:
        UserError: there is no such backbone; the user is wrong about its family, or has to tell it.
    """
    records, families, left_out = _found()
    with _told_what_is_at_hand():
        found = (module.find(name, family) for module in families)
        record = records.get(name) or next(filter(None, found), None)
    if record is None:
        raise UserError(
            f'unknown backbone "{name}" (MODEL.BACKBONE.NAME): {nearest(name, records)}, or a path'
            f"{plugins.told(left_out)}"
        )
    if family and family != record.family.name:
        known = record.family.name
        raise UserError(f"MODEL.BACKBONE.FAMILY is {family}, but the weights of {name} are of the family {known}")
    return record


def listed() -> list[Backbone]:
    """All backbones that are known by name, those of families with more than a list can hold too.

    Packages that are not installed bring none.
    """
    records, families, _ = _found()
    more = (module.listed() for module in families if hasattr(module, "listed"))
    return [*records.values(), *(record for some in more for record in some)]


def tokenizer_of(cfg: CfgNode) -> Tokenizer:
    """The tokenizer of a config's backbone, before its weights are there. Errors as `find` has them."""
    return find(cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FAMILY).family.tokenizer()


def image_size(name: str, family: str = "") -> int:
    """Pixels per side of the square images that a backbone takes. Arguments and errors as `find` has them."""
    return find(name, family).image_size


def known_tokens(name: str, family: str = "") -> list[int]:
    """Ids of the tokens whose embeddings a backbone was trained with; an embedded one draws the others at random.

    Arguments and errors as `find` has them.
    """
    record = find(name, family)
    return list(range(record.family.tokenizer().size) if record.tokens is None else record.tokens())


def fetch(name: str, family: str = "") -> None:
    """Have the weights of a backbone at hand, downloaded if need be. Arguments and errors are `load_backbone`'s."""
    with _told_what_is_at_hand():
        find(name, family).fetch()


def digest(name: str, family: str = "") -> str:
    """The SHA-256 of a backbone's file, in hexadecimal; of several, that of their digests one after the other.

    They are fetched if need be. It is "" where the record does not say which files they are. Of a backbone that this
    process has loaded it is that of the files then, even if others have taken their places.

    Raises:
        UserError: as `load_backbone` does; or a file that was loaded has been written to since.
    """
    loaded = _loaded.get((name, family))
    if loaded is None:
        return _digest(name, family)
    for path, then in loaded.files.items():
        with suppress(FileNotFoundError):  # who has it keeps it
            now = path.stat()
            touched = now.st_ino == then.st_ino and (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns)
            if touched and _of_files(loaded.files) != loaded.digest:  # else the same was written, or nothing was
                raise UserError(
                    f"{path} was written to while this run computes with it, so its numbers are wrong from now on: run "
                    "again, and have a new file take its place by renaming"
                )
    loaded.digest = loaded.digest or _of_files(loaded.files)
    return loaded.digest


def _digest(name, family):
    return _of_files(_files(find(name, family)))


def _of_files(paths):
    digests = [sha256(path) for path in paths]
    return "".join(digests) if len(digests) < 2 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _files(record):
    """{path: what the system says of it} of a record's files, fetched if need be."""
    with _told_what_is_at_hand():
        if not record.at_hand():
            record.fetch()
        try:
            return {path: path.stat() for path in record.files()}
        except OSError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}") from error


def load_backbone(
    name: str,
    precision: str = "fp32",
    device: torch.device | str = "cpu",
    family: str = "",
    image_precision: str = "",
) -> nn.Module:
    """A frozen CLIP model in evaluation mode; it and its image encoder have the record as `backbone`.

    Args:
        name, family: as `find` takes them.
        precision: "fp32" and "amp" give float32 weights; "fp16" and "bf16" give half-precision ones with float32
            normalisation layers, as OpenAI's models have them, but for image encoders of another kind, all of whose
            weights are halved.
        image_precision: of the image encoder, where it is not to be that of the rest.

    Raises:
        UserError: as `find` does; or there is no network, a file is damaged, its architecture is not known, or a weight
            is not finite, in that precision; or an image encoder is to compute in fp16 on the CPU.
    """
    record = find(name, family)
    if image_precision == "fp16" and torch.device(device).type == "cpu":
        raise UserError("MODEL.BACKBONE.IMAGE_PREC fp16 is meant for GPUs: on the CPU give bf16 or fp32")
    with _told_what_is_at_hand():
        loaded = Loaded(_files(record))
        model = record.load().requires_grad_(False).to(device).eval()
    text = HALF.get(precision, torch.float32)
    image = HALF.get(image_precision, torch.float32) if image_precision else text
    _convert(model, text, image, record.image_encoder == "other")
    _check_finite(model, name)
    model.backbone = model.visual.backbone = record
    _loaded[name, family] = loaded
    return model


def _convert(model: nn.Module, text: torch.dtype, image: torch.dtype, whole_visual: bool) -> None:
    """Give those weights a precision that OpenAI's models have in half, float32 to the others.

    Of an image encoder of another kind all have it (`whole_visual`).
    """
    of_image = {*model.visual.parameters(), *model.visual.buffers()}
    halved = {p for module in model.modules() for p in _halved(module)} | (of_image if whole_visual else set())
    tensors = {name: t for name, t in [*model.named_parameters(), *model.named_buffers()] if t.is_floating_point()}
    wanted = {name: image if t in of_image else text for name, t in tensors.items() if t in halved}
    due = {name: (t.data, wanted.get(name, torch.float32)) for name, t in tensors.items()}
    due = {name: (t, dtype) for name, (t, dtype) in due.items() if t.dtype != dtype}
    for name, value in converted(due).items():
        tensors[name].data = value


def _check_finite(model, name):
    for key, value in model.state_dict().items():
        if value.is_floating_point() and value.numel() and not torch.isfinite(torch.stack(torch.aminmax(value))).all():
            raise UserError(f"the backbone {name} has weights that are not finite ({key}): download its file again")


def _halved(module):
    """A module's own parameters of those that OpenAI's models have in half precision (clip's `convert_weights`)."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear | nn.MultiheadAttention):
        yield from module.parameters(recurse=False)
    yield from (p for name, p in module.named_parameters(recurse=False) if name in ("text_projection", "proj"))


@contextmanager
def _told_what_is_at_hand() -> Iterator[None]:
    try:
        yield
    except NotAtHand as error:
        records = _found()[0]
        names = [name for name in known_names() if records[name].at_hand()]
        raise UserError(f"{error}; available: {', '.join(names) or 'none'}") from error
