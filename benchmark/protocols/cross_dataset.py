"""Cross-dataset transfer, as in CoCoOp's paper: train on one data set, test on others."""

from benchmark.protocol import TRANSFERS, Point, Protocol, Run, transfer
from benchmark.protocols import few_shot

NAME = "cross_dataset"
TARGETS = {
    "imagenet": (
        "caltech101",
        "oxford_pets",
        "stanford_cars",
        "oxford_flowers",
        "food101",
        "fgvc_aircraft",
        "sun397",
        "dtd",
        "eurosat",
        "ucf101",
    ),
    "icons_common": ("icons_blurred", "icons_edges", "icons_rare"),
}


def runs(point: Point) -> list[Run]:
    return transfer(NAME, TARGETS, few_shot.learn(point), point)


PROTOCOL = Protocol(
    name=NAME,
    rank=3,
    title="Cross-dataset transfer",
    what="Train on one dataset, test on others.",
    note="Trained on one dataset, tested on others.",
    caption="{method} on {dataset}, {shots}, tested on other datasets",
    runs=runs,
    takes={"DATASET": "imagenet", "SHOTS": "16"},
    layout=TRANSFERS,
    parts={"test": "all classes"},
    across="targets",
    targets=TARGETS,
    learns_in=few_shot.NAME,
)
