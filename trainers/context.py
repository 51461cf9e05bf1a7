"""What trainers of CoOp's prompts have in common: their context vectors (prompting/context.py)."""

from collections.abc import Sequence

from torch import nn
from yacs.config import CfgNode

from prompting.context import PromptLearner, check_context
from prompting.prompted_clip import PromptedCLIP
from prompting.text_encoder import TextEncoder
from trainers.base import PromptTrainer


class ContextTrainer(PromptTrainer):
    """Trains CoOp's prompts, as the block `section` describes their context vectors (prompting/context.py)."""

    section: str

    @property
    def class_axes(self) -> dict[str, int]:  # type: ignore[override]
        return {"ctx": 0} if self.cfg.TRAINER[self.section].CSC else {}

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        check_context(cfg, self.section)

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> PromptedCLIP:
        learner = PromptLearner(self.cfg.TRAINER[self.section], classnames, text_encoder)
        return PromptedCLIP(clip_model, learner, text_encoder)
