"""Evaluators: the interface, and the one for classification."""

import io
import logging
import os
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from dassl.evaluation.build import EVALUATOR_REGISTRY
from dassl.evaluation.finite import check_finite
from dassl.layout import CONFUSIONS
from dassl.metrics import METRIC_REGISTRY
from dassl.utils import UserError, atomic_path, digests, mkdir_if_missing

logger = logging.getLogger(__name__)

FIGURES = {"accuracy", "error_rate", "macro_f1", "perclass_accuracy", "total", "correct"}


class EvaluatorBase:
    """Takes in batches of outputs, then gives figures.

    Attributes:
        split: the split under evaluation, "val" or "test"; the trainer sets it.
    """

    split = "test"

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    def reset(self) -> None:
        """Forget all batches."""
        raise NotImplementedError

    def process(self, mo: Any, gt: torch.Tensor) -> None:
        """Take in a batch: model output and ground truth."""
        raise NotImplementedError

    def evaluate(self) -> OrderedDict[str, Any]:
        """An OrderedDict of figures; the first is the one that models are chosen by."""
        raise NotImplementedError

    def counts(self) -> dict[str, Any]:
        """What was counted in the last `evaluate`, for metrics.json beside the figures. Default: nothing."""
        return {}


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Accuracy, error rate and macro F1, in percent.

    cfg.TEST.PER_CLASS_RESULT adds the accuracy of every class and their mean; cfg.TEST.COMPUTE_CMAT saves the
    confusion matrix, rows summing to 1 (true class by predicted class), as <OUTPUT_DIR>/cmat.pt; cfg.TEST.METRICS adds
    metrics of METRIC_REGISTRY by name.

    Args:
        cfg: the whole config.
        lab2cname: {label: class name}, needed for the result per class.

    Raises:
        UserError: there is no metric of one of these names, or it is that of another figure.
    """

    def __init__(self, cfg: CfgNode, lab2cname: dict[int, str] | None = None, **kwargs: Any) -> None:
        super().__init__(cfg)
        if cfg.TEST.PER_CLASS_RESULT and lab2cname is None:
            raise ValueError("TEST.PER_CLASS_RESULT needs lab2cname, the class names by label")
        self._lab2cname = lab2cname or {}
        self._metrics = {name: METRIC_REGISTRY.get(name) for name in cfg.TEST.METRICS}
        if taken := FIGURES.intersection(self._metrics):
            raise UserError(
                f"TEST.METRICS: {taken.pop()} is a figure that the evaluator has already: rename the metric"
            )
        self.reset()

    _correct = _total = 0

    def reset(self) -> None:
        self._predicted: list[torch.Tensor] = []
        self._true: list[torch.Tensor] = []
        self._finite: list[torch.Tensor] = []
        self._scores: list[torch.Tensor] = []
        self._correct = self._total = 0
        self._num_classes = 0

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Take in a batch; nothing is moved off the GPU before `evaluate`.

        Args:
            mo: (B, N) logits.
            gt: (B,) labels.
        """
        self._predicted.append(mo.argmax(dim=1))
        self._true.append(gt)
        self._finite.append(mo.amax(dim=1).isfinite())
        if self._metrics:
            self._scores.append(mo)
        self._num_classes = mo.shape[1]

    def evaluate(self) -> OrderedDict[str, float]:
        """accuracy, error_rate, macro_f1 and, where asked for, perclass_accuracy and TEST.METRICS, in percent.

        Raises:
            UserError: nothing was processed, or an image's best logit is infinite or NaN.
        """
        if not sum(map(len, self._true)):
            raise UserError("nothing to evaluate: the test split is empty")
        predicted = torch.cat(self._predicted).cpu().numpy()
        check_finite(torch.cat(self._finite).cpu(), f"{self.split} images", lambda i: self._name(predicted[i]))
        true = torch.cat(self._true).cpu().numpy()
        self._total, self._correct = len(true), int((predicted == true).sum())
        accuracy = 100 * self._correct / self._total
        macro_f1 = 100 * _macro_f1(true, predicted)
        results = OrderedDict(accuracy=accuracy, error_rate=100 - accuracy, macro_f1=macro_f1)
        logger.info(
            f"=> result\n* total: {self._total:,}\n* correct: {self._correct:,}\n"
            f"* accuracy: {accuracy:.1f}%\n* error: {100 - accuracy:.1f}%\n* macro_f1: {macro_f1:.1f}%"
        )
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._per_class(true, predicted)
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save_confusion_matrix(true, predicted)
        if self._metrics:
            scores, labels = torch.cat(self._scores).float().cpu(), torch.from_numpy(true)
            found = {name: float(metric(scores, labels)) for name, metric in self._metrics.items()}
            logger.info("\n".join(f"* {name}: {value:.1f}%" for name, value in found.items()))
            results.update(found)
        return results

    def counts(self) -> dict[str, Any]:
        """`predictions` is a digest of the classes given, image by image."""
        said = digests.of_tensors({"classes": torch.cat(self._predicted)})
        return {"total": self._total, "correct": self._correct, "predictions": said}

    def _name(self, label):
        return self._lab2cname.get(int(label), label)

    def _per_class(self, true, predicted):
        """Log every class's accuracy; return their mean, in percent."""
        lines, accuracies = ["=> per-class result"], []
        for label in np.unique(true).tolist():
            hits = predicted[true == label] == label
            correct, total = int(hits.sum()), len(hits)
            accuracies.append(100 * correct / total)
            lines.append(
                f"* class: {label} ({self._lab2cname[label]})\ttotal: {total:,}\tcorrect: {correct:,}\t"
                f"acc: {accuracies[-1]:.1f}%"
            )
        mean = sum(accuracies) / len(accuracies)
        logger.info("\n".join([*lines, f"* average: {mean:.1f}%"]))
        return mean

    def _save_confusion_matrix(self, true, predicted):
        counts = np.bincount(true * self._num_classes + predicted, minlength=self._num_classes**2)
        counts = counts.reshape(self._num_classes, -1)
        matrix = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
        mkdir_if_missing(self.cfg.OUTPUT_DIR)
        path = os.path.join(self.cfg.OUTPUT_DIR, CONFUSIONS)
        torch.save(torch.from_numpy(matrix), content := io.BytesIO())  # onto a full disk it hides why it fails
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getbuffer())
        logger.info("Confusion matrix is saved to %s", path)


def _macro_f1(true, predicted):
    """The mean F1, 2 TP / (2 TP + FP + FN), of the classes that occur in the test split."""
    size = max(true.max(), predicted.max()) + 1
    hits, there, said = (np.bincount(labels, minlength=size) for labels in (true[true == predicted], true, predicted))
    occurs = there > 0
    return float((2 * hits[occurs] / (there + said)[occurs]).mean())
