"""CoOp: context vectors learned in place of a template's words (Zhou et al., IJCV 2022, section 3.2).

With PAIRS it is the CoOp of CSP's tables (Nayak et al., ICLR 2023), for attribute-object pairs: behind the context each
attribute and object is one frozen vector, the mean of its name's token embeddings, and there is no full stop.
"""

from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError
from prompting.context import PromptLearner as PromptLearner  # CoOp's readers look for it here
from prompting.pairs import PairContext
from prompting.text_encoder import TextEncoder
from trainers.context import ContextTrainer
from trainers.pairs import PairTrainer, pair_keys


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.COOP = pair_keys()
    cfg.TRAINER.COOP.PAIRS = False  # prompts of attribute-object pairs, as CSP's release has them
    cfg.TRAINER.COOP.N_CTX = 16  # number of context vectors
    cfg.TRAINER.COOP.CSC = False  # class-specific context
    cfg.TRAINER.COOP.CTX_INIT = ""  # words to start from; their number of tokens then replaces N_CTX
    cfg.TRAINER.COOP.PREC = "fp16"  # fp16, fp32, amp, bf16
    cfg.TRAINER.COOP.CLASS_TOKEN_POSITION = "end"  # end, middle or front


@TRAINER_REGISTRY.register()
class CoOp(PairTrainer, ContextTrainer):
    """Context Optimization: cross-entropy on the context vectors alone."""

    section = "COOP"

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        options = cfg.TRAINER[self.section]
        if options.get("PAIRS", False) and (options.CSC or options.CLASS_TOKEN_POSITION != "end"):
            raise UserError(
                f"TRAINER.{self.section}.PAIRS puts one context in front of all pairs: set CSC False and "
                "CLASS_TOKEN_POSITION end"
            )

    def pair_prompts(self, text_encoder: TextEncoder, tokens: int) -> PairContext:
        return PairContext(self.options, self.dm.dataset, text_encoder, tokens)
