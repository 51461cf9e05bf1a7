"""What tests have done in a process of its own, forked from a server that has imported what train.py needs."""

import os
import signal
from collections.abc import Callable

import torch

import train
from benchmark.runner import CONTEXT
from dassl.engine import TRAINER_REGISTRY, TrainerX


def status_of(function: Callable[..., None], *args: object) -> int:
    """The exit status of a process that calls a module's function; the negative number of the signal that ended it."""
    process = CONTEXT.Process(target=function, args=args)
    process.start()
    process.join()
    return process.exitcode


def evaluate(argv: list[str], file: str) -> None:
    """Write what a run computes for the test images."""
    torch.save(outputs(train.main(argv)), file)


def outputs(trainer: TrainerX) -> torch.Tensor:
    """(n, N) logits of the test images."""
    trainer.set_model_mode("eval")
    with torch.no_grad():
        return torch.cat([output for output, _ in trainer.predict(trainer.test_loader)])


def train_until_killed(argv: list[str], trainer: str) -> None:
    """Train till the second batch of the second epoch, and be killed there."""
    kind = TRAINER_REGISTRY.get(trainer)
    step = kind.model_backward_and_update

    def killed(self: TrainerX, *loss: object) -> None:
        if (self.epoch, self.batch_idx) == (1, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, *loss)

    kind.model_backward_and_update = killed
    train.main(argv)
