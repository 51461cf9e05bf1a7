"""CSP: compositional soft prompting (Nayak et al., ICLR 2023, arXiv 2204.03574, section 4).

The prompt "a photo of [attribute] [object]" has one learned vector for each attribute and one for each object, which
all pairs share. They start from the mean of their names' token embeddings and are trained by cross-entropy over the
seen pairs. Unseen pairs are then put together from the same vectors, and so are objects with two attributes.

Vectors belong to words: an attribute or object without a vector, because the weights lack one or by MIX, has the one
that it would have started from. So weights work on data sets that share some words with theirs. The table of vectors
that the release saves loads with MODEL.INIT_WEIGHTS.

The prompts of pairs are in prompting/pairs.py, steps over several batches and the open world in trainers/pairs.py.
"""

import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode as CN

from dassl.config import require
from dassl.engine import TRAINER_REGISTRY, MisfitError
from dassl.utils import UserError
from prompting.named_vectors import NamedVectors, names_in
from prompting.pairs import KINDS, PREFIX, PairPrompts, mean_embeddings
from prompting.prompts import soft
from prompting.text_encoder import TextEncoder
from trainers.pairs import PairTrainer, pair_keys

logger = logging.getLogger("dassl.trainers")


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.CSP = pair_keys(accumulate=2)
    cfg.TRAINER.CSP.PREC = "fp16"  # fp16, fp32, amp, bf16
    cfg.TRAINER.CSP.MIX = 1.0  # share of attributes that are learned; the images of the others are left out in training
    cfg.TRAINER.CSP.ATTR_DROPOUT = 0.3  # dropout on the vectors of attributes and objects, in training


class PromptLearner(PairPrompts):
    """The vectors of attributes and objects, and the prompts of a dataset's pairs.

    Args:
        dataset, text_encoder, tokens: as PairPrompts takes them.
        dropout: the probability.
        learned: {"attributes": names, "objects": names} of words with a vector, the dataset's or not; default: all of
            the dataset's.

    Attributes:
        attributes, objects: NamedVectors.
        started: (n, d) what the dataset's other words would have started from.
    """

    def __init__(
        self,
        dataset: Any,
        text_encoder: TextEncoder,
        dropout: float,
        tokens: int,
        learned: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        own = {kind: getattr(dataset, kind) for kind in KINDS}
        learned = learned or own
        rest = [(kind, name) for kind in KINDS for name in own[kind] if name not in learned[kind]]
        rows = [*((kind, name) for kind in KINDS for name in learned[kind]), *rest]
        row_of = {word: soft(k) for k, word in enumerate(rows)}
        words = {kind: [[row_of[kind, name]] for name in own[kind]] for kind in KINDS}
        super().__init__(dataset, text_encoder, tokens, text_encoder.tokenizer.encode(PREFIX), words)
        self.dropout = nn.Dropout(dropout)
        self.attributes, self.objects = (initial_vectors(text_encoder, dataset, learned[kind]) for kind in KINDS)
        started = mean_embeddings(text_encoder, dataset, [name for _, name in rest])
        self.register_buffer("started", started, persistent=False)

    def vectors(self) -> torch.Tensor:
        """(A + O + n, d) the vectors of attributes, then of objects, of which training drops some entries, and
        `started`."""
        return torch.cat([self.dropout(torch.cat([self.attributes(), self.objects()])), self.started])


def initial_vectors(text_encoder: TextEncoder, dataset: Any, names: Sequence[str]) -> NamedVectors:
    """NamedVectors that start from the means of their names' token embeddings."""
    start = mean_embeddings(text_encoder, dataset, names)
    return NamedVectors(dict(zip(names, start, strict=True)), {}, start.shape[1], start.device)


@TRAINER_REGISTRY.register()
class CSP(PairTrainer):
    """Compositional soft prompting."""

    section = "CSP"
    class_axes = {}
    other_learner = "vectors of other words"
    on_pairs = True

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        require(cfg, "TRAINER.CSP.ATTR_DROPOUT", at_least=0, below=1)
        require(cfg, "TRAINER.CSP.MIX", above=0, at_most=1)

    def read_dataset(self) -> Any:
        """With MIX, the data set without the training images of attributes that are not drawn."""
        dataset, share = super().read_dataset(), self.options.MIX
        if share < 1 and hasattr(dataset, "drop_attributes"):
            number = int(share * len(dataset.attributes))
            if not number:
                raise UserError(f"TRAINER.CSP.MIX {share} of {len(dataset.attributes)} attributes leaves none to learn")
            rng: Any = random.Random(self.cfg.SEED) if self.cfg.SEED >= 0 else random
            dataset.drop_attributes(set(dataset.attributes).difference(rng.sample(dataset.attributes, number)))
        return dataset

    def pair_prompts(self, text_encoder: TextEncoder, tokens: int) -> PromptLearner:
        dataset = self.dm.dataset
        dropped = getattr(dataset, "dropped", ())
        learned = {"attributes": [a for a in dataset.attributes if a not in dropped], "objects": dataset.objects}
        learner = PromptLearner(dataset, text_encoder, self.options.ATTR_DROPOUT, tokens, learned)
        logger.info(
            "%d attributes and %d objects, %d and %d of them to learn; %d seen and %d unseen pairs",
            *(len(dataset.attributes), len(dataset.objects)),
            *(len(learner.attributes.names), len(learner.objects.names)),
            *(dataset.num_seen, len(dataset.pairs) - dataset.num_seen),
        )
        return learner

    # Weights of others

    def for_own_classes(
        self, model: nn.Module, state_dict: Mapping[str, torch.Tensor], path: str
    ) -> Mapping[str, torch.Tensor]:
        # The release saves one table: attributes, then objects, each in alphabetical order.
        state_dict = super().for_own_classes(model, state_dict, path)
        if any(names_in(state_dict, f"{kind}.") for kind in KINDS):
            return state_dict
        keys = [f"{kind}.{name}" for kind in KINDS for name in getattr(self.dm.dataset, kind)]
        shape = (len(keys), self.model.text_encoder.token_embedding.weight.shape[1])
        tables = [value for value in state_dict.values() if isinstance(value, torch.Tensor)]
        if [tuple(table.shape) for table in tables] != [shape]:
            raise MisfitError(
                f"{path} holds neither vectors of attributes and objects by name nor one table of all those of "
                f"{self.cfg.DATASET.NAME}, {shape[0]} x {shape[1]}"
            )
        return dict(zip(keys, tables[0], strict=True))

    def learner_for(self, state_dict: Mapping[str, torch.Tensor], source: str | Path) -> PromptLearner | None:
        # Weights of other words: each attribute and object with a vector there takes it.
        learned = {kind: names_in(state_dict, f"{kind}.") for kind in KINDS}
        words = {kind: getattr(self.dm.dataset, kind) for kind in KINDS}
        found = [set(learned[kind]).intersection(words[kind]) for kind in KINDS]
        if not any(found):
            raise MisfitError(
                f"the weights in {source} hold no vector of an attribute or object of {self.cfg.DATASET.NAME}: "
                "they are from another data set, or not CSP's"
            )
        counts = [len(some) for pair in zip(found, words.values(), strict=True) for some in pair]
        logger.info("%d of %d attributes and %d of %d objects have a vector in %s", *counts, source)
        if all(set(learned[kind]) == set(getattr(self.model.prompt_learner, kind).names) for kind in KINDS):
            return None
        encoder = self.model.text_encoder
        tokens = self.tokens_at_once(encoder)
        return PromptLearner(self.dm.dataset, encoder, self.options.ATTR_DROPOUT, tokens, learned)

    def vectors_among_words(self) -> list[tuple[str, torch.Tensor]]:
        learner = self.model.prompt_learner
        return [
            pair for kind in KINDS for pair in zip(getattr(learner, kind).names, getattr(learner, kind)(), strict=True)
        ]
