"""CLIP backbones by name: OpenAI's models, a checkpoint's path, or one shipped with the project."""

import hashlib
import os
import tempfile
import warnings
import zipfile
from functools import lru_cache
from pathlib import Path

import torch
from clip import clip as openai
from clip.model import build_model

from dassl.utils import UserError, nearest

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

VOCABULARY = 49408  # tokens of OpenAI's tokenizer
KNOWN_TOKENS = "token_embedding.rows"  # in an embedded backbone's file: which of them its embeddings are of

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
"""OpenAI's models and their image sizes in pixels: known without the weights, so that a config can be checked first."""

EMBEDDED = {n: str(Path(__file__).parents[1] / "embedded" / f"{n}.pt") for n in ("icon-clip", "icon-clip-vit")}
"""Backbones shipped with the project: name -> path of a state dict."""


def known_names():
    return [*IMAGE_SIZES, *EMBEDDED]


def is_clip(name):
    """Whether a MODEL.BACKBONE.NAME is one that `load_backbone` may know, by name or as a file."""
    return name in known_names() or name.endswith((".pt", ".pth"))


def image_size(name):
    """Pixels per side of the square images that a backbone takes. Raises UserError as `load_backbone` does."""
    if name in IMAGE_SIZES:
        return IMAGE_SIZES[name]
    weights = _read(_locate(name))
    if "visual.proj" in weights:
        positions, patch = weights["visual.positional_embedding"], weights["visual.conv1.weight"].shape[-1]
    else:
        positions, patch = weights["visual.attnpool.positional_embedding"], 32
    return patch * round((positions.shape[0] - 1) ** 0.5)


def known_tokens(name):
    """Ids of the tokens whose embeddings a backbone was trained with; an embedded one draws the others at random.

    Raises UserError as `load_backbone` does.
    """
    rows = None if name in IMAGE_SIZES else _read(_locate(name)).get(KNOWN_TOKENS)
    _read.cache_clear()
    return list(range(VOCABULARY)) if rows is None else rows.tolist()


def fetch(name):
    """Have the weights of a backbone at hand, downloaded if need be. Raises UserError as `load_backbone` does."""
    _locate(name)


def load_backbone(name, precision="fp32", device="cpu"):
    """A frozen CLIP model in evaluation mode.

    Args:
        name: a name of OpenAI's, a path to OpenAI's archive or to a plain state dict, or an embedded backbone.
        precision: "fp32" and "amp" give float32 weights; "fp16" and "bf16" give half-precision ones with float32
            normalisation layers, as OpenAI's models have them.

    Raises:
        UserError: unknown name, no such file, no network, or a file that holds no CLIP model.
    """
    path = _locate(name)
    weights = dict(_read(path))
    weights.pop(KNOWN_TOKENS, None)
    try:
        model = build_model(weights)
    except (KeyError, RuntimeError, AttributeError) as error:
        raise UserError(f"{path} does not hold a CLIP model of OpenAI's architecture: {_first_line(error)}") from error
    finally:
        _read.cache_clear()  # the model has its own copy
    half = [p for p in model.parameters() if p.dtype == torch.float16]
    model.float().load_state_dict(weights)  # build_model has rounded them
    for parameter in half:
        parameter.data = parameter.data.to(
            {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
        )
    return model.requires_grad_(False).to(device).eval()


def _locate(name):
    """The checkpoint's path, downloaded if need be."""
    if name in IMAGE_SIZES:
        return _openai_file(name)
    path = Path(EMBEDDED.get(name, name)).expanduser()
    if path.is_file():
        return path
    if path.suffix in (".pt", ".pth") or path.parent.is_dir() and os.sep in name:
        raise UserError(f"backbone file {path} not found; at hand: {_at_hand()}")
    raise UserError(f'unknown backbone "{name}" (MODEL.BACKBONE.NAME): {nearest(name, known_names())}, or a path')


def _openai_file(name):
    url = openai._MODELS[name]
    expected = url.split("/")[-2]
    path = Path("~/.cache/clip").expanduser() / os.path.basename(url)
    if path.is_file():
        if _sha256(path) != expected:
            raise UserError(f"{path} is damaged (its SHA-256 is not that of {name}): delete it and run again")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # never a half-written file under the name
            os.replace(openai._download(url, folder), path)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"backbone {name} is not at {path} and cannot be downloaded ({_first_line(error)}): put the file "
            f"there, or choose a backbone at hand with --backbone: {_at_hand()}"
        ) from error
    return path


def _at_hand():
    """The backbones that need no network, for messages."""
    cache = Path("~/.cache/clip").expanduser()
    names = [n for n in IMAGE_SIZES if (cache / os.path.basename(openai._MODELS[n])).is_file()]
    return ", ".join([*names, *EMBEDDED]) or "none but a path to a checkpoint of your own"


@lru_cache(maxsize=1)
def _read(path):
    """The state dict in a file: OpenAI's TorchScript archive or a plain state dict."""
    try:
        if _is_torchscript(path):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # OpenAI's archives are what they are
                return torch.jit.load(path, map_location="cpu").state_dict()
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is neither a TorchScript archive nor a state dict: {_first_line(error)}") from error
    weights = weights.get("state_dict", weights) if isinstance(weights, dict) else {}
    if KNOWN_TOKENS in weights:  # an embedded backbone: the tokens that it knows, and their numbers
        weights = dict(weights)
        rows, known = weights[KNOWN_TOKENS].long(), weights["token_embedding.weight"]
        full = torch.randn(VOCABULARY, known.shape[1], generator=torch.Generator().manual_seed(0))
        full = (full * known.float().std()).to(known.dtype)
        full[rows] = known
        weights["token_embedding.weight"] = full
    if "text_tower" in weights:  # an embedded image tower: the name of the backbone whose text tower goes with it
        weights = dict(weights)
        other = _read(_locate(weights.pop("text_tower")))
        weights = {**{k: v for k, v in other.items() if not k.startswith("visual.")}, **weights}
    towers = ("visual.proj", "visual.attnpool.positional_embedding")
    for keys in (("text_projection",), ("visual.conv1.weight",), towers):
        if not any(key in weights for key in keys):
            raise UserError(f"{path} does not hold a CLIP model of OpenAI's architecture: it has no {keys[0]}")
    return weights


def _is_torchscript(path):
    """Whether a file is a TorchScript archive: it holds code, a state dict holds none."""
    return zipfile.is_zipfile(path) and any("/code/" in name for name in zipfile.ZipFile(path).namelist())


def _sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]
