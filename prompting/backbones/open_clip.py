"""open_clip's models (the extra `open_clip`):

    open_clip:ARCH/TAG              weights that open_clip knows, downloaded where they are not at hand
    open_clip:ARCH,/path/to/file    a file of weights, safetensors or a state dict
    open_clip:/path/to/folder       what open_clip saves for a hub: open_clip_config.json and weights beside it

Text towers, ViTs and ResNets of open_clip's own are computed by OpenAI's modules, image towers of timm by timm. Where a
tag says that its weights were trained with QuickGELU they are computed so, whatever the architecture's name.
"""

import json
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dassl.utils import UserError, nearest
from prompting import towers, weight_files
from prompting.backbones import Backbone, Family, NotAtHand, first_line, package, quietly
from prompting.openai_clip import model as openai_model
from prompting.tokenizers import Tokenizer, TransformersTokenizer, openai_tokenizer

BACKBONES: tuple[Backbone, ...] = ()

NAME = EXTRA = "open_clip"
PREFIX = f"{NAME}:"
CONFIG = "open_clip_config.json"
FOLDER = "local-dir:"
WEIGHTS = (".safetensors", ".bin", ".pth")

TOKENIZER_OPTIONS = {"clean", "context_length", "language", "strip_sep_token"}
OTHER_BLOCKS = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
OTHER_VIT = ("timm_model_name", "attentional_pool", "no_ln_pre", "final_ln_after_pool", *OTHER_BLOCKS)


def takes(name: str) -> bool:
    return name.startswith(PREFIX)


def find(name: str, family: str) -> Backbone | None:
    """The backbone of a name.

    Raises:
        UserError: open_clip is not installed; or there is no such architecture, tag, file or folder, or it has a text
            tower that prompts cannot be encoded with.
    """
    if not takes(name):
        return None
    open_clip, said = package("open_clip", EXTRA, name), name.removeprefix(PREFIX)
    arch, comma, file = said.partition(",")
    if comma:
        return _in_file(name, arch.replace("/", "-"), Path(file).expanduser())
    if said.startswith(("/", "./", "../", "~")):
        return _in_folder(name, Path(said).expanduser())
    arch, _, tag = said.rpartition("/")
    if not arch:
        raise UserError(f"{name} names no weights: give open_clip:ARCH/TAG, open_clip:ARCH,FILE or open_clip:/FOLDER")
    arch = arch.replace("/", "-")
    config, weights = _config(arch), open_clip.get_pretrained_cfg(arch, tag)
    if not weights:
        tags = open_clip.list_pretrained_tags_by_model(arch)
        raise UserError(f'open_clip has no weights "{tag}" of {arch} ({name}): {nearest(tag, tags)}')
    return _record(name, arch, config, weights, partial(_downloaded, name, weights), partial(_is_at_hand, weights))


def listed() -> Iterator[Backbone]:
    """Those that open_clip knows by name and that can be used here."""
    try:
        import open_clip
    except ModuleNotFoundError:
        return
    for arch, tag in open_clip.list_pretrained():
        try:
            record = find(f"{PREFIX}{arch}/{tag}", "")
        except UserError:
            continue
        if record is not None:
            yield record


def _config(arch):
    open_clip = package("open_clip", EXTRA, PREFIX + arch)
    config = open_clip.get_model_config(arch)
    if config is None:
        raise UserError(f'open_clip has no architecture "{arch}": {nearest(arch, open_clip.list_models())}')
    return config


def _in_file(name, arch, path):
    open_clip, config = package("open_clip", EXTRA, name), _config(arch)
    if not path.is_file():
        raise UserError(f"no file {path} to read the weights of {name} from")
    known = [open_clip.get_pretrained_cfg(arch, tag) for tag in open_clip.list_pretrained_tags_by_model(arch)]
    ways = {(tuple(each["mean"]), tuple(each["std"])) for each in known}
    mean, std = ways.pop() if len(ways) == 1 else (None, None)  # all published weights agree, or OpenAI's
    return _record(name, arch, config, {"mean": mean, "std": std}, lambda: str(path))


def _in_folder(name, folder):
    try:
        said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config, preprocess = said["model_cfg"], said.get("preprocess_cfg", {})
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{name}: cannot read {folder / CONFIG}, which says what the model is ({error!r})") from error
    return _record(name, f"{FOLDER}{folder}", config, preprocess, lambda: None)


def _files(folder):
    """What open_clip may read in a folder."""
    return [folder / CONFIG, *sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS)]


def _record(name, source, config, weights, fetch, at_hand=lambda: True):
    """A Backbone from an architecture's config and what is known of weights; source: open_clip's name of the former."""
    try:
        return _recorded(name, source, config, weights, fetch, at_hand)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the config of {name} is not a config of open_clip's ({error!r})") from error


def _recorded(name, source, config, weights, fetch, at_hand):
    text, vision = config["text_cfg"], config["vision_cfg"]
    _check(name, config, text)
    quick = config.get("quick_gelu", False) or weights.get("quick_gelu", False)
    plain = vision.get("pool_type", "tok") == "tok" and not any(vision.get(key) for key in OTHER_VIT)
    kind = "other" if not plain else "resnet" if isinstance(vision.get("layers"), list) else "vit"
    size = vision.get("image_size", 224)
    family = Family(
        NAME,
        "QuickGELU" if quick else "GELU",
        0 if kind == "other" else vision.get("head_width", 64),
        *(tuple(weights.get(key) or OPENAI[key]) for key in ("mean", "std")),
        tokenizer=_tokenizer_of(name, source, text),
        causal=not text.get("no_causal_mask", False),
        read_at="last" if text.get("pool_type") == "last" else "end",
    )
    load = partial(_load, name, source, quick, kind, fetch)
    return Backbone(
        name,
        family,
        size if isinstance(size, int) else size[0],
        kind,
        load,
        fetch=lambda: (fetch(), family.tokenizer()),
        at_hand=at_hand,
        width=config["embed_dim"],
        files=lambda: [Path(fetch())] if fetch() else _files(Path(source.removeprefix(FOLDER))),
    )


OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


def _check(name, config, text):
    """Raises UserError where a text tower is of a kind that prompts cannot be encoded with."""
    if odd := sorted(set(text.get("tokenizer_kwargs", {})) - TOKENIZER_OPTIONS):
        raise UserError(f"{name} gives its tokenizer the option {odd[0]}, which is not supported")
    if text.get("hf_model_name"):
        has = f"is {text['hf_model_name']} of transformers"
    elif "multimodal_cfg" in config or text.get("embed_cls"):
        has = "is CoCa's"
    elif any(text.get(key) for key in OTHER_BLOCKS) or text.get("pool_type", "argmax") not in ("argmax", "eos", "last"):
        has = "has blocks or a pooling of another kind"
    else:
        return
    raise UserError(f"the text tower of {name} {has}, which prompts cannot be encoded with: choose another --backbone")


def _tokenizer_of(name, source, text):
    if text.get("hf_tokenizer_name") or text.get("tokenizer_kwargs"):
        return partial(_tokenizer, name, source)
    return openai_tokenizer


@lru_cache(maxsize=4)
def _tokenizer(name: str, source: str) -> Tokenizer:
    package("transformers", "hf", f"the tokenizer of {name}")
    open_clip = package("open_clip", EXTRA, name)
    try:
        with quietly():
            made = open_clip.get_tokenizer(source, trust_remote_code=False)
        dropped = made.tokenizer.sep_token_id if made.strip_sep_token else None
        return TransformersTokenizer(made.tokenizer, made.clean_fn, dropped)
    except Exception as error:  # of whatever reads it: no network, no file, a damaged one
        raise NotAtHand(f"the tokenizer of {name} cannot be loaded ({first_line(error)})") from error


def _downloaded(name, weights):
    open_clip = package("open_clip", EXTRA, name)
    try:
        with quietly():
            return open_clip.download_pretrained(weights)
    except Exception as error:
        told = first_line(error).partition(". Last error")[0]
        raise NotAtHand(f"backbone {name} cannot be downloaded ({told})") from error


def _is_at_hand(weights):
    """Whether weights are in the cache of Hugging Face's hub or, published elsewhere, in open_clip's."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, file = weights.get("hf_hub", "").rpartition("/")
    names = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    return bool(repository) and any(isinstance(try_to_load_from_cache(repository, name), str) for name in names)


def _load(name, source, quick_gelu, kind, fetch):
    """The model in OpenAI's modules, its timm image tower, if it has one, as it is."""
    open_clip, path = package("open_clip", EXTRA, name), fetch()
    options = {"pretrained": path, "require_pretrained": True, "force_quick_gelu": quick_gelu, "pretrained_text": False}
    try:
        if path:
            _check_shapes(open_clip, source, path)
        else:
            for file in _files(Path(source.removeprefix(FOLDER))):
                if file.suffix in WEIGHTS:
                    weight_files.check(file)
        with torch.random.fork_rng(devices=[]):  # what open_clip draws before it loads leaves the run's numbers alone
            return _converted(open_clip.create_model(source, **options), kind)
    except UserError:
        raise
    except Exception as error:  # unpickling, missing files, a state dict of another architecture
        told = "; ".join(line.strip() for line in str(error).splitlines()[:2]) or type(error).__name__
        raise UserError(f"{path or name} does not hold weights of {source} ({told[:150]})") from error


def _check_shapes(open_clip, arch, path):
    """Raises UserError where positions do not fit the architecture: open_clip would stretch them, and say nothing."""
    config, file = open_clip.get_model_config(arch), Path(path)
    if file.suffix in (".npz", ".npy"):
        return
    shapes = weight_files.check(file)
    vision, text = config["vision_cfg"], config["text_cfg"]
    wanted = {"positional_embedding": text.get("context_length", 77) + bool(text.get("embed_cls"))}
    if isinstance(vision.get("layers"), int) and not vision.get("timm_model_name"):
        wanted["visual.positional_embedding"] = (vision.get("image_size", 224) // vision.get("patch_size", 16)) ** 2 + 1
    for key, length in wanted.items():
        found = shapes.get(key) or shapes.get(f"text.{key}")
        if found and found[0] != length:
            raise UserError(f"{path} does not hold weights of {arch}: {key} has {found[0]} places there, not {length}")


def _converted(model: Any, kind: str) -> nn.Module:
    text = getattr(model, "text", model)
    weights = {f"ln_final.{part}": value for part, value in text.ln_final.state_dict().items()}
    weights |= {
        "token_embedding.weight": text.token_embedding.weight.detach(),
        "positional_embedding": text.positional_embedding,
        "logit_scale": model.logit_scale,
    }
    projection = text.text_projection
    if isinstance(projection, nn.Linear):
        weights["text_projection"] = projection.weight.t().contiguous()
        if projection.bias is not None:
            weights["text_bias"] = projection.bias
    else:
        weights["text_projection"] = torch.eye(len(text.ln_final.weight)) if projection is None else projection
    if model.logit_bias is not None:
        weights["logit_bias"] = model.logit_bias.reshape(())
    visual = _converted_visual(model.visual, kind)
    return towers.CLIPModel(visual, list(map(_block, text.transformer.resblocks)), weights, text.ln_final.eps)


def _converted_visual(visual, kind):
    weights = visual.state_dict()
    if kind == "vit":
        own = {key: value for key, value in weights.items() if not key.startswith("transformer.")}
        blocks = list(map(_block, visual.transformer.resblocks))
        return towers.vision_transformer(own, blocks, visual.image_size[0], visual.ln_post.eps)
    if kind == "resnet":
        layers = [len(getattr(visual, f"layer{n}")) for n in (1, 2, 3, 4)]
        width, pool = visual.layer1[0].conv1.in_channels, visual.attnpool
        with torch.device("meta"):
            built = openai_model.ModifiedResNet(
                layers, pool.c_proj.out_features, pool.num_heads, visual.image_size, width
            )
        built.load_state_dict(weights, assign=True)
        return built
    return visual


def _block(block):
    """Layer scales become part of what they scale."""
    weights = {key: value for key, value in block.state_dict().items() if not key.startswith("ls_")}
    for scale, layer in ((block.ls_1, "attn.out_proj"), (block.ls_2, "mlp.c_proj")):
        if hasattr(scale, "gamma"):
            gamma = scale.gamma.detach()
            weights[f"{layer}.weight"] = gamma[:, None] * weights[f"{layer}.weight"]
            weights[f"{layer}.bias"] = gamma * weights[f"{layer}.bias"]
    return towers.Block(weights, block.attn.num_heads, block.mlp.gelu, block.ln_1.eps)
