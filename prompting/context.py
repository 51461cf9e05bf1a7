"""Context vectors among the words of a prompt: where they start from, and CoOp's prompts with them."""

import logging
from collections.abc import Sequence

import torch
from torch import nn
from yacs.config import CfgNode

from dassl.config import require
from dassl.utils import UserError
from prompting.backbone import tokenizer_of
from prompting.prompts import Encoded, Prompts, sequence, soft
from prompting.text_encoder import TextEncoder

logger = logging.getLogger("dassl.prompting")

POSITIONS = ("end", "middle", "front")
"""Where CLASS_TOKEN_POSITION may put the class name among the context vectors."""


def check_context(cfg: CfgNode, section: str) -> None:
    """Raises UserError where cfg.TRAINER.<section> makes no context vector, or puts the class name in no place."""
    options = cfg.TRAINER[section]
    if "CLASS_TOKEN_POSITION" in options:
        require(cfg, f"TRAINER.{section}.CLASS_TOKEN_POSITION", one_of=POSITIONS)
    if not options.CTX_INIT:
        require(cfg, f"TRAINER.{section}.N_CTX", at_least=1)
    elif not tokenizer_of(cfg).encode(options.CTX_INIT):
        raise UserError(f"TRAINER.{section}.CTX_INIT holds no word: give words, or leave it empty for N_CTX vectors")


def initial_context(options: CfgNode, text_encoder: TextEncoder, *copies: int) -> torch.Tensor:
    """The values that context vectors start from: the words of CTX_INIT, or noise for N_CTX of them.

    Returns:
        (*copies, n_ctx, d) float32.
    """
    embedding = text_encoder.token_embedding
    if options.CTX_INIT:
        ids = torch.tensor(text_encoder.tokenizer.encode(options.CTX_INIT), device=embedding.weight.device)
        ctx = embedding(ids).detach().float().expand(*copies, -1, -1).clone()
    else:
        ctx = nn.init.normal_(torch.empty(*copies, options.N_CTX, embedding.weight.shape[1]), std=0.02)
    text = options.CTX_INIT.replace("_", " ") or " ".join(["X"] * options.N_CTX)
    logger.info('Initial context: "%s"', text)
    logger.info("Number of context words (tokens): %d", ctx.shape[-2])
    return ctx


class PromptLearner(nn.Module):
    """N prompts of context vectors, class name and full stop.

    Args:
        options: N_CTX, CSC, CTX_INIT and CLASS_TOKEN_POSITION, as in cfg.TRAINER.COOP.
        classnames: N class names.
        text_encoder: for its token embeddings.
        start: (n_ctx, d) values of the vectors to start from; None: `initial_context`.
        words: token ids that stay as they are behind the vectors.

    Attributes:
        ctx: the context vectors, (n_ctx, d) or, class-specific, (N, n_ctx, d).
    """

    def __init__(
        self,
        options: CfgNode,
        classnames: Sequence[str],
        text_encoder: TextEncoder,
        start: torch.Tensor | None = None,
        words: Sequence[int] = (),
    ) -> None:
        super().__init__()
        copies = [len(classnames)] if options.CSC else []
        if start is None:
            ctx = initial_context(options, text_encoder, *copies)
        else:
            ctx = start.expand(*copies, -1, -1).clone()
        n_ctx = ctx.shape[-2]
        self.ctx = nn.Parameter(ctx)

        tokenizer, sequences = text_encoder.tokenizer, []
        before = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[options.CLASS_TOKEN_POSITION]
        for n, name in enumerate(classnames):
            first = n * n_ctx if options.CSC else 0
            context = [*soft(range(first, first + n_ctx)), *words]
            place = len(context) if options.CLASS_TOKEN_POSITION == "end" else before
            # a name's own last dot joins the full stop
            ids, length = tokenizer.encode(f"{name}.", place == 0), len(tokenizer.encode(name, place == 0))
            sequences.append(sequence(context[:place], ids[:length], context[place:], ids[length:]))
        self.prompts = Prompts(text_encoder, [sequences], classnames)

    def forward(self) -> Encoded:
        """The text encoder's arguments for one row of N prompts."""
        return self.prompts(self.ctx.flatten(0, -2))
