"""ProGrad: CoOp that takes no step against zero-shot CLIP (Zhu et al., ICCV 2023, arXiv 2205.14865).

Two gradients of the context vectors: G_d, the domain's, of the cross-entropy; and G_g, the general direction, of the
KL divergence of the learned prompts' predictions from zero-shot CLIP's (the dataset's hand-written template), both at
temperature T. Where their angle is obtuse, the step would unlearn general knowledge: G_d then loses LAMBDA times its
projection on G_g. The length of G_g plays no part.

    G = G_d                                         if G_d . G_g >= 0
    G = G_d - LAMBDA * (G_d . G_g / |G_g|^2) G_g    otherwise

Zero-shot CLIP computes in float32 on the same views, whatever PREC is. With CTX_START template, as released, context
starts from the words before the class name in its template, one token for each, in the last of N_CTX vectors, and from
zeros before them. Words are counted at spaces but a comma is a token: in "a type of pet, a photo of a" the last "a"
gets no vector and stays, frozen, between vectors and class name; in a test, that of the tested data set's template.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode as CN

from dassl.config import require
from dassl.engine import TRAINER_REGISTRY
from dassl.optim.prograd import prograd
from dassl.utils import UserError
from prompting.backbone import load_backbone
from prompting.context import PromptLearner
from prompting.epochs import FrozenEncoder
from prompting.losses import distillation_loss
from prompting.prompted_clip import PromptedCLIP
from prompting.templates import check_templates, custom_template
from prompting.text_encoder import TextEncoder
from trainers.context import ContextTrainer

STARTS = ("words", "template")


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.PROGRAD = CN()
    cfg.TRAINER.PROGRAD.N_CTX = 16  # number of context vectors
    cfg.TRAINER.PROGRAD.CSC = False  # class-specific context
    cfg.TRAINER.PROGRAD.CTX_INIT = ""  # words to start from; their number of tokens then replaces N_CTX
    cfg.TRAINER.PROGRAD.CTX_START = "words"  # words: those of CTX_INIT; template: TEMPLATE's, behind zeros
    cfg.TRAINER.PROGRAD.TEMPLATE = ""  # zero-shot CLIP's; empty: the dataset's own
    cfg.TRAINER.PROGRAD.PREC = "fp16"  # fp16, fp32, amp, bf16
    cfg.TRAINER.PROGRAD.CLASS_TOKEN_POSITION = "end"  # end, middle or front
    cfg.TRAINER.PROGRAD.LAMBDA = 1.0  # share of the projection that is taken away; 0: CoOp
    cfg.TRAINER.PROGRAD.T = 1.0  # temperature of the KL divergence: divides both models' logits


def template_start(template: str, n_ctx: int, text_encoder: TextEncoder) -> tuple[torch.Tensor, list[int]]:
    """What context vectors start from, (n_ctx, d), and the token ids behind them, of CTX_START template.

    Raises:
        UserError: there is no word before the class name, or there are more than vectors.
    """
    words = template.partition("{}")[0].strip()
    count, ids = len(words.split()), text_encoder.tokenizer.encode(words)
    if not 1 <= count <= n_ctx:
        raise UserError(
            f'TRAINER.PROGRAD.CTX_START template: "{template}" has {count} words before {{}}, but N_CTX takes 1 to '
            f"{n_ctx}: give another TRAINER.PROGRAD.TEMPLATE, or CTX_START words"
        )
    embedding = text_encoder.token_embedding.weight.detach()
    start = torch.zeros(n_ctx, embedding.shape[1], device=embedding.device)
    start[-count:] = embedding[ids[:count]].float()
    return start, ids[count:]


@TRAINER_REGISTRY.register()
class ProGrad(ContextTrainer):
    """Prompt-aligned Gradient: CoOp's prompts and cross-entropy, its gradient corrected before every step."""

    section = "PROGRAD"

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        require(cfg, "TRAINER.PROGRAD.CTX_START", one_of=STARTS)
        if self.options.TEMPLATE:
            check_templates([self.options.TEMPLATE], "PROGRAD.TEMPLATE")
        if self.options.CTX_START == "template" and self.options.CTX_INIT:
            raise UserError(
                "TRAINER.PROGRAD.CTX_START template takes no CTX_INIT: leave it out, or set CTX_START words"
            )
        require(cfg, "TRAINER.PROGRAD.LAMBDA", at_least=0)
        require(cfg, "TRAINER.PROGRAD.T", above=0)

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> PromptedCLIP:
        options = self.options
        start: tuple = ()
        if options.CTX_START == "template":
            template = options.TEMPLATE or custom_template(self.cfg.DATASET.NAME)
            start = template_start(template, options.N_CTX, text_encoder)
        learner = PromptLearner(options, classnames, text_encoder, *start)
        return PromptedCLIP(clip_model, learner, text_encoder)

    def before_train(self) -> None:
        super().before_train()
        backbone = self.cfg.MODEL.BACKBONE
        self.teacher, text_encoder = self.model.image_encoder, self.model.text_encoder
        self.exact = self.precision == self.image_precision == "fp32"
        if {"fp16", "bf16"} & {self.precision, self.image_precision}:
            clip_model = load_backbone(backbone.NAME, "fp32", self.device, backbone.FAMILY)
            self.teacher, text_encoder = clip_model.visual, TextEncoder(clip_model)
        self.frozen_features = self.zero_shot_features(self.options.TEMPLATE, text_encoder)

    def frozen_encoders(self) -> dict[str, FrozenEncoder]:
        encoders = super().frozen_encoders()
        if not self.exact:
            encoders["teacher"] = FrozenEncoder(self._teach, self.teacher, "fp32")
        return encoders

    @torch.no_grad()
    def _teach(self, images):
        with torch.autocast(self.device.type, enabled=False):
            return self.teacher(images.float())

    def zero_shot_logits(self, inputs: torch.Tensor, image_features: torch.Tensor) -> torch.Tensor:
        """(B, num_seen) of zero-shot CLIP in float32; image_features are the model's, in its own precision."""
        if not self.exact:
            image_features = F.normalize(self.features_by("teacher", inputs), dim=-1)
        with torch.autocast(self.device.type, enabled=False):
            return self.model.logits(image_features, self.frozen_features)

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        model = self.model
        image_features = model.prepared(inputs)
        logits = model.logits(image_features, model.encode_text()[: self.num_seen])
        self.kl = distillation_loss(logits, self.zero_shot_logits(inputs, image_features), self.options.T)
        loss, summary = self.cross_entropy(logits, labels)
        return loss, {"loss_kl": self.kl.detach()} | summary

    def model_backward(self, loss: torch.Tensor) -> None:
        # Under amp both gradients are scaled alike; the correction is linear in one and blind to the other's length.
        ctx, kl = self.model.prompt_learner.ctx, self.kl
        general = torch.autograd.grad(kl if self.scaler is None else self.scaler.scale(kl), ctx, retain_graph=True)[0]
        super().model_backward(loss)
        ctx.grad = prograd(ctx.grad, general, self.options.LAMBDA)
