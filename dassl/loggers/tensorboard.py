"""TensorBoard's writer, imported and opened when there is something to write: both take time."""

import functools
import logging
import threading
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from dassl.loggers import LOGGER_REGISTRY

logger = logging.getLogger(__name__)


class LateWriter:
    """A SummaryWriter from the first use on, whatever that is.

    Where its files cannot be written, a warning says so and the run goes on without them.

    Args:
        log_dir: as SummaryWriter has it.
        purge_step: what an earlier try wrote at this step or after it is hidden, None: nothing is.
    """

    def __init__(self, log_dir: str | Path, purge_step: int | None = None) -> None:
        self._opened: Any = None
        self._failed = False
        self._options = {"log_dir": log_dir, "purge_step": purge_step}

    def __getattr__(self, name: str) -> Any:
        writer = self._guarded(self._writer)()
        if writer is None:
            return self._guarded(getattr)  # which does nothing any more
        found = getattr(writer, name)
        return self._guarded(found) if callable(found) else found

    def close(self) -> None:
        """Write what is left, if there was anything."""
        if self._opened is not None:
            self._guarded(self._opened.close)()

    def _writer(self):
        if self._opened is None:
            from torch.utils.tensorboard import SummaryWriter

            _silence_its_thread()
            self._opened = SummaryWriter(**self._options)
        return self._opened

    def _guarded(self, function):
        """The function, until the disk refuses: from then on it does nothing."""

        def called(*args, **kwargs):
            if self._failed:
                return None
            try:
                return function(*args, **kwargs)
            except OSError as error:
                self._failed = True
                folder, why = self._options["log_dir"], error.strerror or error
                logger.warning("cannot write to %s (%s): the run goes on without TensorBoard", folder, why)
                return None

        return called


@LOGGER_REGISTRY.register()
def tensorboard(cfg: CfgNode, log_dir: str | Path, first_step: int | None, run: str) -> LateWriter:
    return LateWriter(log_dir, first_step)


@functools.cache
def _silence_its_thread():
    """Have the thread that writes say nothing as it fails: who writes next is told."""
    before = threading.excepthook

    def told(args):
        if not type(args.thread).__module__.startswith("tensorboard."):
            before(args)

    threading.excepthook = told
