"""KgCoOp: CoOp held near the knowledge of hand-written prompts (Yao et al., CVPR 2023, arXiv 2303.13283).

Context vectors forget what the text encoder knows of classes they are not trained on. A second loss keeps each class's
text feature w_i close to w_i^clip, that of its name in a hand-written template, both of length 1:

    L = L_ce + W * L_kg,    L_kg = 1/N sum_i (1 - cos(w_i, w_i^clip))     released
                            L_kg = 1/N sum_i |w_i - w_i^clip|^2           paper

The second is twice the first. The release runs W 8, and so do both forms here: whether the paper's 8 goes with its own
equation is not known, and FORM paper takes it at its word; what is released is FORM paper with W 4. Published figures
are the release's. A difference from it: unused layers there take random numbers, so batches come in another order.
"""

from typing import Any

import torch
from yacs.config import CfgNode as CN

from dassl.config import require
from dassl.engine import TRAINER_REGISTRY
from prompting.templates import check_templates
from trainers.context import ContextTrainer


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.KGCOOP = CN()
    cfg.TRAINER.KGCOOP.N_CTX = 4  # number of context vectors
    cfg.TRAINER.KGCOOP.CSC = False  # class-specific context
    cfg.TRAINER.KGCOOP.CTX_INIT = "a photo of a"  # words to start from; their number of tokens then replaces N_CTX
    cfg.TRAINER.KGCOOP.PREC = "fp16"  # fp16, fp32, amp, bf16
    cfg.TRAINER.KGCOOP.CLASS_TOKEN_POSITION = "end"  # end, middle or front
    cfg.TRAINER.KGCOOP.FORM = "released"  # form of L_kg: released or paper
    cfg.TRAINER.KGCOOP.W = 8.0  # weight of L_kg
    cfg.TRAINER.KGCOOP.TEMPLATE = ""  # template of w^clip; empty: the dataset's own


def knowledge_loss(text_features: torch.Tensor, frozen_features: torch.Tensor) -> torch.Tensor:
    """L_kg as released: one minus the cosine of each class's text feature and its frozen one, the mean over classes.

    (N, e), (N, e), both normalised -> scalar.
    """
    return 1 - (text_features * frozen_features).sum(dim=-1).mean()


def squared_distance(text_features: torch.Tensor, frozen_features: torch.Tensor) -> torch.Tensor:
    """L_kg as in the paper; as `knowledge_loss`."""
    return (text_features - frozen_features).square().sum(dim=-1).mean()


LOSSES = {"released": knowledge_loss, "paper": squared_distance}


@TRAINER_REGISTRY.register()
class KgCoOp(ContextTrainer):
    """Knowledge-guided Context Optimization: CoOp's prompts, cross-entropy and L_kg."""

    section = "KGCOOP"
    forms = {form: {} for form in LOSSES}

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        require(cfg, "TRAINER.KGCOOP.W", at_least=0)
        if self.options.TEMPLATE:
            check_templates([self.options.TEMPLATE], "KGCOOP.TEMPLATE")

    def before_train(self) -> None:
        super().before_train()
        self.frozen_features = self.zero_shot_features(self.options.TEMPLATE)

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        model = self.model
        image_features = model.prepared(inputs)
        text_features = model.encode_text()[: self.num_seen]
        ce, summary = self.cross_entropy(model.logits(image_features, text_features), labels)
        kg = LOSSES[self.options.FORM](text_features, self.frozen_features)
        loss = ce + self.options.W * kg
        return loss, {"loss_ce": ce.detach(), "loss_kg": kg.detach()} | summary
