"""Balance: learn all classes from a few images each; do the rare and the hard ones do as well as the others?"""

from benchmark.protocol import Point, Protocol, Run, run

NAME, LAYOUT = "balance", "balance/{dataset}/shots_{shots}/{trainer}/{config}/seed{seed}"


def runs(point: Point) -> list[Run]:
    return [run(NAME, LAYOUT, point, keys=["TEST.PER_CLASS_RESULT", True])]


PROTOCOL = Protocol(
    name=NAME,
    title="Balance",
    what="All classes, so many training images of each; the mean over classes beside the accuracy.",
    note="Accuracy, the mean of the classes' accuracies, and the difference.",
    caption="{method} on {dataset}, {shots}",
    runs=runs,
    takes={"DATASET": None, "SHOTS": None},
    layout=LAYOUT,
    parts={"train": "all classes", "test": "all classes"},
    across="figures",
    columns={"accuracy": "accuracy", "perclass_accuracy": "per class"},
    derive=lambda figures: figures.assign(gap=figures["accuracy"] - figures["per class"]),
    configs_of="few_shot",
)
