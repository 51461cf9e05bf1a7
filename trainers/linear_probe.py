"""The linear probe: logistic regression on frozen image features (Radford et al., ICML 2021, section 3.2).

The strength of its regularisation is searched for on the few validation images as the CoOp paper does (IJCV 2022,
section 4.1): seven values over twelve decades, then eight steps of halving around the best. Features are normalised to
the length that makes their entries 1 on average. It knows the training classes only.
"""

import logging
import time
import warnings
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import nn
from yacs.config import CfgNode as CN

from dassl.data import build_data_loader
from dassl.data.datasets import Datum
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError
from prompting.prompted_clip import PromptedCLIP
from prompting.text_encoder import TextEncoder
from trainers.base import PromptTrainer

logger = logging.getLogger("dassl.trainers")


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.LINEARPROBE = CN()
    cfg.TRAINER.LINEARPROBE.PREC = "fp32"  # of the image encoder
    cfg.TRAINER.LINEARPROBE.STEPS = 8  # of halving, after the first search


class ProbedCLIP(PromptedCLIP):
    """CLIP's image encoder and a linear layer in place of the text encoder."""

    def encode_text(self) -> None:
        """Nothing: there are no prompts."""

    def logits(self, image_features: torch.Tensor, text_features: None = None) -> torch.Tensor:
        """(B, e) normalised image features -> (B, N) logits."""
        return self.prompt_learner(image_features * image_features.shape[1] ** 0.5)


@TRAINER_REGISTRY.register()
class LinearProbe(PromptTrainer):
    """Logistic regression on image features under the test transform."""

    section = "LINEARPROBE"
    class_axes = {"weight": 0, "bias": 0}

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> ProbedCLIP:
        probe = nn.Linear(clip_model.text_projection.shape[1], len(classnames))
        return ProbedCLIP(clip_model, probe.requires_grad_(False), text_encoder)

    def features(self, items: list[Datum]) -> tuple[np.ndarray, np.ndarray]:
        """(n, e) scaled features and (n,) labels of images."""
        size, transform = self.cfg.DATALOADER.TEST.BATCH_SIZE, self.test_loader.dataset.transform
        loader = build_data_loader(self.cfg, data_source=items, batch_size=size, tfm=transform, is_train=False)
        found = F.normalize(self.image_features(loader).float(), dim=-1)
        found = found * found.shape[1] ** 0.5
        return found.numpy(), np.array([item.label for item in items])

    def train(self) -> None:  # type: ignore[override]
        if self.num_classes < 2:
            raise UserError("a linear probe needs two classes")
        dataset = self.dm.dataset
        without = set(range(self.num_classes)) - {item.label for item in dataset.train_x}
        if without:  # such as unseen pairs
            name = dataset.classnames[min(without)]
            raise UserError(
                f'a linear probe needs training images of every class: {self.cfg.DATASET.NAME} has none of "{name}"'
            )
        x, y = self.features(dataset.train_x)
        c = search(x, y, *self.features(dataset.val), self.cfg.TRAINER.LINEARPROBE.STEPS) if dataset.val else 1.0
        logger.info("Fitting with C = %.3g", c)
        fitted = fit(x, y, c)
        weight, bias = fitted.coef_, fitted.intercept_
        if len(weight) == 1:  # scikit-learn keeps one row for two classes
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        self.model.prompt_learner.weight.copy_(torch.from_numpy(weight))
        self.model.prompt_learner.bias.copy_(torch.from_numpy(bias))
        self.save_model(0, self.output_dir)
        self.test()


def fit(x: np.ndarray, y: np.ndarray, c: float) -> LogisticRegression:
    """Logistic regression of (n, e) features and (n,) labels with inverse regularisation strength c."""
    # One thread: the products are small, and on a busy machine several wait for one another at each of them.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # c at the ends of the search need not converge
        return LogisticRegression(C=c, max_iter=1000).fit(x, y)


def search(x: np.ndarray, y: np.ndarray, x_val: np.ndarray, y_val: np.ndarray, steps: int) -> float:
    """The C that does best on validation features: a coarse search, then `steps` of halving around its best."""

    def score(c):
        started = time.perf_counter()
        accuracy = fit(x, y, c).score(x_val, y_val)
        logger.info("C = %.3g: val accuracy %.1f%%, %.1f s", c, 100 * accuracy, time.perf_counter() - started)
        return accuracy

    coarse: dict[float, float] = {power: score(10.0**power) for power in range(-6, 7, 2)}
    best = max(coarse, key=coarse.__getitem__)
    scores, width = {best: coarse[best]}, 1.0
    for _ in range(steps):
        for power in (best - width, best + width):
            scores[power] = score(10.0**power)
        best = max(scores, key=scores.__getitem__)
        width /= 2
    return 10.0**best
