"""Frame: learned pixels added to every image; CLIP itself stays as it is, and so do its prompts."""

import torch
import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from prompting.prompts import encode_templates
from trainers.base import PromptedCLIP, PromptTrainer


def extend_cfg(cfg):
    cfg.TRAINER.FRAME = CN()
    cfg.TRAINER.FRAME.PREC = "fp32"


class Learner(nn.Module):
    def __init__(self, text_features, size):
        super().__init__()
        self.register_buffer("text_features", text_features, persistent=False)
        self.pixels = nn.Parameter(torch.zeros(3, *size))


class FramedCLIP(PromptedCLIP):
    def encode_image(self, images):
        return super().encode_image(images + self.prompt_learner.pixels)

    def encode_text(self):
        return self.prompt_learner.text_features


@TRAINER_REGISTRY.register()
class Frame(PromptTrainer):
    section = "FRAME"
    class_axes = {}  # nothing is learned for a class
    frozen_image_encoder = False  # features change with every step, so `loss` is given images

    def build_prompted_clip(self, clip_model, text_encoder, classnames):
        features = encode_templates(text_encoder, ["a photo of a {}."], classnames)[0]
        learner = Learner(F.normalize(features.float(), dim=-1), self.cfg.INPUT.SIZE)
        return FramedCLIP(clip_model, learner, text_encoder)
