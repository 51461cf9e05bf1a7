"""OpenAI's models by name, with or without `openai:` before it.

Their facts are known without the weights, so that a config can be checked first.
"""

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from dassl.utils import UserError, nearest
from dassl.utils.digests import sha256
from prompting.backbones import Backbone, NotAtHand, first_line
from prompting.backbones.files import OPENAI, load
from prompting.openai_clip import clip as openai

PREFIX = f"{OPENAI.name}:"

SHAPES = {
    "RN50": (224, 1024),
    "RN101": (224, 512),
    "RN50x4": (288, 640),
    "RN50x16": (384, 768),
    "RN50x64": (448, 1024),
    "ViT-B/32": (224, 512),
    "ViT-B/16": (224, 512),
    "ViT-L/14": (224, 768),
    "ViT-L/14@336px": (336, 768),
}
"""Image size in pixels, and the length of features."""


def takes(name: str) -> bool:
    return name.startswith(PREFIX)


def find(name: str, family: str) -> Backbone | None:
    """The backbone that goes by the same name without prefix. Raises UserError where there is none."""
    if not takes(name):
        return None
    known = {record.name: record for record in BACKBONES}
    short = name.removeprefix(PREFIX)
    if short not in known:
        raise UserError(f'OpenAI has no model "{short}" (MODEL.BACKBONE.NAME): {nearest(short, known)}')
    return known[short]


def path_of(name: str) -> Path:
    """Where the weights of a model are, or go."""
    return Path("~/.cache/clip").expanduser() / os.path.basename(openai._MODELS[name])


def fetch(name: str) -> Path:
    """The path of a model's weights, downloaded if need be.

    Raises:
        UserError: they are damaged, or are not there and cannot be downloaded.
    """
    url, path = openai._MODELS[name], path_of(name)
    if path.is_file():
        if sha256(path) != url.split("/")[-2]:
            raise UserError(f"{path} is damaged (its SHA-256 is not that of {name}): delete it and run again")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # never a half-written file under the name
            os.replace(openai._download(url, folder), path)
    except (OSError, RuntimeError) as error:
        raise NotAtHand(
            f"backbone {name} is not at {path} and cannot be downloaded ({first_line(error)}): put the file there, or "
            "choose another with --backbone"
        ) from error
    return path


def _load(name: str) -> Any:
    return load(fetch(name), OPENAI)


def _at_hand(name):
    return path_of(name).is_file()


def _files(name):
    return [fetch(name)]


BACKBONES = [
    Backbone(
        name,
        OPENAI,
        image_size=size,
        image_encoder="vit" if name.startswith("ViT") else "resnet",
        load=partial(_load, name),
        fetch=partial(fetch, name),
        at_hand=partial(_at_hand, name),
        width=width,
        files=partial(_files, name),
    )
    for name, (size, width) in SHAPES.items()
]
