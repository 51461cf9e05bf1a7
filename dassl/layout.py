"""The names inside a run's folder, and what its metrics.json says. Needs nothing but Python: reports read many of them.

<run>/config.yaml, classes.json, inputs.json, loggers.json, log.txt, metrics.json, cmat.pt
<run>/tensorboard/
<run>/<model>/checkpoint, model.pth.tar-<epoch>, model-best.pth.tar
"""

import json
import re
from pathlib import Path
from typing import Any

CONFIG, CLASSES, METRICS, LOG = "config.yaml", "classes.json", "metrics.json", "log.txt"
INPUTS = "inputs.json"
LOGGERS = "loggers.json"
"""Which runs those of W&B, MLflow and others are that it is logged to."""
CONFUSIONS, TENSORBOARD = "cmat.pt", "tensorboard"
LOCK = ".lock"
"""There while a run is under way: the host and the number of its process."""

POINTER, BEST = "checkpoint", "model-best.pth.tar"
"""In a model's folder: the file that names the last checkpoint, and the best on val."""

ANY_CHECKPOINT = "model*.pth.tar*"
"""What the names of all checkpoints match."""

PROMPT_LEARNER = "prompt_learner"
"""The model's name in runs of methods that learn prompts, as in CoOp's."""


def checkpoint(epoch: int | str) -> str:
    """The name of the checkpoint after an epoch, counted from 1."""
    return f"model.pth.tar-{epoch}"


def epochs_in(folder: str | Path) -> set[int]:
    """The epochs whose checkpoints lie in a model's folder.

    Which one POINTER names does not matter: what is not whole has another name. Without it there are none, as in a run
    that is being removed.
    """
    names = [path.name for path in Path(folder).glob(checkpoint("*")) if path.is_file()]
    found = {int(name.rpartition("-")[2]) for name in names if re.fullmatch(checkpoint("[1-9][0-9]*"), name)}
    return found if Path(folder, POINTER).is_file() else set()


def last_checkpoints(run: str | Path) -> list[Path]:
    """The checkpoints of the newest epoch that all models of a run have."""
    found = {path.parent: epochs for path in Path(run).glob(f"*/{POINTER}") if (epochs := epochs_in(path.parent))}
    common = set.intersection(*found.values()) if found else set()
    return [folder / checkpoint(max(common)) for folder in sorted(found) if common]


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
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(metrics, dict) or not isinstance(metrics.get("trainer"), str):
        return None
    accuracy = metrics.get("accuracy")
    return metrics if isinstance(accuracy, int | float) and accuracy >= 0 else None
