"""The training loop and its hooks, as Dassl has them: TrainerBase, SimpleTrainer, TrainerX, TrainerXU.

What differs from Dassl: every epoch ends in a checkpoint that also holds the states of all random number generators,
so a run killed at any moment and started again continues as if nothing had happened; checkpoints load with
weights_only; the progress bar appears only on a terminal.
"""

import datetime
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode

from dassl import layout, signals
from dassl.config import check_ranges, require
from dassl.data import DataManager
from dassl.data.datasets import build_dataset
from dassl.engine import made_with, run_folder, stopping
from dassl.engine.saved_models import SavedModels
from dassl.engine.simple_net import SimpleNet
from dassl.engine.steps import NonFiniteLossError, Steps, progress
from dassl.evaluation import build_evaluator
from dassl.loggers.build import close_loggers, closed_on_error, open_loggers
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.optim.prograd import prograd
from dassl.utils import (
    UserError,
    count_num_param,
    load_checkpoint,
    load_pretrained_weights,
    mkdir_if_missing,
    processes,
    tolist_if_not,
)

logger = logging.getLogger(__name__)


def __getattr__(name):
    """SummaryWriter, which Dassl imports at once."""
    if name == "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class TrainerBase(SavedModels):
    """Registered models and what every loop does with them: train, save, load, resume, log scalars."""

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

    # Loggers

    @processes.first_alone
    def init_writer(self, log_dir: str | Path, purge_step: int | None = None) -> None:
        """Have scalars written as TRAIN.LOGGERS says; TensorBoard hides an earlier try's from `purge_step` on."""
        if self._writer is None:
            self._writer = open_loggers(getattr(self, "cfg", None), log_dir, purge_step)

    def close_writer(self, error: BaseException | None = None) -> None:
        """Close what scalars are written to, if there is something; it is told what error ended the run."""
        if self._writer is not None:
            close_loggers(self._writer, error)
            self._writer = None

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Write a number to the run's loggers, if they are open."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    # The loop

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Run the epochs from start_epoch (which before_train may move on) up to max_epoch."""
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        self.before_train()
        with stopping.between_epochs(self) as end_epoch:
            for self.epoch in range(self.start_epoch, self.max_epoch):
                for name in ("train_loader_x", "train_loader_u"):
                    getattr(getattr(self, name, None), "set_epoch", lambda epoch: None)(self.epoch)
                self.before_epoch()
                self.run_epoch()
                self.after_epoch()
                end_epoch()
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
        check_ranges(cfg)
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
        with signals.heeding(), closed_on_error(self.close_writer):
            super().train(self.start_epoch, self.max_epoch)

    def backbone_digest(self) -> str:
        """The SHA-256 of the files of frozen weights, which no checkpoint holds; "": there are none, or not known."""
        return ""

    def made_with(self) -> dict[str, Any] | None:
        return made_with.of(self)._asdict()

    def run_state(self) -> dict[str, Any]:
        return super().run_state() | {"best_result": float(self.best_result), "train_seconds": self._elapsed()}

    def load_run_state(self, state: Mapping[str, Any]) -> None:
        super().load_run_state(state)
        self.best_result, self.train_seconds = float(state["best_result"]), float(state["train_seconds"])

    def before_train(self) -> None:
        if self.train_loader_x is None:
            raise UserError(f"{self.cfg.DATASET.NAME} has no images to train on: give --eval-only and --model-dir")
        if any(optim is not None for optim in self._optims.values()):
            require(self.cfg, "OPTIM.MAX_EPOCH", at_least=1)
        processes.check_models(self._models.values())
        mkdir_if_missing(self.output_dir)
        self.start_epoch = self.resume_run(self.output_dir, self.cfg.RESUME)
        if processes.in_any(self.start_epoch != processes.from_first(lambda: self.start_epoch)):
            raise UserError(
                f"the processes do not see the same checkpoints in {self.output_dir}: do they share that disk?"
            )
        if self.start_epoch > self.max_epoch:
            raise UserError(f"the run to resume has {self.start_epoch} epochs: give OPTIM.MAX_EPOCH that many, or more")
        self.sweep_models(self.output_dir)
        finished = os.path.isfile(os.path.join(self.output_dir, layout.METRICS))
        if not finished or self.start_epoch < self.max_epoch:  # what a finished run left is meant to be kept
            self._thin_out(self.start_epoch)
        self.epoch = max(0, self.start_epoch - 1)
        self.init_writer(os.path.join(self.output_dir, layout.TENSORBOARD), self.start_epoch * len(self.train_loader_x))
        self.time_start = time.time()

    def check_resumed(self, directory: str | Path) -> None:
        if self.cfg.TEST.FINAL_MODEL == "best_val" and self.best_result > -np.inf:
            for name in self.get_model_names():
                load_checkpoint(os.path.join(directory, name, layout.BEST))

    def after_epoch(self) -> None:
        self._detect_broken_weights()
        if self.cfg.TEST.FINAL_MODEL == "best_val" and not self.cfg.TEST.NO_TEST:
            result = processes.from_first(lambda: self.test(split="val"))
            if result > self.best_result:
                self.best_result = result
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name=layout.BEST)
        self.save_model(self.epoch, self.output_dir)
        self._thin_out(self.epoch + 1)

    def _thin_out(self, epoch):
        self.thin_out_checkpoints(self.output_dir, epoch, self.max_epoch, self.cfg.TRAIN.CHECKPOINT_FREQ)

    def _detect_broken_weights(self):
        """Raises NonFiniteLossError where an epoch left infinite or NaN weights, before they are saved."""
        for name, model in self._models.items():
            if not all(p.isfinite().all() for p in model.parameters() if p.requires_grad):
                kept = "the checkpoint of the epoch before is kept" if self.epoch else "no checkpoint was written yet"
                raise NonFiniteLossError(
                    f"the weights of {name} became infinite or NaN in epoch {self.epoch + 1}: lower OPTIM.LR or "
                    f"compute in fp32; {kept}"
                )

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

    def check_weights(
        self,
        source: str | Path,
        resumes: bool = False,
        epoch: int | None = None,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> None:
        if os.path.isfile(source):
            made_with.check(self, source, resumes, checkpoint)
        elif source and type(self).load_model is not SimpleTrainer.load_model:  # which checks what it loads
            made_with.check_run(self, source, epoch)

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
