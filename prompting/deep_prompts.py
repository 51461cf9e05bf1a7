"""Deep prompting: learnable vectors of their own in each of the first layers of CLIP's towers."""

import copy
import logging
from collections.abc import Sequence

import torch
from torch import nn
from yacs.config import CfgNode

from dassl.config import require
from dassl.utils import UserError
from prompting.backbone import known_names, tokenizer_of
from prompting.backbones import image_encoder_of
from prompting.prompts import soft
from prompting.text_encoder import TextEncoder

logger = logging.getLogger("dassl.prompting")


def noise(*shape: int) -> nn.Parameter:
    """A parameter to start a learnable vector from where there is no word for it."""
    return nn.Parameter(nn.init.normal_(torch.empty(*shape), std=0.02))


class DeepContext(nn.Module):
    """Context vectors of the text encoder's first layers.

    Args:
        text: words to start from. The first n_ctx tokens become context vectors, the others stay words. "": noise.
        n_ctx: number of context vectors, where there is text at most its tokens.
        depth: how many layers have context vectors of their own; where there are fewer layers, all have.
        text_encoder: for its token embeddings and its number of layers.

    Attributes:
        ctx: (n_ctx, d), those among the prompt's tokens.
        compound_prompts_text: (n_ctx, d) for each further layer, what TextEncoder takes as `deep`; named as in
            MaPLe's released weights.
        words: what every prompt begins with, the entries of a sequence (see prompting.prompts).
    """

    def __init__(self, text: str, n_ctx: int, depth: int, text_encoder: TextEncoder) -> None:
        super().__init__()
        embedding, ids = text_encoder.token_embedding.weight.detach(), text_encoder.tokenizer.encode(text)
        depth, shape = min(depth, len(text_encoder.transformer.resblocks)), (n_ctx, embedding.shape[1])
        self.ctx = nn.Parameter(embedding[ids[:n_ctx]].float()) if ids else noise(*shape)
        self.compound_prompts_text = nn.ParameterList(noise(*shape) for _ in range(depth - 1))
        self.words = [*soft(range(n_ctx)), *ids[n_ctx:]]
        logger.info('Initial context: "%s"', text or " ".join(["X"] * n_ctx))
        logger.info("Context vectors: %d in each of the first %d layers", n_ctx, depth)


def check_vision_transformer(visual: nn.Module) -> None:
    """Raises UserError where an image encoder has no layers of tokens to put prompts into, as CLIP's ResNets."""
    if (kind := image_encoder_of(visual)) != "vit":
        has = "a ResNet" if kind == "resnet" else "another image encoder"
        raise UserError(
            f"prompts in the image encoder need a vision transformer, but this backbone has {has}: set "
            f"MODEL.BACKBONE.NAME (--backbone) to {', '.join(known_names('vit'))}, or to another with such an encoder"
        )


class CoupledPrompts(DeepContext):
    """Context vectors of the text encoder's layers, and image prompts made from them.

    Args:
        options: cfg.TRAINER.MAPLE.
        visual: the image encoder, for its width w and its number of layers.

    Attributes:
        proj, compound_prompt_projections: the coupling functions of the first and the further layers, d -> w. The
            further ones start alike.

    Raises:
        UserError: the image encoder is a ResNet.
    """

    def __init__(self, options: CfgNode, text_encoder: TextEncoder, visual: nn.Module) -> None:
        check_vision_transformer(visual)
        depth = min(options.PROMPT_DEPTH, len(visual.transformer.resblocks))
        super().__init__(options.CTX_INIT, options.N_CTX, depth, text_encoder)
        widths = self.ctx.shape[1], visual.class_embedding.shape[0]
        self.proj = nn.Linear(*widths)
        further = nn.Linear(*widths)
        self.compound_prompt_projections = nn.ModuleList(copy.deepcopy(further) for _ in self.compound_prompts_text)

    def vision_prompts(self) -> list[torch.Tensor]:
        """The image encoder's prompts: (n_ctx, w) for each layer."""
        couplings = [self.proj, *self.compound_prompt_projections]
        contexts = [self.ctx, *self.compound_prompts_text]
        return [coupling(context) for coupling, context in zip(couplings, contexts, strict=True)]


def check_deep_context(cfg: CfgNode, section: str, n_ctx: str, *counts: str) -> None:
    """Raises UserError where CTX_INIT of cfg.TRAINER.<section> is too short for its key `n_ctx`, or that or another
    of the keys `counts` is not positive.
    """
    for key in (n_ctx, *counts):
        require(cfg, f"TRAINER.{section}.{key}", at_least=1)
    options = cfg.TRAINER[section]
    if not options.CTX_INIT:
        return
    words = len(tokenizer_of(cfg).encode(options.CTX_INIT))
    if words < options[n_ctx]:
        raise UserError(
            f'TRAINER.{section}.CTX_INIT "{options.CTX_INIT}" has {words} tokens, but {n_ctx} is {options[n_ctx]}: '
            "give as many words, or leave CTX_INIT empty for noise"
        )


def encode_with_prompts(visual: nn.Module, images: torch.Tensor, prompts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Image features of images seen together with prompt tokens.

    The first layer's prompts join class token and patches before the first normalisation and have no position; those
    of each further layer take the place of what the layer before made of its own. What the last of them become stays
    to the end.

    Args:
        visual: a `clip.model.VisionTransformer`; its own modules compute.
        images: (B, 3, H, W).
        prompts: L tensors (n, w), one for each of the first L layers; none: `visual(images)`.

    Returns:
        (B, e) image features, not normalised.
    """

    def for_each_image(tokens):
        return tokens.to(x.dtype)[:, None].expand(-1, len(images), -1)

    x = visual.conv1(images).flatten(2).permute(2, 0, 1)  # tokens first, as CLIP's layers take them
    x = torch.cat([for_each_image(visual.class_embedding[None]), x]) + for_each_image(visual.positional_embedding)
    seen = len(x)
    x = visual.ln_pre(torch.cat([x, *map(for_each_image, prompts[:1])]))
    for i, block in enumerate(visual.transformer.resblocks):
        if 0 < i < len(prompts):
            x = torch.cat([x[:seen], for_each_image(prompts[i])])
        x = block(x)
    return visual.ln_post(x[0]) @ visual.proj
