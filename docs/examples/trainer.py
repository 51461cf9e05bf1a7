"""Shift: a learned vector added to each class's zero-shot text feature."""

import torch
import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from prompting.prompts import encode_templates
from trainers.base import PromptedCLIP, PromptTrainer


def extend_cfg(cfg):
    cfg.TRAINER.SHIFT = CN()
    cfg.TRAINER.SHIFT.TEMPLATE = "a photo of a {}."
    cfg.TRAINER.SHIFT.PREC = "fp32"


class Learner(nn.Module):
    def __init__(self, text_features):
        super().__init__()
        self.register_buffer("text_features", text_features, persistent=False)
        self.shift = nn.Parameter(torch.zeros_like(text_features))


class ShiftCLIP(PromptedCLIP):
    def encode_text(self):
        return F.normalize(self.prompt_learner.text_features + self.prompt_learner.shift, dim=-1)


@TRAINER_REGISTRY.register()
class Shift(PromptTrainer):
    section = "SHIFT"
    class_axes = {"shift": 0}  # which axis is that of the classes: weights find theirs by name
    new_classes_as_started = True  # a class that they do not know has no shift: zero-shot CLIP

    def build_prompted_clip(self, clip_model, text_encoder, classnames):
        features = encode_templates(text_encoder, [self.cfg.TRAINER.SHIFT.TEMPLATE], classnames)[0]
        return ShiftCLIP(clip_model, Learner(F.normalize(features.float(), dim=-1)), text_encoder)
