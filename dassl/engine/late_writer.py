"""TensorBoard's writer, imported and opened when there is something to write: both take time."""

from pathlib import Path
from typing import Any


class LateWriter:
    """A SummaryWriter from the first use on, whatever that is.

    Args:
        log_dir: as SummaryWriter has it.
        purge_step: what an earlier try wrote at this step or after it is hidden, None: nothing is.
    """

    def __init__(self, log_dir: str | Path, purge_step: int | None = None) -> None:
        self._opened: Any = None
        self._options = {"log_dir": log_dir, "purge_step": purge_step}

    def __getattr__(self, name: str) -> Any:
        if self._opened is None:
            from torch.utils.tensorboard import SummaryWriter

            self._opened = SummaryWriter(**self._options)
        return getattr(self._opened, name)

    def close(self) -> None:
        """Write what is left, if there was anything."""
        if self._opened is not None:
            self._opened.close()
