"""What trainers of prompts on attribute-object pairs have in common: steps over several batches, and the open world.

In the open world every attribute may go with every object. Pairs are encoded, scored and forgotten in chunks of
attributes. Unseen pairs below a threshold of feasibility are left out; it is given, or the one of THRESHOLDS that does
best on the validation images, as in CSP's release (Nayak et al., ICLR 2023, arXiv 2204.03574).

A known difference: what is left out has the logit 0 there, which wins against negative logits alone, and none here.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from yacs.config import CfgNode as CN

from dassl.config import require
from dassl.evaluation import BestPairs
from dassl.evaluation.compositional import outcomes, twenty_point_curve
from dassl.evaluation.finite import check_finite
from dassl.utils import UserError
from prompting.chunks import bytes_per_token, how_many_fit
from prompting.compiled import GRAPHS
from prompting.feasibility import feasibility, word_vectors
from prompting.pairs import PairCLIP, PairPrompts
from prompting.prompted_clip import PromptedCLIP
from prompting.prompts import encode_templates
from prompting.text_encoder import TextEncoder
from trainers.base import PromptTrainer

logger = logging.getLogger("dassl.trainers")

THRESHOLDS = 50  # tried, in even steps from the least feasibility of an unseen pair to the greatest
CRITERIA = {"auc": "auc", "harmonic": "best_harmonic"}
PUBLISHED = "published"


def pair_keys(accumulate: int = 1) -> CN:
    """The keys of a trainer's config block that `PairTrainer` reads."""
    keys = CN()
    keys.ACCUMULATE = accumulate  # batches whose gradients make one step
    keys.MEMORY_GB = 4.0  # GiB of text activations; more pairs than fit are encoded in chunks
    keys.OPEN_WORLD = False  # evaluate over all attribute x object pairs
    keys.WORD_VECTORS = ""  # GloVe text file for feasibility; "": the backbone's own text features
    keys.THRESHOLD = (
        None  # least feasibility of an unseen pair; None: chosen on val, -1: all are feasible; or published
    )
    keys.CHOOSE_BY = "auc"  # what the threshold is to do best in on val, on the curve of published tables: or harmonic
    return keys


class PairTrainer(PromptTrainer):
    """A trainer of pairs' prompts; a method gives `pair_prompts`, and its config block has `pair_keys`.

    One that also serves other data sets has the key PAIRS in its block, False by default; it is then what its other
    base is.

    Attributes:
        feasibility: (A * O,) of all pairs by code, infinite for seen ones; None in the closed world.
        threshold: the least feasibility that the last evaluation in the open world let through.
    """

    @property
    def on_pairs(self) -> bool:
        """Whether the prompts are those of pairs."""
        return self.section is not None and bool(self.cfg.TRAINER[self.section].get("PAIRS", False))

    @property
    def in_open_world(self) -> bool:
        return self.on_pairs and bool(self.options.OPEN_WORLD)

    def pair_prompts(self, text_encoder: TextEncoder, tokens: int) -> PairPrompts:
        """The prompt learner of the data set's pairs, `tokens` own tokens of them to be encoded at once."""
        raise NotImplementedError

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        section, options = f"TRAINER.{self.section}", cfg.TRAINER[self.section] if self.section else CN()
        if "OPEN_WORLD" not in options:
            return
        require(cfg, f"{section}.ACCUMULATE", at_least=1)
        if options.ACCUMULATE > 1 and cfg.TRAIN.COMPILE in GRAPHS:  # the next replay overwrites what is to be added to
            raise UserError(f"TRAIN.COMPILE {cfg.TRAIN.COMPILE} replays CUDA graphs: set {section}.ACCUMULATE 1")
        require(cfg, f"{section}.CHOOSE_BY", one_of=tuple(CRITERIA))
        if not isinstance(options.THRESHOLD, int | float | None) and options.THRESHOLD != PUBLISHED:
            raise UserError(f"{section}.THRESHOLD is {options.THRESHOLD!r}: give a number, {PUBLISHED}, or None")
        if not options.OPEN_WORLD:
            return
        if not options.get("PAIRS", True):
            raise UserError(f"{section}.OPEN_WORLD needs prompts of pairs: set {section}.PAIRS True")
        if cfg.TEST.EVALUATOR != "Compositional":
            raise UserError(f"{section}.OPEN_WORLD needs TEST.EVALUATOR Compositional, not {cfg.TEST.EVALUATOR}")
        if options.THRESHOLD == PUBLISHED and not options.WORD_VECTORS:
            raise UserError(
                f"{section}.THRESHOLD {PUBLISHED} was chosen with GloVe's vectors: set WORD_VECTORS to their file"
            )

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> PromptedCLIP:
        if not self.on_pairs:
            return super().build_prompted_clip(clip_model, text_encoder, classnames)
        if not hasattr(self.dm.dataset, "num_seen"):
            key = f" with TRAINER.{self.section}.PAIRS" if "PAIRS" in self.options else ""
            name = f"{self.cfg.TRAINER.NAME}{key}"
            raise UserError(f"{name} needs pairs of attribute and object, which {self.cfg.DATASET.NAME} does not have")
        learner = self.pair_prompts(text_encoder, self.tokens_at_once(text_encoder))
        self.feasibility: Any = self._feasibility(text_encoder) if self.in_open_world else None
        return PairCLIP(clip_model, learner, text_encoder)

    def tokens_at_once(self, text_encoder: TextEncoder) -> int:
        """How many own tokens of prompts fit into MEMORY_GB in training."""
        return how_many_fit(self.options.MEMORY_GB, bytes_per_token(text_encoder))

    # Training

    def model_backward_and_update(self, loss: torch.Tensor, names: str | list[str] | None = None) -> None:
        """A step for every n = ACCUMULATE batches, on the sum of their losses / n; an epoch's last may have fewer."""
        n = self.cfg.TRAINER[self.section].get("ACCUMULATE", 1) if self.section else 1
        place, last = self.batch_idx % n, self.batch_idx + 1 == self.num_batches
        if place == 0:
            self.model_zero_grad(names)
        self.model_backward(loss / n)
        if place + 1 == n or last:
            self.model_update(names)

    # Evaluation in the open world

    @torch.no_grad()
    def _feasibility(self, text_encoder):
        dataset, path = self.dm.dataset, self.options.WORD_VECTORS
        names = [*dataset.attributes, *dataset.objects]
        vectors = word_vectors(path, names) if path else encode_templates(text_encoder, ["{}"], names)[0].cpu()
        check_finite(vectors.isfinite().all(dim=1), "attributes and objects")
        n = len(dataset.attributes)
        seen = torch.zeros(n, len(dataset.objects), dtype=torch.bool)
        for attribute, object_ in dataset.pairs[: dataset.num_seen]:
            seen[attribute, object_] = True
        if seen.all():
            raise UserError(f"every pair of {self.cfg.DATASET.NAME} is seen: there is no open world to evaluate in")
        return feasibility(vectors[:n], vectors[n:], seen).masked_fill(seen, torch.inf).flatten()

    def thresholds(self) -> np.ndarray:
        """The rising thresholds of feasibility to choose from, or the one that is given; a numpy array."""
        key, given = f"TRAINER.{self.section}.THRESHOLD", self.options.THRESHOLD
        unseen = self.feasibility[self.feasibility.isfinite()].numpy()
        if given is None:
            if self.val_loader is None:
                raise UserError(f"there is no validation image to choose a threshold on: give {key}")
            return np.unique(np.linspace(unseen.min(), unseen.max(), THRESHOLDS, dtype=unseen.dtype))
        if given == PUBLISHED:
            given = getattr(self.dm.dataset, "threshold", None)
            if given is None:
                raise UserError(
                    f"no threshold is published for {self.cfg.DATASET.NAME}: set {key} to a number, or to None"
                )
        if given > unseen.max():
            raise UserError(f"{key} {given} leaves no unseen pair: the most feasible one has {unseen.max():.3f}")
        return np.array([given], unseen.dtype)

    @torch.no_grad()
    def predict(self, loader: DataLoader) -> Iterator[tuple[Any, torch.Tensor]]:
        """In the open world, the best pairs of all images at once, with the threshold that is best on val."""
        if not self.in_open_world:
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
        rows = self.model.attributes_that_fit(size, self.options.MEMORY_GB)
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
        check_finite(best.finite().cpu(), "val images")
        dataset, labels = self.dm.dataset, self._labels(self.val_loader).numpy()
        codes = np.array([a * len(dataset.objects) + o for a, o in dataset.pairs])
        results = []
        for first in range(1, best.scores.shape[1]):
            scores, pairs = (x.cpu().numpy() for x in best.seen_and_unseen(first))
            curve = twenty_point_curve(*outcomes(scores, pairs, codes[labels], labels < dataset.num_seen))
            results.append(curve[CRITERIA[self.options.CHOOSE_BY]])
        return int(np.argmax(results))

    def _labels(self, loader):
        return torch.tensor([item.label for item in loader.dataset.data_source])

    def extra_metrics(self) -> dict[str, Any]:
        if not self.in_open_world:
            return super().extra_metrics() | ({"world": "closed"} if self.on_pairs else {})
        return {"world": "open", "pairs": len(self.feasibility), "feasibility_threshold": self.threshold}
