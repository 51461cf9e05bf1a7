"""ProGrad: CoOp that takes no step against zero-shot CLIP (Zhu et al., ICCV 2023, arXiv 2205.14865).

Two gradients of the context vectors: G_d, the domain's, of the cross-entropy; and G_g, the general direction, of the
KL divergence of the learned prompts' predictions from zero-shot CLIP's (the dataset's hand-written template), both at
temperature T. Where their angle is obtuse, the step would unlearn general knowledge: G_d then loses LAMBDA times its
projection on G_g. The length of G_g plays no part.

    G = G_d                                         if G_d . G_g >= 0
    G = G_d - LAMBDA * (G_d . G_g / |G_g|^2) G_g    otherwise
"""

import torch
import torch.nn.functional as F
from yacs.config import CfgNode as CN

from dassl.config import require
from dassl.engine import TRAINER_REGISTRY
from dassl.optim.prograd import prograd
from prompting.losses import distillation_loss
from trainers.base import ContextTrainer


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.PROGRAD = CN()
    cfg.TRAINER.PROGRAD.N_CTX = 16  # number of context vectors
    cfg.TRAINER.PROGRAD.CSC = False  # class-specific context
    cfg.TRAINER.PROGRAD.CTX_INIT = ""  # words to start from; their number of tokens then replaces N_CTX
    cfg.TRAINER.PROGRAD.PREC = "fp16"  # fp16, fp32, amp, bf16
    cfg.TRAINER.PROGRAD.CLASS_TOKEN_POSITION = "end"  # end, middle or front
    cfg.TRAINER.PROGRAD.LAMBDA = 1.0  # share of the projection that is taken away; 0: CoOp
    cfg.TRAINER.PROGRAD.T = 1.0  # temperature of the KL divergence: divides both models' logits


@TRAINER_REGISTRY.register()
class ProGrad(ContextTrainer):
    """Prompt-aligned Gradient: CoOp's prompts and cross-entropy, its gradient corrected before every step."""

    section = "PROGRAD"

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        require(cfg, "TRAINER.PROGRAD.LAMBDA", at_least=0)
        require(cfg, "TRAINER.PROGRAD.T", above=0)

    def before_train(self) -> None:
        super().before_train()
        self.frozen_features = self.zero_shot_features()

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        model, temperature = self.model, self.cfg.TRAINER.PROGRAD.T
        image_features = F.normalize(model.encode_image(images).float(), dim=-1)
        logits = model.logits(image_features, model.encode_text()[: self.num_seen])
        zero_shot = model.logits(image_features, self.frozen_features)
        self.kl = distillation_loss(logits, zero_shot, temperature)
        loss, summary = self.cross_entropy(logits, labels)
        return loss, {"loss_kl": self.kl.item()} | summary

    def model_backward(self, loss: torch.Tensor) -> None:
        # Under amp both gradients are scaled alike; the correction is linear in one and blind to the other's length.
        ctx, kl = self.model.prompt_learner.ctx, self.kl
        general = torch.autograd.grad(kl if self.scaler is None else self.scaler.scale(kl), ctx, retain_graph=True)[0]
        super().model_backward(loss)
        ctx.grad = prograd(ctx.grad, general, self.cfg.TRAINER.PROGRAD.LAMBDA)
