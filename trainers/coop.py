"""CoOp: context vectors learned in place of a template's words (Zhou et al., IJCV 2022, section 3.2)."""

from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from prompting.context import PromptLearner, check_context
from prompting.prompted_clip import PromptedCLIP
from trainers.base import PromptTrainer


def extend_cfg(cfg):
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
    def class_axes(self):
        return {"ctx": 0} if self.cfg.TRAINER[self.section].CSC else {}

    def check_cfg(self, cfg):
        super().check_cfg(cfg)
        check_context(cfg, "COOP")

    def build_prompted_clip(self, clip_model, text_encoder, classnames):
        learner = PromptLearner(self.cfg.TRAINER.COOP, classnames, text_encoder)
        return PromptedCLIP(clip_model, learner, text_encoder)
