"""The seen-unseen curve of compositional zero-shot learning (Purushwalkam et al., ICCV 2019; Nayak et al., ICLR 2023).

A bias is added to the scores of unseen pairs. As it goes from minus to plus infinity predictions move from seen to
unseen pairs; accuracy on images of seen pairs falls and on images of unseen pairs rises.

For one image only its best seen pair, with score s, and its best unseen pair, with score u, can win: the unseen one
does as soon as the bias exceeds s - u, the image's threshold. Nothing else is kept of the scores.
"""

import logging
import os
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from yacs.config import CfgNode

from dassl.evaluation.build import EVALUATOR_REGISTRY
from dassl.evaluation.evaluator import EvaluatorBase
from dassl.evaluation.finite import check_finite
from dassl.utils import UserError, atomic_path, digests, mkdir_if_missing, nearest

logger = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]
Curve = dict[str, Any]

PLOTS = ("", "png", "svg")
RANKS = 20  # of the thresholds that published tables take as biases
GAP, LAST = 1e-4, 1e3  # below each of these thresholds is a bias of published tables; the last one
KEPT = 100  # about so many points of a curve go into metrics.json


class BestPairs:
    """The best pair of each image in each group of pairs, found chunk by chunk of pairs.

    Args:
        images: their number n.
        groups: how many groups G; group 0 holds the seen pairs, the others unseen ones.
        device: where the scores are.

    Attributes:
        scores: (n, G) of the best pairs; minus infinity where a group was empty.
        pairs: (n, G) integers, which pairs those are; -1 where a group was empty.
    """

    def __init__(self, images: int, groups: int = 2, device: torch.device | str = "cpu") -> None:
        self.scores = torch.full((images, groups), -torch.inf, device=device)
        self.pairs = torch.full((images, groups), -1, dtype=torch.int64, device=device)

    def update(
        self, scores: torch.Tensor, pairs: torch.Tensor, groups: torch.Tensor, images: slice = slice(None)
    ) -> None:
        """Take in the scores of more pairs; of equal scores the first one stays, and a NaN wins and stays.

        Args:
            scores: (B, k).
            pairs: (k,) integers that name the pairs.
            groups: (k,) integers, the group of each; negative ones are left out.
            images: which B of the n images these are.
        """
        for group in range(self.scores.shape[1]):
            columns = (groups == group).nonzero()[:, 0]
            if not len(columns):
                continue
            best, at = scores[:, columns].float().max(dim=1)
            better = (best > self.scores[images, group]) | best.isnan()
            self.scores[images, group] = torch.where(better, best, self.scores[images, group])
            self.pairs[images, group] = torch.where(better, pairs[columns][at], self.pairs[images, group])

    def finite(self) -> torch.Tensor:
        """(n,) booleans, whether an image's best scores are numbers; those of empty groups aside."""
        return (self.scores.isfinite() | (self.pairs < 0)).all(dim=1)

    def seen_and_unseen(self, first: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """(scores, pairs), both (n, 2): of the seen pairs, and of the unseen groups from `first` on."""
        score, at = self.scores[:, first:].max(dim=1, keepdim=True)
        pair = self.pairs[:, first:].gather(1, at)
        return torch.cat([self.scores[:, :1], score], dim=1), torch.cat([self.pairs[:, :1], pair], dim=1)


def seen_unseen_curve(scores: ArrayLike, labels: ArrayLike, seen: ArrayLike) -> Curve:
    """The curve at every bias at which a prediction changes, exactly, in O(n log n) after the scores.

    Args:
        scores: (n, P) of n images for P pairs.
        labels: (n,) the true pairs.
        seen: (P,) booleans.

    Returns:
        What `exact_curve` gives, and closed_accuracy: with no bias.

    Raises:
        ValueError: no pair is seen, or none is unseen.
    """
    scores, labels, seen = np.asarray(scores, np.float64), np.asarray(labels), np.asarray(seen, bool)
    if seen.all() or not seen.any():
        raise ValueError("the curve needs seen and unseen pairs")
    best = {}
    for name, columns in (("seen", np.flatnonzero(seen)), ("unseen", np.flatnonzero(~seen))):
        part = scores[:, columns]
        at = part.argmax(axis=1)
        best[name] = columns[at], part[np.arange(len(part)), at]
    threshold = best["seen"][1] - best["unseen"][1]
    true_seen = seen[labels]
    curve = exact_curve(threshold, best["seen"][0] == labels, best["unseen"][0] == labels, true_seen)
    return curve | {"closed_accuracy": float(100 * (scores.argmax(axis=1) == labels).mean())}


def exact_curve(threshold: Array, seen_right: Array, unseen_right: Array, true_seen: Array) -> Curve:
    """The curve before the first threshold, then just above each.

    Args:
        threshold: (n,) the images' thresholds.
        seen_right, unseen_right: (n,) booleans, whether the best seen and the best unseen pair is the true one.
        true_seen: (n,) booleans, whether the true pair is seen.

    Returns:
        A dict of unseen, seen: (k,) accuracies in percent along the curve, from bias minus to plus infinity;
        best_seen, best_unseen, best_harmonic: percent; auc: the area below, 100 for a perfect model; and
        best_bias: the first with the best harmonic mean.
    """
    return _curve(np.concatenate([[-np.inf], np.unique(threshold)]), threshold, seen_right, unseen_right, true_seen)


def twenty_point_curve(threshold: Array, seen_right: Array, unseen_right: Array, true_seen: Array) -> Curve:
    """The coarser curve of published tables, whose area and maxima are a little different from the exact ones.

    Its biases are thresholds of those m images of unseen pairs whose best unseen pair is the true one, in order: from
    the smallest on, every (m // 20)th, or every one where m < 40. So there are 20 to 39 of them, or m if that is less.
    They are these thresholds less 1e-4, so that the image itself still goes to its seen pair, and one more of 1000,
    with which unseen pairs alone win. There is no point at minus infinity: best_seen is that of the smallest threshold,
    and without such images all but best_unseen are of the last bias alone.

    Args and returns as `exact_curve`.
    """
    ordered = np.sort(threshold[unseen_right & ~true_seen])
    biases = ordered[:: max(1, len(ordered) // RANKS)] - GAP
    return _curve(np.append(biases, LAST), threshold, seen_right, unseen_right, true_seen)


def _curve(biases: Array, threshold: Array, seen_right: Array, unseen_right: Array, true_seen: Array) -> Curve:
    """The curve just above each of these rising biases; arguments and result as those of `exact_curve`."""
    falling = np.sort(threshold[seen_right & true_seen])
    rising = np.sort(threshold[unseen_right & ~true_seen])
    lost, won = (np.searchsorted(thresholds, biases, side="right") for thresholds in (falling, rising))
    seen = 100 * (len(falling) - lost) / max(1, true_seen.sum())
    unseen = 100 * won / max(1, (~true_seen).sum())
    total = seen + unseen
    harmonic = np.divide(2 * seen * unseen, total, out=np.zeros_like(total), where=total > 0)
    return {
        "seen": seen,
        "unseen": unseen,
        "best_seen": float(seen.max()),
        "best_unseen": float(unseen.max()),
        "best_harmonic": float(harmonic.max()),
        "best_bias": float(biases[harmonic.argmax()]),
        "auc": float(((seen[1:] + seen[:-1]) * np.diff(unseen)).sum() / 200),
    }


def thinned(curve: Curve, points: int = KEPT) -> dict[str, list[float]]:
    """A curve's seen and unseen as lists for a plot: at most so many points, about as far from each other, both ends.

    Args:
        curve: as `exact_curve` gives it.
        points: 2 or more.
    """
    names = ("seen", "unseen")
    length = sum(np.abs(np.diff(curve[name], prepend=curve[name][:1])).cumsum() for name in names)
    at = np.unique(np.searchsorted(length, np.linspace(0, length[-1], points)))
    return {name: curve[name][at].round(2).tolist() for name in names}


@EVALUATOR_REGISTRY.register()
class Compositional(EvaluatorBase):
    """Figures of the seen-unseen curve, all in percent, closed world or open.

    Closed world: given (B, P) scores, it takes the seen pairs and those of the split under evaluation, and no others.
    Open world: given `BestPairs` of whatever pairs a trainer looked at, named by attribute * objects + object.

    cfg.TEST.CURVE_PLOT ("png" or "svg") saves a plot of the exact curve as <OUTPUT_DIR>/seen_unseen.<it>.

    Args:
        cfg: the whole config.
        dataset: has attributes, objects, pairs, num_seen and phase_pairs, and may have dropped, attributes that were
            not learned, as datasets/compositional.py says.

    Raises:
        UserError: the dataset has no pairs, the plot's format is unknown, or there are TEST.METRICS.
    """

    def __init__(
        self, cfg: CfgNode, lab2cname: dict[int, str] | None = None, dataset: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(cfg)
        if not hasattr(dataset, "phase_pairs"):
            raise UserError(
                "TEST.EVALUATOR Compositional needs pairs of attribute and object, which "
                f"{cfg.DATASET.NAME} does not have"
            )
        if cfg.TEST.METRICS:
            raise UserError("TEST.METRICS works with TEST.EVALUATOR Classification only: leave it out here")
        plot = cfg.TEST.CURVE_PLOT
        if plot not in PLOTS:
            raise UserError(f'unknown TEST.CURVE_PLOT "{plot}": {nearest(plot, PLOTS[1:])}')
        self._codes = torch.tensor([a * len(dataset.objects) + o for a, o in dataset.pairs])
        self._n_objects, self._num_seen = len(dataset.objects), dataset.num_seen
        self._phase_pairs = dataset.phase_pairs
        self._dropped = [dataset.attributes.index(name) for name in getattr(dataset, "dropped", ())]
        self.reset()

    def reset(self) -> None:
        self._scores: list[torch.Tensor] = []
        self._pairs: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []
        self._finite: list[torch.Tensor] = []
        self._correct = self._total = 0
        self.curve: Curve = {}

    def process(self, mo: torch.Tensor | BestPairs, gt: torch.Tensor) -> None:
        """Take in a batch.

        Args:
            mo: (B, P) scores of all pairs of the dataset, in the order of its labels; or BestPairs of B images.
            gt: (B,) labels.

        Raises:
            UserError: the split has no unseen pair.
        """
        if not isinstance(mo, BestPairs):
            mo = self._best_in_closed_world(mo)
        scores, pairs = mo.seen_and_unseen()
        self._scores.append(scores)
        self._pairs.append(pairs)
        self._finite.append(mo.finite())
        self._labels.append(gt)

    def _best_in_closed_world(self, scores):
        labels = torch.tensor(self._phase_pairs[self.split])
        if labels[-1] < self._num_seen:
            raise UserError(
                f"the {self.split} split of {self.cfg.DATASET.NAME} lists no unseen pair, but the curve needs one"
            )
        groups = torch.full((len(self._codes),), -1)
        groups[labels] = (labels >= self._num_seen).long()
        best = BestPairs(len(scores), device=scores.device)
        best.update(scores, self._codes.to(scores.device), groups.to(scores.device))
        return best

    def evaluate(self) -> OrderedDict[str, Any]:
        """auc, best_harmonic, best_seen, best_unseen; accuracy, attribute_accuracy, object_accuracy,
        those with no bias; the first four of the 20-point curve as auc_20, ...; those of `_by_bucket` where attributes
        were dropped; and curve, what `thinned` leaves of it

        Raises:
            UserError: nothing was processed, or an image's best score is infinite or NaN.
        """
        if not sum(map(len, self._labels)):
            raise UserError("nothing to evaluate: the test split is empty")
        check_finite(torch.cat(self._finite).cpu(), f"{self.split} images")
        scores, pairs = (torch.cat(parts).cpu().numpy() for parts in (self._scores, self._pairs))
        labels = torch.cat(self._labels).cpu().numpy()
        true, figures = self._codes.numpy()[labels], OrderedDict()
        outcome = outcomes(scores, pairs, true, labels < self._num_seen)
        self.curve = exact_curve(*outcome)
        names = ("auc", "best_harmonic", "best_seen", "best_unseen")
        figures.update({name: self.curve[name] for name in names})

        predicted = np.where(outcome[0] < 0, pairs[:, 1], pairs[:, 0])
        self._total, self._correct = len(true), int((predicted == true).sum())
        figures["accuracy"] = 100 * self._correct / self._total
        n = self._n_objects
        figures["attribute_accuracy"] = float(100 * (predicted // n == true // n).mean())
        figures["object_accuracy"] = float(100 * (predicted % n == true % n).mean())
        coarse = twenty_point_curve(*outcome)
        figures.update({f"{name}_20": coarse[name] for name in names})
        if self._dropped:
            at_best = np.where(outcome[0] <= coarse["best_bias"], pairs[:, 1], pairs[:, 0])
            figures.update(self._by_bucket(at_best == true, np.isin(true // n, self._dropped), labels < self._num_seen))
        logger.info(
            f"=> result\n* total: {self._total:,}\n* correct: {self._correct:,}\n"
            + "\n".join(f"* {name}: {value:.1f}%" for name, value in figures.items())
        )
        if self.cfg.TEST.CURVE_PLOT:
            self._plot()
        figures["curve"] = thinned(self.curve)
        return figures

    def _by_bucket(self, right, dropped, seen):
        """Accuracies, in percent, of images of words learned and not (CSP's MIX), where there are such images:
        attribute_dropped, both_learned and, of the latter, both_learned_seen and both_learned_unseen; overall.
        """
        buckets = {
            "attribute_dropped": dropped,
            "both_learned": ~dropped,
            "both_learned_seen": ~dropped & seen,
            "both_learned_unseen": ~dropped & ~seen,
            "overall": np.ones_like(seen),
        }
        return {name: float(100 * right[images].mean()) for name, images in buckets.items() if images.any()}

    def counts(self) -> dict[str, Any]:
        """`predictions` is a digest of the best pairs, image by image."""
        said = digests.of_tensors({"pairs": torch.cat(self._pairs)})
        return {"total": self._total, "correct": self._correct, "predictions": said}

    def _plot(self):
        from matplotlib.figure import Figure  # slow to import

        axes = (figure := Figure(figsize=(4, 4), layout="constrained")).add_subplot()
        axes.plot(self.curve["seen"], self.curve["unseen"])
        axes.set(xlabel="accuracy on seen pairs (%)", ylabel="accuracy on unseen pairs (%)", xlim=(0, None))
        axes.set_ylim(0)
        axes.set_title(f"{self.cfg.TRAINER.NAME}, {self.cfg.DATASET.NAME} ({self.split}): AUC {self.curve['auc']:.1f}")
        mkdir_if_missing(self.cfg.OUTPUT_DIR)
        path = os.path.join(self.cfg.OUTPUT_DIR, f"seen_unseen.{self.cfg.TEST.CURVE_PLOT}")
        with atomic_path(path) as temporary:
            figure.savefig(temporary)
        logger.info("The curve is saved to %s", path)


def outcomes(scores: Array, pairs: Array, true: Array, true_seen: Array) -> tuple[Array, Array, Array, Array]:
    """The arguments of a curve, (n,) each, from the best seen and best unseen pair.

    Args:
        scores, pairs: (n, 2), as `BestPairs.seen_and_unseen` gives them.
        true: (n,) the true pairs.
        true_seen: (n,) booleans, whether they are seen.
    """
    scores = scores.astype(np.float64)
    return scores[:, 0] - scores[:, 1], pairs[:, 0] == true, pairs[:, 1] == true, true_seen
