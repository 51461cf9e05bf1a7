"""What weights were made with, classes and backbone: every checkpoint says it, wherever it lies.

Of one that does not, a run of an earlier version's or a published one, the folder of its run may: classes.json and
inputs.json beside its model's folder. What nobody knows is not compared, and the log says so.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from dassl.engine import class_axes, run_folder
from dassl.layout import ANY_CHECKPOINT, BEST, INPUTS, last_checkpoints
from dassl.layout import checkpoint as checkpoint_name
from dassl.utils import UserError, digests, load_checkpoint, processes, read_json
from dassl.utils.logger import log_once

logger = logging.getLogger(__name__)

KEY = "made_with"
"""Of checkpoints."""


class MadeWith(NamedTuple):
    """What is known of weights.

    Attributes:
        classnames: in the order of the labels; None: not known.
        backbone: its name; "": not known.
        digest: of the backbone's files; "": not known.
    """

    classnames: list[str] | None = None
    backbone: str = ""
    digest: str = ""


def of(trainer: Any) -> MadeWith:
    """What a trainer's own weights are made with."""
    names = [str(name) for name in trainer.dm.dataset.classnames]
    return MadeWith(names, trainer.cfg.MODEL.BACKBONE.NAME, trainer.backbone_digest())


def read(path: str | Path, checkpoint: Mapping[str, Any] | None = None) -> MadeWith:
    """What a checkpoint says, else its run's folder. Raises UserError where a file of that folder is damaged."""
    try:
        told = (load_checkpoint(path) if checkpoint is None else checkpoint).get(KEY)
    except UserError:  # whoever loads it says more; some weights are no checkpoint
        told = None
    if isinstance(told, dict) and isinstance(told.get("classnames"), list):
        return MadeWith([*map(str, told["classnames"])], *(str(told.get(key) or "") for key in ("backbone", "digest")))
    folder = run_of(path)
    classes, inputs = run_folder.read_classes(folder), os.path.join(folder, INPUTS)
    names = None if classes is None else classes["classnames"]
    try:
        backbone = read_json(inputs)["weights"]["backbone"] if os.path.isfile(inputs) else {}
        return MadeWith(names, backbone.get("name", ""), backbone.get("sha256", ""))
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{inputs} is damaged: remove it to go on without comparing what the run was made with"
        ) from error


def run_of(path: str | Path) -> str:
    """The run that a checkpoint is of: <run>/<model name>/<file>."""
    return os.path.dirname(os.path.dirname(os.path.abspath(path)))


def check(
    trainer: Any, path: str | Path, resumes: bool = False, checkpoint: Mapping[str, Any] | None = None
) -> MadeWith:
    """What weights were made with, where a trainer may take them.

    Args:
        trainer: a SimpleTrainer.
        path: of a checkpoint.
        resumes: its training is to go on. Then it must be on the same classes, in the same order.
        checkpoint: what the file holds, if it is loaded already.

    Raises:
        UserError: the backbone was another one, and MODEL.BACKBONE.ALLOW_OTHER is not set; or the classes were, in a
            training to go on, or where a parameter looks as if it held something of every class and the trainer does
            not say (`class_axes` None).
    """
    theirs, ours = read(path, checkpoint), of(trainer)
    trainer.given_weights["/".join(Path(path).parts[-2:])] = digests.sha256(path)
    _check_backbone(theirs, ours, path, not resumes and trainer.cfg.MODEL.BACKBONE.ALLOW_OTHER)
    if theirs.classnames is None:
        theirs = theirs._replace(classnames=trainer.told_classes)
    unknown = ["classes"] * (theirs.classnames is None) + ["backbone"] * bool(ours.digest and not theirs.digest)
    if unknown:
        log_once(logging.WARNING, f"{path} does not say its {' and '.join(unknown)}: not compared with this run's")
    names = theirs.classnames
    if names is None or class_axes.same(names, ours.classnames or []):
        return theirs
    if resumes:
        raise _other_classes(path, names, ours.classnames)
    for model in trainer._models.values() if trainer.class_axes is None else ():
        for name in class_axes.doubtful(model, names, ours.classnames or []):
            size = tuple(model.get_parameter(name).shape)
            raise UserError(
                f"{path} has other classes than this run, and {trainer.cfg.TRAINER.NAME} does not say "
                f"whether its parameter {name} holds values for each class, as its size {size} suggests: "
                f"set the trainer's class_axes to {{}} if not, or to {{{name!r}: axis of the classes}}"
            )
    return theirs


def check_run(trainer: Any, directory: str | Path, epoch: int | None = None) -> None:
    """`check` a run's checkpoints of an epoch, else the best, else the last, for a trainer with a `load_model` of its
    own; where there are none of these, all that there are."""
    run = Path(directory)
    wanted = [*run.glob(f"*/{BEST if epoch is None else checkpoint_name(epoch)}")]
    for path in sorted(wanted or last_checkpoints(run) or run.glob(f"*/{ANY_CHECKPOINT}")):
        check(trainer, path)


@processes.first_alone
def check_own(trainer: Any) -> None:
    """Raise UserError where a run's own folder holds checkpoints of other classes, before it is written to: those of an
    earlier version say theirs in classes.json alone."""
    paths = last_checkpoints(trainer.cfg.OUTPUT_DIR)
    try:
        classes = run_folder.read_classes(trainer.cfg.OUTPUT_DIR) if paths else None
    except UserError as error:
        logger.warning("Written anew: %s", error)
        return
    ours = trainer.dm.dataset.classnames
    if classes and not class_axes.same(classes["classnames"], ours):
        raise _other_classes(paths[0], classes["classnames"], ours)


def fitted(
    trainer: Any, model: nn.Module, weights: Mapping[str, torch.Tensor], path: str | Path
) -> Mapping[str, torch.Tensor]:
    """A checkpoint's state dict for a trainer's classes, each with what is there under its name.

    Raises:
        UserError: as `check` does; or a class has nothing there that the model needs.
    """
    theirs = check(trainer, path).classnames
    its_own = os.path.realpath(run_of(path)) == os.path.realpath(trainer.output_dir)
    if not trainer.class_axes or (theirs is None and its_own):
        return weights
    ours, start = trainer.dm.dataset.classnames, model.state_dict()
    return class_axes.match(
        weights, start, trainer.class_axes, theirs, ours, str(path), as_started=trainer.new_classes_as_started
    )


def _check_backbone(theirs, ours, path, allowed):
    if not theirs.digest or not ours.digest or theirs.digest == ours.digest:
        return
    names = [f"{one.backbone} (SHA-256 {one.digest[:12]})" for one in (theirs, ours)]
    if not allowed:
        raise UserError(
            f"{path} was trained with the backbone {names[0]}, but this run has {names[1]}: give it the one that it "
            "was trained with, or set MODEL.BACKBONE.ALLOW_OTHER True to evaluate it with this one"
        )
    log_once(logging.WARNING, f"{path} was trained with the backbone {names[0]}; this run has {names[1]}")


def _other_classes(path, theirs, ours):
    return UserError(
        f"{path} was trained on other classes than this run's ({_first_difference(theirs, ours)}): its training "
        "can only continue on the same ones; choose another --output-dir, or start from its weights with "
        "MODEL.INIT_WEIGHTS"
    )


def _first_difference(theirs, ours):
    number = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), None)
    if number is None:
        return f"{len(theirs)}, not {len(ours)}"
    return f'number {number + 1} is "{theirs[number]}" there, "{ours[number]}" here'
