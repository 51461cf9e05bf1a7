"""A trainer's models on disk: saved after every epoch, resumed from the last checkpoints that are whole, loaded.

While a run trains, its last two checkpoints stay. One that is damaged is passed over for the one before, in all models
together; at the end the last one stays alone, once it has been read back.
"""

import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dassl import layout
from dassl.engine.steps import Steps
from dassl.layout import BEST
from dassl.utils import (
    UserError,
    atomic_path,
    get_rng_state,
    load_checkpoint,
    mkdir_if_missing,
    processes,
    remove_half_written,
    save_checkpoint,
    set_rng_state,
)
from dassl.utils.checkpoints import DamagedError, check_values, take_up

logger = logging.getLogger(__name__)


class MisfitError(UserError):
    """Weights belong to a different model from the one they are loaded into."""


class SavedModels:
    """What a trainer does with its registered models on disk, in <directory>/<name of the model>."""

    _models: OrderedDict[str, nn.Module]
    _optims: OrderedDict[str, Any]
    _scheds: OrderedDict[str, Any]
    _steps: Steps | None = None  # those under way
    get_model_names: Callable[..., list[str]]

    def has_weights(self) -> bool:
        """Whether any registered model has something to save and load; zero-shot CLIP has nothing."""
        return any(model.state_dict() for model in self._models.values())

    # Saving

    @processes.first_alone
    def save_model(
        self,
        epoch: int,
        directory: str | Path,
        is_best: bool = False,
        val_result: float | None = None,
        model_name: str = "",
    ) -> None:
        """Write <directory>/<name>/model.pth.tar-<epoch + 1> for every registered model."""
        if self._steps is not None:
            self._steps.look()
        for name in self._models:
            state = _state_of(self, name) | {
                "epoch": epoch + 1,
                "val_result": None if val_result is None else float(val_result),
                "run_state": self.run_state(),
                "made_with": self.made_with(),
            }
            save_checkpoint(state, os.path.join(directory, name), is_best=is_best, model_name=model_name)

    def made_with(self) -> dict[str, Any] | None:
        """What every checkpoint says of its classes and backbone, as `dassl.engine.made_with` has it."""

    def run_state(self) -> dict[str, Any]:
        """What a resumed run needs beyond models, optimizers and schedulers (weights_only-safe values)."""
        return {"rng": get_rng_state()}

    def load_run_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `run_state` gave."""
        set_rng_state(state["rng"])

    @processes.first_alone
    def thin_out_checkpoints(self, directory: str | Path, epoch: int, last: int, frequency: int) -> None:
        """Remove what a run that has come to an epoch needs no more; a kill at any moment finds a whole set.

        Args:
            directory: the run's.
            epoch: counted from 1. Its checkpoints stay, and those of the one before while they may be needed.
            last: the run's last epoch, whose checkpoints stay alone if they can be read back.
            frequency: checkpoints of its multiples stay as well; 0: of none.
        """
        doomed = [epoch - 2]
        if epoch == last and _is_whole(self, directory, epoch):
            doomed.append(epoch - 1)
        for number in doomed:
            if number < 1 or (frequency > 0 and number % frequency == 0):
                continue
            for name in self.get_model_names():
                path = os.path.join(directory, name, layout.checkpoint(number))
                if os.path.isfile(path):
                    os.remove(path)

    @processes.first_alone
    def sweep_models(self, directory: str | Path) -> None:
        """Remove what a kill left half-written in the folders of the models. Only for the folder's owner."""
        for name in self.get_model_names():
            remove_half_written(os.path.join(directory, name))

    # Resuming

    def resume_run(self, own: str | Path, other: str | Path = "") -> int:
        """Go on with the run in its own folder, else with the one in another; the epoch to start with, 0: from scratch.

        Args:
            own: where nothing is whole, the run begins from scratch, with a warning: its result is the same.
            other: a folder, or "".

        Raises:
            UserError: there is no run in `other`, or no checkpoint of it is whole.
        """
        if other and os.path.realpath(other) == os.path.realpath(own):
            other = ""
        if not other or _epochs_of(self, own):
            try:
                return self.resume_model_if_exist(own)
            except DamagedError as error:
                if isinstance(error.__cause__, MisfitError) and os.path.isfile(os.path.join(own, layout.METRICS)):
                    raise UserError(
                        f"{own} holds a finished run whose weights are whole, but of other code ({error.__cause__}): "
                        "choose another --output-dir, or remove that folder"
                    ) from error
                logger.warning("%s: training begins again from %s", error, other or "scratch")
        if not other:
            return 0
        if not os.path.isdir(other):
            raise UserError(f"no folder {other} to resume from (--resume)")
        epoch = self.resume_model_if_exist(other)
        if not epoch and self.has_weights():
            raise UserError(f"no run to resume in {other} (--resume): it has no checkpoints of this trainer's")
        self._take_best(other, own)
        return epoch

    def resume_model_if_exist(self, directory: str | Path) -> int:
        """Load the last epoch that all registered models have whole in a folder; return the epoch to start with.

        Returns:
            0 where there is no checkpoint.

        Raises:
            DamagedError: there are some, but none is whole and of these models, which are then as they were.
        """
        epochs, failed = _epochs_of(self, directory), []
        if not epochs:
            logger.info("No checkpoint found, train from scratch")
            return 0
        before = _copied({name: _state_of(self, name) for name in self._models}), _copied(self.run_state())
        for epoch in epochs:
            logger.info("Found checkpoint at %s (will resume training from epoch %d)", directory, epoch + 1)
            try:
                self._resume_epoch(directory, epoch)
                return epoch
            except (DamagedError, MisfitError) as error:
                logger.warning("Passed over: %s", error)
                failed.append(error)
            states, run_state = before
            for name, state in states.items():
                self._models[name].load_state_dict(state["state_dict"])
                _take_up(self, name, state, directory)
            self.load_run_state(run_state)
        raise DamagedError(f"no checkpoint in {directory} can be resumed: {failed[0]}") from failed[0]

    def _resume_epoch(self, directory, epoch):
        paths = {name: os.path.join(directory, name, layout.checkpoint(epoch)) for name in self.get_model_names()}
        checkpoints = {name: load_checkpoint(path) for name, path in paths.items()}
        for name, checkpoint in checkpoints.items():
            if checkpoint.get("epoch") != epoch:
                raise DamagedError(f"{paths[name]} is of epoch {checkpoint.get('epoch')}")
            self.check_weights(paths[name], resumes=True, checkpoint=checkpoint)
            self.check_resumable(name, checkpoint["state_dict"], directory)
            self.load_weights(name, checkpoint["state_dict"], directory)
            _take_up(self, name, checkpoint, paths[name])
        if "run_state" in checkpoint:  # not in Dassl's
            try:
                self.load_run_state(checkpoint["run_state"])
            except Exception as error:  # a value of the wrong type raises almost anything
                reason = type(error).__name__
                raise DamagedError(
                    f"{paths[name]} is damaged: the state of the run in it is not whole ({reason})"
                ) from error
        self.check_resumed(directory)

    def check_resumable(self, name: str, state_dict: Mapping[str, torch.Tensor], source: str | Path) -> None:
        """Raise MisfitError where a model cannot be trained on from weights that `load_weights` would yet take."""

    def check_resumed(self, directory: str | Path) -> None:
        """Raise DamagedError where a folder that was resumed lacks more that the run needs."""

    @processes.first_alone
    def _take_best(self, other, own):
        """Copy the best models of the run to resume, so that this one may end with them."""
        for name in self.get_model_names():
            best = os.path.join(other, name, BEST)
            if os.path.isfile(best):
                mkdir_if_missing(os.path.join(own, name))
                with atomic_path(os.path.join(own, name, BEST)) as temporary:
                    shutil.copyfile(best, temporary)

    # Loading

    def load_model(self, directory: str | Path = "", epoch: int | None = None) -> None:
        """Load weights of all registered models: of an epoch, else the best on val, else the last.

        Raises:
            UserError: there is no such file, it is damaged, or the weights do not fit.
        """
        if not directory:
            logger.info("Note that load_model() is skipped as no pretrained model is given")
            return
        folders = {name: self.model_folder(directory, name) for name in self.get_model_names()}
        file = BEST if epoch is None else layout.checkpoint(epoch)
        if epoch is None and not all(os.path.isfile(os.path.join(folder, BEST)) for folder in folders.values()):
            file = next((layout.checkpoint(last) for last in _common_epochs(folders.values())), BEST)
        paths = {name: os.path.join(folder, file) for name, folder in folders.items()}
        for path in paths.values():
            if not os.path.isfile(path):
                found = ", ".join(sorted(p.name for p in Path(path).parent.glob(layout.ANY_CHECKPOINT))) or "nothing"
                raise UserError(f"no model at {path} (found there: {found}): check --model-dir and --load-epoch")
        checkpoints = {name: load_checkpoint(path) for name, path in paths.items()}
        if len({checkpoint.get("epoch") for checkpoint in checkpoints.values()}) > 1:
            raise UserError(
                f"the models in {directory} are from different epochs: continue that run, or give --load-epoch"
            )
        for name, checkpoint in checkpoints.items():
            path, result = paths[name], checkpoint.get("val_result")
            logger.info("Load %s to %s (epoch=%s, val_result=%s)", path, name, checkpoint.get("epoch"), result)
            self.load_weights(name, self.for_own_classes(self._models[name], checkpoint["state_dict"], path), path)

    def check_weights(
        self,
        source: str | Path,
        resumes: bool = False,
        epoch: int | None = None,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> None:
        """Raise UserError where weights would be put on other classes, or another backbone, without anybody knowing.

        Args:
            source: a checkpoint; or a run, before a `load_model` that may be the trainer's own.
            resumes: training goes on from there.
            epoch: of a run: which `load_model` is asked for.
            checkpoint: what the file holds, if it is loaded already.
        """

    def for_own_classes(
        self, model: nn.Module, state_dict: Mapping[str, torch.Tensor], path: str
    ) -> Mapping[str, torch.Tensor]:
        """What `load_weights` is given of a checkpoint, where its classes are others. Default: all as it is."""
        return state_dict

    def model_folder(self, directory: str | Path, name: str) -> str:
        """Where `load_model` looks for a registered model's checkpoints."""
        return os.path.join(directory, name)

    def load_weights(self, name: str, state_dict: Mapping[str, torch.Tensor], source: str | Path) -> None:
        """Load a state dict into a registered model.

        Raises:
            MisfitError: it does not fit; `source` is where it comes from.
            DamagedError: its values cannot be the model's.
        """
        check_values(self._models[name], state_dict, source)
        try:
            self._models[name].load_state_dict(state_dict)
        except RuntimeError as error:
            reason = "; ".join(line.strip() for line in str(error).splitlines()[1:]) or str(error)
            raise MisfitError(f"the weights in {source} do not fit this config's {name}: {reason}") from error


def _state_of(trainer, name):
    optim, sched = trainer._optims[name], trainer._scheds[name]
    return {
        "state_dict": trainer._models[name].state_dict(),
        "optimizer": None if optim is None else optim.state_dict(),
        "scheduler": None if sched is None else sched.state_dict(),
    }


def _copied(value):
    """A state that does not change with what it is the state of."""
    if type(value) in (dict, OrderedDict):
        return {key: _copied(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return value.clone() if isinstance(value, torch.Tensor) else value


def _take_up(trainer, name, state, source):
    """Load the state of a model's optimizer and scheduler."""
    for part, key in ((trainer._optims[name], "optimizer"), (trainer._scheds[name], "scheduler")):
        if key not in state:
            raise DamagedError(f"{source} is no checkpoint to resume from: it has no {key}")
        if part is not None and state[key] is not None:
            take_up(part, state[key], source)


def _is_whole(trainer, directory, epoch):
    try:
        for name in trainer.get_model_names():
            load_checkpoint(os.path.join(directory, name, layout.checkpoint(epoch)))
    except DamagedError as error:
        logger.warning("%s; the checkpoint of the epoch before stays", error)
        return False
    return True


def _epochs_of(trainer, directory):
    return _common_epochs(os.path.join(directory, name) for name in trainer.get_model_names())


def _common_epochs(folders):
    """The epochs of which there are checkpoints in all of some folders, the last first."""
    found = [layout.epochs_in(folder) for folder in folders]
    return sorted(set.intersection(*found), reverse=True) if found else []
