"""LASP: language-aware soft prompting (Bulat and Tzimiropoulos, CVPR 2023, arXiv 2210.01115).

Learned prompts overfit to the base classes' images. Text alone can hold them back: a cross-entropy ties the text
features t of learned prompts to the features h_l of hand-written templates l, class y by class.

    L = L_VL + TEXT_WEIGHT * L_TT

    FORM released  L_TT = mean_y mean_l -log softmax_c(s t(c) . h_l(y))_y    hand-written found among learned
    FORM paper     L_TT = mean_y -log mean_l softmax_c(s t(y) . h_l(c))_y    learned found among hand-written (3.2)

s is the logit scale, c runs over the classes; L_VL is CoOp's cross-entropy on images. In the release all h_l get noise
in half of the steps, names of all classes take part, and the gradient's norm is limited. Published numbers are the
release's; it has one group and its README says that its schedules differ from the paper's. The values of FORM paper
are this project's reading of the paper, which no release holds.

- Grouped (3.3): N_GROUPS sets of context vectors, each with its own share of the templates in L_TT. A class's logit is
  the mean over the groups of their scaled cosines.
- Re-aligned (3.4): the LayerNorms of the image encoder's blocks are trained too (TUNE_LAYERNORM), and a learned vector
  is added to all text features (TEXT_OFFSET).
- LASP-V (3.5): L_TT needs no images, so class names without any take part in it as well (TEXT_CLASSES all).

Known differences from the release: PREC other than amp limits the gradient's norm too.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from prompting.context import check_context, initial_context
from prompting.losses import text_loss, text_loss_among_learned
from prompting.prompted_clip import PromptedCLIP
from prompting.prompts import Prompts, encode_templates, sequence, soft
from prompting.templates import all_templates, check_templates
from prompting.text_encoder import TextEncoder
from trainers.layernorms import LayerNormTrainer

logger = logging.getLogger("dassl.trainers")

CLASSES = ("train", "all")
TEXT_LOSSES = {"learned": text_loss_among_learned, "hand": text_loss}
"""TEXT_LOSS: what prompts the others are told among."""

RELEASED = [
    "a photo of a {}, a type of flower.",
    "a photo of a person doing {}.",
    "a centered satellite photo of {}.",
    "a photo of a {}, a type of aircraft.",
    "{} texture.",
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
    "a photo of a {}.",
    "a photo of many {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a pixelated photo of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a close-up photo of the {}.",
    "a low resolution photo of a {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a blurry photo of a {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
]
"""The release's templates, on every data set; one stands there twice, so it weighs double."""

FORMS = {
    "released": {
        "TEXT_LOSS": "learned",
        "NOISE": 0.05,
        "N_GROUPS": 1,
        "TEMPLATES": tuple(RELEASED),
        "TEXT_WEIGHT": 5.0,
        "TEXT_CLASSES": "all",
        "GRAD_CLIP": 1.0,
    },
    "paper": {
        "TEXT_LOSS": "hand",
        "NOISE": 0.0,
        "N_GROUPS": 3,
        "TEMPLATES": tuple(dict.fromkeys(RELEASED)),
        "TEXT_WEIGHT": 20.0,
        "TEXT_CLASSES": "train",
        "GRAD_CLIP": 0.0,
    },
}


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.LASP = CN()
    cfg.TRAINER.LASP.PREC = "fp16"  # fp16, fp32, amp, bf16
    cfg.TRAINER.LASP.FORM = "released"  # released, paper: what the keys are that are None here
    cfg.TRAINER.LASP.N_GROUPS = None  # sets of context vectors
    cfg.TRAINER.LASP.N_CTX = 4  # context vectors in each
    cfg.TRAINER.LASP.CTX_INIT = "a photo of a"  # words that each starts from; their number of tokens replaces N_CTX
    cfg.TRAINER.LASP.TEMPLATES = None  # dealt out to the groups; (): CLIP's eighty for ImageNet and the dataset's own
    cfg.TRAINER.LASP.TEXT_LOSS = None  # learned: hand-written prompts are to be found among learned; hand: reversed
    cfg.TRAINER.LASP.NOISE = None  # standard deviation of what hand-written features get in half of the steps
    cfg.TRAINER.LASP.TEXT_WEIGHT = None  # weight of L_TT
    cfg.TRAINER.LASP.TEXT_CLASSES = None  # train: L_TT over the classes with images; all: new ones too
    cfg.TRAINER.LASP.TUNE_LAYERNORM = True  # the image encoder's ln_1, ln_2 learn at a tenth of OPTIM.LR
    cfg.TRAINER.LASP.TEXT_OFFSET = True  # a learned vector added to all text features
    cfg.TRAINER.LASP.GRAD_CLIP = None  # largest gradient norm; 0: no limit


class PromptLearner(nn.Module):
    """G prompts for each of N classes: a group's context vectors, class name and full stop.

    Args:
        options: cfg.TRAINER.LASP, with what FORM decides.
        names: N class names.
        text_encoder: for its token embeddings.

    Attributes:
        ctx: (G, n_ctx, d) context vectors.
        offset: (e,), or None without TEXT_OFFSET.
    """

    def __init__(self, options: CN, names: Sequence[str], text_encoder: TextEncoder) -> None:
        super().__init__()
        self.ctx = nn.Parameter(initial_context(options, text_encoder, options.N_GROUPS))
        feature_dim = text_encoder.text_projection.shape[1]
        self.offset = nn.Parameter(torch.zeros(feature_dim)) if options.TEXT_OFFSET else None
        words = soft(range(self.ctx.shape[1]))
        self.prompts = Prompts(text_encoder, [[sequence(words, f"{name}.") for name in names]], names)

    def forward(self) -> tuple:
        """The text encoder's arguments for G rows of N prompts."""
        return self.prompts(self.ctx)


class LASPCLIP(PromptedCLIP):
    """CLIP whose classes have a text feature for each group of prompts.

    Args:
        clip_model, prompt_learner, text_encoder: as PromptedCLIP takes them.
        num_classes: how many of the prompt learner's classes, the first, have a logit.
    """

    def __init__(
        self, clip_model: nn.Module, prompt_learner: nn.Module, text_encoder: TextEncoder, num_classes: int
    ) -> None:
        super().__init__(clip_model, prompt_learner, text_encoder)
        self.num_classes = num_classes

    def encode_text(self) -> torch.Tensor:
        """(G, N + V, e) normalised text features of N classes and V virtual ones."""
        return self.encode_prompts()

    def logits(self, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """(B, e) normalised image features, (G, N + V, e) text features -> (B, N), the mean over the groups."""
        return super().logits(image_features, text_features[:, : self.num_classes].mean(dim=0))


@TRAINER_REGISTRY.register()
class LASP(LayerNormTrainer):
    """Language-Aware Soft Prompting: cross-entropy on images, and on hand-written templates."""

    section = "LASP"
    forms = FORMS
    class_axes = {}

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        check_context(cfg, "LASP")
        self.templates = list(self.options.TEMPLATES) or all_templates(cfg.DATASET.NAME)
        check_templates(self.templates, "LASP")
        self.require("N_GROUPS", at_least=1, at_most=len(self.templates), note="the number of templates")
        self.require("TEXT_LOSS", one_of=tuple(TEXT_LOSSES))
        self.require("NOISE", at_least=0)
        self.require("TEXT_CLASSES", one_of=CLASSES)
        self.require("TEXT_WEIGHT", at_least=0)

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> LASPCLIP:
        options = self.options
        self.names = [*classnames, *(self.virtual_classes() if options.TEXT_CLASSES == "all" else [])]
        learner = PromptLearner(options, self.names, text_encoder)
        if options.TUNE_LAYERNORM:
            self.tune_layernorms(clip_model, learner)
        return LASPCLIP(clip_model, learner, text_encoder, len(classnames))

    def before_train(self) -> None:
        super().before_train()
        templates, groups = self.templates, self.options.N_GROUPS
        # Unseen pairs are names without images, like virtual classes.
        self.num_text = len(self.names) if self.options.TEXT_CLASSES == "all" else self.num_seen
        names = self.names[: self.num_text]
        features = F.normalize(encode_templates(self.model.text_encoder, templates, names).float(), dim=-1)
        self.hard_features = [features[g::groups] for g in range(groups)]
        logger.info("L_TT: %d templates in %d groups, %d class names", len(templates), groups, len(names))

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        model = self.model
        image_features = model.prepared(inputs)
        text_features = model.encode_text()
        ce, summary = self.cross_entropy(model.logits(image_features, text_features), labels)
        towards = TEXT_LOSSES[self.options.TEXT_LOSS]
        text = towards(text_features[:, : self.num_text], self._noisy(self.hard_features), model.logit_scale)
        loss = ce + self.options.TEXT_WEIGHT * text
        return loss, {"loss_ce": ce.detach(), "loss_text": text.detach()} | summary

    def _noisy(self, features):
        """Fresh noise in half of the steps; not normalised again. Run states keep torch's generator, which it uses."""
        noise = self.options.NOISE
        if not noise or torch.rand(()) >= 0.5:
            return features
        return [hard + noise * torch.randn_like(hard) for hard in features]
