"""CSP: compositional soft prompting (Nayak et al., ICLR 2023, arXiv 2204.03574, section 4).

The prompt "a photo of [attribute] [object]" has one learned vector for each attribute and one for each object, which
all pairs share. They start from the mean of their words' token embeddings and are trained by cross-entropy over the
seen pairs. Unseen pairs are then put together from the same vectors, and so are objects with two attributes.

Vectors belong to words: an attribute or object without a vector, because the weights lack one or by MIX, uses its
name. So weights work on data sets that share some words with theirs.

In the open world every attribute may go with every object. The pairs of one attribute begin alike, "a photo of
[attribute]", so they are a row of the text encoder and each costs only its object and end token; rows are encoded,
scored and forgotten in chunks. Unseen pairs below a threshold of feasibility are left out; the threshold is the one
that does best on the validation images.
"""

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from yacs.config import CfgNode as CN

from dassl.config import require
from dassl.engine import TRAINER_REGISTRY, MisfitError
from dassl.evaluation import BestPairs
from dassl.evaluation.compositional import exact_curve, outcomes
from dassl.utils import UserError
from prompting.chunks import bytes_per_token, encode_in_chunks, how_many_fit
from prompting.feasibility import feasibility, word_vectors
from prompting.named_vectors import NamedVectors, names_in
from prompting.prompted_clip import PromptedCLIP
from prompting.prompts import Part, Prompts, encode_templates, sequence, soft
from prompting.text_encoder import TextEncoder
from trainers.base import PromptTrainer

logger = logging.getLogger("dassl.trainers")

PREFIX = "a photo of"
KINDS = ("attributes", "objects")
CANDIDATES = 50  # thresholds tried, at even ranks of the unseen pairs' feasibilities
CRITERIA = {"auc": "auc", "harmonic": "best_harmonic"}


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.CSP = CN()
    cfg.TRAINER.CSP.PREC = "fp16"  # fp16, fp32, amp, bf16
    cfg.TRAINER.CSP.MIX = 1.0  # share of attributes and of objects that are learned; the others go by their names
    cfg.TRAINER.CSP.ATTR_DROPOUT = 0.3  # on the vectors of attributes and objects, in training
    cfg.TRAINER.CSP.ACCUMULATE = 2  # batches whose gradients make one step
    cfg.TRAINER.CSP.MEMORY_GB = 4.0  # GiB of text activations; more pairs than fit are encoded in chunks
    cfg.TRAINER.CSP.OPEN_WORLD = False  # evaluate over all attribute x object pairs
    cfg.TRAINER.CSP.WORD_VECTORS = ""  # GloVe text file for feasibility; "": the backbone's own text features
    cfg.TRAINER.CSP.THRESHOLD = None  # least feasibility of an unseen pair; None: chosen on val, -1: all are feasible
    cfg.TRAINER.CSP.CHOOSE_BY = "auc"  # what the threshold is to do best in on val: auc or harmonic


class PromptLearner(nn.Module):
    """The vectors of attributes and objects, and the prompts of a dataset's pairs.

    Args:
        dataset: has attributes, objects, pairs and num_seen, as datasets/compositional.py says; a pair may be of more
            than one attribute.
        text_encoder: for its token embeddings.
        dropout: the probability.
        tokens: how many own tokens of prompts are encoded at once.
        learned: {"attributes": names, "objects": names} of words with a vector, the dataset's or not; default: all of
            the dataset's.

    Attributes:
        attributes, objects: NamedVectors.
        words: {"attributes", "objects": in the dataset's order, what stands for each in a prompt}.
        seen, unseen: the prompts of seen and of unseen pairs, in the order of the labels; lists of Prompts.
    """

    def __init__(
        self,
        dataset: Any,
        text_encoder: TextEncoder,
        dropout: float,
        tokens: int,
        learned: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.words: dict[str, list[list[int]]] = {}
        n = 0
        for kind in KINDS:
            names = getattr(dataset, kind)
            vectors = initial_vectors(text_encoder, names if learned is None else learned[kind])
            setattr(self, kind, vectors)
            row_of = {name: n + k for k, name in enumerate(vectors.names)}
            ids = [text_encoder.tokenizer.encode(name, first=False) for name in names]
            self.words[kind] = [
                [soft(row_of[name])] if name in row_of else i for name, i in zip(names, ids, strict=True)
            ]
            n += len(vectors.names)

        sequences = [self.sequence(*pair) for pair in dataset.pairs]
        chunk = max(1, tokens // max(map(len, sequences)))  # of which the prefix is one, as is the end that they lack

        def prompts(start: int, end: int) -> nn.ModuleList:
            parts = [slice(i, min(i + chunk, end)) for i in range(start, end, chunk)]
            return nn.ModuleList(Prompts(text_encoder, [sequences[part]], dataset.classnames[part]) for part in parts)

        self.seen = prompts(0, dataset.num_seen)
        self.unseen = prompts(dataset.num_seen, len(sequences))

    def sequence(self, *pair: int) -> list[Part]:
        """The prompt of a pair, (attribute, ..., object) indices, to be filled with `vectors`."""
        *attributes, object_ = pair
        words = [self.words["attributes"][a] for a in attributes]
        return sequence(PREFIX, *words, self.words["objects"][object_])

    def vectors(self) -> torch.Tensor:
        """(A + O, d) learned vectors of attributes, then of objects; in training some of their entries are dropped."""
        return self.dropout(torch.cat([self.attributes(), self.objects()]))

    def forward(self) -> tuple[list[Prompts], torch.Tensor]:
        """What `CSPCLIP` encodes: (a list of Prompts, the vectors in them). In training, seen pairs alone."""
        return [*self.seen] if self.training else [*self.seen, *self.unseen], self.vectors()


@torch.no_grad()
def initial_vectors(text_encoder: TextEncoder, names: Sequence[str]) -> NamedVectors:
    """NamedVectors that start from the means of their names' token embeddings."""
    embedding = text_encoder.token_embedding.weight
    encode = text_encoder.tokenizer.encode
    ids = {name: torch.tensor(encode(name, first=False), device=embedding.device) for name in names}
    start = {name: embedding[i].float().mean(dim=0) for name, i in ids.items()}
    return NamedVectors(start, (), embedding.shape[1], embedding.device)


def words_to_learn(dataset: Any, share: float, seed: int) -> dict[str, list[str]]:
    """{"attributes": names, "objects": names}: a share of each, at least one, drawn alike for the same seed."""
    rng: Any = random.Random(seed) if seed >= 0 else random
    found = {}
    for kind in KINDS:
        names = getattr(dataset, kind)
        drawn = set(rng.sample(names, max(1, round(share * len(names)))))
        found[kind] = [name for name in names if name in drawn]
    return found


class CSPCLIP(PromptedCLIP):
    """CLIP with text features of pairs: of the seen ones in training, otherwise of all in the dataset."""

    def encode_text(self) -> torch.Tensor:
        chunks, vectors = self.prompt_learner()
        return encode_in_chunks(lambda prompts: self._encode(prompts, vectors), chunks)

    def _encode(self, prompts, vectors):
        """(B * N, e) normalised text features of B rows of N prompts."""
        return F.normalize(self.text_encoder(*prompts(vectors)).float(), dim=-1).flatten(0, 1)

    def encode_open_world(self, rows: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (codes, text features) of all attribute x object pairs, those of `rows` attributes at a time.

        A pair's code is attribute * O + object; codes are (rows * O,), features (rows * O, e), normalised.
        """
        learner, n = self.prompt_learner, len(self.prompt_learner.words["objects"])
        vectors, names = learner.vectors(), range(n)
        for attributes in torch.arange(len(learner.words["attributes"])).split(rows):
            sequences = [[learner.sequence(a, o) for o in range(n)] for a in attributes.tolist()]
            prompts = Prompts(self.text_encoder, sequences, names)
            codes = torch.arange(n * int(attributes[0]), n * (int(attributes[-1]) + 1), device=vectors.device)
            yield codes, self._encode(prompts, vectors)

    def attributes_that_fit(self, images: int, memory_gb: float) -> int:
        """How many attributes' pairs can be encoded and scored at once within a budget in GiB, at least 1.

        Args:
            images: how many images are scored at a time.
            memory_gb: the budget.

        Counts own tokens (object and end) in evaluation, text features, and scores.
        """
        objects = self.prompt_learner.words["objects"]
        tokens = sum(len(words) + 1 for words in objects)
        per_pair = 4 * (3 * self.text_encoder.text_projection.shape[1] + 3 * images)
        per_attribute = tokens * bytes_per_token(self.text_encoder, training=False) + len(objects) * per_pair
        return how_many_fit(memory_gb, per_attribute)


@TRAINER_REGISTRY.register()
class CSP(PromptTrainer):
    """Compositional soft prompting."""

    section = "CSP"
    class_axes = {}
    other_learner = "vectors of other words"

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        options = cfg.TRAINER.CSP
        require(cfg, "TRAINER.CSP.ATTR_DROPOUT", at_least=0, below=1)
        require(cfg, "TRAINER.CSP.MIX", above=0, at_most=1)
        require(cfg, "TRAINER.CSP.ACCUMULATE", at_least=1)
        require(cfg, "TRAINER.CSP.CHOOSE_BY", one_of=tuple(CRITERIA))
        if not isinstance(options.THRESHOLD, int | float | None):
            raise UserError(f"TRAINER.CSP.THRESHOLD is {options.THRESHOLD!r}: give a number, or None")
        if options.OPEN_WORLD and cfg.TEST.EVALUATOR != "Compositional":
            raise UserError(f"TRAINER.CSP.OPEN_WORLD needs TEST.EVALUATOR Compositional, not {cfg.TEST.EVALUATOR}")

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> CSPCLIP:
        options, dataset = self.cfg.TRAINER.CSP, self.dm.dataset
        if not hasattr(dataset, "num_seen"):
            raise UserError(f"CSP needs pairs of attribute and object, which {self.cfg.DATASET.NAME} does not have")
        learner = self._learner(text_encoder, words_to_learn(dataset, options.MIX, self.cfg.SEED))
        logger.info(
            "%d attributes and %d objects, %d and %d of them to learn; %d seen and %d unseen pairs",
            *(len(dataset.attributes), len(dataset.objects)),
            *(len(learner.attributes.names), len(learner.objects.names)),
            *(dataset.num_seen, len(dataset.pairs) - dataset.num_seen),
        )
        self.feasibility: Any = self._feasibility(text_encoder) if options.OPEN_WORLD else None
        return CSPCLIP(clip_model, learner, text_encoder)

    def _learner(self, text_encoder: TextEncoder, learned: Mapping[str, Sequence[str]]) -> PromptLearner:
        options = self.cfg.TRAINER.CSP
        tokens = how_many_fit(options.MEMORY_GB, bytes_per_token(text_encoder))
        return PromptLearner(self.dm.dataset, text_encoder, options.ATTR_DROPOUT, tokens, learned)

    def learner_for(self, state_dict: Mapping[str, torch.Tensor], source: str | Path) -> PromptLearner | None:
        # Weights of other words: each attribute and object with a vector there takes it, the rest go by their names.
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
        return self._learner(self.model.text_encoder, learned)

    # Training

    def model_backward_and_update(self, loss: torch.Tensor, names: str | list[str] | None = None) -> None:
        """One step for every ACCUMULATE batches, on the mean of their losses; an epoch's last may have fewer."""
        n = self.cfg.TRAINER.CSP.ACCUMULATE
        place, last = self.batch_idx % n, self.batch_idx + 1 == self.num_batches
        if place == 0:
            self.model_zero_grad(names)
        self.model_backward(loss / min(n, self.num_batches - self.batch_idx + place))
        if place + 1 == n or last:
            self.model_update(names)

    def vectors_among_words(self) -> list[tuple[str, torch.Tensor]]:
        learner = self.model.prompt_learner
        return [
            pair for kind in KINDS for pair in zip(getattr(learner, kind).names, getattr(learner, kind)(), strict=True)
        ]

    # Evaluation in the open world

    @torch.no_grad()
    def _feasibility(self, text_encoder):
        """(A * O,) feasibilities of all pairs by code; infinite for seen ones."""
        dataset, path = self.dm.dataset, self.cfg.TRAINER.CSP.WORD_VECTORS
        names = [*dataset.attributes, *dataset.objects]
        vectors = word_vectors(path, names) if path else encode_templates(text_encoder, ["{}"], names)[0].cpu()
        n = len(dataset.attributes)
        seen = torch.zeros(n, len(dataset.objects), dtype=torch.bool)
        for attribute, object_ in dataset.pairs[: dataset.num_seen]:
            seen[attribute, object_] = True
        if seen.all():
            raise UserError(f"every pair of {self.cfg.DATASET.NAME} is seen: there is no open world to evaluate in")
        return feasibility(vectors[:n], vectors[n:], seen).masked_fill(seen, torch.inf).flatten()

    def thresholds(self) -> np.ndarray:
        """The rising thresholds of feasibility to choose from, or the one that is given; a numpy array."""
        given, unseen = self.cfg.TRAINER.CSP.THRESHOLD, self.feasibility[self.feasibility.isfinite()].numpy()
        if given is None:
            if self.val_loader is None:
                raise UserError("there is no validation image to choose a threshold on: give TRAINER.CSP.THRESHOLD")
            return np.unique(np.quantile(unseen, np.arange(CANDIDATES) / CANDIDATES, method="lower"))
        if given > unseen.max():
            raise UserError(
                f"TRAINER.CSP.THRESHOLD {given} leaves no unseen pair: the most feasible one has {unseen.max():.3f}"
            )
        return np.array([given], unseen.dtype)

    @torch.no_grad()
    def predict(self, loader: DataLoader) -> Iterator[tuple[Any, torch.Tensor]]:
        """In the open world, the best pairs of all images at once, with the threshold that is best on val."""
        if not self.cfg.TRAINER.CSP.OPEN_WORLD:
            yield from super().predict(loader)
            return
        thresholds = self.thresholds()
        chosen = 1
        loaders = [loader] if len(thresholds) == 1 or loader is self.val_loader else [loader, self.val_loader]
        found = self.best_pairs(loaders, thresholds)
        if len(thresholds) > 1:
            chosen = 1 + self._choose(found[-1])
        self.threshold = float(thresholds[chosen - 1])
        infeasible = int((self.feasibility < thresholds[chosen - 1]).sum())
        logger.info("Feasibility from %.4f on: %d pairs are left out", self.threshold, infeasible)
        best = BestPairs(len(found[0].scores), device=self.device)
        best.scores, best.pairs = found[0].seen_and_unseen(first=chosen)
        yield best, self._labels(loader).to(self.device)

    def predict_classes(self, loader: DataLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return super().predict(loader)  # the closed world

    def best_pairs(self, loaders: Sequence[DataLoader], thresholds: np.ndarray) -> list[BestPairs]:
        """Pass once over all pairs, in chunks within MEMORY_GB.

        Args:
            loaders: of images, in the order of their data.
            thresholds: (K,) rising feasibilities.

        Returns:
            BestPairs for each loader: group k > 0 has unseen pairs from the k-th threshold to below the next.
        """
        groups = np.searchsorted(thresholds, self.feasibility.numpy(), side="right")
        groups[groups == 0] = -1
        groups = torch.from_numpy(groups).masked_fill(self.feasibility.isinf(), 0).to(self.device)
        features = [F.normalize(self.image_features(loader).float(), dim=-1) for loader in loaders]
        best = [BestPairs(len(f), 1 + len(thresholds), self.device) for f in features]
        size = max(loader.batch_size for loader in loaders)
        rows = self.model.attributes_that_fit(size, self.cfg.TRAINER.CSP.MEMORY_GB)
        at_once = min(len(groups), rows * len(self.dm.dataset.objects))
        logger.info("%d pairs of the open world, %d at a time", len(groups), at_once)
        for codes, text_features in self.model.encode_open_world(rows):
            for part, images in zip(best, features, strict=True):
                for start in range(0, len(images), size):
                    batch = slice(start, start + size)
                    scores = self.model.logits(images[batch].to(self.device), text_features)
                    part.update(scores, codes, groups[codes], batch)
        return best

    def _choose(self, best):
        """Which threshold does best on the validation images' best pairs; the smallest of equals."""
        dataset, labels = self.dm.dataset, self._labels(self.val_loader).numpy()
        codes = np.array([a * len(dataset.objects) + o for a, o in dataset.pairs])
        results = []
        for first in range(1, best.scores.shape[1]):
            scores, pairs = (x.cpu().numpy() for x in best.seen_and_unseen(first))
            curve = exact_curve(*outcomes(scores, pairs, codes[labels], labels < dataset.num_seen))
            results.append(curve[CRITERIA[self.cfg.TRAINER.CSP.CHOOSE_BY]])
        return int(np.argmax(results))

    def _labels(self, loader):
        return torch.tensor([item.label for item in loader.dataset.data_source])

    def extra_metrics(self) -> dict[str, Any]:
        if not self.cfg.TRAINER.CSP.OPEN_WORLD:
            return {"world": "closed"}
        return {"world": "open", "pairs": len(self.feasibility), "feasibility_threshold": self.threshold}
