"""Models of Hugging Face's transformers (the extra `hf`): `hf:NAME` of its hub, or `hf:/path/to/folder`.

CLIP is computed by OpenAI's modules, SigLIP's text tower too; its image tower is transformers' own. Safetensors are
read where there are some.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dassl.utils import UserError, nearest
from prompting import towers, weight_files
from prompting.backbones import Backbone, Family, NotAtHand, first_line, package, quietly
from prompting.tokenizers import Tokenizer, TransformersTokenizer

BACKBONES: tuple[Backbone, ...] = ()

NAME = EXTRA = "hf"
PREFIX = f"{NAME}:"
MODELS = {"clip": "CLIPModel", "siglip": "SiglipModel"}
NORMALISATION = {  # where no preprocessor_config.json says it
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def takes(name: str) -> bool:
    return name.startswith(PREFIX)


def find(name: str, family: str) -> Backbone | None:
    """The backbone of a name.

    Raises:
        UserError: transformers is not installed; there is no such model, or it is neither a CLIP nor a SigLIP.
    """
    if not takes(name):
        return None
    transformers, source = package("transformers", EXTRA, name), name.removeprefix(PREFIX)
    if source.startswith(("/", "./", "../", "~")):
        source = str(Path(source).expanduser())
        if not Path(source, "config.json").is_file():
            raise UserError(f"{name}: there is no config.json in {source}; give the folder of a saved model")
    try:
        with quietly():
            config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # of whatever reads it: no network, an unknown name, a damaged file
        raise NotAtHand(f"backbone {name} cannot be loaded ({first_line(error)})") from error
    if config.model_type not in MODELS:
        raise UserError(f'{name} is a model of the type "{config.model_type}": {nearest(config.model_type, MODELS)}')
    try:
        return _record(name, source, config)
    except (AttributeError, IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"the config of {name} cannot be used ({error!r})") from error


def listed() -> Iterator[Backbone]:
    """Those of the hub that were downloaded before."""
    try:
        import transformers  # noqa: F401
        from huggingface_hub import scan_cache_dir, try_to_load_from_cache

        kept = sorted(repository.repo_id for repository in scan_cache_dir().repos)
    except Exception:  # not installed, or there is no cache
        return
    for repository in kept:
        if isinstance(try_to_load_from_cache(repository, "config.json"), str):
            try:
                record = find(PREFIX + repository, "")
            except UserError:
                continue
            if record is not None:
                yield record


def _record(name, source, config):
    kind, vision = config.model_type, config.vision_config
    mean, std = _normalisation(source, kind)
    family = Family(
        NAME,
        vision.hidden_act,
        vision.hidden_size // vision.num_attention_heads,
        mean,
        std,
        tokenizer=partial(_tokenizer, name, source),
        causal=kind == "clip",
        read_at="end" if kind == "clip" else "last",
    )
    size = vision.image_size
    return Backbone(
        name,
        family,
        size if isinstance(size, int) else size[0],
        "vit" if kind == "clip" else "other",
        load=partial(_load, name, source, kind),
        fetch=lambda: (_pretrained(name, source, kind), family.tokenizer()),
        at_hand=partial(_is_at_hand, source),
        width=config.projection_dim if kind == "clip" else vision.hidden_size,
        files=partial(_files, source),
    )


def _normalisation(source, kind):
    from transformers import AutoImageProcessor

    try:
        with quietly():
            said = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        return tuple(said.image_mean), tuple(said.image_std)
    except Exception:  # it is optional
        return NORMALISATION[kind]


@lru_cache(maxsize=4)
def _tokenizer(name: str, source: str) -> Tokenizer:
    transformers = package("transformers", EXTRA, name)
    try:
        with quietly():
            return TransformersTokenizer(transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False))
    except Exception as error:
        raise NotAtHand(f"the tokenizer of {name} cannot be loaded ({first_line(error)})") from error


def _is_at_hand(source):
    from huggingface_hub import try_to_load_from_cache

    if Path(source).is_dir():
        return True
    names = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    return any(isinstance(try_to_load_from_cache(source, name), str) for name in names)


def _files(source):
    from huggingface_hub import try_to_load_from_cache

    config = Path(source, "config.json") if Path(source).is_dir() else try_to_load_from_cache(source, "config.json")
    if not isinstance(config, str | Path):  # it is somewhere else
        return []
    folder = Path(config).parent
    weights = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    return [folder / "config.json", *weights]


def _pretrained(name: str, source: str, kind: str) -> Any:
    """transformers' own model. Raises UserError where weights are missing, or are another model's."""
    transformers = package("transformers", EXTRA, name)
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        for path in _files(source)[1:]:
            weight_files.check(path)
        with quietly(), torch.random.fork_rng(devices=[]):
            model, found = getattr(transformers, MODELS[kind]).from_pretrained(
                source, output_loading_info=True, dtype=torch.float32
            )
    except UserError:
        raise
    except Exception as error:
        kind_of = NotAtHand if isinstance(error, OSError) else UserError
        raise kind_of(f"the weights of {name} cannot be loaded ({first_line(error)})") from error
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()
    wrong = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))
    if wrong:
        raise UserError(f"{name} does not hold the weights that its config.json describes: no {wrong[0]} that fits")
    return model


def _load(name, source, kind):
    model = _pretrained(name, source, kind)
    text, vision, weights = model.text_model, model.vision_model, {"logit_scale": model.logit_scale}
    weights["token_embedding.weight"] = text.embeddings.token_embedding.weight.detach()
    weights["positional_embedding"] = text.embeddings.position_embedding.weight
    weights |= {f"ln_final.{part}": value for part, value in text.final_layer_norm.state_dict().items()}
    if kind == "clip":
        weights["text_projection"] = model.text_projection.weight.t().contiguous()
        visual = _vision_transformer(vision, model.visual_projection)
    else:
        if not hasattr(vision, "head"):
            raise UserError(f"the image tower of {name} has no head, so it gives no feature of a whole image")
        weights["text_projection"] = text.head.weight.t().contiguous()
        weights |= {"text_bias": text.head.bias, "logit_bias": model.logit_bias.reshape(())}
        visual = PooledTower(vision)
    known, size = len(weights["token_embedding.weight"]), _tokenizer(name, source).size
    if size > known:
        raise UserError(
            f"the tokenizer of {name} has {size} tokens, but its text tower knows {known}: it belongs to another model"
        )
    return towers.CLIPModel(visual, _blocks(text), weights, text.final_layer_norm.eps)


class PooledTower(nn.Module):
    """An image tower of transformers as a function of images."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.tower(pixel_values=images).pooler_output


def _vision_transformer(vision, projection):
    embeddings = vision.embeddings
    weights = {
        "class_embedding": embeddings.class_embedding,
        "conv1.weight": embeddings.patch_embedding.weight,
        "positional_embedding": embeddings.position_embedding.weight,
        "proj": projection.weight.t().contiguous(),
    }
    for ours, norm in (("ln_pre", vision.pre_layrnorm), ("ln_post", vision.post_layernorm)):
        weights |= {f"{ours}.{part}": value for part, value in norm.state_dict().items()}
    weights = {key: value.detach() for key, value in weights.items()}
    return towers.vision_transformer(weights, _blocks(vision), embeddings.image_size, vision.post_layernorm.eps)


def _blocks(tower):
    return [_block(layer) for layer in tower.encoder.layers]


def _block(layer):
    """A layer as a block of OpenAI's: queries, keys and values have one matrix there."""
    attention = layer.self_attn
    parts = {"attn.out_proj": attention.out_proj, "mlp.c_fc": layer.mlp.fc1, "mlp.c_proj": layer.mlp.fc2}
    parts |= {"ln_1": layer.layer_norm1, "ln_2": layer.layer_norm2}
    weights = {f"{ours}.{part}": value for ours, m in parts.items() for part, value in m.state_dict().items()}
    for part in ("weight", "bias"):
        inputs = [getattr(projection, part) for projection in (attention.q_proj, attention.k_proj, attention.v_proj)]
        weights[f"attn.in_proj_{part}"] = torch.cat(inputs).detach()
    return towers.Block(weights, attention.num_heads, layer.mlp.activation_fn, layer.layer_norm1.eps)
