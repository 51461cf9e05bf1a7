"""CoOp: context vectors learned in place of a template's words (Zhou et al., IJCV 2022, section 3.2)."""

from collections.abc import Sequence

from torch import nn
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from prompting.context import PromptLearner, check_context, class_axes_of_context
from prompting.prompted_clip import PromptedCLIP
from prompting.text_encoder import TextEncoder
from trainers.base import PromptTrainer


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.COOP = CN()
    cfg.TRAINER.COOP.N_CTX = 16  # number of context vectors
    cfg.TRAINER.COOP.CSC = False  # class-specific context
    cfg.TRAINER.COOP.CTX_INIT = ""  # words to start from; their number of tokens then replaces N_CTX
    cfg.TRAINER.COOP.PREC = "fp16"  # fp16, fp32, amp, bf16
    cfg.TRAINER.COOP.CLASS_TOKEN_POSITION = "end"  # end, middle or front


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    """Context Optimization: cross-entropy on the context vectors alone."""

    section = "COOP"

    @property
    def class_axes(self) -> dict[str, int]:  # type: ignore[override]
        return class_axes_of_context(self.cfg.TRAINER.COOP)

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        check_context(cfg, "COOP")

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> PromptedCLIP:
        learner = PromptLearner(self.cfg.TRAINER.COOP, classnames, text_encoder)
        return PromptedCLIP(clip_model, learner, text_encoder)
