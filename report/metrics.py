"""What a run's metrics.json must be for reports to use it; a damaged or foreign one is passed over, with a warning."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from benchmark.schemas import Line, mistake
from dassl.errors import printable
from dassl.layout import METRICS

logger = logging.getLogger("dassl.report")

FIGURES = [
    *("accuracy", "macro_f1", "error_rate", "best_seen", "best_unseen", "best_harmonic", "auc"),
    *("attribute_accuracy", "object_accuracy", "best_harmonic_20", "auc_20"),
]
COUNTS = ["total", "correct", "trainable_parameters", "processes"]
COSTS = ["train_seconds", "test_seconds", "peak_memory_mb"]
VERSIONS = ["python", "torch", "torchvision"]

Percent = Annotated[float, Field(ge=0, le=100)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[Whole, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class Curve(_Part):
    """Accuracies (%) on seen and unseen pairs as the bias grows."""

    seen: Annotated[list[Number], Field(min_length=1)]
    unseen: list[Number]

    @model_validator(mode="after")
    def _of_one_length(self):
        if len(self.seen) != len(self.unseen):
            raise ValueError("seen and unseen must be of one length")
        return self


class Code(_Part):
    """Of inputs.json, a part."""

    commit: Line | None = None


class Inputs(_Part):
    """What went into the run, as dassl/engine/inputs.py records it; of interest here is the code alone."""

    code: Code = Code()


class _Known(_Part):
    trainer: Annotated[Line, Field(min_length=1)]
    accuracy: Percent
    dataset: Line = ""
    shots: Whole | None = None
    seed: Whole | None = None
    backbone: Line | None = None
    release: Line | None = None
    device: Line | None = None
    split: Line | None = None
    versions: dict[str, Line] | None = None
    inputs: Inputs | None = None
    curve: Curve | None = None


_more: dict[str, Any] = {
    **{name: (Number | None, None) for name in FIGURES if name != "accuracy"},
    **{name: (Count | None, None) for name in COUNTS},
    **{name: (Annotated[Number, Field(ge=0)] | None, None) for name in COSTS},
}
Metrics = create_model("Metrics", __base__=_Known, **_more)
"""The keys that reports know; None where a run does not say."""


def read_metrics(folder: str | Path) -> dict[str, Any] | None:
    """The content of a run's metrics.json; None where there is none, or, with a warning, no result in it."""
    path = Path(folder, METRICS)
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        return _passed_over(path, f"it cannot be read: {error.strerror}")
    except (ValueError, RecursionError):
        return _passed_over(path, "it is not valid JSON")
    return metrics if is_result(path, metrics) else None


def is_result(path: Path, metrics: object) -> bool:
    """Whether what was read from a file is of the schema; if not, a warning says that the file is passed over."""
    try:
        Metrics.model_validate(metrics)
    except ValidationError as error:
        _passed_over(path, mistake(error))
        return False
    return True


def row(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Of a result the keys that reports know, versions beside them, and further numbers."""
    known = {name: metrics.get(name) for name in Metrics.model_fields if name not in ("versions", "inputs", "curve")}
    more = {name: float(value) for name, value in metrics.items() if name not in known and _is_number(value)}
    versions = metrics.get("versions") or {}
    code = (metrics.get("inputs") or {}).get("code") or {}
    return more | known | {name: versions.get(name) for name in VERSIONS} | {"commit": code.get("commit")}


def shares(folder: str | Path, metrics: Mapping[str, Any], key: str) -> list[float]:
    """The numbers that a trainer's figure is of; [] where the run has none or, with a warning, something else."""
    values = metrics.get(key) or []
    if isinstance(values, list) and all(map(_is_number, values)):
        return values
    logger.warning("%s: no figure of %s, which is not a list of numbers", printable(Path(folder, METRICS)), key)
    return []


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _passed_over(path, why):
    logger.warning("%s is passed over: %s", printable(path), printable(why))
