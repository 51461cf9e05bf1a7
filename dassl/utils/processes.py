"""One run over several processes, each on a device of its own: `torchrun --nproc_per_node N train.py ...`.

All do the same steps from the same weights. Each takes its share of every batch (dassl.data.samplers.Shares), and the
gradients of what is learned are averaged before they are used. A loss that is a mean over images, with terms that do
not depend on them, has then the gradients of one process with the whole batch, to rounding; one that asks more of a
batch asks it of the whole one, by `gathered`. Random draws are the same everywhere, since all generators are.

The first process alone writes and tests; the others are quiet. If one ends, all do, and the same command goes on from
the last checkpoint. In a run of one process everything here is there, and does nothing.
"""

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.optimizer import register_optimizer_step_pre_hook
from yacs.config import CfgNode

from dassl import signals
from dassl.errors import UserError
from dassl.utils.random_state import get_rng_state, set_rng_state

PATIENCE = timedelta(days=1)
"""How long one waits for another, which may be testing. torchrun ends all if one ends."""

_rank, _count = 0, 1
_on_gpus: Any = None  # the group that exchanges what is on GPUs
_averages = 0
_averages_at_step: WeakKeyDictionary[torch.optim.Optimizer, int] = WeakKeyDictionary()


def count() -> int:
    """How many processes the run has."""
    return _count


def rank() -> int:
    """This process's number, from 0."""
    return _rank


def first() -> bool:
    """Whether this process writes and tests."""
    return _rank == 0


def join(cfg: CfgNode) -> None:
    """Become one of a run's processes, where torchrun started several; each sees one GPU alone from here on.

    To be called before anything asks for a GPU.

    Raises:
        UserError: the config has no seed, or there are too few GPUs.
    """
    global _rank, _count, _on_gpus
    if not (distributed.is_available() and distributed.is_torchelastic_launched()) or os.environ["WORLD_SIZE"] == "1":
        return
    _rank, _count, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if not first():
        sys.stdout = open(os.devnull, "w")
        sys.stderr = _NoTerminal(open(2, "wb", closefd=False), line_buffering=True)
    if cfg.SEED < 0:
        raise UserError(f"{_count} processes that train together need the same random numbers: give --seed")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    own = str(local) if visible is None else ",".join(visible.split(",")[local : local + 1])
    os.environ["CUDA_VISIBLE_DEVICES"] = own
    distributed.init_process_group("gloo", timeout=PATIENCE)
    has_gpu = bool(cfg.USE_CUDA and torch.cuda.is_available())
    found = [False] * _count
    with _the_others():
        distributed.all_gather_object(found, has_gpu)
    if has_gpu != all(found):
        raise UserError(f"{sum(found)} GPUs for {_count} processes: lower --nproc_per_node, or set USE_CUDA False")
    if has_gpu:
        _on_gpus = distributed.new_group(backend="nccl", timeout=PATIENCE)
    register_optimizer_step_pre_hook(_check_step)


def leave() -> None:
    """Say that this process needs the others no more; all do so at the same place."""
    if _count > 1:
        distributed.destroy_process_group()


def first_alone(function: Callable[..., None]) -> Callable[..., None]:
    """A function that the first process calls, and that does nothing in the others."""

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> None:
        if first():
            function(*args, **kwargs)

    return called


def from_first(find: Callable[[], Any]) -> Any:
    """What the first process finds, for all; the others wait. All random generators are then as it left its own."""
    if _count == 1:
        return find()
    told = [(find(), get_rng_state()) if first() else None]
    with _the_others():
        distributed.broadcast_object_list(told, src=0, device=torch.device("cpu"))
    found, generators = told[0]  # type: ignore[misc]
    set_rng_state(generators)
    return found


def in_any(so: bool) -> bool:
    """Whether something is so in any of the processes, which all ask at the same place."""
    if _count == 1:
        return so
    found = torch.tensor(float(so))
    with _the_others():
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return bool(found)


def gathered(share: torch.Tensor) -> torch.Tensor:
    """Values of the whole batch, (B, ...), from those of this process's share of it; without gradient."""
    if _count == 1:
        return share
    shares = [torch.empty_like(share) for _ in range(_count)]
    with _the_others():
        distributed.all_gather(shares, share.detach().contiguous(), group=_on_gpus if share.is_cuda else None)
    return torch.cat(shares)


def average(models: Iterable[nn.Module]) -> None:
    """Make the gradients of models their means over the processes."""
    global _averages
    if _count == 1:
        return
    parameters = list({id(p): p for model in models for p in model.parameters() if p.requires_grad}.values())
    for p, mean in zip(parameters, means([p.grad for p in parameters], parameters), strict=True):
        p.grad = mean
    _averages += 1


def means(gradients: Sequence[torch.Tensor | None], of: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    """The means of some gradients over the processes, in one exchange.

    Args:
        gradients: one that is None counts as zero if another process has it.
        of: what they are of.
    """
    if _count == 1 or not gradients:
        return list(gradients)
    missing = any(gradient is None for gradient in gradients)
    present = torch.ones(len(of), device=of[0].device)
    if missing:
        present = present.new_tensor([gradient is not None for gradient in gradients])
    known = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, of, strict=True)]
    flat = torch.cat([*(g.flatten() for g in known), present])
    with _the_others():
        distributed.all_reduce(flat, group=_on_gpus if flat.is_cuda else None)
    *parts, present = (flat / _count).split([*(g.numel() for g in known), len(of)])
    somewhere = present.tolist() if missing else [1.0] * len(of)  # a GPU is not waited for in vain
    return [part.view_as(g).to(g.dtype) if n else None for part, g, n in zip(parts, known, somewhere, strict=True)]


def check_models(models: Iterable[nn.Module]) -> None:
    """Raise UserError where training models in shares of batches is not training them in whole ones."""
    if _count > 1 and any(isinstance(module, _BatchNorm) for model in models for module in model.modules()):
        raise UserError(f"batch normalisation sees {_count} shares of a batch, not the batch: train in one process")


class _NoTerminal(io.TextIOWrapper):
    """Errors are told; progress bars, for terminals alone, are not drawn."""

    def isatty(self) -> bool:
        return False


@contextmanager
def _the_others() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if signals.heard():  # as the others did
            signals.stop()
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"process {_rank} lost another one of this run, which tells why it ended ({reason}); the same command "
            "continues from the last checkpoint"
        ) from error


def _check_step(optimizer, args, kwargs):
    """Raises UserError where a step would use gradients of this process's share alone."""
    if _averages_at_step.get(optimizer, 0) == _averages:
        raise UserError(
            "this trainer's steps do not use the engine's model_backward, which averages gradients over processes: "
            "train it in one process"
        )
    _averages_at_step[optimizer] = _averages
