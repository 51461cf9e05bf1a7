"""Base-to-new generalisation, as in CoCoOp's paper: train on the first half of the classes, test on both halves."""

from typing import Any

from benchmark.facts import method_of
from benchmark.protocol import Point, Protocol, Run, half

NAME = "base2new"
LAYOUT = "base2new/{part}/{dataset}/shots_{shots}/{trainer}/{config}/seed{seed}"


def runs(point: Point) -> list[Run]:
    if not method_of(point.trainer).trains:
        return [half(NAME, LAYOUT, point, f"test_{classes}", classes) for classes in ("base", "new")]
    base = half(NAME, LAYOUT, point, "train_base", "base")
    return [base, half(NAME, LAYOUT, point, "test_new", "new", flags=["--eval-only"], needs=base)]


def with_h(figures: Any) -> Any:
    """H, the harmonic mean 2 base new / (base + new), 0 where both are 0."""
    total = figures.base + figures.new
    return figures.assign(H=(2 * figures.base * figures.new / total).mask(total == 0, 0.0))


PROTOCOL = Protocol(
    name=NAME,
    rank=2,
    title="Base-to-new generalisation",
    what="Train on the first half of the classes, test on both halves.",
    note="Trained on the base classes alone; accuracy on base and new classes, and H, their harmonic mean.",
    caption="{method} on {dataset}, {shots}",
    runs=runs,
    takes={"DATASET": None, "SHOTS": None},
    layout=LAYOUT,
    parts={"train_base": "base classes", "test_base": "base classes", "test_new": "new classes"},
    across="parts",
    columns={"train_base": "base", "test_base": "base", "test_new": "new"},
    derive=with_h,
    whole=True,
    charts=("base_against_new",),
    published={"base": "base", "new": "new", "H": "H"},
)
