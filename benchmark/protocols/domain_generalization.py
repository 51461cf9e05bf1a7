"""Domain generalisation, as in CoOp's paper: train on one data set, test on others of the same classes.

For a data set whose images have styles, it trains on the first style and tests on the others.
"""

from benchmark.facts import styled, styles
from benchmark.protocol import TRANSFERS, Point, Protocol, Run, transfer
from benchmark.protocols import few_shot

NAME = "domain_generalization"
TARGETS: dict[str, tuple[str, ...]] = {"imagenet": ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")}
TARGETS |= {f"{name}_{styles(name)[0]}": tuple(f"{name}_{style}" for style in styles(name)[1:]) for name in styled()}


def runs(point: Point) -> list[Run]:
    source = f"{point.dataset}_{styles(point.dataset)[0]}" if point.dataset in styled() else point.dataset
    return transfer(NAME, TARGETS, few_shot.learn(point, source), point)


PROTOCOL = Protocol(
    name=NAME,
    rank=4,
    title="Domain generalisation",
    what="Train on one dataset, test on others of the same classes.",
    note="Trained in one domain, tested in others.",
    caption="{method} on {dataset}, {shots}, tested on other domains",
    runs=runs,
    takes={"DATASET": "imagenet", "SHOTS": "16"},
    layout=TRANSFERS,
    parts={"test": "all classes"},
    across="targets",
    targets=TARGETS,
    learns_in=few_shot.NAME,
)
