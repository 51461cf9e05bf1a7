"""Few-shot classification, as in CoOp's paper: all classes, a few training images of each."""

from benchmark.protocol import Point, Protocol, Run, run

NAME, LAYOUT = "few_shot", "{dataset}/{trainer}/{config}_{shots}shots/seed{seed}"


def learn(point: Point, dataset: str | None = None) -> Run:
    """The run that learns all classes of a data set, by default the point's."""
    return run(NAME, LAYOUT, point, dataset=dataset)


PROTOCOL = Protocol(
    name=NAME,
    rank=1,
    title="Few-shot classification",
    what="All classes, SHOTS training images of each.",
    note="Accuracy on all classes.",
    caption="{method} on {dataset}, {shots}, all classes",
    runs=lambda point: [learn(point)],
    takes={"DATASET": None, "SHOTS": None},
    layout=LAYOUT,
    parts={"train": "all classes", "test": "all classes"},
    across="figures",
    columns={"accuracy": "accuracy"},
    setting="",
    charts=("few_shot_curves",),
)
