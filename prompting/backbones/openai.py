"""OpenAI's models by name. Their facts are known without the weights, so that a config can be checked first."""

import hashlib
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from dassl.utils import UserError
from prompting.backbones import Backbone, NotAtHand
from prompting.backbones.files import OPENAI, first_line, load
from prompting.openai_clip import clip as openai

IMAGE_SIZES = {
    "RN50": 224,
    "RN101": 224,
    "RN50x4": 288,
    "RN50x16": 384,
    "RN50x64": 448,
    "ViT-B/32": 224,
    "ViT-B/16": 224,
    "ViT-L/14": 224,
    "ViT-L/14@336px": 336,
}


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
        if _sha256(path) != url.split("/")[-2]:
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


def _sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _at_hand(name):
    return path_of(name).is_file()


BACKBONES = [
    Backbone(
        name,
        OPENAI,
        image_size=size,
        image_encoder="vit" if name.startswith("ViT") else "resnet",
        load=partial(_load, name),
        fetch=partial(fetch, name),
        at_hand=partial(_at_hand, name),
    )
    for name, size in IMAGE_SIZES.items()
]
