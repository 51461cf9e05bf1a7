"""The runs that are attacked: each trainer's, so small that it takes a second; and what such a run leaves."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

import train
import trainers  # noqa: F401  registers them
from benchmark.facts import CONFIGS, method_of, trainer_config
from dassl.engine import TRAINER_REGISTRY
from dassl.layout import LOG, TENSORBOARD
from dassl.utils import load_checkpoint
from tests.conftest import write_pairs, write_toy

SMALL = "DATASET.NUM_SHOTS 2 DATALOADER.TRAIN_X.BATCH_SIZE 4 DATALOADER.NUM_WORKERS 0 OPTIM.MAX_EPOCH 3 USE_CUDA False"

TIMES = {"train_seconds", "test_seconds", "peak_memory_mb"}
"""In metrics.json what differs from time to time."""


def names() -> list[str]:
    """The project's trainers."""
    known = TRAINER_REGISTRY.registered_names()
    return sorted(name for name in known if TRAINER_REGISTRY.get(name).__module__.startswith("trainers."))


@cache
def data(folder: str) -> tuple[str, str]:
    """Folders of tiny data: of the roots for classes and for pairs, written once."""
    classes, pairs = Path(folder, "classes"), Path(folder, "pairs")
    if not classes.exists():
        write_toy(classes)
        write_pairs(pairs / "mit-states")
    return str(classes), str(pairs)


@dataclass(frozen=True)
class Small:
    """A small run of a trainer.

    Attributes:
        trainer: its name.
        folder: of the data.
        keys: config keys and values besides those that make it small.
        backbone: its name or path.
    """

    trainer: str
    folder: str
    keys: tuple[str, ...] = ()
    backbone: str = "icon-clip-vit"

    @property
    def trains(self) -> bool:
        return method_of(self.trainer).trains

    def words(self, output: str | Path, *flags: object, keys: Sequence[object] = ()) -> list[str]:
        """The arguments of train.py."""
        facts, (root, pairs) = method_of(self.trainer), data(self.folder)
        protocol, dataset = "few_shot", "caltech101"
        if not facts.suits(protocol):
            protocol, dataset, root = "czsl", "mit_states", pairs
        options = {
            "--root": root,
            "--seed": 1,
            "--trainer": self.trainer,
            "--backbone": self.backbone,
            "--dataset-config-file": CONFIGS / "datasets" / f"{dataset}.yaml",
            "--config-file": trainer_config(self.trainer, facts.recipe(protocol, dataset, 2)[0]),
            "--output-dir": output,
        }
        flags = (*flags, *(() if facts.trains or "--eval-only" in flags else ("--eval-only",)))
        words = (*(word for pair in options.items() for word in pair), *flags, *SMALL.split(), *self.keys, *keys)
        return [str(word) for word in words]


def result(folder: str | Path, home: str | Path = "") -> dict[str, Any]:
    """What a run left, as far as it may not differ from that of another time: weights, metrics and names of files.

    Args:
        home: a folder whose name may be another each time; the run's, if none is given.
    """
    folder = Path(folder)
    metrics = json.loads((folder / "metrics.json").read_text().replace(str(home or folder), "HERE"))
    weights = {path.relative_to(folder).as_posix(): _digest(path) for path in folder.glob("*/model*.pth.tar*")}
    return {
        "weights": dict(sorted(weights.items())),
        "metrics": {key: value for key, value in metrics.items() if key not in TIMES},
        "files": files(folder),
    }


def files(folder: Path) -> list[str]:
    """Names below a folder; logs and what TensorBoard reads have one name each, however many they are."""
    found = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            found.add(next((many for many in (LOG, TENSORBOARD) if name.startswith(many)), name))
    return sorted(found)


def _digest(path):
    """Of all that is in a checkpoint but its times."""
    digest = hashlib.sha256()
    _feed(digest, load_checkpoint(path))
    return digest.hexdigest()[:16]


def _feed(digest, value):
    if isinstance(value, torch.Tensor):
        digest.update(repr((value.dtype, tuple(value.shape))).encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key in value:
            if key not in TIMES:
                digest.update(repr(key).encode())
                _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            _feed(digest, item)
    else:
        digest.update(repr(value).encode())


def difference(expected: dict[str, Any], found: dict[str, Any]) -> str | None:
    """The first difference of two results, in words."""
    for part in ("weights", "metrics"):
        for key in sorted(expected[part].keys() | found[part].keys()):
            one, other = expected[part].get(key), found[part].get(key)
            if one != other:
                return f"{part}: {key} is {str(other)[:60]}, not {str(one)[:60]}"
    here, there = set(found["files"]), set(expected["files"])
    more, fewer = sorted(here - there), sorted(there - here)
    return f"files: left over {more}, missing {fewer}" if more or fewer else None


def do(words: list[str]) -> int:
    """Train; the exit status."""
    return train.run(words)


def do_and_look(words: list[str]) -> Any:
    """Evaluate; the exit status, or the digest of the metrics and of all outputs where all went well."""
    from tests.in_a_process import outputs

    kind: list[Any] = []
    real = train.do
    train.do = lambda args: kind.append(real(args)) or kind[-1]
    if status := train.run(words):
        return status
    found = outputs(kind[0])
    if not found.isfinite().all():
        return "not finite"
    digest = hashlib.sha256(found.contiguous().numpy().tobytes())
    metrics = json.loads(Path(words[words.index("--output-dir") + 1], "metrics.json").read_text())
    return f"{digest.hexdigest()[:16]} {metrics.get('accuracy')} {metrics.get('macro_f1')}"


def environment(cache_folder: str | Path) -> dict[str, str]:
    """Of a run that keeps what it computes in a folder."""
    return {"MOCOOP_CACHE": os.fspath(cache_folder), "OMP_NUM_THREADS": "1"}
