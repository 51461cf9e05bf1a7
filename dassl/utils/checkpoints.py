"""Model weights on disk: written whole or not at all, loaded without running code from the file."""

import logging
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn, optim
from torch.optim import lr_scheduler

from dassl import layout
from dassl.errors import UserError
from dassl.utils.files import atomic_path, mkdir_if_missing

logger = logging.getLogger(__name__)


def _no_defaultdict(factory):
    """A plain dict: torch's weights_only cannot fill a defaultdict."""
    return {}


# Checkpoints of Dassl, CoOp's released weights among them, hold the scheduler behind a warm-up as an object,
# and with it the optimizer. To rebuild these classes of torch runs no code from the file.
IN_DASSL_CHECKPOINTS = [
    dict,
    (_no_defaultdict, "collections.defaultdict"),
    lr_scheduler.CosineAnnealingLR,
    lr_scheduler.MultiStepLR,
    lr_scheduler.StepLR,
    optim.Adam,
    optim.RMSprop,
    optim.SGD,
]


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str | Path,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> None:
    """Write <save_dir>/model.pth.tar-<epoch>, then the file <save_dir>/checkpoint that holds its name.

    Args:
        state: a dict with "state_dict", "epoch" (epochs done) and whatever else is to be kept, made of
            nothing but tensors, numbers, strings, lists, tuples and dicts.
        save_dir: the folder, created where missing.
        is_best: write model-best.pth.tar as well.
        remove_module_from_keys: take DataParallel's "module." off the keys of the state dict.
        model_name: the file's name instead of model.pth.tar-<epoch>.
    """
    if remove_module_from_keys:
        state = state | {"state_dict": _without_module(state["state_dict"])}
    mkdir_if_missing(save_dir)
    name = model_name or layout.checkpoint(state["epoch"])
    path = os.path.join(save_dir, name)
    # through a file object: given a path, torch writes its name into the file
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)
    with atomic_path(os.path.join(save_dir, layout.POINTER)) as temporary:
        temporary.write_text(name + "\n", encoding="utf-8")
    logger.info("Checkpoint saved to %s", path)
    if is_best:
        with atomic_path(os.path.join(save_dir, layout.BEST)) as temporary:
            shutil.copyfile(path, temporary)


def load_checkpoint(fpath: str | Path) -> dict[str, Any]:
    """What `save_checkpoint` (or Dassl's) wrote, on the CPU.

    Raises:
        UserError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    checkpoint = _load(fpath)
    if not isinstance(checkpoint, dict):
        raise UserError(f"{fpath} holds a {type(checkpoint).__name__}, not a checkpoint")
    return checkpoint


def _load(fpath):
    """What a file holds, whatever it is; raises as `load_checkpoint` does."""
    try:
        with torch.serialization.safe_globals(IN_DASSL_CHECKPOINTS):
            return torch.load(fpath, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"no checkpoint at {fpath}") from error
    except Exception as error:  # torch raises almost anything on a damaged file
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise UserError(
                f"{fpath} holds pickled code, which is not run here: save tensors and plain values only"
            ) from error
        reason = type(error).__name__
        raise UserError(f"cannot load {fpath}: damaged, or not a checkpoint ({reason})") from error


def resume_from_checkpoint(
    fdir: str | Path, model: nn.Module, optimizer: optim.Optimizer | None = None, scheduler: Any = None
) -> int:
    """Load the checkpoint that <fdir>/checkpoint names into model, optimizer and scheduler.

    Returns:
        The epoch to go on with.

    Raises:
        UserError: there is no checkpoint, or it is of another model.
    """
    try:
        with open(os.path.join(fdir, layout.POINTER), encoding="utf-8") as file:
            path = os.path.join(fdir, file.read().strip())
    except OSError as error:
        raise UserError(f"no checkpoint to resume from in {fdir} ({error.strerror})") from error
    checkpoint = load_checkpoint(path)
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{path} does not fit the model: {error}") from error
    for part, key in ((optimizer, "optimizer"), (scheduler, "scheduler")):
        if part is not None and checkpoint.get(key) is not None:
            part.load_state_dict(checkpoint[key])
    logger.info("Resumed from %s (epoch %d)", path, checkpoint["epoch"])
    return checkpoint["epoch"]


def load_pretrained_weights(
    model: nn.Module,
    weight_path: str | Path,
    adapt: Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]] | None = None,
) -> None:
    """Load the layers of a checkpoint or bare state dict that the model has under the same name and size.

    What is left out is logged.

    Args:
        adapt: what the state dict is passed through first, or None. A bare tensor comes to it under the name "tensor".

    Raises:
        UserError: the file cannot be loaded, or not a single layer fits.
    """
    given = _load(weight_path)
    if isinstance(given, torch.Tensor):
        given = {"tensor": given}
    if isinstance(given, dict):
        given = given.get("state_dict", given)
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise UserError(f"{weight_path} holds neither a checkpoint nor a state dict")
    given = _without_module(given)
    given = given if adapt is None else adapt(given)
    own = model.state_dict()
    fitting = {k: v for k, v in given.items() if k in own and own[k].shape == getattr(v, "shape", None)}
    if not fitting:
        raise UserError(
            f"no layer in {weight_path} fits the model in name and size "
            f"(there: {_some(given)}; the model's: {_some(own)})"
        )
    model.load_state_dict(fitting, strict=False)
    logger.info("Loaded pretrained weights from %s", weight_path)
    left_out = [k for k in given if k not in fitting]
    if left_out:
        logger.info("Layers left out, as their name or size is not the model's: %s", ", ".join(left_out))


def _without_module(state_dict):
    return {k.removeprefix("module."): v for k, v in state_dict.items()}


def _some(names, limit=3):
    """The first few names."""
    names = list(names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
