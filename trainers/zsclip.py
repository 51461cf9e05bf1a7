"""Zero-shot CLIP (Radford et al., ICML 2021), the baseline that learns nothing.

ZeroshotCLIP takes the one hand-written template that CoOp uses for the dataset; ZeroshotCLIP2 averages the normalised
text features of the seven ImageNet templates that CLIP's authors selected and, but for ImageNet, of that template.

With PAIRS, ZeroshotCLIP takes "a photo of attribute object", without full stop, for attribute-object pairs, as in CSP's
tables (Nayak et al., ICLR 2023).
"""

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from prompting.pairs import PairPrompts
from prompting.prompted_clip import PromptedCLIP
from prompting.prompts import encode_templates
from prompting.templates import IMAGENET_SELECT, custom_template
from prompting.text_encoder import TextEncoder
from trainers.pairs import PairTrainer, pair_keys

logger = logging.getLogger("dassl.trainers")


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.ZEROSHOTCLIP = pair_keys()
    cfg.TRAINER.ZEROSHOTCLIP.PAIRS = False  # prompts of attribute-object pairs


class FixedCLIP(PromptedCLIP):
    """CLIP with text features computed beforehand.

    Args:
        clip_model, text_encoder: as PromptedCLIP takes them.
        text_features: (N, e), normalised here.
    """

    def __init__(self, clip_model: nn.Module, text_encoder: TextEncoder, text_features: torch.Tensor) -> None:
        super().__init__(clip_model, nn.Module(), text_encoder)
        self.register_buffer("text_features", F.normalize(text_features.float(), dim=-1))

    def encode_text(self) -> torch.Tensor:
        return self.text_features


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(PairTrainer):
    """Zero-shot CLIP with the dataset's own template."""

    section: str | None = "ZEROSHOTCLIP"
    class_axes = {}

    def templates(self) -> list[str]:
        return [custom_template(self.cfg.DATASET.NAME)]

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> PromptedCLIP:
        if self.on_pairs:
            return super().build_prompted_clip(clip_model, text_encoder, classnames)
        templates = self.templates()
        logger.info("Prompt ensembling (n=%d): %s", len(templates), templates)
        features = F.normalize(encode_templates(text_encoder, templates, classnames).float(), dim=-1)
        return FixedCLIP(clip_model, text_encoder, features.mean(dim=0))

    def pair_prompts(self, text_encoder: TextEncoder, tokens: int) -> PairPrompts:
        return PairPrompts(self.dm.dataset, text_encoder, tokens)

    def train(self) -> None:  # type: ignore[override]
        logger.info("Nothing to train")
        self.test()


@TRAINER_REGISTRY.register()
class ZeroshotCLIP2(ZeroshotCLIP):
    """Zero-shot CLIP with a template ensemble."""

    section = None

    def templates(self) -> list[str]:
        own = custom_template(self.cfg.DATASET.NAME)
        return IMAGENET_SELECT + ([own] if self.cfg.DATASET.NAME != "ImageNet" else [])
