"""CLIP backbones by name: OpenAI's models, a checkpoint's path, or one shipped with the project.

open_clip's weights (LAION's, DataComp's) have the names and shapes of OpenAI's, but most have another activation and
some have heads of another width. Computed as OpenAI's, their features are off by some percent and nothing fails. So
weights load only where it is known whose they are: by OpenAI's own marks, by what the file says, or the user.
"""

import hashlib
import os
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from dassl.utils import UserError, nearest
from prompting.openai_clip import clip as openai
from prompting.openai_clip import model as openai_model


@dataclass(frozen=True)
class Family:
    """What weights are computed with and do not tell: those of other families have the same names and shapes.

    Attributes:
        name: what MODEL.BACKBONE.FAMILY says, or the entry "family" in a file of weights.
        activation: of the transformers' MLPs.
        head_width: of every attention head, in both towers.
        pixel_mean, pixel_std: of the images' normalisation, by channel.
    """

    name: str
    activation: str
    head_width: int
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]


OPENAI = Family("openai", "QuickGELU", 64, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
FAMILIES = {family.name: family for family in (OPENAI,)}

FAMILY = "family"  # in a file of weights: the name of their family
OPENAI_MARKS = {"input_resolution", "context_length", "vocab_size"}  # in the state dicts of OpenAI's archives alone

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


def family_of(name, declared=""):
    """The Family of a backbone.

    Args:
        name: as `load_backbone` takes it.
        declared: what the user says (MODEL.BACKBONE.FAMILY); "": nothing.

    Raises:
        UserError: as `load_backbone` does; or nothing tells the family, it is not known here, or the file and the user
            say different things.
    """
    told = OPENAI.name if name in known_names() else _told_family(_read(_locate(name)))
    if declared and told and declared != told:
        raise UserError(f"MODEL.BACKBONE.FAMILY is {declared}, but the weights of {name} are of the family {told}")
    known = declared or told
    if not known:
        raise UserError(
            f"{name} does not tell whether its weights are OpenAI's or have their names alone, as open_clip's, which "
            f"compute otherwise: if they are OpenAI's ({OPENAI.activation}, heads {OPENAI.head_width} wide), give "
            f'MODEL.BACKBONE.FAMILY {OPENAI.name}, or add the entry "{FAMILY}": "{OPENAI.name}" to the file'
        )
    if known not in FAMILIES:
        raise UserError(f'{name}: weights of the family "{known}" cannot be loaded ({nearest(known, FAMILIES)})')
    return FAMILIES[known]


def _told_family(weights):
    """The name of the family that a file's weights tell, or None."""
    return OPENAI.name if weights.keys() >= OPENAI_MARKS else weights.get(FAMILY)


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


def load_backbone(name, precision="fp32", device="cpu", family=""):
    """A frozen CLIP model in evaluation mode.

    Args:
        name: a name of OpenAI's, a path to OpenAI's archive or to a plain state dict, or an embedded backbone.
        precision: "fp32" and "amp" give float32 weights; "fp16" and "bf16" give half-precision ones with float32
            normalisation layers, as OpenAI's models have them.
        family: of a file's weights, as `family_of` takes it.

    Raises:
        UserError: unknown name, no such file, no network, a file that holds no CLIP model, or one of an architecture
            that is not known.
    """
    path = _locate(name)
    try:
        known = family_of(name, family)
        weights = {key: value for key, value in _read(path).items() if key not in (KNOWN_TOKENS, FAMILY)}
        _check_widths(weights, known, path)
        model = openai_model.build_model(weights)
    except (KeyError, RuntimeError, AttributeError, AssertionError, IndexError) as error:
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


def _check_widths(weights, family, path):
    """Raises UserError where weights do not go with their family's heads or with the tokenizer."""
    image = weights.get("visual.class_embedding", weights.get("visual.attnpool.positional_embedding"))
    for tower, width in (("image", image.shape[-1]), ("text", weights["ln_final.weight"].shape[0])):
        if width % family.head_width:
            raise UserError(
                f"the {tower} encoder in {path} is {width} wide, which makes no heads of {family.head_width}: it is "
                f"not of the family {family.name}"
            )
    tokens = weights["token_embedding.weight"].shape[0]
    if tokens != VOCABULARY:
        raise UserError(f"{path} has embeddings of {tokens} tokens, OpenAI's tokenizer has {VOCABULARY}")


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
    code = _torchscript(path)
    if code and (b"torch.gelu(" in code or b"torch.sigmoid(" not in code):
        raise UserError(f"{path} is no model of OpenAI's: its code does not compute {OPENAI.activation}")
    try:
        if code:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # OpenAI's archives are what they are
                return torch.jit.load(path, map_location="cpu").state_dict()
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is neither a TorchScript archive nor a state dict: {_first_line(error)}") from error
    weights = weights if isinstance(weights, dict) else {}
    weights = {FAMILY: weights.get(FAMILY)} | weights.get("state_dict", weights)
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


def _torchscript(path):
    """The code in a TorchScript archive; empty for other files, as state dicts hold none."""
    if not zipfile.is_zipfile(path):
        return b""
    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(n) for n in archive.namelist() if "/code/" in n and n.endswith(".py"))


def _sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]
