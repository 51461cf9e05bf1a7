"""CoOp: context vectors learned in place of a template's words (Zhou et al., IJCV 2022, section 3.2)."""

from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from prompting.context import PromptLearner as PromptLearner  # CoOp's readers look for it here
from trainers.base import ContextTrainer


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.COOP = CN()
    cfg.TRAINER.COOP.N_CTX = 16  # number of context vectors
    cfg.TRAINER.COOP.CSC = False  # class-specific context
    cfg.TRAINER.COOP.CTX_INIT = ""  # words to start from; their number of tokens then replaces N_CTX
    cfg.TRAINER.COOP.PREC = "fp16"  # fp16, fp32, amp, bf16
    cfg.TRAINER.COOP.CLASS_TOKEN_POSITION = "end"  # end, middle or front


@TRAINER_REGISTRY.register()
class CoOp(ContextTrainer):
    """Context Optimization: cross-entropy on the context vectors alone."""

    section = "COOP"
