"""MaPLe: prompts in both towers, coupled layer by layer (Khattak et al., CVPR 2023, arXiv 2210.03117, section 3.2).

Each of the first PROMPT_DEPTH layers of the text encoder has context vectors P_j of its own. The image encoder's
prompts at that layer are F_j(P_j), F_j a linear layer from the text encoder's width to the image encoder's; they come
after the patches. After the last of these layers prompts pass through like any token. Text prompts begin with
CTX_INIT, of which the first N_CTX words are learned; the others stay words. As in the release, F_2, F_3, ... start
equal, F_1 by itself. No difference between paper and release is known.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from prompting.deep_prompts import CoupledPrompts, check_deep_context
from prompting.prompted_clip import DeepPromptedCLIP
from prompting.prompts import Prompts, sequence
from prompting.text_encoder import TextEncoder
from trainers.base import PromptTrainer

RELEASED = "MultiModalPromptLearner"
"""The model name of the released weights, which are of the whole model."""


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.MAPLE = CN()
    cfg.TRAINER.MAPLE.N_CTX = 2  # number of context vectors, in each layer
    cfg.TRAINER.MAPLE.CTX_INIT = "a photo of a"  # words before the class, the first N_CTX to start from; "": noise
    cfg.TRAINER.MAPLE.PREC = "fp16"  # fp16, fp32, amp, bf16
    cfg.TRAINER.MAPLE.PROMPT_DEPTH = 9  # layers with prompts of their own, from the first; at most all


class PromptLearner(CoupledPrompts):
    """N prompts of context vectors, words, class name and full stop, and the image prompts that go with them.

    Args:
        options, text_encoder, visual: as CoupledPrompts takes them.
        classnames: N class names.
    """

    def __init__(self, options: CN, classnames: Sequence[str], text_encoder: TextEncoder, visual: nn.Module) -> None:
        super().__init__(options, text_encoder, visual)
        sequences = [sequence(self.words, f"{name}.") for name in classnames]
        self.prompts = Prompts(text_encoder, [sequences], classnames)

    def forward(self) -> tuple:
        """The text encoder's arguments for one row of N prompts."""
        return *self.prompts(self.ctx), self.compound_prompts_text


@TRAINER_REGISTRY.register()
class MaPLe(PromptTrainer):
    """Multi-modal Prompt Learning: cross-entropy on context vectors and coupling functions."""

    section = "MAPLE"
    class_axes = {}
    frozen_image_encoder = False

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        check_deep_context(cfg, "MAPLE", "N_CTX", "PROMPT_DEPTH")

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> DeepPromptedCLIP:
        learner = PromptLearner(self.cfg.TRAINER.MAPLE, classnames, text_encoder, clip_model.visual)
        return DeepPromptedCLIP(clip_model, learner, text_encoder)

    def model_folder(self, directory: str | Path, name: str) -> str:
        released = os.path.join(directory, RELEASED)
        return released if os.path.isdir(released) else super().model_folder(directory, name)

    def load_weights(self, name: str, state_dict: Mapping[str, torch.Tensor], source: str | Path) -> None:
        prefix = f"{name}."
        ours = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        super().load_weights(name, ours or state_dict, source)
