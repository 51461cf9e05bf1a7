"""The linear probe: logistic regression on frozen image features (Radford et al., ICML 2021, section 3.2).

The strength of its regularisation is searched for on the few validation images as CoOp's release does: seven values
over twelve decades, then eight steps of halving a bracket around the best (`search`). It takes the image encoder's
output as it is (FEATURES raw), or normalised to the length that makes its entries 1 on average (normalized). It knows
the training classes only.

Known differences from the release: the few images are CoOp's draw, as all methods have them, where the release draws
with numpy's generator. A data set without validation images takes C = 1; on ImageNet the release searches on four test
images a class, and so does this (SEARCH_ON test, which configs/datasets/imagenet.yaml says).
"""

import logging
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode as CN

from dassl.config import require
from dassl.data import build_data_loader
from dassl.data.datasets import Datum
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError
from prompting.prompted_clip import PromptedCLIP
from prompting.text_encoder import TextEncoder
from trainers.base import PromptTrainer

if TYPE_CHECKING:  # slow to import, and every run imports this file
    from sklearn.linear_model import LogisticRegression

logger = logging.getLogger("dassl.trainers")

FEATURES = ("raw", "normalized")
MOST = 4
"""Images a class that C is searched on, where these are test images; of validation images the reader takes as many."""


def extend_cfg(cfg: CN) -> None:
    cfg.TRAINER.LINEARPROBE = CN()
    cfg.TRAINER.LINEARPROBE.PREC = "fp32"  # of the image encoder: fp16, fp32, amp, bf16
    cfg.TRAINER.LINEARPROBE.FEATURES = "raw"  # raw: as the encoder gives them; normalized: to entries of 1 on average
    cfg.TRAINER.LINEARPROBE.SEARCH_ON = "val"  # val; test: as many test images, which are then no fair test
    cfg.TRAINER.LINEARPROBE.STEPS = 8  # of halving the interval of the penalty, after the first search


class Probe(nn.Linear):
    """A linear layer that knows what features it was fitted to.

    Attributes:
        raw: a bool, whether those are the image encoder's own; it travels with the weights.
    """

    def __init__(self, features: int, classes: int, raw: bool) -> None:
        super().__init__(features, classes)
        self.register_buffer("raw", torch.tensor(raw))

    def prepare(self, features: torch.Tensor) -> torch.Tensor:
        """(n, e) features of the image encoder -> (n, e) float32, as this layer takes them."""
        features = features.float()
        return features if self.raw else F.normalize(features, dim=-1) * features.shape[1] ** 0.5


class ProbedCLIP(PromptedCLIP):
    """CLIP's image encoder and a linear layer in place of the text encoder."""

    def encode_text(self) -> None:
        """Nothing: there are no prompts."""

    def prepare(self, image_features: torch.Tensor) -> torch.Tensor:
        """(B, e) image features, as the probe takes them."""
        return self.prompt_learner.prepare(image_features)

    def logits(self, image_features: torch.Tensor, text_features: None = None) -> torch.Tensor:
        """(B, e) image features as `prepare` gives them -> (B, N) logits."""
        return self.prompt_learner(image_features)


@TRAINER_REGISTRY.register()
class LinearProbe(PromptTrainer):
    """Logistic regression on image features under the test transform."""

    section = "LINEARPROBE"
    class_axes = {"weight": 0, "bias": 0}

    def check_cfg(self, cfg: CN) -> None:
        super().check_cfg(cfg)
        require(cfg, "TRAINER.LINEARPROBE.FEATURES", one_of=FEATURES)
        require(cfg, "TRAINER.LINEARPROBE.SEARCH_ON", one_of=("val", "test"))
        require(cfg, "TRAINER.LINEARPROBE.STEPS", at_least=0)

    def build_prompted_clip(
        self, clip_model: nn.Module, text_encoder: TextEncoder, classnames: Sequence[str]
    ) -> ProbedCLIP:
        raw = self.cfg.TRAINER.LINEARPROBE.FEATURES == "raw"
        probe = Probe(clip_model.text_projection.shape[1], len(classnames), raw)
        return ProbedCLIP(clip_model, probe.requires_grad_(False), text_encoder)

    def load_weights(self, name: str, state_dict: Mapping[str, torch.Tensor], source: str | Path) -> None:
        # weights of before there were raw features are of normalised ones
        super().load_weights(name, {"raw": torch.tensor(False)} | dict(state_dict), source)

    def features(self, items: list[Datum]) -> tuple[np.ndarray, np.ndarray]:
        """(n, e) features as the probe takes them and (n,) labels of images."""
        size, transform = self.cfg.DATALOADER.TEST.BATCH_SIZE, self.test_loader.dataset.transform
        loader = build_data_loader(self.cfg, data_source=items, batch_size=size, tfm=transform, is_train=False)
        found = self.model.prepare(self.image_features(loader))
        return found.cpu().numpy(), np.array([item.label for item in items])

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
        tried_on = self.tried_on()
        c = self.searched(x, y, *self.features(tried_on)) if tried_on else 1.0
        logger.info("Fitting with C = %.3g", c)
        fitted = fit(x, y, c)
        weight, bias = fitted.coef_, fitted.intercept_
        if len(weight) == 1:  # scikit-learn keeps one row for two classes
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        self.model.prompt_learner.weight.copy_(torch.from_numpy(weight))
        self.model.prompt_learner.bias.copy_(torch.from_numpy(bias))
        self.sweep_models(self.output_dir)
        self.save_model(0, self.output_dir)
        self.test()

    def tried_on(self) -> list[Datum]:
        """The images that C is searched on; none where there are none."""
        cfg, dataset = self.cfg, self.dm.dataset
        if cfg.TRAINER.LINEARPROBE.SEARCH_ON == "val":
            return dataset.val
        rng = random.Random(cfg.SEED) if cfg.SEED >= 0 else random
        return dataset.generate_fewshot_dataset(dataset.test, num_shots=min(cfg.DATASET.NUM_SHOTS, MOST), rng=rng)

    def searched(self, x: np.ndarray, y: np.ndarray, x_val: np.ndarray, y_val: np.ndarray) -> float:
        """The C that `search` takes for (n, e) features and (n,) labels to fit, and others to try it on."""

        def score(power):
            started = time.perf_counter()
            accuracy = fit(x, y, 10.0**power).score(x_val, y_val)
            seconds = time.perf_counter() - started
            logger.info("C = %.3g: val accuracy %.1f%%, %.1f s", 10.0**power, 100 * accuracy, seconds)
            return accuracy

        return 10.0 ** search(score, self.cfg.TRAINER.LINEARPROBE.STEPS)


def fit(x: np.ndarray, y: np.ndarray, c: float) -> "LogisticRegression":
    """Logistic regression of (n, e) features and (n,) labels with inverse regularisation strength c."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # One thread: the products are small, and on a busy machine several wait for one another at each of them.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # c at the ends of the search need not converge
        return LogisticRegression(C=c, max_iter=1000).fit(x, y)


def search(score: Callable[[float], float], steps: int) -> float:
    """The power of ten that does best as C, searched for as CoOp's release does.

    First 6, 4, ... -6; of equal ones the larger. Then the bracket of one decade to both sides: in each step its better
    end is taken, of equal ones the smaller, and the half of the bracket beside it is the next. The end of the last step
    is the answer, even where another value scored better.

    Args:
        score: of a power; asked for once.
        steps: after the first search; 0: its best.
    """
    score = cache(score)
    best = max((6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -6.0), key=score)  # the first of equal ones
    left, right = best - 1.0, best + 1.0
    for _ in range(steps):
        best, middle = (left, right)[score(left) < score(right)], (left + right) / 2
        left, right = sorted((best, middle))
    return best
