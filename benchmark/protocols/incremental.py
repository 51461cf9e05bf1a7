"""Continual learning, as in LAMM's paper: the second half of the classes after the first."""

from benchmark.protocol import Point, Protocol, Run, half

NAME = "incremental"
LAYOUT = "incremental/{part}/{dataset}/shots_{shots}/{trainer}/{config}/seed{seed}"


def runs(point: Point) -> list[Run]:
    base = half(NAME, LAYOUT, point, "train_base", "base")
    new = half(NAME, LAYOUT, point, "train_new", "new", needs=base)
    tests = [half(NAME, LAYOUT, point, f"test_{on}", on, flags=["--eval-only"], needs=new) for on in ("base", "all")]
    return [base, new, *tests]


PROTOCOL = Protocol(
    name=NAME,
    rank=5,
    title="Continual learning",
    what="Train on the first half of the classes, then on the second half alone; test on either half and on all.",
    note="Accuracy on the first half of the classes before and after the second half was learned, on the second half, "
    "and on all.",
    caption="{method} on {dataset}, {shots}, one half of the classes after the other",
    runs=runs,
    takes={"DATASET": None, "SHOTS": None},
    layout=LAYOUT,
    parts={
        "train_base": "base classes",
        "train_new": "new classes",
        "test_base": "base classes",
        "test_all": "all classes",
    },
    across="parts",
    columns={"train_base": "first", "test_base": "after", "train_new": "second", "test_all": "all classes"},
    whole=True,
    means="means: the first half before and after the second was learned, the second half, all classes",
)
