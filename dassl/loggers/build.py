"""The registry of loggers, and those of a run as one.

A logger is a function in LOGGER_REGISTRY, under the name that configs give:

    @LOGGER_REGISTRY.register()
    def mine(cfg, log_dir, first_step, run):
        return Mine(...)

What it returns has `add_scalar(tag, value, step)` and `close()`. It may have `run`, a text that tells the run from
others where its numbers lie: kept in the run's folder, it is given again when the run is resumed, "" at first. It may
have `abort(error)`, called instead of `close` where an exception ended training: no `Exception` after Ctrl-C and
SIGTERM. The other arguments are the run's config, the folder of TensorBoard's files, and the first step that may come
now.

A package that is missing is a user's mistake (`package`). Whatever else fails costs a warning, never the run.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from dassl.layout import LOGGERS
from dassl.utils import Registry, UserError, read_json, write_json
from dassl.utils.random_state import get_rng_state, set_rng_state

logger = logging.getLogger(__name__)

LOGGER_REGISTRY = Registry("LOGGER", "dassl.loggers", "mocoop.loggers")
"""A file dropped into this folder adds its own; so does a package, by an entry point of the group naming its module."""


def package(name: str, install: str = "") -> Any:
    """A package that a logger needs. Raises UserError where it is not installed.

    Args:
        name: to import.
        install: what pip calls it; "": the same.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"TRAIN.LOGGERS names {name}, which cannot be imported ({error}): pip install {install or name}"
        ) from error


def check_loggers(cfg: CfgNode) -> None:
    """Raise UserError where a name in TRAIN.LOGGERS is unknown, or a package that one needs is missing."""
    for name in cfg.TRAIN.LOGGERS:
        needs = getattr(LOGGER_REGISTRY.get(name), "needs", None)
        if needs:
            package(*needs)


def open_loggers(cfg: CfgNode | None, log_dir: str | Path, first_step: int | None) -> Any:
    """What writes to all that TRAIN.LOGGERS names; a TensorBoard writer where that is all, and without a config."""
    if cfg is None or tuple(cfg.TRAIN.LOGGERS) == ("tensorboard",):
        return LOGGER_REGISTRY.get("tensorboard")(cfg, log_dir, first_step, "")
    check_loggers(cfg)
    return Loggers(cfg, log_dir, first_step)


def close_loggers(opened: Any, error: BaseException | None = None) -> None:
    """Close a logger, or Loggers; by `abort`, where it has that, if an error ended the run."""
    if error is not None and hasattr(type(opened), "abort"):  # asked itself, TensorBoard's would open its files
        opened.abort(error)
    else:
        opened.close()


@contextmanager
def closed_on_error(close: Callable[[BaseException], None]) -> Iterator[None]:
    """Calls close(error) where an exception leaves the block."""
    try:
        yield
    except BaseException as error:  # Ctrl-C and SIGTERM as well
        close(error)
        raise


class Loggers:
    """Several loggers as one. Other methods than its own are TensorBoard's, and do nothing without it.

    Args:
        cfg: of the run.
        log_dir, first_step: as TensorBoard's writer takes them.
    """

    def __init__(self, cfg: CfgNode, log_dir: str | Path, first_step: int | None) -> None:
        self._loggers: dict[str, Any] = {}
        place = Path(cfg.OUTPUT_DIR, LOGGERS)
        runs = _runs(place) or (_runs(Path(cfg.RESUME, LOGGERS)) if cfg.RESUME else {})
        for name in dict.fromkeys(cfg.TRAIN.LOGGERS):
            opened = self._do(name, LOGGER_REGISTRY.get(name), cfg, log_dir, first_step, runs.get(name, ""))
            if opened is not None:
                self._loggers[name] = opened
        runs |= {name: opened.run for name, opened in self._loggers.items() if getattr(opened, "run", "")}
        if runs:
            write_json(runs, place)

    def add_scalar(self, tag: str, value: float, step: int | None = None) -> None:
        """Write a number to all of them."""
        for name, opened in [*self._loggers.items()]:
            self._do(name, opened.add_scalar, tag, value, step)

    def close(self, error: BaseException | None = None) -> None:
        """Write what is left, and what error ended the run."""
        for name, opened in [*self._loggers.items()]:
            self._do(name, close_loggers, opened, error)

    abort = close

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._loggers.get("tensorboard"), name, lambda *args, **kwargs: None)

    def _do(self, name: str, function: Callable, *args: Any) -> Any:
        """What function(*args) returns. It uses none of the run's random numbers; a logger that fails is done with."""
        state = get_rng_state()
        try:
            return function(*args)
        except Exception as error:  # other people's code, a network
            self._loggers.pop(name, None)
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            logger.warning("%s fails (%s): the run goes on without it", name, why)
            return None
        finally:
            set_rng_state(state)


def _runs(path):
    """{logger: what tells the run}, as an earlier try left it."""
    try:
        runs = read_json(path)
    except UserError:
        return {}
    return {str(name): str(run) for name, run in runs.items()} if isinstance(runs, dict) else {}
