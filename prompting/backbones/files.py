"""Files of weights: OpenAI's archives, and state dicts with the same names as OpenAI's, by path.

open_clip's weights (LAION's, DataComp's) have the names and shapes of OpenAI's, but most have another activation and
some have heads of another width. Computed like OpenAI's, their features are off by a few percent and nothing fails. So
weights load only where it is known whose they are: from OpenAI's own marks, from what the file says, or from the user.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from dassl.utils import UserError, nearest
from prompting import archive
from prompting.backbones import Backbone, Family, NotAtHand, first_line, has_family
from prompting.openai_clip import model as openai_model

BACKBONES: tuple[Backbone, ...] = ()

SAFETENSORS = ".safetensors"

OPENAI = Family("openai", "QuickGELU", 64, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
FAMILIES = {family.name: family for family in (OPENAI,)}

FAMILY = "family"  # in a file of weights: the name of their family
OPENAI_MARKS = {"input_resolution", "context_length", "vocab_size"}  # in the state dicts of OpenAI's archives alone

VOCABULARY = 49408  # tokens of OpenAI's tokenizer
KNOWN_TOKENS = "token_embedding.rows"  # in an embedded backbone's file: which of them its embeddings are of
TEXT_TOWER = "text_tower"  # in an embedded image tower's file: the embedded backbone whose text tower goes with it
TEXTS = {FAMILY, TEXT_TOWER}
NO_WEIGHTS = OPENAI_MARKS | {FAMILY, KNOWN_TOKENS, TEXT_TOWER}

HOME = Path(__file__).parents[2] / "embedded"
"""Where the backbones that ship with the project are."""


def takes(name: str) -> bool:
    return name.endswith((".pt", ".pth", SAFETENSORS)) and not has_family(name)


def find(name: str, family: str) -> Backbone | None:
    """The backbone in a file.

    Raises:
        UserError: there is no such file, it holds no CLIP model; or nothing tells the family, it is not known here, or
            the file and the user say different things.
    """
    if has_family(name):
        return None
    path = Path(name).expanduser()
    if not path.is_file():
        if takes(name) or (path.parent.is_dir() and os.sep in name):
            raise NotAtHand(f"backbone file {path} not found")
        return None
    with _of_openais_architecture(path):
        weights = _read(path)
        known = _family(name, weights, family)
        if is_vit := "visual.proj" in weights:
            positions, patch = weights["visual.positional_embedding"], weights["visual.conv1.weight"].shape[-1]
        else:
            positions, patch = weights["visual.attnpool.positional_embedding"], 32
        size, width = patch * round((positions.shape[0] - 1) ** 0.5), weights["text_projection"].shape[1]
    return in_file(name, path, known, size, "vit" if is_vit else "resnet", width)


def in_file(name: str, path: Path, family: Family, image_size: int, image_encoder: str, width: int = 0) -> Backbone:
    """The record of a backbone in a file whose facts are known."""
    return Backbone(
        name,
        family,
        image_size,
        image_encoder,
        load=partial(load, path, family),
        tokens=partial(known_tokens, path),
        width=width,
        files=partial(_files, path),
    )


def load(path: Path, family: Family) -> Any:
    """The model in a file, in the file's precision. Raises UserError where it holds none of the family's.

    Its weights are the file's pages: they are read when they are used, and copied when they are written to.
    """
    try:
        with _of_openais_architecture(path):
            weights = {k: v for k, v in _read(path).items() if k not in NO_WEIGHTS}
            _check_widths(weights, family, path)
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of copies into nothing: the weights come next
                model = openai_model.build_model(dict(weights))
            for key, value in model.state_dict().items():
                if key in weights and value.is_floating_point() and not weights[key].is_floating_point():
                    raise ValueError(f"{key} is of the type {weights[key].dtype}")
            model.load_state_dict(weights, assign=True)
            mask = model.build_attention_mask()
            for block in model.transformer.resblocks:
                block.attn_mask = mask
            return model
    finally:
        _read_once.cache_clear()  # the model has them


def known_tokens(path: Path) -> list[int]:
    """Ids of the tokens whose embeddings a file holds; those that it lacks are drawn at random."""
    rows = _read(path).get(KNOWN_TOKENS)
    _read_once.cache_clear()
    return list(range(VOCABULARY)) if rows is None else rows.tolist()


def _files(path: Path) -> list[Path]:
    tower = _read(path).get(TEXT_TOWER)
    return [path] if tower is None else [path, _path_of(tower)]


def _path_of(embedded: str) -> Path:
    return HOME / f"{Path(embedded).name}.pt"


@contextmanager
def _of_openais_architecture(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of clip's code, any, where weights are not what it takes them for
        raise UserError(f"{path} does not hold a CLIP model of OpenAI's architecture: {first_line(error)}") from error


def _family(name, weights, declared):
    """The family of a file's weights, as `find` says."""
    told = OPENAI.name if weights.keys() >= OPENAI_MARKS else weights.get(FAMILY)
    if declared and told and declared != told:
        raise UserError(f"MODEL.BACKBONE.FAMILY is {declared}, but the weights of {name} are of the family {told}")
    known = declared or told
    if not known:
        raise UserError(
            f"{name} does not show whether its weights are OpenAI's or only have the same names, like open_clip's, "
            f"which compute differently: if they are OpenAI's ({OPENAI.activation}, heads {OPENAI.head_width} wide), "
            f'give MODEL.BACKBONE.FAMILY {OPENAI.name}, or add the entry "{FAMILY}": "{OPENAI.name}" to the file'
        )
    if known not in FAMILIES:
        raise UserError(f'{name}: weights of the family "{known}" cannot be loaded ({nearest(known, FAMILIES)})')
    return FAMILIES[known]


def _check_widths(weights, family, path):
    """Raises UserError where weights do not go with their family's heads or with the tokenizer."""
    image = weights.get("visual.class_embedding", weights.get("visual.attnpool.positional_embedding"))
    for tower, width in (("image", image.shape[-1]), ("text", weights["ln_final.weight"].shape[0])):
        if width % family.head_width:
            raise UserError(
                f"the {tower} encoder in {path} is {width} wide, which cannot be split into heads of "
                f"{family.head_width}: it is not of the family {family.name}"
            )
    tokens = weights["token_embedding.weight"].shape[0]
    if tokens != VOCABULARY:
        raise UserError(f"{path} has embeddings of {tokens} tokens, OpenAI's tokenizer has {VOCABULARY}")


def _read(path: Path) -> dict[str, Any]:
    """The state dict in a file: OpenAI's TorchScript archive or a plain state dict."""
    return _read_once(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read_once(path: Path, written: int) -> dict[str, Any]:
    try:
        found = _safetensors(path) if path.suffix == SAFETENSORS else _torchs(path)
    except UserError:
        raise
    except Exception as error:  # what reads safetensors has errors of its own
        told = f"{path} is neither a TorchScript archive nor a state dict, or damaged"
        raise UserError(f"{told}: {first_line(error)}") from error
    nested = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(nested, dict):
        raise UserError(f"{path} holds no state dict")
    weights: dict[str, Any] = {FAMILY: found.get(FAMILY)} | nested
    for key, value in weights.items():
        if not (isinstance(value, str | None) if key in TEXTS else isinstance(value, torch.Tensor)):
            raise UserError(f"{path} does not hold a CLIP model of OpenAI's architecture: {key} in it is not a tensor")
    if KNOWN_TOKENS in weights:
        rows, known = weights[KNOWN_TOKENS].long(), weights["token_embedding.weight"]
        full = torch.randn(VOCABULARY, known.shape[1], generator=torch.Generator().manual_seed(0))
        full = (full * known.float().std()).to(known.dtype)
        full[rows] = known
        weights["token_embedding.weight"] = full
    if TEXT_TOWER in weights:
        other_path = _path_of(weights[TEXT_TOWER])
        if not other_path.is_file():
            raise UserError(f"{path} needs the text tower of another backbone, which is not at {other_path}")
        other = _read(other_path)
        weights = {**{k: v for k, v in other.items() if not k.startswith("visual.")}, **weights}
    towers = ("visual.proj", "visual.attnpool.positional_embedding")
    for keys in (("text_projection",), ("visual.conv1.weight",), towers):
        if not any(key in weights for key in keys):
            raise UserError(f"{path} does not hold a CLIP model of OpenAI's architecture: it has no {keys[0]}")
    return weights


def _torchs(path):
    code = archive.code_of(path)
    if code and (b"torch.gelu(" in code or b"torch.sigmoid(" not in code):
        raise UserError(f"{path} is not a model of OpenAI's: its code does not compute {OPENAI.activation}")
    return archive.contents_of(path)


def _safetensors(path):
    with safe_open(path, "pt") as file:
        return {FAMILY: (file.metadata() or {}).get(FAMILY)} | {key: file.get_tensor(key) for key in file.keys()}
