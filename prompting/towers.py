"""CLIP models of other families in OpenAI's modules, so that whatever works on those works on them.

A vision or text transformer has the same parts in OpenAI's code, open_clip and transformers. What differs is in names
of weights, activation, width of heads and MLPs, and the normalisation's epsilon; all of it fits OpenAI's modules.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from prompting.openai_clip import model as openai_model

Weights = Mapping[str, torch.Tensor]


class Block(NamedTuple):
    """A residual block.

    Attributes:
        weights: under the names that OpenAI's blocks have: attn.in_proj_weight, attn.in_proj_bias, attn.out_proj, ln_1,
            ln_2, mlp.c_fc and mlp.c_proj.
        heads: of its attention.
        activation: of its MLP.
        eps: of its normalisations.
    """

    weights: Weights
    heads: int
    activation: nn.Module
    eps: float

    def build(self) -> nn.Module:
        hidden, width = self.weights["mlp.c_fc.weight"].shape
        with torch.device("meta"):
            block = openai_model.ResidualAttentionBlock(width, self.heads)
            layers = {"c_fc": nn.Linear(width, hidden), "gelu": self.activation, "c_proj": nn.Linear(hidden, width)}
            block.mlp = nn.Sequential(OrderedDict(layers))
        block.ln_1.eps = block.ln_2.eps = self.eps
        block.load_state_dict(self.weights, assign=True)
        return block


def transformer(blocks: Sequence[Block]) -> nn.Module:
    """OpenAI's transformer of these blocks."""
    built = openai_model.Transformer(len(blocks[0].weights["ln_1.weight"]), 0, 1)
    built.layers, built.resblocks = len(blocks), nn.Sequential(*(block.build() for block in blocks))
    return built


def layer_norm(weights: Weights, name: str, eps: float) -> nn.Module:
    """OpenAI's normalisation, which computes in float32, with the weights `name`.weight and `name`.bias."""
    norm = openai_model.LayerNorm(len(weights[f"{name}.weight"]), eps=eps)
    norm.load_state_dict({part: weights[f"{name}.{part}"] for part in ("weight", "bias")}, assign=True)
    return norm


def vision_transformer(weights: Weights, blocks: Sequence[Block], image_size: int, eps: float) -> nn.Module:
    """OpenAI's image tower.

    Args:
        weights: class_embedding, positional_embedding, proj, conv1.weight, ln_pre and ln_post.
        blocks: its blocks.
        image_size: in pixels.
        eps: of ln_pre and ln_post.
    """
    width, _, patch, _ = weights["conv1.weight"].shape
    with torch.device("meta"):
        visual = openai_model.VisionTransformer(image_size, patch, width, 0, 1, weights["proj"].shape[1])
    visual.load_state_dict(weights, assign=True)
    visual.ln_pre.eps = visual.ln_post.eps = eps
    visual.transformer = transformer(blocks)
    return visual


class CLIPModel(nn.Module):
    """An image tower and a text tower, with the parts that `clip.model.CLIP` has.

    Args:
        visual: (B, 3, H, W) images -> (B, e) features.
        blocks: of the text tower.
        weights: token_embedding.weight (V, d), positional_embedding (L, d), ln_final and text_projection (d, e);
            logit_scale, before it is exponentiated; and, where there are, text_bias (e,), added after the projection,
            and logit_bias.
        eps: of ln_final.
    """

    def __init__(self, visual: nn.Module, blocks: Sequence[Block], weights: Weights, eps: float) -> None:
        super().__init__()
        self.visual = visual
        self.transformer = transformer(blocks)
        self.token_embedding = nn.Embedding.from_pretrained(weights["token_embedding.weight"])
        self.ln_final = layer_norm(weights, "ln_final", eps)
        for name in ("positional_embedding", "text_projection", "text_bias", "logit_scale", "logit_bias"):
            value = weights.get(name)
            parameter = None if value is None else nn.Parameter(value.detach(), requires_grad=False)
            self.register_parameter(name, parameter)
        self.logit_scale.data = self.logit_scale.data.reshape(())
        self.context_length = len(self.positional_embedding)

    @property
    def dtype(self) -> torch.dtype:
        """Of the images that it takes, as `clip.model.CLIP` has it."""
        return next(m.weight.dtype for m in self.visual.modules() if isinstance(m, nn.Conv2d | nn.Linear))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return self.visual(images.to(self.dtype))
