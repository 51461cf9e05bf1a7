"""CoCoOp: context vectors shifted by the image (Zhou et al., CVPR 2022, section 3.2).

A Meta-Net turns an image's feature x into a vector pi(x) that is added to every context vector: v_m(x) = v_m + pi(x).
Every image thus has prompts of its own. The images of a batch are the rows of one call of the text encoder; where a
batch does not fit the memory budget it goes in chunks, forward and backward.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from prompting.chunks import bytes_per_token, encode_in_chunks, how_many_fit
from prompting.context import check_context, initial_context
from prompting.prompted_clip import PromptedCLIP
from prompting.prompts import Prompts, sequence, soft
from prompting.text_encoder import TextEncoder
from trainers.base import PromptTrainer

logger = logging.getLogger("dassl.trainers")


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.COCOOP = CN()
    cfg.TRAINER.COCOOP.N_CTX = 16  # number of context vectors
    cfg.TRAINER.COCOOP.CTX_INIT = ""  # words to start from; their number of tokens then replaces N_CTX
    cfg.TRAINER.COCOOP.PREC = "fp16"  # fp16, fp32, amp, bf16
    cfg.TRAINER.COCOOP.MEMORY_GB = 2.0  # GiB of text activations; more images than fit are encoded in chunks


class PromptLearner(nn.Module):
    """N prompts of context vectors, class name and full stop, for every image.

    Args:
        cfg: the whole config; reads TRAINER.COCOOP.
        classnames: N class names.
        text_encoder: for its token embeddings.
        feature_dim: e, the length of image features.

    Attributes:
        ctx: (n_ctx, d) context vectors.
        meta_net: (B, e) normalised image features -> (B, d).
    """

    def __init__(self, cfg: CN, classnames: Sequence[str], text_encoder: TextEncoder, feature_dim: int) -> None:
        super().__init__()
        cfg = cfg.TRAINER.COCOOP
        ctx = initial_context(cfg, text_encoder)
        width = ctx.shape[-1]
        self.ctx = nn.Parameter(ctx)
        hidden = feature_dim // 16
        layers = [
            ("linear1", nn.Linear(feature_dim, hidden)),
            ("relu", nn.ReLU()),
            ("linear2", nn.Linear(hidden, width)),
        ]
        self.meta_net = nn.Sequential(OrderedDict(layers))
        words = soft(range(len(ctx)))
        self.prompts = Prompts(text_encoder, [[sequence(words, f"{name}.") for name in classnames]], classnames)

    def forward(self, image_features: torch.Tensor) -> tuple:
        """(B, e) normalised image features -> the text encoder's arguments for B rows of N prompts."""
        shift = self.meta_net(image_features).to(self.ctx.dtype)  # autocast makes it half
        return self.prompts(self.ctx + shift[:, None])


class CoCoOpCLIP(PromptedCLIP):
    """CLIP with text features of its own for every image."""

    def __init__(self, clip_model: nn.Module, prompt_learner: nn.Module, text_encoder: TextEncoder, chunk: int) -> None:
        super().__init__(clip_model, prompt_learner, text_encoder)
        self.chunk = chunk

    def encode_text(self) -> None:
        """Nothing: there is no text feature without an image."""

    def logits(self, image_features: torch.Tensor, text_features: None = None) -> torch.Tensor:
        """(B, e) normalised image features -> (B, N) logits, `chunk` images at a time."""
        return encode_in_chunks(self._chunk_logits, image_features.split(self.chunk))

    def _chunk_logits(self, image_features):
        text_features = F.normalize(self.text_encoder(*self.prompt_learner(image_features)).float(), dim=-1)
        return self.logit_scale * torch.einsum("be,bne->bn", image_features, text_features)


@TRAINER_REGISTRY.register()
class CoCoOp(PromptTrainer):
    """Conditional Context Optimization: cross-entropy on context vectors and Meta-Net."""

    section = "COCOOP"
    class_axes = {}

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        check_context(cfg, "COCOOP")

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> CoCoOpCLIP:
        learner = PromptLearner(self.cfg, classnames, text_encoder, clip_model.text_projection.shape[1])
        tokens = learner.prompts.shared.shape[1] + int((learner.prompts.eot + 1).sum())
        chunk = how_many_fit(self.cfg.TRAINER.COCOOP.MEMORY_GB, tokens * bytes_per_token(text_encoder))
        logger.info("Prompts of %d images are encoded at a time (TRAINER.COCOOP.MEMORY_GB)", chunk)
        return CoCoOpCLIP(clip_model, learner, text_encoder, chunk)
