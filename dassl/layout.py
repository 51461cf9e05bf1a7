"""The names inside a run's folder, and what its metrics.json says. Needs nothing but Python: reports read many of them.

<run>/config.yaml, classes.json, inputs.json, log.txt, metrics.json, cmat.pt, tensorboard/
<run>/<model>/checkpoint, model.pth.tar-<epoch>, model-best.pth.tar
"""

import json
from pathlib import Path
from typing import Any

CONFIG, CLASSES, METRICS, LOG = "config.yaml", "classes.json", "metrics.json", "log.txt"
INPUTS = "inputs.json"
CONFUSIONS, TENSORBOARD = "cmat.pt", "tensorboard"
POINTER, BEST = "checkpoint", "model-best.pth.tar"
"""In a model's folder: the file that names the last checkpoint, and the best on val."""

ANY_CHECKPOINT = "model*.pth.tar*"
"""What the names of all checkpoints match."""

PROMPT_LEARNER = "prompt_learner"
"""The model's name in runs of methods that learn prompts, as in CoOp's."""


def checkpoint(epoch: int) -> str:
    """The name of the checkpoint after an epoch, counted from 1."""
    return f"model.pth.tar-{epoch}"


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config as its files have it, by whole keys: {"A": {"B": 1}} -> {"A.B": 1}."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def read_metrics(folder: str | Path) -> dict[str, Any] | None:
    """The content of a run's metrics.json; None where there is none, or no result in it."""
    try:
        metrics = json.loads(Path(folder, METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(metrics, dict) or not isinstance(metrics.get("trainer"), str):
        return None
    accuracy = metrics.get("accuracy")
    return metrics if isinstance(accuracy, int | float) and accuracy >= 0 else None
