"""What a grid costs, counted before anything runs: steps, images through the image encoder, and its FLOPs.

The counts follow from the configs and from the published sizes of the data sets, so neither images nor weights are
needed. A run is taken by itself: test images count although features of a frozen encoder are kept and shared. Text
encoder and losses are left out, a few percent of most methods' training steps.
"""

import argparse
from dataclasses import astuple, dataclass
from functools import cache
from typing import Any

from tabulate import tabulate

from benchmark.facts import method_of
from benchmark.grid import Grid, read_grid
from benchmark.protocol import Run
from dassl.errors import UserError
from dassl.layout import flat
from mocoop.command import Command

ARCHITECTURES: dict[str, tuple[Any, ...]] = {
    "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12),
    "RN101": (512, 224, (3, 4, 23, 3), 64, None, 77, 49408, 512, 8, 12),
    "ViT-B/32": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
    "ViT-B/16": (512, 224, 12, 768, 16, 77, 49408, 512, 8, 12),
    "ViT-L/14": (768, 224, 24, 1024, 14, 77, 49408, 768, 12, 12),
}
"""What `clip.model.CLIP` takes to build OpenAI's models."""


@dataclass(frozen=True)
class Cost:
    """What runs cost; all of it adds up.

    Attributes:
        steps: of the optimiser.
        trained: training images that go through the image encoder, each as often as it does.
        tested: test images, likewise.
        flops: floating point operations of the image encoder, an addition and a multiplication being two.
    """

    runs: int = 0
    steps: int = 0
    trained: float = 0
    tested: float = 0
    flops: float = 0

    def __str__(self) -> str:
        """As the first lines of a grid say it."""
        return (
            f"{self.runs} runs, {self.steps:,} steps, {self.trained / 1e3:,.0f} k training and "
            f"{self.tested / 1e3:,.0f} k test images, {self.flops / 1e15:,.0f} PFLOP"
        )

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class CostOf(Command):
    """What a grid costs, counted from configs and the published sizes of data sets; nothing runs.

    One line per method: runs, steps, thousands of training and test images through the image encoder, its petaFLOPs.
    """

    examples = ("my/grid.yaml",)

    def add_arguments(self, add: Any) -> None:
        add("grid", metavar="GRID")

    def run(self, args: argparse.Namespace) -> int:
        costs = of_grid(read_grid(args.grid))
        costs["all"] = sum(costs.values(), Cost())
        figures = [(c.runs, f"{c.steps:,}", c.trained / 1e3, c.tested / 1e3, c.flops / 1e15) for c in costs.values()]
        rows = [[method, *row] for method, row in zip(costs, figures, strict=True)]
        header = ["method", "runs", "steps", "train, k", "test, k", "PFLOP"]
        print(tabulate(rows, header, floatfmt=("", "", "", ",.1f", ",.1f", ",.1f")))
        return 0


def of_grid(grid: Grid) -> dict[str, Cost]:
    """{method: what its runs cost}.

    Raises:
        UserError: the size of a data set or the shape of a backbone is not known.
    """
    costs: dict[str, Cost] = {}
    for run in grid.runs:
        method = grid.methods[run.folder]
        costs[method] = costs.get(method, Cost()) + of_run(run)
    return costs


def of_run(run: Run) -> Cost:
    """What one run costs, its closing test included. Raises UserError as `of_grid` does."""
    words = list(run.arguments)
    words[words.index("--seed") + 1] = "1"  # what it costs does not depend on it
    return _of_words(run.trainer, tuple(words))


@cache
def _of_words(trainer, words):
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY
    from prompting.forms import with_form
    from train import parse_args, setup_cfg

    cfg, facts = setup_cfg(parse_args(list(words))), method_of(trainer)
    counts = getattr(DATASET_REGISTRY.get(cfg.DATASET.NAME), "counts", None)
    if counts is None:
        raise UserError(f"how many images {cfg.DATASET.NAME} has is not published: its runs cannot be counted")
    classes, train, _, test = counts
    part = cfg.DATASET.SUBSAMPLE_CLASSES
    share = {"all": 1.0, "base": -(-classes // 2) / classes, "new": classes // 2 / classes}[part]
    # of the halves' test images only the sum is published, so each gets what its classes make
    forward, both = flops_of(cfg.MODEL.BACKBONE.NAME)
    cost = Cost(runs=1, tested=share * test, flops=share * test * forward)
    if not facts.trains or "--eval-only" in words:
        return cost
    images = min(round(share * classes) * cfg.DATASET.NUM_SHOTS, train) if cfg.DATASET.NUM_SHOTS > 0 else share * train
    if "epochs" in facts.cost:  # no optimiser, so no batches either
        seen = facts.cost["epochs"] * images
        return cost + Cost(trained=seen, flops=seen * forward)
    epochs = cfg.OPTIM.MAX_EPOCH
    batch = cfg.DATALOADER.TRAIN_X.BATCH_SIZE
    steps = max(1, int(images) // batch)  # the last, incomplete batch is dropped unless it is the only one
    seen = epochs * min(images, steps * batch)
    kind = TRAINER_REGISTRY.get(trainer)
    block = with_form(cfg, kind.section, kind.forms) if getattr(kind, "section", None) else {}
    said = flat(cfg) | {f"TRAINER.{kind.section}.{key}": value for key, value in block.items()}
    inside = facts.need(said)  # what is learned inside the encoder needs a kind of it
    frozen = facts.cost.get("frozen_passes", 0)
    own = (both if inside else forward) + frozen * forward
    return cost + Cost(steps=epochs * steps, trained=seen * (1 + frozen), flops=seen * own)


@cache
def flops_of(backbone: str) -> tuple[int, int]:
    """FLOPs of an image encoder for one image: forward; forward and back to its first layer, its weights frozen.

    Counted by torch on a model without values.

    Raises:
        UserError: its shape is not known here.
    """
    if backbone not in ARCHITECTURES:
        raise UserError(f"the FLOPs of {backbone} are not counted: there are {', '.join(ARCHITECTURES)}")
    import torch
    from clip.model import CLIP
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        visual = CLIP(*ARCHITECTURES[backbone]).visual.requires_grad_(False)
        image = torch.zeros(1, 3, 224, 224)
    counted = []
    for inside in (False, True):
        first = visual.ln_pre.weight if hasattr(visual, "ln_pre") else visual.conv1.weight
        first.requires_grad_(inside)
        with FlopCounterMode(display=False) as counter:
            features = visual(image)
            if inside:
                features.sum().backward()
        counted.append(counter.get_total_flops())
    return counted[0], counted[1]
