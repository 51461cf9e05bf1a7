"""Backbones by name: what is known about one, and the model itself. prompting/backbones/ lists them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

import torch

from dassl import plugins
from dassl.utils import UserError, nearest
from prompting import backbones
from prompting.backbones import Backbone, NotAtHand
from prompting.openai_clip import model as openai_model

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


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
        name: a name of `known_names`, or what a family takes: a path to OpenAI's archive or to a plain state dict.
        family: what the user says of it (MODEL.BACKBONE.FAMILY); "": nothing.

    Raises:
        UserError: there is no such backbone; the user is wrong about its family, or has to tell it.
    """
    records, families, left_out = _found()
    if name in records:
        known = records[name].family.name
        if family and family != known:
            raise UserError(f"MODEL.BACKBONE.FAMILY is {family}, but the weights of {name} are of the family {known}")
        return records[name]
    with _told_what_is_at_hand():
        found = (module.find(name, family) for module in families)
        if record := next(filter(None, found), None):
            return record
    raise UserError(
        f'unknown backbone "{name}" (MODEL.BACKBONE.NAME): {nearest(name, records)}, or a path{plugins.told(left_out)}'
    )


def image_size(name: str, family: str = "") -> int:
    """Pixels per side of the square images that a backbone takes. Arguments and errors as `find` has them."""
    return find(name, family).image_size


def known_tokens(name: str, family: str = "") -> list[int]:
    """Ids of the tokens whose embeddings a backbone was trained with; an embedded one draws the others at random.

    Arguments and errors as `find` has them.
    """
    record = find(name, family)
    return list(range(len(record.family.tokenizer().encoder)) if record.tokens is None else record.tokens())


def fetch(name: str, family: str = "") -> None:
    """Have the weights of a backbone at hand, downloaded if need be. Arguments and errors are `load_backbone`'s."""
    with _told_what_is_at_hand():
        find(name, family).fetch()


def load_backbone(
    name: str, precision: str = "fp32", device: torch.device | str = "cpu", family: str = ""
) -> torch.nn.Module:
    """A frozen CLIP model in evaluation mode; it and its image encoder have the record as `backbone`.

    Args:
        name, family: as `find` takes them.
        precision: "fp32" and "amp" give float32 weights; "fp16" and "bf16" give half-precision ones with float32
            normalisation layers, as OpenAI's models have them.

    Raises:
        UserError: as `find` does; or there is no network, a file is damaged, or its architecture is not known.
    """
    record = find(name, family)
    with _told_what_is_at_hand():
        model = record.load()
    if precision in HALF:
        _halve(model, HALF[precision])
    model.backbone = model.visual.backbone = record
    return model.requires_grad_(False).to(device).eval()


def _halve(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Round those weights that OpenAI's models have in half precision."""
    exact = {key: value.clone() for key, value in model.state_dict().items()}
    openai_model.convert_weights(model)
    half = [p for p in model.parameters() if p.dtype == torch.float16]
    model.float().load_state_dict(exact)
    for parameter in half:
        parameter.data = parameter.data.to(dtype)


@contextmanager
def _told_what_is_at_hand() -> Iterator[None]:
    try:
        yield
    except NotAtHand as error:
        records = _found()[0]
        names = [name for name in known_names() if records[name].at_hand()]
        raise UserError(f"{error}; available: {', '.join(names) or 'none'}") from error
