"""CoOp: context vectors learned in place of a template's words (Zhou et al., IJCV 2022, section 3.2)."""

import logging

from torch import nn
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError, nearest
from prompting.prompts import Prompts, sequence, soft, token_ids
from trainers.base import PromptedCLIP, PromptTrainer, check_context, initial_context

logger = logging.getLogger("dassl.trainers")

POSITIONS = ("end", "middle", "front")


def extend_cfg(cfg):
    cfg.TRAINER.COOP = CN()
    cfg.TRAINER.COOP.N_CTX = 16  # number of context vectors
    cfg.TRAINER.COOP.CSC = False  # class-specific context
    cfg.TRAINER.COOP.CTX_INIT = ""  # words to start from; their number of tokens then replaces N_CTX
    cfg.TRAINER.COOP.PREC = "fp16"  # fp16, fp32, amp, bf16
    cfg.TRAINER.COOP.CLASS_TOKEN_POSITION = "end"  # end, middle or front


class PromptLearner(nn.Module):
    """N prompts of context vectors, class name and full stop.

    Args:
        options: N_CTX, CSC, CTX_INIT and CLASS_TOKEN_POSITION, as in cfg.TRAINER.COOP.
        classnames: N class names.
        text_encoder: the TextEncoder, for its token embeddings.

    Attributes:
        ctx: the context vectors, (n_ctx, d) or, class-specific, (N, n_ctx, d).
    """

    def __init__(self, options, classnames, text_encoder):
        super().__init__()
        ctx = initial_context(options, text_encoder, *([len(classnames)] if options.CSC else []))
        n_ctx = ctx.shape[-2]
        self.ctx = nn.Parameter(ctx)

        sequences = []
        for n, name in enumerate(classnames):
            first = n * n_ctx if options.CSC else 0
            words = soft(range(first, first + n_ctx))
            before = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[options.CLASS_TOKEN_POSITION]
            ids, length = token_ids(f"{name}."), len(token_ids(name))  # a name's own last dot joins the full stop
            sequences.append(sequence(words[:before], ids[:length], words[before:], ids[length:]))
        self.prompts = Prompts(text_encoder, [sequences], classnames)

    def forward(self):
        """The text encoder's arguments for one row of N prompts."""
        return self.prompts(self.ctx.flatten(0, -2))


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    """Context Optimization: cross-entropy on the context vectors alone."""

    section = "COOP"

    @property
    def class_axes(self):
        return {"ctx": 0} if self.cfg.TRAINER[self.section].CSC else {}

    def check_cfg(self, cfg):
        super().check_cfg(cfg)
        options = cfg.TRAINER[self.section]
        position = options.CLASS_TOKEN_POSITION
        if position not in POSITIONS:
            key = f"TRAINER.{self.section}.CLASS_TOKEN_POSITION"
            raise UserError(f'unknown {key} "{position}": {nearest(position, POSITIONS)}')
        check_context(options, self.section)

    def build_prompted_clip(self, clip_model, text_encoder, classnames):
        learner = PromptLearner(self.cfg.TRAINER[self.section], classnames, text_encoder)
        return PromptedCLIP(clip_model, learner, text_encoder)
