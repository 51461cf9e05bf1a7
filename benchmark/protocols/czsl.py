"""Compositional zero-shot learning, as in CSP's paper: train on some attribute-object pairs, test on others."""

from benchmark.facts import method_of, trainer_config
from benchmark.protocol import Point, Protocol, Run, run

NAME, LAYOUT = "czsl", "czsl/{part}/{dataset}/{trainer}/{config}/seed{seed}"


def runs(point: Point) -> list[Run]:
    method, closed = method_of(point.trainer), run(NAME, LAYOUT, point, "closed")
    keys = method.part_keys("open", trainer_config(point.trainer, point.config), point.overrides)
    if keys is None:
        return [closed]
    if not method.trains:
        return [closed, run(NAME, LAYOUT, point, "open", keys=keys)]
    return [closed, run(NAME, LAYOUT, point, "open", flags=["--eval-only"], keys=keys, needs=closed)]


PROTOCOL = Protocol(
    name=NAME,
    rank=6,
    title="Compositional zero-shot learning",
    what="Train on seen attribute-object pairs, test on seen and unseen ones; in the open world too if the method can.",
    note="Best accuracies on seen (S) and unseen pairs (U) along the seen-unseen curve, its best harmonic mean (H) and "
    "area (AUC), the last two also for the twenty-point curve of published tables.",
    caption="{method} on {dataset}, {part} world",
    runs=runs,
    takes={"DATASET": None},
    layout=LAYOUT,
    parts={"closed": "closed world", "open": "open world"},
    across="figures",
    columns={
        "best_seen": "S",
        "best_unseen": "U",
        "best_harmonic": "H",
        "auc": "AUC",
        "best_harmonic_20": "H 20",
        "auc_20": "AUC 20",
        "attribute_accuracy": "attribute",
        "object_accuracy": "object",
    },
    rows=("dataset", "part", "method"),
    setting="part",
    decides="AUC",
    charts=("seen_unseen_curves",),
    # S and U are the ends of the curve, which its twenty points miss by a hair at most
    published={"seen": "S", "unseen": "U", "H": "H 20", "AUC": "AUC 20"},
)
