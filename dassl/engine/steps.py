"""The steps of an epoch, run without waiting for the device: what they tell is looked at all together, now and then.

To ask a GPU for a number is to wait until it has done all that it was told. So losses and accuracies stay on it, and
come over in one transfer at a log line and at the end of the epoch. Averages, TensorBoard's scalars and the error of a
broken loss are then as if each batch had been looked at by itself. On a CPU, where looking costs nothing, a broken loss
stops the run at once.
"""

import datetime
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from tqdm import tqdm

from dassl.errors import UserError
from dassl.utils import AverageMeter, MetricMeter

logger = logging.getLogger(__name__)


class NonFiniteLossError(UserError, FloatingPointError):
    """The loss became infinite or NaN."""


def progress(iterable: Iterable[Any] | None = None, **kwargs: Any) -> tqdm:
    """A progress bar on the terminal's stderr; nothing where stderr is a file or a pipe."""
    return tqdm(iterable, disable=None, leave=False, dynamic_ncols=True, file=sys.stderr, **kwargs)


class Steps:
    """One epoch's steps, with Dassl's log lines, scalars and a progress bar.

    Args:
        trainer: the trainer; its epoch, max_epoch and num_batches are set, `run` sets its batch_idx.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.averages, self.batch_time, self.data_time = MetricMeter(), AverageMeter(), AverageMeter()
        self._unseen: list[torch.Tensor] = []  # numbers on the device
        self._later: list[tuple[int, Callable[[list[float]], None]]] = []  # (how many of them, what to do with them)

    def run(self, batches: Iterable[Any], step: Callable[[Any], Mapping[str, Any] | None]) -> None:
        """`step(batch)`, {name: number or tensor of one element}, for every batch."""
        trainer, frequency = self.trainer, self.trainer.cfg.TRAIN.PRINT_FREQ
        bar = progress(total=trainer.num_batches, desc=f"epoch {trainer.epoch + 1}/{trainer.max_epoch}")
        started, waited, done = time.time(), 0.0, 0

        def look():
            """Times are of a batch on average since the last look: in between, the device may be behind."""
            nonlocal started, waited, done
            self.look()
            if done:
                self.batch_time.update((time.time() - started) / done, done)
                self.data_time.update(waited / done, done)
            left = trainer.num_batches * (trainer.max_epoch - trainer.epoch) - trainer.batch_idx - 1
            eta = str(datetime.timedelta(seconds=int(self.batch_time.avg * left)))
            meters, rate = self.averages.meters, trainer.get_current_lr()
            shown = {name: f"{meters[name].avg:.3f}" for name in ("loss", "acc") if name in meters}
            bar.set_postfix(shown | {"lr": f"{rate:.2e}", "left": eta}, refresh=False)
            started, waited, done = time.time(), 0.0, 0
            return eta

        end = time.time()
        for trainer.batch_idx, batch in enumerate(batches):
            waited += time.time() - end
            self.tell(step(batch))
            done += 1
            bar.update()
            number = trainer.batch_idx + 1
            if frequency > 0 and (number % frequency == 0 or trainer.num_batches < frequency):
                eta = look()
                logger.info(
                    f"epoch [{trainer.epoch + 1}/{trainer.max_epoch}] batch [{number}/{trainer.num_batches}] "
                    f"time {self.batch_time.val:.3f} ({self.batch_time.avg:.3f}) "
                    f"data {self.data_time.val:.3f} ({self.data_time.avg:.3f}) "
                    f"{self.averages} lr {trainer.get_current_lr():.4e} eta {eta}"
                )
            end = time.time()
        if done:
            look()
        bar.close()

    def tell(self, summary: Mapping[str, Any] | None) -> None:
        """Take in what a step gives for the log: numbers, and tensors of one element, which may change afterwards."""
        trainer, values = self.trainer, dict(summary or {})
        n_iter, rate = trainer.epoch * trainer.num_batches + trainer.batch_idx, trainer.get_current_lr()
        tensors = {name: value.detach() for name, value in values.items() if isinstance(value, torch.Tensor)}
        values |= {name: value.item() for name, value in tensors.items() if value.is_cpu}
        names = [name for name, value in tensors.items() if not value.is_cpu]

        def write(numbers):
            self.averages.update(values | dict(zip(names, numbers, strict=True)))
            for name, meter in self.averages.meters.items():
                trainer.write_scalar("train/" + name, meter.avg, n_iter)
            trainer.write_scalar("train/lr", rate, n_iter)

        self._keep([torch.stack([tensors[name].reshape(()) for name in names])] if names else [], write)

    def check(self, loss: torch.Tensor, error: Exception) -> None:
        """Raise an error, at the next look, where the loss is infinite or NaN."""

        def complain(numbers):
            if not all(map(math.isfinite, numbers)):
                raise error

        self._keep([loss.detach().flatten()], complain)

    def _keep(self, numbers, then):
        device = self._unseen[0].device if self._unseen else None
        self._unseen += [x.to(device) for x in numbers]
        self._later.append((sum(map(len, numbers)), then))

    def look(self) -> None:
        """Wait for the device, and do in order what was left for later. Raises NonFiniteLossError."""
        numbers = torch.cat(self._unseen).tolist() if self._unseen else []
        later, self._unseen, self._later = self._later, [], []
        start = 0
        for count, then in later:
            then(numbers[start : start + count])
            start += count
