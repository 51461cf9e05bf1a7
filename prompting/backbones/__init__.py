"""Backbones: what must be known about one, and one file for each family of them.

A file dropped into this folder is found automatically, a package's through an entry point in the group
"mocoop.backbones" that names its module. The module's `BACKBONES` is a list of `Backbone`. A family with more names
than a list can hold, such as paths, has two functions as well: `takes(name)`, whether a name looks like one of its own,
and `find(name, family)`, the Backbone of that name or None; `family` is what the user says about it
(MODEL.BACKBONE.FAMILY), "" for nothing. It may have a third, `listed()`, for lists that people read: the backbones that
it knows by name.

Names of families with names of their own begin with a word and a colon, as in `open_clip:ViT-B-32/laion2b_s34b_b79k`.
"""

import importlib
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from dassl.errors import UserError
from prompting.openai_clip import model as openai_model
from prompting.tokenizers import Tokenizer, openai_tokenizer

ENCODERS = ("vit", "resnet", "other")
READ_AT = ("end", "last")


class NotAtHand(UserError):
    """A backbone's weights are missing; whoever reports it lists the backbones whose weights are there."""


@dataclass(frozen=True)
class Family:
    """What backbones have in common that their weights do not show: others' may have the same names and shapes.

    Attributes:
        name: what MODEL.BACKBONE.FAMILY says, or the entry "family" in a file of weights.
        activation: of the transformers' MLPs.
        head_width: of the attention heads, in OpenAI's family of both towers, else of the image tower; 0 where it has
            none or many.
        pixel_mean, pixel_std: of the images' normalisation, by channel.
        tokenizer: gives what turns text into token ids.
        causal: whether a token of the text tower sees only itself and those before it.
        read_at: where a prompt's feature is read: at its "end" token, or at the "last" place of the context, behind
            padding.
    """

    name: str
    activation: str
    head_width: int
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    tokenizer: Callable[[], Tokenizer] = openai_tokenizer
    causal: bool = True
    read_at: str = "end"

    def __post_init__(self) -> None:
        channels = [*self.pixel_mean, *self.pixel_std]
        if len(channels) != 6 or not all(math.isfinite(value) for value in channels) or min(self.pixel_std) <= 0:
            raise ValueError(f"{self.pixel_mean} and {self.pixel_std} are not three channels' means and deviations")
        if self.read_at not in READ_AT:
            raise ValueError(f"features of the family {self.name} are read at one of {', '.join(READ_AT)}")


@dataclass(frozen=True)
class Backbone:
    """A backbone.

    Attributes:
        name: what MODEL.BACKBONE.NAME and --backbone say.
        family: what it shares with others.
        image_size: pixels per side of the square images that it takes.
        image_encoder: "vit", blocks of tokens as OpenAI's, which prompts can join; "resnet" as OpenAI's; or "other".
        load: gives the model, in float32 or as its file has it, with the parts that `clip.model.CLIP` has: visual,
            transformer (with resblocks), token_embedding, positional_embedding, ln_final, text_projection, logit_scale,
            context_length and dtype. It may have a text_bias, (e,), and a logit_bias as well; prompting/towers.py
            builds one from parts.
        fetch: makes the weights available, downloading them if need be.
        at_hand: whether that needs no network.
        tokens: gives the ids of the tokens whose embeddings were trained; None: all of them.
        width: e, the length of its features; 0: not known without the weights.
        files: gives the files that `load` reads, once `fetch` has them at hand; none where nobody has said.
    """

    name: str
    family: Family
    image_size: int
    image_encoder: str
    load: Callable[[], Any]
    fetch: Callable[[], object] = lambda: None
    at_hand: Callable[[], bool] = lambda: True
    tokens: Callable[[], Sequence[int]] | None = None
    width: int = 0
    files: Callable[[], Sequence[Path]] = tuple

    def __post_init__(self) -> None:
        if self.image_encoder not in ENCODERS:
            raise ValueError(f"the image encoder of {self.name} is one of {', '.join(ENCODERS)}")


def has_family(name: str) -> bool:
    """Whether a name says itself which family it is of, and is therefore no path."""
    return re.match(r"\w+:", name) is not None


def package(module: str, extra: str, name: str) -> ModuleType:
    """An optional package. Raises UserError, with the extra that brings it, where it is not installed.

    Args:
        module: what to import.
        extra: of this project.
        name: the backbone that needs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"{name} needs {error.name}: pip install 'mocoop[{extra}]'") from error


@contextmanager
def quietly() -> Iterator[None]:
    """Without what transformers and its hub log of retries and missing files: what fails is said in one line."""
    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def first_line(error: Exception) -> str:
    """What an error of other people's code says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def image_encoder_of(visual: Any) -> str:
    """A model's image encoder in the words of `Backbone`; of a model that did not come by name, by its class."""
    backbone = getattr(visual, "backbone", None)
    if backbone is not None:
        return backbone.image_encoder
    kinds = {openai_model.VisionTransformer: "vit", openai_model.ModifiedResNet: "resnet"}
    return kinds.get(type(visual), "other")
