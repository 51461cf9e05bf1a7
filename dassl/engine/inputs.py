"""What went into a run, for <run>/inputs.json: digests of its data, weights and code, and what computed it.

arguments     those of train.py that are not config
data          split: the published file. classes; of train, unlabelled, val and test: images, their number; list,
              of (path below DATASET.ROOT, label, class name) in order; contents, of the files, null where the run
              does not read them or they are more than MOST
weights       backbone: of its files. files: of the checkpoints that it was given. start: of what it learns, as
              training or evaluation begins
code          the package's version, the commit of a clone ("-dirty": with changes); of the .py files of packages
environment   versions, device, threads, numerics
earlier       records of starts of the same run before, where something of this was another
"""

import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

import dassl
from dassl.layout import INPUTS, POINTER, flat, last_checkpoints
from dassl.utils import UserError, digests, numerics, processes, read_json, write_json
from dassl.utils.environment import versions

logger = logging.getLogger(__name__)

MOST = 2**16
"""Images of a list whose content is digested, ImageNet's 50,000 test images among them: a whole training set takes too
long."""

EARLIER = "earlier"

PARTS = {
    "train": ("train_x", "train_loader_x"),
    "unlabelled": ("train_u", "train_loader_u"),
    "val": ("val", "val_loader"),
    "test": ("test", "test_loader"),
}
"""Of the data: the data set's attribute, and that of the trainer which loads it."""


def of(trainer: Any, arguments: Mapping[str, Any], packages: Iterable[str] = (), version: str = "") -> dict[str, Any]:
    """The record of a run whose model is built, and whose weights are loaded if it evaluates some.

    Args:
        trainer: a SimpleTrainer.
        arguments: those that are not config; "eval_only" among them.
        packages: names of those whose code decides the result, beside dassl and the trainer's and data set's own.
        version: of the project.
    """
    cfg = trainer.cfg
    backbone = {"name": cfg.MODEL.BACKBONE.NAME, "sha256": trainer.backbone_digest()}
    start = {name: digests.of_tensors(model.state_dict()) for name, model in trainer._models.items()}
    resumed = last_checkpoints(cfg.RESUME) if cfg.RESUME else []
    files = trainer.given_weights | {f"{path.parent.name}/{path.name}": digests.sha256(path) for path in resumed}
    classes = (*type(trainer).__mro__, *type(trainer.dm.dataset).__mro__)
    tops = {"dassl", *packages, *(kind.__module__.partition(".")[0] for kind in classes)}
    tops -= {"torch", "abc", "builtins", "typing"}
    return {
        "arguments": dict(arguments),
        "data": _data(trainer, arguments.get("eval_only")),
        "weights": {"backbone": backbone, "files": files, "start": start},
        "code": {"version": version, "commit": _commit(), **{top: _code(top) for top in sorted(tops)}},
        "environment": {
            "versions": versions(),
            "device": torch.cuda.get_device_name() if trainer.device.type == "cuda" else "cpu",
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "processes": processes.count(),
            "numerics": numerics(),
        },
    }


@processes.first_alone
def write(folder: str | os.PathLike, record: dict[str, Any]) -> None:
    """Write inputs.json; what a run that goes on began with, and what is another now, stays in it and is logged."""
    try:
        held = read(folder)
    except UserError as error:
        logger.warning("Written anew: %s", error)
        held = None
    going_on = any(Path(folder).glob(f"*/{POINTER}"))
    differing = differences(held, record) if held and going_on else []
    earlier = (held or {}).pop(EARLIER, []) if going_on else []
    for line in differing:
        logger.warning("Since this run began: %s", line)
    earlier += [held] if differing else []
    record |= {EARLIER: earlier} if earlier else {}
    write_json(record, os.path.join(folder, INPUTS))


def read(folder: str | os.PathLike) -> dict[str, Any] | None:
    """What `write` wrote, or None: runs of earlier versions have no such file. Raises UserError if damaged."""
    path = os.path.join(folder, INPUTS)
    if not os.path.isfile(path):
        return None
    held = read_json(path)
    parts = ("arguments", "data", "weights")
    whole = isinstance(held, dict) and all(isinstance(held.get(part), dict) for part in parts)
    if not whole or not isinstance(held.get(EARLIER, []), list):
        raise UserError(f"{path} is damaged: repeat the run's train.py command to write it again, or remove it")
    return held


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What two records differ in, a line each; names and places of the same content do not count."""
    passed_over = ("weights.backbone.name", "arguments.model_dir", EARLIER)
    old, new = ({k: v for k, v in flat(dict(one)).items() if not k.startswith(passed_over)} for one in (theirs, ours))
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    return [f"{key} was {_short(old.get(key))}, is {_short(new.get(key))}" for key in keys]


def _short(value):
    text = str(value)
    return text[:12] if len(text) == 64 else text


def _data(trainer, eval_only):
    dataset, root, test = trainer.dm.dataset, trainer.cfg.DATASET.ROOT, trainer.cfg.TEST
    split = getattr(dataset, "split", None)
    found: dict[str, Any] = {"classes": digests.of_value(dataset.classes())}
    found["split"] = digests.sha256(split) if isinstance(split, str) and os.path.isfile(split) else None
    for part, (items, loader) in PARTS.items():
        listed = getattr(dataset, items, None)
        is_read = part == test.SPLIT if eval_only else part != "test" or (test.SPLIT == part and not test.NO_TEST)
        owner = getattr(getattr(trainer, loader, None), "dataset", dataset)
        found[part] = _list(listed, root, owner if is_read else None) if listed else None
    return found


def _list(items, root, owner):
    """What is recorded of a list of Datum; owner: as `digests.of_images` has it, None where no image is read."""
    roots = [os.path.join(path, "") for path in (os.path.abspath(os.path.expanduser(root)), root) if path]
    digest = hashlib.sha256()
    for item in items:
        path = str(item.impath)
        path = next((path[len(start) :] for start in roots if path.startswith(start)), path)
        digest.update(repr((path, int(item.label), str(item.classname))).encode())
    contents = None
    if owner is not None and len(items) <= MOST:
        try:
            contents = digests.of_images(owner, [item.impath for item in items])
        except UserError as error:  # whoever needs the image says so
            logger.debug("%s", error)
    return {"images": len(items), "list": digest.hexdigest(), "contents": contents}


def _code(top):
    """Of the .py files of a package, or of a module; None where it has none."""
    module = sys.modules.get(top)
    folders = list(getattr(module, "__path__", ()))
    files = sorted(Path(folders[0]).rglob("*.py")) if folders else [Path(getattr(module, "__file__", None) or "")]
    digest = hashlib.sha256()
    for path in files:
        if not path.is_file():
            return None
        name = path.relative_to(folders[0]).as_posix() if folders else path.name
        digest.update(repr((name, digests.sha256(path))).encode())
    return digest.hexdigest()


def _commit():
    """Of the clone that this is of, "-dirty" behind it where files are not as they were committed; None elsewhere."""
    home = Path(dassl.__file__).parents[1]
    if not (home / ".git").exists():
        return None
    try:
        commit, changes = _git(home, "rev-parse", "HEAD"), _git(home, "status", "--porcelain", "-uno")
    except (OSError, subprocess.SubprocessError):  # no git here
        return None
    return commit + "-dirty" * bool(changes)


def _git(home, *arguments):
    """What git says; it takes no lock, which a commit at the same time would fail on."""
    command = ["git", "--no-optional-locks", "-C", str(home), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
