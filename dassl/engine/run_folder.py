"""What a run leaves beside log and checkpoints: first config.yaml, classes.json and (dassl.engine.inputs) inputs.json,
at its end metrics.json.
"""

import glob
import json
import os
import platform
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision
import yaml
from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase
from dassl.layout import ANY_CHECKPOINT, CLASSES, CONFIG, CONFUSIONS, INPUTS, LOCK, LOGGERS, METRICS, POINTER, flat
from dassl.utils import (
    UserError,
    atomic_path,
    digests,
    locks,
    mkdir_if_missing,
    numerics,
    processes,
    read_json,
    remove_half_written,
    write_json,
)

NO_EFFECT = {
    "OUTPUT_DIR",
    "RESUME",
    "VERBOSE",
    "DATASET.ROOT",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.CACHE_GB",
    "FEATURES_LIMIT_GB",
    "TRAIN.CHECKPOINT_FREQ",
    "TRAIN.FEATURE_CACHE",
    "TRAIN.LOGGERS",
    "TRAIN.PRINT_FREQ",
    "TEST.COMPUTE_CMAT",
    "TEST.CURVE_PLOT",
    "TEST.FEATURE_CACHE",
    "TEST.METRICS",
    "TEST.PER_CLASS_RESULT",
}
"""Keys that two runs of the same result may differ in; DATASET.ROOT unless it is the data itself."""

MORE_OUTPUT = {"TEST.COMPUTE_CMAT", "TEST.CURVE_PLOT", "TEST.METRICS", "TEST.PER_CLASS_RESULT"}
"""Those of them that ask for more files or figures."""

WEIGHTS, BACKBONE = "MODEL.INIT_WEIGHTS", "MODEL.BACKBONE.NAME"


@contextmanager
def alone_in(folder: str | Path, wait: bool = False) -> Iterator[None]:
    """Run the block as the one process, or the first of those that train together, that is at a run in a folder.

    Args:
        wait: until another one's run has ended.

    Raises:
        UserError: another one is at a run there (names it), or the folder cannot be created or written to.
    """
    if not processes.first():
        yield
        return
    mkdir_if_missing(folder)
    with locks.owned(Path(folder, LOCK), wait):
        yield


def claim(cfg: CfgNode, overwrite: bool = False) -> None:
    """Reserve cfg.OUTPUT_DIR for this config, before anything is written to it.

    A folder that holds a run of the same config may be taken again: that run resumes, or is tested once more. What a
    kill left half-written in it is removed.

    Raises:
        UserError: the folder holds a run of another config (names the first difference), or of a damaged one, and
            `overwrite` is false; or it cannot be created.
    """
    try:
        differing = conflict(cfg)
    except UserError:  # nobody knows what run it is
        if not overwrite:
            raise
        differing = {}
        clear(cfg.OUTPUT_DIR)
    if differing and not overwrite:
        state = "a finished" if os.path.isfile(os.path.join(cfg.OUTPUT_DIR, METRICS)) else "an unfinished"
        raise UserError(
            f"{cfg.OUTPUT_DIR} holds {state} run of another config ({tell(differing)}): choose another --output-dir, "
            "or replace that run with --overwrite"
        )
    if differing:
        clear(cfg.OUTPUT_DIR)
    mkdir_if_missing(cfg.OUTPUT_DIR)
    remove_half_written(cfg.OUTPUT_DIR)
    path = os.path.join(cfg.OUTPUT_DIR, CONFIG)
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(cfg.dump())


def conflict(cfg: CfgNode) -> dict[str, tuple[Any, Any]]:
    """What sets the run that cfg.OUTPUT_DIR holds apart from this config: {key: (its value, ours)}, keys in order.

    Empty where the folder holds none, or one of the same config. Raises UserError if its config.yaml is damaged.
    """
    if not (os.path.isfile(os.path.join(cfg.OUTPUT_DIR, CONFIG)) and _holds_a_run(cfg.OUTPUT_DIR)):
        return {}
    held, ours = read_config(cfg.OUTPUT_DIR), flat(_tree(cfg))
    return {key: (held[key], ours[key]) for key in _differing(held, ours, _no_effect(cfg))}


def clear(folder: str | os.PathLike) -> None:
    """Remove an earlier run's checkpoints and result. Its logs stay, and so do runs in folders below."""
    pointers = _pointers(folder)
    doomed = [os.path.join(folder, METRICS), *pointers]  # first what makes it a run, last what tells of which
    for pointer in pointers:
        doomed += glob.glob(os.path.join(glob.escape(os.path.dirname(pointer)), ANY_CHECKPOINT))
    for path in [*doomed, *(os.path.join(folder, name) for name in (CONFUSIONS, INPUTS, LOGGERS, CLASSES, CONFIG))]:
        if os.path.isfile(path):
            os.remove(path)


def tell(differing: Mapping[str, tuple[Any, Any]]) -> str:
    """What `conflict` found, in words: one key, the backbone before what follows it, and how many more there are."""
    key = BACKBONE if BACKBONE in differing else next(iter(differing))
    theirs, ours = differing[key]
    more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
    return f"{key} was {theirs!r}, is now {ours!r}{more}"


def read_config(folder: str | os.PathLike) -> dict[str, Any]:
    """{"OPTIM.LR": value, ...} as the run in a folder has it. Raises UserError if there is none, or it is damaged."""
    path = os.path.join(folder, CONFIG)
    try:
        with open(path, encoding="utf-8") as file:
            return flat(yaml.safe_load(file) or {})
    except OSError as error:
        raise UserError(f"no run in {folder}: cannot read {path} ({error.strerror})") from error
    except Exception as error:  # yaml's constructors raise almost anything
        raise UserError(f"{path} is damaged: choose another folder, or remove that one") from error


@processes.first_alone
def write_classes(folder: str | os.PathLike, dataset: DatasetBase) -> None:
    """Write classes.json, from which the model can be built again without the dataset."""
    write_json(dataset.classes(), os.path.join(folder, CLASSES))


def read_classes(folder: str | os.PathLike) -> dict[str, Any] | None:
    """What `write_classes` wrote, or None: runs of earlier versions have no such file.

    Raises:
        UserError: it is damaged, or not the file that inputs.json has the digest of.
    """
    path = os.path.join(folder, CLASSES)
    if not os.path.isfile(path):
        return None
    classes = read_json(path)
    names = classes.get("classnames") if isinstance(classes, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} is damaged: repeat the run's train.py command to write it again")
    recorded = _recorded_classes(folder)
    if recorded and recorded != digests.of_value(classes):
        raise UserError(
            f"{path} does not hold the classes that {INPUTS} beside it recorded: repeat the run's train.py command to "
            "write both again"
        )
    return classes


def _recorded_classes(folder):
    """Their digest in inputs.json, or None."""
    try:
        with open(os.path.join(folder, INPUTS), encoding="utf-8") as file:
            return json.load(file)["data"]["classes"]
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or whoever needs it says that it is damaged
        return None


def is_finished(cfg: CfgNode) -> bool:
    """Whether cfg.OUTPUT_DIR holds the result of this config, and all output that it asks for."""
    try:
        with open(os.path.join(cfg.OUTPUT_DIR, METRICS), encoding="utf-8") as file:
            held = flat(json.load(file)["config"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # missing or damaged
        return False
    return not _differing(held, flat(_tree(cfg)), _no_effect(cfg) - MORE_OUTPUT)


@processes.first_alone
def write_metrics(cfg: CfgNode, metrics: Mapping[str, Any]) -> None:
    """Write metrics.json: what was measured, then everything needed to tell which run it was."""
    record = {
        **metrics,
        "trainer": cfg.TRAINER.NAME,
        "dataset": cfg.DATASET.NAME,
        "subsample_classes": cfg.DATASET.SUBSAMPLE_CLASSES,
        "shots": cfg.DATASET.NUM_SHOTS,
        "seed": cfg.SEED,
        "backbone": cfg.RELEASE.WEIGHTS or cfg.MODEL.BACKBONE.NAME,
        "release": cfg.RELEASE.NAME,
        "peak_memory_mb": _peak_memory_mb(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "processes": processes.count(),
        "device": torch.cuda.get_device_name() if cfg.USE_CUDA and torch.cuda.is_available() else "cpu",
        "numerics": numerics(),
        "config": _tree(cfg),
    }
    write_json(record, os.path.join(cfg.OUTPUT_DIR, METRICS))


def _holds_a_run(folder):
    """Whether a run got as far as a checkpoint or a result; one that failed at its start leaves nothing to protect."""
    return os.path.isfile(os.path.join(folder, METRICS)) or bool(_pointers(folder))


def _pointers(folder):
    return glob.glob(os.path.join(glob.escape(os.fspath(folder)), "*", POINTER))


def _no_effect(cfg):
    return NO_EFFECT - {"DATASET.ROOT"} if DATASET_REGISTRY.get(cfg.DATASET.NAME).root_is_data else NO_EFFECT


def _differing(held, ours, no_effect):
    """The keys, sorted, in which two flat configs differ to some effect."""
    # a key on one side alone belongs to a trainer or a version that the other run did not know
    keys = [k for k in sorted(held.keys() & ours.keys()) if k not in no_effect and held[k] != ours[k]]
    # weights of a neighbour, in an output that moved or that is named in another way
    places = [(run.get(WEIGHTS), run.get("OUTPUT_DIR")) for run in (held, ours)]
    seen_from_here = [os.path.relpath(*place) for place in places if all(isinstance(x, str) and x for x in place)]
    moved = len(seen_from_here) == 2 and len(set(seen_from_here)) == 1
    return [k for k in keys if not (k == WEIGHTS and moved)]


def _tree(cfg):
    """The config as plain dicts, lists and values, as yaml and JSON give them back."""
    return json.loads(json.dumps(cfg))


def _peak_memory_mb():
    """On a GPU the most its allocator held, elsewhere the process's largest resident set, in MiB."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if platform.system() == "Darwin" else 2**10), 1)
