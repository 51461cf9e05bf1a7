"""Model weights on disk: written whole or not at all, verified as they are loaded, and no code in them is run."""

import errno
import io
import logging
import math
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
from dassl.utils import zips
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


IMPLEMENTATION = {"capturable", "differentiable", "foreign", "fused"}
"""Options of torch's optimizers that say how a step is computed, not what it is."""

LIKE_ITS_PARAMETER = {"exp_avg", "exp_avg_sq", "grad_avg", "max_exp_avg_sq", "momentum_buffer", "square_avg"}
"""What torch's optimizers keep for each parameter in its size."""


class DamagedError(UserError):
    """A file of weights, or of a run's state, is gone, not what was once written, or not of what it is loaded into."""


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

    Raises:
        WriteError: the disk is full, read-only or someone else's.
    """
    if remove_module_from_keys:
        state = state | {"state_dict": _without_module(state["state_dict"])}
    mkdir_if_missing(save_dir)
    name = model_name or layout.checkpoint(state["epoch"])
    path = os.path.join(save_dir, name)
    content = io.BytesIO()  # given a path, torch writes its name into the file, and hides why it cannot be written
    torch.save(state, content)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())
    with atomic_path(os.path.join(save_dir, layout.POINTER)) as temporary:
        temporary.write_text(name + "\n", encoding="utf-8")
    logger.info("Checkpoint saved to %s", path)
    if is_best:
        with atomic_path(os.path.join(save_dir, layout.BEST)) as temporary:
            shutil.copyfile(path, temporary)


def load_checkpoint(fpath: str | Path) -> dict[str, Any]:
    """What `save_checkpoint` (or Dassl's) wrote, on the CPU; every byte of its content as it was written.

    Raises:
        DamagedError: the file is missing or damaged, holds more than tensors and plain values, or no "state_dict".
        UserError: it cannot be read.
    """
    checkpoint = _load(fpath)
    if not isinstance(checkpoint, dict):
        raise DamagedError(f"{fpath} holds a {type(checkpoint).__name__}, not a checkpoint")
    weights = checkpoint.get("state_dict")
    if not isinstance(weights, dict):
        raise DamagedError(f"{fpath} is no checkpoint: it has no state_dict")
    if not isinstance(epoch := checkpoint.get("epoch", 0), int) or epoch < 0:
        raise DamagedError(f"{fpath} is damaged: its epoch is {epoch!r}")
    for key, value in weights.items():
        if not isinstance(key, str) or not (isinstance(value, torch.Tensor) or key.endswith("_extra_state")):
            raise DamagedError(f"{fpath} is damaged: {key!r} in its state_dict is a {type(value).__name__}")
    return checkpoint


def _load(fpath):
    """What a file holds, whatever it is; raises as `load_checkpoint` does."""
    if os.path.exists(fpath) and not os.path.isfile(fpath):  # a pipe would be waited for
        raise UserError(f"{fpath} is not a file")
    try:
        with open(fpath, "rb") as file, torch.serialization.safe_globals(IN_DASSL_CHECKPOINTS):
            if file.read(4) == b"PK\3\4":  # since torch 1.6 files have checksums, which torch does not compare
                zips.members(fpath)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DamagedError(f"no checkpoint at {fpath}") from error
    except OSError as error:
        kind = DamagedError if error.errno == errno.EIO else UserError  # a bad sector stays one
        raise kind(f"cannot read {fpath}: {error.strerror or error}") from error
    except Exception as error:  # torch raises almost anything on a damaged file
        _tell_of_memory(error, fpath)
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise DamagedError(
                f"{fpath} holds pickled code, which is not run here: save tensors and plain values only"
            ) from error
        reason = type(error).__name__
        raise DamagedError(f"cannot load {fpath}: damaged, or not a checkpoint ({reason})") from error


def _tell_of_memory(error, source):
    """Raise UserError where it was memory that lacked: the file may be whole."""
    lacks = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    if lacks:
        raise UserError(f"there is not enough memory to load {source}") from error


def check_values(model: nn.Module, state_dict: Mapping[str, Any], source: str | Path) -> None:
    """Raise DamagedError where values cannot be the model's: of another kind of number, or infinite where its are not.

    Args:
        model: it may have other names and sizes, of which its own `load_state_dict` tells.
        state_dict: {name: tensor}.
        source: where they come from, for the message.
    """
    own = model.state_dict()
    for key, value in state_dict.items():
        mine = own.get(key)
        if not isinstance(value, torch.Tensor) or not isinstance(mine, torch.Tensor):
            continue
        if _kind(value) != _kind(mine):
            raise DamagedError(f"{source} is damaged: {key} is {value.dtype}, not {mine.dtype}")
        if value.shape == mine.shape and mine.isfinite().all() and not value.isfinite().all():
            raise DamagedError(f"{source} is damaged: {key} has infinite values or NaN")


def take_up(part: Any, state: Any, source: str | Path) -> None:
    """Load the state of an optimizer or scheduler, where it is one of that kind, and whole.

    Raises:
        DamagedError: it is not; `source` is where it comes from.
    """
    try:
        if isinstance(part, optim.Optimizer):
            _load_optimizer(part, state)
        else:
            if not _alike(state, part.state_dict()):
                raise ValueError("another kind")
            part.load_state_dict(state)
    except Exception as error:  # torch looks at little of what it takes up
        _tell_of_memory(error, source)
        raise DamagedError(
            f"{source} does not hold the state of this run's {type(part).__name__}: that is of another kind, or damaged"
        ) from error


def _load_optimizer(optimizer, state):
    own = [{k: v for k, v in g.items() if k in optimizer.defaults} for g in optimizer.param_groups]
    optimizer.load_state_dict(state)  # which fills in what earlier versions of torch did not have
    for before, saved, loaded in zip(own, state["param_groups"], optimizer.param_groups, strict=True):
        for key in before.keys() - IMPLEMENTATION:
            if not _alike(saved.get(key, loaded[key]), before[key]):
                raise ValueError(key)
    known = {p for group in optimizer.param_groups for p in group["params"]}
    for p, values in optimizer.state.items():
        for name, value in values.items():
            if p not in known or (name in LIKE_ITS_PARAMETER and value is not None and value.shape != p.shape):
                raise ValueError(name)
            if isinstance(value, torch.Tensor) and value.isnan().any():  # in half precision some become infinite
                raise ValueError(name)


def _alike(saved, own):
    """Whether a saved value is of the kind of one's own: the same flags, names and lengths, and finite numbers."""
    if isinstance(own, bool):
        return saved is own
    if isinstance(own, int | float):
        number = isinstance(saved, int | float) and not isinstance(saved, bool)
        return number and (math.isfinite(saved) or not math.isfinite(own))
    if isinstance(own, list | tuple) and own:
        return isinstance(saved, list | tuple) and len(saved) == len(own) and all(map(_alike, saved, own))
    if type(own) is dict:
        if type(saved) is not dict or any(key not in saved for key in own if not key.startswith("_")):
            return False  # torch's private names change with its version
        return all(_alike(saved[key], own[key]) for key in saved.keys() & own.keys())
    return own is None or type(saved) is type(own)


def resume_from_checkpoint(
    fdir: str | Path, model: nn.Module, optimizer: optim.Optimizer | None = None, scheduler: Any = None
) -> int:
    """Load the checkpoint that <fdir>/checkpoint names into model, optimizer and scheduler.

    Returns:
        The epoch to go on with.

    Raises:
        UserError: there is no checkpoint, or it is damaged or of another model.
    """
    try:
        with open(os.path.join(fdir, layout.POINTER), encoding="utf-8") as file:
            path = os.path.join(fdir, os.path.basename(file.read().strip()))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or f"its {layout.POINTER} is damaged"
        raise UserError(f"no checkpoint to resume from in {fdir} ({reason})") from error
    checkpoint = load_checkpoint(path)
    check_values(model, checkpoint["state_dict"], path)
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{path} does not fit the model: {error}") from error
    for part, key in ((optimizer, "optimizer"), (scheduler, "scheduler")):
        if part is not None and checkpoint.get(key) is not None:
            take_up(part, checkpoint[key], path)
    epoch = checkpoint.get("epoch", 0)
    logger.info("Resumed from %s (epoch %d)", path, epoch)
    return epoch


def load_weights(fpath: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint's state dict, of a bare one, or a bare tensor under the name "tensor".

    Raises:
        UserError: as `load_checkpoint`.
    """
    given = _load(fpath)
    if isinstance(given, torch.Tensor):
        given = {"tensor": given}
    if isinstance(given, dict):
        given = given.get("state_dict", given)
    if isinstance(given, dict):
        given = {k: v for k, v in given.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    if not isinstance(given, dict) or not given:
        raise DamagedError(f"{fpath} holds neither a checkpoint nor a state dict")
    return _without_module(given)


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
        UserError: the file cannot be loaded, is damaged, or not a single layer fits.
    """
    found = load_weights(weight_path)
    given = found if adapt is None else adapt(found)
    own = model.state_dict()
    fitting = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise UserError(
            f"no layer in {weight_path} fits the model in name and size "
            f"(there: {_some(given)}; the model's: {_some(own)})"
        )
    check_values(model, fitting, weight_path)
    model.load_state_dict(fitting, strict=False)
    logger.info("Loaded pretrained weights from %s", weight_path)
    left_out = [k for k in given if k not in fitting]
    if left_out:
        logger.info("Layers left out, as their name or size is not the model's: %s", ", ".join(left_out))


def _kind(tensor):
    return (
        tensor.layout,
        tensor.is_quantized,
        tensor.is_complex(),
        tensor.is_floating_point(),
        tensor.dtype == torch.bool,
    )


def _without_module(state_dict):
    return {k.removeprefix("module."): v for k, v in state_dict.items()}


def _some(names, limit=3):
    """The first few names."""
    names = list(names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
