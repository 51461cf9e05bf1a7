"""What is measured: training steps, whole runs, and the rate of a large matrix product."""

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, cycle
from typing import Any, NamedTuple

import torch

import train
from benchmark.speed import ways
from dassl.engine import build_trainer
from dassl.utils import set_numerics, set_random_seed
from prompting.epochs import FrozenEncoder

SIZE = {"cpu": 2048, "cuda": 8192}
"""Rows of the matrices whose product tells what rate the machine reaches."""

DTYPES = {"fp16": torch.float16, "amp": torch.float16, "bf16": torch.bfloat16}
"""In what a trainer of this precision multiplies; others in float32."""


class Images(NamedTuple):
    """Floating point operations of an image: in the frozen encoders of a training step, and in a test's."""

    trained: float
    tested: float


class Steps:
    """A trainer's training steps on the batches of its first epoch, over and over; each call is one.

    Args:
        words: of train.py.

    Attributes:
        trainer: it.
        dtype: in which it multiplies.
        frozen: whether its image encoder is.
    """

    def __init__(self, words: Sequence[str]) -> None:
        cfg = train.setup_cfg(train.parse_args(words))
        set_random_seed(cfg.SEED)
        set_numerics(cfg)
        self.trainer = trainer = build_trainer(cfg)
        self.dtype = DTYPES.get(getattr(trainer, "precision", ""), torch.float32)
        self.frozen = bool(getattr(trainer, "frozen_image_encoder", False))
        trainer.before_train()
        trainer.epoch = trainer.batch_idx = trainer.num_batches = 0  # no batch is the last one
        trainer.before_epoch()
        trainer.set_model_mode("train")
        batches = self._endless()
        self._batches = chain([next(batches)], batches)  # an epoch's features are there before a step is timed

    def __call__(self) -> None:
        self.trainer.forward_backward(next(self._batches))

    def _endless(self) -> Iterator[Any]:
        while True:
            self.trainer.train_loader_x.set_epoch(0)
            batches = self.trainer.training_batches()
            yield from cycle(batches) if isinstance(batches, Sequence) else batches

    @torch.no_grad()
    def leave_the_start(self) -> None:
        """Move what is trained a little, the same way every time: at its start itself, where prompts may be those of a
        teacher, a gradient can be nothing but rounding.
        """
        generator = torch.Generator().manual_seed(0)
        for parameter in self._trained():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter += 0.1 * noise * parameter.abs().mean().clamp_min(1e-3)

    def first_step(self) -> tuple[float, torch.Tensor]:
        """A step's floating point operations, and its gradient in a row."""
        torch.manual_seed(0)
        counted, _ = ways.flops(self)
        return counted, torch.cat([p.grad.float().flatten() for p in self._trained() if p.grad is not None])

    def _trained(self):
        models = (self.trainer._models[name] for name in self.trainer.get_model_names())
        return [parameter for model in models for parameter in model.parameters() if parameter.requires_grad]

    @torch.no_grad()
    def logits(self, images: int = 8) -> torch.Tensor:
        """Of the first images of the test set."""
        self.trainer.set_model_mode("eval")
        dataset = self.trainer.test_loader.dataset
        pixels = torch.stack([dataset[i]["img"] for i in range(min(images, len(dataset)))])
        logits = self.trainer.model_inference(pixels.to(self.trainer.device)).float()
        self.trainer.set_model_mode("train")
        return logits

    def images(self) -> Images:
        """What an image costs."""
        trainer = self.trainer
        nothing = torch.zeros(1, 3, *trainer.cfg.INPUT.SIZE, device=trainer.device)
        encoders: dict[str, FrozenEncoder] = getattr(trainer, "frozen_encoders", dict)()
        # two of the same weights share what they make
        different = {(id(each.weights), each.precision, each.encodes): each.encode for each in encoders.values()}
        trained = sum(ways.flops(partial(encode, nothing))[0] for encode in different.values())
        tested = ways.flops(lambda: trainer.model.encode_image(nothing))[0] if self.frozen else 0.0
        return Images(trained, tested)


class MatrixProduct:
    """A product of two square matrices; each call is one. `flops` are its floating point operations."""

    def __init__(self, device: torch.device | str, dtype: torch.dtype) -> None:
        n = SIZE[torch.device(device).type]
        self.matrix = torch.randn(n, n, device=device).to(dtype)
        self.flops = 2.0 * n**3
        self()

    def __call__(self) -> None:
        self.matrix @ self.matrix

    def rate(self) -> float:
        """Operations a second, the best of three."""
        return self.flops / min(ways.seconds(self)[0] for _ in range(3))


class Took(NamedTuple):
    """What a protocol's runs took, in seconds or operations.

    Attributes:
        epoch: the mean one of the first run; None where it has none.
        test: of the first run.
        run: all of it.
        epochs: how many.
        trained: images in an epoch.
        tested: images in the test of each run.
    """

    epoch: float | None
    test: float
    run: float
    epochs: int
    trained: int
    tested: list[int]


def take(runs: Sequence[Sequence[str]], measure: Callable[[Callable[[], Any]], tuple[float, Any]]) -> Took:
    """Do a protocol's runs, whose trainers are of ways.py, and tell what they took."""
    total, took, trained, tested = 0.0, [], [], []
    for words in runs:
        of_run, trainer = measure(partial(train.main, words))
        total += of_run
        took.append(trainer.took)
        trained.append(len(trainer.train_loader_x.dataset) if trainer.train_loader_x else 0)
        tested.append(len(trainer.test_loader.dataset))
        del trainer
        gc.collect()  # what a process leaves to its end
    epochs, tests = took[0]["epoch"], took[0]["test"]
    return Took(statistics.mean(epochs) if epochs else None, tests[-1], total, len(epochs), trained[0], tested)


def race(variants: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each function, run in turn."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            times[name].append(ways.seconds(run)[0])
    return {name: statistics.median(each) for name, each in times.items()}


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest difference over the reference's largest magnitude."""
    return float((value - reference).abs().max() / reference.abs().max())
