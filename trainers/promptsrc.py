"""PromptSRC: prompts in both towers that regulate themselves (Khattak et al., ICCV 2023, arXiv 2307.06948).

Each of the first layers has context vectors (text encoder) or prompts behind the patches (image encoder) of its own,
independent of each other. Three things keep them from forgetting what CLIP knows (section 3.2):

- mutual agreement with frozen CLIP: the loss adds the distances of text features, image features and logits from those
  without prompts,

      L = L_ce + TEXT_LOSS_WEIGHT * |g_p - g|_1 + IMAGE_LOSS_WEIGHT * |f_p - f|_1 + KL(softmax(z) || softmax(z_p))

  the L1 norms as means over classes or images and entries, the KL as a mean over images and classes;
- self-ensembling: the run ends with sum_t w_t P_t over the prompts P_t at the end of each epoch t = 1..T, w_t a
  Gaussian of mean GPA_MEAN and standard deviation GPA_STD that sums to 1. Kept as a running mean, it does not depend
  on T until the end;
- textual diversity: g is the mean over sixty templates of features that are not normalised, and normalised then.

Paper and release have the same form; the values are the release's. Known difference from it: in PREC fp16 all but the
first layer's context vectors are float32 there, here all are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode as CN

from dassl.config import require
from dassl.engine import TRAINER_REGISTRY
from prompting.backbone import HALF, load_backbone
from prompting.deep_prompts import DeepContext, check_deep_context, check_vision_transformer, noise
from prompting.epochs import FrozenEncoder
from prompting.losses import distillation_loss
from prompting.prompted_clip import DeepPromptedCLIP
from prompting.prompts import Prompts, encode_templates, sequence
from prompting.templates import DEFAULT, IMAGENET, check_templates
from prompting.text_encoder import TextEncoder
from trainers.base import PromptTrainer

SIXTY = [DEFAULT, *(template for template in IMAGENET[:60] if template != DEFAULT)]
"""The release's templates, on every data set: the first sixty of CLIP's eighty for ImageNet."""


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.PROMPTSRC = CN()
    cfg.TRAINER.PROMPTSRC.CTX_INIT = "a photo of a"  # words before the class; the first N_CTX_TEXT to start from
    cfg.TRAINER.PROMPTSRC.PREC = "fp16"  # fp16, fp32, amp, bf16
    cfg.TRAINER.PROMPTSRC.N_CTX_VISION = 4  # number of image prompts, in each layer
    cfg.TRAINER.PROMPTSRC.N_CTX_TEXT = 4  # number of context vectors, in each layer
    cfg.TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION = 9  # layers of the image encoder with prompts, from the first
    cfg.TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT = 9  # likewise, in the text encoder
    cfg.TRAINER.PROMPTSRC.TEMPLATES = ()  # templates of frozen CLIP's text features; (): the release's sixty
    cfg.TRAINER.PROMPTSRC.TEXT_LOSS_WEIGHT = 25.0  # weight of the distance of text features from frozen CLIP's
    cfg.TRAINER.PROMPTSRC.IMAGE_LOSS_WEIGHT = 10.0  # weight of the distance of image features from frozen CLIP's
    cfg.TRAINER.PROMPTSRC.GPA_MEAN = 15.0  # the epoch that weighs most in the average of prompts, counted from 1
    cfg.TRAINER.PROMPTSRC.GPA_STD = 1.0  # standard deviation of those weights, in epochs


class PromptLearner(DeepContext):
    """N prompts of context vectors, words, class name and full stop; image prompts beside them.

    Args:
        options: cfg.TRAINER.PROMPTSRC.
        classnames: N class names.
        visual: the image encoder, for its width w and its number of layers.

    Attributes:
        vision: (N_CTX_VISION, w) for each layer with image prompts.

    Raises:
        UserError: the image encoder is a ResNet.
    """

    def __init__(self, options: CN, classnames: Sequence[str], text_encoder: TextEncoder, visual: nn.Module) -> None:
        check_vision_transformer(visual)
        super().__init__(options.CTX_INIT, options.N_CTX_TEXT, options.PROMPT_DEPTH_TEXT, text_encoder)
        depth = min(options.PROMPT_DEPTH_VISION, len(visual.transformer.resblocks))
        width = visual.class_embedding.shape[0]
        self.vision = nn.ParameterList(noise(options.N_CTX_VISION, width) for _ in range(depth))
        sequences = [sequence(self.words, f"{name}.") for name in classnames]
        self.prompts = Prompts(text_encoder, [sequences], classnames)

    def forward(self) -> tuple:
        """The text encoder's arguments for one row of N prompts."""
        return *self.prompts(self.ctx), self.compound_prompts_text

    def vision_prompts(self) -> list[torch.Tensor]:
        """The image encoder's prompts: (N_CTX_VISION, w) for each layer."""
        return list(self.vision)


def epoch_share(epoch: int, mean: float, std: float) -> float:
    """What an epoch, counted from 1, weighs among all up to it, under a Gaussian's weights."""
    epochs = torch.arange(1, epoch + 1, dtype=torch.double)
    return torch.softmax(-0.5 * ((epochs - mean) / std) ** 2, dim=0)[-1].item()


@TRAINER_REGISTRY.register()
class PromptSRC(PromptTrainer):
    """Prompting with self-regulating constraints."""

    section = "PROMPTSRC"
    class_axes = {}
    frozen_image_encoder = False

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        counts = ("N_CTX_VISION", "PROMPT_DEPTH_TEXT", "PROMPT_DEPTH_VISION")
        check_deep_context(cfg, "PROMPTSRC", "N_CTX_TEXT", *counts)
        check_templates(cfg.TRAINER.PROMPTSRC.TEMPLATES, "PROMPTSRC")
        require(cfg, "TRAINER.PROMPTSRC.TEXT_LOSS_WEIGHT", at_least=0)
        require(cfg, "TRAINER.PROMPTSRC.IMAGE_LOSS_WEIGHT", at_least=0)
        require(cfg, "TRAINER.PROMPTSRC.GPA_STD", above=0)

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> DeepPromptedCLIP:
        learner = PromptLearner(self.cfg.TRAINER.PROMPTSRC, classnames, text_encoder, clip_model.visual)
        return DeepPromptedCLIP(clip_model, learner, text_encoder)

    def build_model(self) -> None:
        super().build_model()
        self.aggregate = {name: value.clone() for name, value in self.model.prompt_learner.state_dict().items()}

    def before_train(self) -> None:
        super().before_train()
        names = self.dm.dataset.classnames[: self.num_seen]
        encoder, backbone = self.model.text_encoder, self.cfg.MODEL.BACKBONE
        if self.precision in HALF:
            encoder = TextEncoder(load_backbone(backbone.NAME, "fp32", self.device, backbone.FAMILY))
        features = encode_templates(encoder, list(self.cfg.TRAINER.PROMPTSRC.TEMPLATES) or SIXTY, names)
        self.frozen_text_features = F.normalize(features.float().mean(dim=0), dim=-1)

    def frozen_encoders(self) -> dict[str, FrozenEncoder]:
        return {"zero_shot": self.zero_shot_encoder()}

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        options, model = self.cfg.TRAINER.PROMPTSRC, self.model
        image_features = model.prepared(inputs)
        frozen_image_features = model.prepare(self.features_by("zero_shot", inputs))
        text_features = model.encode_text()[: self.num_seen]
        logits = model.logits(image_features, text_features)
        frozen_logits = model.logits(frozen_image_features, self.frozen_text_features)

        ce, summary = self.cross_entropy(logits, labels)
        text = options.TEXT_LOSS_WEIGHT * F.l1_loss(text_features, self.frozen_text_features)
        image = options.IMAGE_LOSS_WEIGHT * F.l1_loss(image_features, frozen_image_features)
        kl = distillation_loss(logits, frozen_logits, temperature=1.0) / logits.shape[1]
        terms = {"loss_ce": ce, "loss_text": text, "loss_image": image, "loss_logits": kl}
        return sum(terms.values()), {name: term.detach() for name, term in terms.items()} | summary

    def after_epoch(self) -> None:
        options, learner = self.cfg.TRAINER.PROMPTSRC, self.model.prompt_learner
        share = epoch_share(self.epoch + 1, options.GPA_MEAN, options.GPA_STD)
        for name, value in learner.state_dict().items():
            self.aggregate[name].lerp_(value, share)
        if self.epoch + 1 == self.max_epoch:
            learner.load_state_dict(self.aggregate)
        super().after_epoch()

    def run_state(self) -> dict[str, Any]:
        return super().run_state() | {"aggregate": self.aggregate}

    def load_run_state(self, state: Mapping[str, Any]) -> None:
        super().load_run_state(state)
        self.aggregate = {name: value.to(self.device) for name, value in state["aggregate"].items()}
