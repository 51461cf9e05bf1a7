"""What tests have done in a process of its own, forked from a server that has imported what train.py needs."""

import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

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


def together(folder: Path, function: Callable[..., object], *args: object, count: int = 2) -> list[int]:
    """The exit statuses of processes that call a module's function as torchrun would start them.

    Args:
        folder: gets what each of them prints, 0.txt, 1.txt, ...
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    folder.mkdir(exist_ok=True)
    processes = []
    for rank in range(count):
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        told |= {"TORCHELASTIC_RUN_ID": "test", "MOCOOP_CACHE": os.environ["MOCOOP_CACHE"]}
        environment = {name: str(value) for name, value in told.items()}
        process = CONTEXT.Process(target=_one_of_them, args=(folder / f"{rank}.txt", environment, function, args))
        process.start()
        processes.append(process)
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _one_of_them(console, environment, function, args):
    os.environ.update(environment)
    with open(console, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        sys.exit(function(*args))
    finally:
        sys.stdout.flush()


def evaluate(argv: list[str], file: str) -> None:
    """Write what a run computes for the test images."""
    torch.save(outputs(train.main(argv)), file)


def outputs(trainer: TrainerX) -> torch.Tensor:
    """(n, N) logits of the test images."""
    trainer.set_model_mode("eval")
    with torch.no_grad():
        return torch.cat([output for output, _ in trainer.predict(trainer.test_loader)])


def train_until_killed(argv: list[str], trainer: str, rank: str = "") -> int:
    """Train till the second batch of the second epoch, and be killed there; of several processes the one of a rank."""
    kind = TRAINER_REGISTRY.get(trainer)
    step = kind.model_backward_and_update

    def killed(self: TrainerX, *loss: object) -> None:
        if (self.epoch, self.batch_idx) == (1, 1) and os.environ.get("RANK", rank) == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, *loss)

    kind.model_backward_and_update = killed
    return train.run(argv)


def on_a_small_disk(argv: list[str], bytes_of_a_file: int, stderr: str) -> int:
    """Do a run in which no file may grow larger than this; what it says of it goes to a file."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_of_a_file, resource.RLIM_INFINITY))
    sys.exit(train.run(argv))
