"""SIGTERM while a run trains. Checkpoints are of whole epochs: the one under way is finished if there is time.

There is, if it takes no longer than `dassl.signals.grace`, as far as the epoch before or its own steps tell: the more
hopeful of the two, since the first epoch, and the first step, may do more. Where it turns out to take longer the run is
ended then; what it began of the epoch is done again, to the same bits.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dassl import layout, signals
from dassl.utils import processes


@contextmanager
def between_epochs(trainer: Any) -> Iterator[Callable[[], None]]:
    """Gives what the block calls at the end of each epoch: it raises Stopped if SIGTERM came in any of the processes.

    Args:
        trainer: its epoch is set; batch_idx and num_batches tell how far the first epoch is.
    """
    began, usual = time.monotonic(), None

    def finishing() -> str | None:
        epoch, spent, grace = f"epoch {trainer.epoch + 1}", time.monotonic() - began, signals.grace()
        known = [*_by_steps(trainer, spent), *([] if usual is None else [max(0.0, usual - spent)])]
        left = min(known, default=0.0)
        if grace and (not known or not processes.first()):  # which says for all
            return f"{epoch}, if that takes no longer than {grace:g} s,"
        return None if not grace or left > grace else f"{epoch}, which takes about {max(1, math.ceil(left))} s,"

    def end() -> None:
        nonlocal began, usual
        began, usual = time.monotonic(), time.monotonic() - began
        if processes.in_any(signals.heard()):
            _save(trainer)
            signals.stop()

    with signals.heeding(finishing):
        yield end


def _save(trainer: Any) -> None:
    """Save the epoch where the after_epoch of a release has not: its last checkpoint may be of many epochs before."""
    folder = getattr(trainer, "output_dir", None)
    if folder is None:  # a release's loop of its own
        return
    name = layout.checkpoint(trainer.epoch + 1)
    if not all(os.path.isfile(os.path.join(folder, model, name)) for model in trainer.get_model_names()):
        trainer.save_model(trainer.epoch, folder)


def _by_steps(trainer: Any, spent: float) -> list[float]:
    """Seconds to the end of the epoch, if there is something to tell from."""
    done, steps = getattr(trainer, "batch_idx", 0), getattr(trainer, "num_batches", 0)
    return [spent / done * (steps - done)] if 0 < done < steps else []
