"""The training loop and its hooks, as Dassl has them: TrainerBase, SimpleTrainer, TrainerX, TrainerXU.

What differs from Dassl: every epoch ends in a checkpoint that also holds the states of all random number generators,
so a run killed at any moment and started again continues as if nothing had happened; checkpoints load with
weights_only; the progress bar appears only on a terminal.
"""

import datetime
import glob
import logging
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode

from dassl import layout
from dassl.data import DataManager
from dassl.data.datasets import build_dataset
from dassl.engine import made_with, run_folder
from dassl.engine.late_writer import LateWriter
from dassl.engine.simple_net import SimpleNet
from dassl.engine.steps import NonFiniteLossError, Steps, progress
from dassl.evaluation import build_evaluator
from dassl.layout import BEST
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.optim.prograd import prograd
from dassl.utils import (
    UserError,
    atomic_path,
    count_num_param,
    get_rng_state,
    load_checkpoint,
    load_pretrained_weights,
    mkdir_if_missing,
    nearest,
    processes,
    remove_half_written,
    save_checkpoint,
    set_rng_state,
    tolist_if_not,
)

logger = logging.getLogger(__name__)


def __getattr__(name):
    """SummaryWriter, which Dassl imports at once."""
    if name == "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class MisfitError(UserError):
    """Weights belong to a different model from the one they are loaded into."""


class TrainerBase:
    """Registered models and what every loop does with them: train, save, load, resume, log scalars."""

    _steps: Steps | None = None  # those under way

    def __init__(self) -> None:
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        self._optims: OrderedDict[str, Any] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()
        self._writer: Any = None

    def register_model(
        self,
        name: str = "model",
        model: nn.Module = None,
        optim: torch.optim.Optimizer | None = None,
        sched: Any = None,
    ) -> None:
        """Register a model under a name; it is saved in the folder of that name.

        A model without an optimizer is saved and loaded, but neither stepped nor switched by name.
        """
        if "_models" not in self.__dict__:
            raise AttributeError("call super().__init__() before register_model()")
        if name in self._models:
            raise ValueError(f'a model is already registered as "{name}"')
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names: str | list[str] | None = None) -> list[str]:
        """The given names as a list, or all registered ones."""
        registered = list(self._models)
        if names is None:
            return registered
        names = tolist_if_not(names)
        for name in names:
            if name not in registered:
                raise ValueError(f'no model is registered as "{name}"; registered: {registered}')
        return names

    def has_weights(self) -> bool:
        """Whether any registered model has something to save and load; zero-shot CLIP has nothing."""
        return any(model.state_dict() for model in self._models.values())

    # Checkpoints

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
        for name, model in self._models.items():
            optim, sched = self._optims[name], self._scheds[name]
            state = {
                "state_dict": model.state_dict(),
                "epoch": epoch + 1,
                "optimizer": None if optim is None else optim.state_dict(),
                "scheduler": None if sched is None else sched.state_dict(),
                "val_result": None if val_result is None else float(val_result),
                "run_state": self.run_state(),
                made_with.KEY: self.made_with(),
            }
            save_checkpoint(state, os.path.join(directory, name), is_best=is_best, model_name=model_name)

    def made_with(self) -> dict[str, Any] | None:
        """What every checkpoint says of its classes and backbone, as `dassl.engine.made_with` has it."""

    def check_weights(self, source: str | Path, resumes: bool = False) -> None:
        """Raise UserError where weights would be put on other classes, or another backbone, without anybody knowing.

        Args:
            source: a checkpoint; or a run, before a `load_model` that may be the trainer's own.
            resumes: training goes on from there.
        """

    def run_state(self) -> dict[str, Any]:
        """What a resumed run needs beyond models, optimizers and schedulers (weights_only-safe values)."""
        return {"rng": get_rng_state()}

    def load_run_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `run_state` gave."""
        set_rng_state(state["rng"])

    def resume_model_if_exist(self, directory: str | Path) -> int:
        """Load the last epoch that all registered models have in a folder; return the epoch to start with (0: none)."""
        names = self.get_model_names()
        last = [_last_epoch(os.path.join(directory, name)) for name in names]
        if None in last or not last:
            logger.info("No checkpoint found, train from scratch")
            return 0
        epoch = min(last)  # a kill between two models' files leaves one of them an epoch ahead
        logger.info("Found checkpoint at %s (will resume training from epoch %d)", directory, epoch + 1)
        for name in names:
            path = os.path.join(directory, name, layout.checkpoint(epoch))
            checkpoint = load_checkpoint(path)
            self.check_weights(path, resumes=True)
            self.load_weights(name, checkpoint["state_dict"], directory)
            for states, key in ((self._optims, "optimizer"), (self._scheds, "scheduler")):
                if states[name] is not None and checkpoint[key] is not None:
                    states[name].load_state_dict(checkpoint[key])
        if "run_state" in checkpoint:
            self.load_run_state(checkpoint["run_state"])
        return epoch

    def load_model(self, directory: str | Path = "", epoch: int | None = None) -> None:
        """Load weights of all registered models: of an epoch, else the best on val, else the last.

        Raises:
            UserError: there is no such file, it is damaged, or the weights do not fit.
        """
        if not directory:
            logger.info("Note that load_model() is skipped as no pretrained model is given")
            return
        for name in self.get_model_names():
            folder = self.model_folder(directory, name)
            file = layout.checkpoint(epoch) if epoch is not None else BEST
            last = _last_epoch(folder)
            if epoch is None and not os.path.isfile(os.path.join(folder, BEST)) and last is not None:
                file = layout.checkpoint(last)
            path = os.path.join(folder, file)
            if not os.path.isfile(path):
                found = ", ".join(sorted(os.path.basename(p) for p in _checkpoints(folder))) or "nothing"
                raise UserError(f"no model at {path} (found there: {found}): check --model-dir and --load-epoch")
            checkpoint = load_checkpoint(path)
            logger.info(
                "Load %s to %s (epoch=%s, val_result=%s)",
                path,
                name,
                checkpoint.get("epoch"),
                checkpoint.get("val_result"),
            )
            self.load_weights(name, self.for_own_classes(self._models[name], checkpoint["state_dict"], path), path)

    def for_own_classes(
        self, model: nn.Module, state_dict: Mapping[str, torch.Tensor], path: str
    ) -> Mapping[str, torch.Tensor]:
        """What `load_weights` is given of a checkpoint, where its classes are others. Default: all as it is."""
        return state_dict

    def model_folder(self, directory: str | Path, name: str) -> str:
        """Where `load_model` looks for a registered model's checkpoints."""
        return os.path.join(directory, name)

    def load_weights(self, name: str, state_dict: Mapping[str, torch.Tensor], source: str | Path) -> None:
        """Load a state dict into a registered model. Raises MisfitError, naming `source`, where it does not fit."""
        try:
            self._models[name].load_state_dict(state_dict)
        except RuntimeError as error:
            reason = "; ".join(line.strip() for line in str(error).splitlines()[1:]) or str(error)
            raise MisfitError(f"the weights in {source} do not fit this config's {name}: {reason}") from error

    # Modes and rates

    def set_model_mode(self, mode: str = "train", names: str | list[str] | None = None) -> None:
        """Put models in "train" mode, or in evaluation mode for "test" and "eval"."""
        if mode not in ("train", "test", "eval"):
            raise KeyError(f'unknown mode "{mode}": train, test or eval')
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    def update_lr(self, names: str | list[str] | None = None) -> None:
        """Step the schedulers of the named models."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def get_current_lr(self, names: str | list[str] | None = None) -> float:
        """The learning rate of the first named model's first parameter group."""
        name = self.get_model_names(names)[0]
        return self._optims[name].param_groups[0]["lr"]

    # TensorBoard

    @processes.first_alone
    def init_writer(self, log_dir: str | Path, purge_step: int | None = None) -> None:
        """Have scalars written to TensorBoard; those at or after `purge_step` from an earlier try are hidden."""
        if self._writer is None:
            self._writer = LateWriter(log_dir, purge_step)

    def close_writer(self) -> None:
        """Close the TensorBoard writer, if there is one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Write a number to TensorBoard, if it has a writer."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    # The loop

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Run the epochs from start_epoch (which before_train may move on) up to max_epoch."""
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        self.before_train()
        for self.epoch in range(self.start_epoch, self.max_epoch):
            for name in ("train_loader_x", "train_loader_u"):
                getattr(getattr(self, name, None), "set_epoch", lambda epoch: None)(self.epoch)
            self.before_epoch()
            self.run_epoch()
            self.after_epoch()
        self.after_train()

    def before_train(self) -> None:
        """Called once before the first epoch."""

    def after_train(self) -> None:
        """Called once after the last epoch."""

    def before_epoch(self) -> None:
        """Called before each epoch; self.epoch counts from 0."""

    def after_epoch(self) -> None:
        """Called after each epoch."""

    def run_epoch(self) -> None:
        """Train for one epoch."""
        raise NotImplementedError

    def test(self) -> Any:
        """Evaluate."""
        raise NotImplementedError

    def parse_batch_train(self, batch: Any) -> Any:
        """What `forward_backward` wants of a training batch, on the device."""
        raise NotImplementedError

    def parse_batch_test(self, batch: Any) -> Any:
        """(input, label) of a test batch, on the device."""
        raise NotImplementedError

    def forward_backward(self, batch: Any) -> Any:
        """One step on a batch: {name: number} for the log; the last batch's calls `update_lr`."""
        raise NotImplementedError

    def model_inference(self, input: Any) -> Any:
        """What the evaluator takes of an input: (B, N) logits for Classification."""
        raise NotImplementedError

    # One step

    def detect_anomaly(self, loss: torch.Tensor) -> None:
        """Raises NonFiniteLossError, naming epoch and batch, where the loss is infinite or NaN.

        In `run_epoch` a loss on a GPU is looked at with the next log line, at the latest before a checkpoint.
        """
        steps = None if loss.is_cpu else self._steps
        if steps is None and torch.isfinite(loss).all():
            return
        where = "the first batch"
        if hasattr(self, "batch_idx"):
            where = f"epoch {self.epoch + 1}, batch {self.batch_idx + 1}"
        kept = "the last checkpoint is kept" if getattr(self, "epoch", 0) else "no checkpoint was written yet"
        error = NonFiniteLossError(
            f"the loss is infinite or NaN at {where} (learning rate {self.get_current_lr():.3g}): lower OPTIM.LR or "
            f"compute in fp32; {kept}"
        )
        if steps is None:
            raise error
        steps.check(loss, error)

    def model_zero_grad(self, names: str | list[str] | None = None) -> None:
        """Forget the gradients of the named models, of all by default."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss: torch.Tensor) -> None:
        """Compute the gradients of a loss that is finite; means over the processes, if the run has several."""
        self.detect_anomaly(loss)
        loss.backward()
        processes.average(self._models.values())

    def model_update(self, names: str | list[str] | None = None) -> None:
        """Step the optimizers of the named models."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss: torch.Tensor, names: str | list[str] | None = None) -> None:
        """One optimizer step of the named models on a scalar loss."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    def prograd_backward_and_update(
        self, loss_a: torch.Tensor, loss_b: torch.Tensor, lambda_: float = 1, names: str | list[str] | None = None
    ) -> None:
        """One optimizer step of the named models on loss_a that takes no step back on loss_b (ProGrad's release).

        Each parameter tensor by itself: see `dassl.optim.prograd`.

        Args:
            loss_a: a scalar, to decrease.
            loss_b: a scalar, not to increase.
            lambda_: the share of the opposing part that is taken away.
            names: as in `model_backward_and_update`.
        """
        models = [self._models[name] for name in self.get_model_names(names)]
        parameters = [p for p in nn.ModuleList(models).parameters() if p.requires_grad]
        self.detect_anomaly(loss_b)
        general = torch.autograd.grad(loss_b, parameters, retain_graph=True, allow_unused=True)
        general = processes.means(general, parameters)
        self.model_zero_grad(names)
        self.model_backward(loss_a)
        for p, gradient in zip(parameters, general, strict=True):
            if p.grad is not None and gradient is not None:
                p.grad = prograd(p.grad, gradient, lambda_)
        self.model_update(names)


class SimpleTrainer(TrainerBase):
    """One model on one data manager: builds both from the config, trains, tests and reports.

    Attributes:
        class_axes: {key of a registered model's state dict: axis of the classes} of what holds values for every
            class, {} where nothing does. Weights of other classes are then matched by class name, and refused where a
            class has none. None, where the trainer does not say: they are refused if they look as if they did.
        new_classes_as_started: a class that weights do not know may keep its initial values.
        told_classes: class names of weights that do not tell them.
        given_weights: {model name/file: digest} of the checkpoints that it was given.
        inputs: what went into the run (dassl.engine.inputs), for metrics.json; None where nobody recorded it.
        dm: the DataManager; train_loader_x, train_loader_u, val_loader, test_loader, num_classes and lab2cname of it.
        device: where the model computes.
        evaluator: what `test` feeds.
    """

    class_axes: dict[str, int] | None = None
    new_classes_as_started = False
    told_classes: list[str] | None = None
    train_loader_x: Any
    train_loader_u: Any

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        for key, choices in (("FINAL_MODEL", ("last_step", "best_val")), ("SPLIT", ("test", "val"))):
            if cfg.TEST[key] not in choices:
                raise UserError(f'unknown TEST.{key} "{cfg.TEST[key]}": {nearest(cfg.TEST[key], choices)}')
        self.check_cfg(cfg)
        self.device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
        self.start_epoch = self.epoch = 0
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.cfg = cfg
        self.best_result = -np.inf
        self.loaded_from: dict[str, Any] | None = None
        self.given_weights: dict[str, str] = {}
        self.inputs: dict[str, Any] | None = None
        self._made_with: dict[str, Any] | None = None
        self.train_seconds = 0.0
        self.build_data_loader()
        self.build_model()
        if cfg.MODEL.INIT_WEIGHTS:
            self.check_weights(cfg.MODEL.INIT_WEIGHTS)
        self.build_evaluator()

    def check_cfg(self, cfg: CfgNode) -> None:
        """Raise UserError where the config does not suit the trainer."""

    def read_dataset(self) -> Any:
        """The DatasetBase to train and test on. Default: the one that the config names, as it is."""
        return build_dataset(self.cfg)

    def build_data_loader(self) -> None:
        """Build self.dm and the loaders; a trainer that needs other transforms overrides this."""
        dm = DataManager(self.cfg, dataset=self.read_dataset())
        self.train_loader_x = dm.train_loader_x
        self.train_loader_u = dm.train_loader_u
        self.val_loader = dm.val_loader
        self.test_loader = dm.test_loader
        self.num_classes = dm.num_classes
        self.num_source_domains = dm.num_source_domains
        self.lab2cname = dm.lab2cname
        self.dm = dm

    def build_model(self) -> None:
        """Build self.model, optimizer and scheduler, and register them. Default: a SimpleNet."""
        cfg = self.cfg
        self.model = SimpleNet(cfg, cfg.MODEL, self.num_classes)
        if cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(self.model, cfg.MODEL.INIT_WEIGHTS)
        self.model.to(self.device)
        logger.info("# params: %s", f"{count_num_param(self.model):,}")
        self.optim = build_optimizer(self.model, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("model", self.model, self.optim, self.sched)

    def build_evaluator(self) -> None:
        """Build self.evaluator, the one that the config names."""
        self.evaluator = build_evaluator(self.cfg, lab2cname=self.lab2cname, dataset=self.dm.dataset)

    def train(self) -> None:  # type: ignore[override]
        """Train from the first epoch, or from where the output folder (or cfg.RESUME) left off."""
        super().train(self.start_epoch, self.max_epoch)

    def backbone_digest(self) -> str:
        """The SHA-256 of the files of frozen weights, which no checkpoint holds; "": there are none, or not known."""
        return ""

    def made_with(self) -> dict[str, Any] | None:
        self._made_with = self._made_with or made_with.of(self)._asdict()
        return self._made_with

    def run_state(self) -> dict[str, Any]:
        return super().run_state() | {"best_result": float(self.best_result), "train_seconds": self._elapsed()}

    def load_run_state(self, state: Mapping[str, Any]) -> None:
        super().load_run_state(state)
        self.best_result, self.train_seconds = state["best_result"], state["train_seconds"]

    def before_train(self) -> None:
        if self.train_loader_x is None:
            raise UserError(f"{self.cfg.DATASET.NAME} has no images to train on: give --eval-only and --model-dir")
        processes.check_models(self._models.values())
        directory = self.output_dir
        if self.cfg.RESUME and not all(_last_epoch(os.path.join(directory, n)) for n in self.get_model_names()):
            directory = self.cfg.RESUME
            if not os.path.isdir(directory):
                raise UserError(f"no folder {directory} to resume from (--resume)")
            self._take_best(directory)
        mkdir_if_missing(self.output_dir)
        self.start_epoch = self.resume_model_if_exist(directory)
        self._sweep(whole=directory == self.output_dir)
        self.epoch = max(0, self.start_epoch - 1)
        self.init_writer(os.path.join(self.output_dir, layout.TENSORBOARD), self.start_epoch * len(self.train_loader_x))
        self.time_start = time.time()

    @processes.first_alone
    def _take_best(self, directory):
        """Copy the best models of the run to resume, so that this one may end with them."""
        for name in self.get_model_names():
            best = os.path.join(directory, name, BEST)
            if os.path.isfile(best):
                mkdir_if_missing(os.path.join(self.output_dir, name))
                with atomic_path(os.path.join(self.output_dir, name, BEST)) as temporary:
                    shutil.copyfile(best, temporary)

    def after_epoch(self) -> None:
        self._detect_broken_weights()
        if self.cfg.TEST.FINAL_MODEL == "best_val" and not self.cfg.TEST.NO_TEST:
            result = processes.from_first(lambda: self.test(split="val"))
            if result > self.best_result:
                self.best_result = result
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name=BEST)
        self.save_model(self.epoch, self.output_dir)
        self._drop_checkpoint(self.epoch)

    def _detect_broken_weights(self):
        """Raises NonFiniteLossError where an epoch left infinite or NaN weights, before they are saved."""
        for name, model in self._models.items():
            if not all(p.isfinite().all() for p in model.parameters() if p.requires_grad):
                kept = "the checkpoint of the epoch before is kept" if self.epoch else "no checkpoint was written yet"
                raise NonFiniteLossError(
                    f"the weights of {name} became infinite or NaN in epoch {self.epoch + 1}: lower OPTIM.LR or "
                    f"compute in fp32; {kept}"
                )

    @processes.first_alone
    def _sweep(self, whole):
        """Remove what a kill left in the output folder: half-written files, and models of the epoch that was dropped.

        Args:
            whole: all models of the epoch to go on from stand there. What a finished run left is meant to be kept.
        """
        for name in self.get_model_names():
            remove_half_written(os.path.join(self.output_dir, name))
        if whole and not os.path.isfile(os.path.join(self.output_dir, layout.METRICS)):
            self._drop_checkpoint(self.start_epoch - 1)

    @processes.first_alone
    def _drop_checkpoint(self, epoch):
        """Remove the checkpoint of an epoch (counted from 1), unless CHECKPOINT_FREQ asked for it.

        Only when every model has the next one: a kill in between finds a whole set.
        """
        frequency = self.cfg.TRAIN.CHECKPOINT_FREQ
        if epoch < 1 or (frequency > 0 and epoch % frequency == 0):
            return
        for name in self.get_model_names():
            path = os.path.join(self.output_dir, name, layout.checkpoint(epoch))
            if os.path.isfile(path):
                os.remove(path)

    def after_train(self) -> None:
        self.train_seconds = self._elapsed()
        del self.time_start
        logger.info("Finish training")
        processes.leave()
        if processes.first() and not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                logger.info("Deploy the model with the best val performance")
                self.load_model(self.output_dir)
            else:
                logger.info("Deploy the last-epoch model")
            self.test()
        logger.info("Elapsed: %s", datetime.timedelta(seconds=round(self.train_seconds)))
        self.close_writer()

    def _elapsed(self):
        """Seconds of training so far, those before a resume included."""
        return self.train_seconds + (time.time() - self.time_start if hasattr(self, "time_start") else 0.0)

    def load_model(self, directory: str | Path = "", epoch: int | None = None) -> None:
        super().load_model(directory, epoch)
        if directory:
            self.loaded_from = {"model_dir": str(directory), "load_epoch": epoch}

    def for_own_classes(
        self, model: nn.Module, state_dict: Mapping[str, torch.Tensor], path: str
    ) -> Mapping[str, torch.Tensor]:
        return made_with.fitted(self, model, state_dict, path)

    def check_weights(self, source: str | Path, resumes: bool = False) -> None:
        if os.path.isfile(source):
            made_with.check(self, source, resumes)
        elif source and type(self).load_model is not SimpleTrainer.load_model:  # which checks what it loads
            made_with.check_run(self, source)

    @torch.no_grad()
    def test(self, split: str | None = None) -> Any:
        """Evaluate on a split (default cfg.TEST.SPLIT) and return its first metric, in percent.

        Without `split` it is the run's closing evaluation, and metrics.json is written.
        """
        start = time.time()
        self.set_model_mode("eval")
        self.evaluator.reset()
        closing, split = split is None, split or self.cfg.TEST.SPLIT
        if split == "val" and self.val_loader is not None:
            loader = self.val_loader
        else:
            split, loader = "test", self.test_loader
        self.evaluator.split = split
        logger.info("Evaluate on the *%s* set", split)
        for output, label in self.predict(loader):
            self.evaluator.process(output, label)
        results = self.evaluator.evaluate()
        for name, value in results.items():
            if isinstance(value, (int, float)):
                self.write_scalar(f"{split}/{name}", value, self.epoch)
        if closing:
            self.write_metrics(split, results, time.time() - start)
        return list(results.values())[0]

    def predict(self, loader: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield (output, label) for every batch of a loader."""
        for batch in progress(loader):
            input, label = self.parse_batch_test(batch)
            yield self.model_inference(input), label

    def write_metrics(self, split: str, results: Mapping[str, Any], seconds: float) -> None:
        """Write metrics.json: what an evaluator found on a split in that time, and what run it was."""
        trained = [p for m in self._models.values() for p in m.parameters() if p.requires_grad]
        run_folder.write_metrics(
            self.cfg,
            {
                "split": split,
                **results,
                **(self.evaluator.counts() if hasattr(self.evaluator, "counts") else {}),
                **self.extra_metrics(),
                "loaded_from": self.loaded_from,
                "inputs": self.inputs,
                "trainable_parameters": sum(p.numel() for p in {id(p): p for p in trained}.values()),
                "train_seconds": round(self.train_seconds, 2),
                "test_seconds": round(seconds, 2),
            },
        )

    def extra_metrics(self) -> dict[str, Any]:
        """More entries for metrics.json, from the evaluation just done."""
        return {}

    def model_inference(self, input: Any) -> Any:
        return self.model(input)

    def parse_batch_test(self, batch: Any) -> Any:
        return self._on_device(batch["img"], batch["label"])

    def _on_device(self, *tensors):
        """Copies from a loader's pinned memory, which the device makes when it gets there."""
        return tuple(tensor.to(self.device, non_blocking=True) for tensor in tensors)


class TrainerX(SimpleTrainer):
    """Training on labelled data.

    Attributes:
        batch_idx: the batch under way, counted from 0.
        num_batches: of an epoch.
    """

    batch_idx: int
    num_batches: int

    def run_epoch(self) -> None:
        self.set_model_mode("train")
        batches = self.training_batches()
        self._run_steps(batches, len(batches), self.forward_backward)

    def training_batches(self) -> Any:
        """The batches of the epoch under way, with a len(). Default: those of train_loader_x."""
        return self.train_loader_x

    def _run_steps(self, batches, num_batches, step):
        """One epoch of `step(batch) -> {name: value}`."""
        self.num_batches = num_batches
        self._steps = Steps(self)
        try:
            self._steps.run(batches, step)
        finally:
            self._steps = None

    def parse_batch_train(self, batch: Any) -> Any:
        return self._on_device(batch["img"], batch["label"], batch["domain"])


class TrainerXU(TrainerX):
    """Training on labelled and unlabelled data side by side."""

    def run_epoch(self) -> None:
        self.set_model_mode("train")
        len_x, len_u = len(self.train_loader_x), len(self.train_loader_u)
        counts = {"train_x": len_x, "train_u": len_u, "smaller_one": min(len_x, len_u)}
        count = self.cfg.TRAIN.COUNT_ITER
        if count not in counts:
            raise UserError(f'unknown TRAIN.COUNT_ITER "{count}": {", ".join(counts)}')
        n = counts[count]
        pairs = zip(_cycle(self.train_loader_x, n), _cycle(self.train_loader_u, n), strict=True)
        self._run_steps(pairs, n, lambda pair: self.forward_backward(*pair))

    def parse_batch_train(self, batch_x: Any, batch_u: Any) -> Any:  # type: ignore[override]
        return self._on_device(batch_x["img"], batch_x["label"], batch_u["img"])


def _cycle(loader, n):
    """n batches, starting over where the loader ends."""
    given = 0
    while given < n:
        for batch in loader:
            yield batch
            given += 1
            if given == n:
                return


def _checkpoints(folder):
    return glob.glob(os.path.join(glob.escape(folder), layout.ANY_CHECKPOINT))


def _last_epoch(folder):
    """The epoch that a model's `checkpoint` file points at, or None."""
    try:
        with open(os.path.join(folder, layout.POINTER), encoding="utf-8") as file:
            name = file.read().strip()
    except FileNotFoundError:
        return None
    _, _, epoch = name.rpartition("-")
    if name == BEST or not epoch.isdigit():
        files = [p.rpartition("-")[2] for p in _checkpoints(folder)]
        epoch = max((f for f in files if f.isdigit()), key=int, default="")
    return int(epoch) if epoch.isdigit() else None
