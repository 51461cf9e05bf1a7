"""Weights & Biases: TRAIN.LOGGERS "('tensorboard', 'wandb')". Its own environment variables say where to (WANDB_MODE,
WANDB_PROJECT, WANDB_ENTITY, ...); its files are in the run's folder.
"""

import os
import uuid
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from dassl.layout import flat
from dassl.loggers.build import LOGGER_REGISTRY, package

NEEDS = ("wandb",)


class WeightsAndBiases:
    """A W&B run. Training counts steps and tests count epochs, so each prefix of tags has a step of its own.

    Args:
        cfg: what it shows as the run's config.
        run: the id of the run to continue; "": a new one.
    """

    def __init__(self, cfg: CfgNode, run: str) -> None:
        wandb = package(*NEEDS)
        self.run = run or uuid.uuid4().hex[:12]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "mocoop"),
            id=self.run,
            resume="allow",
            dir=cfg.OUTPUT_DIR,
            name="/".join(Path(cfg.OUTPUT_DIR).parts[-4:]),
            config=flat(cfg),
            # the log is the run's business, and a run that the caller has open is the caller's
            settings=wandb.Settings(console="off", reinit="create_new"),
        )
        self._known: set[str] = set()
        self._row: dict[str, Any] = {}

    def add_scalar(self, tag: str, value: float, step: int | None = None) -> None:
        """Scalars of one prefix and step are one row."""
        prefix = tag.rpartition("/")[0] or "run"
        if prefix not in self._known:
            self._known.add(prefix)
            self._run.define_metric(f"{prefix}/*" if "/" in tag else tag, step_metric=f"{prefix}/step")
        place = {f"{prefix}/step": step}
        if not place.items() <= self._row.items() or tag in self._row:
            self._flush()
        self._row |= place | {tag: value}

    def close(self, exit_code: int = 0) -> None:
        self._flush()
        self._run.finish(exit_code=exit_code)

    def abort(self, error: BaseException) -> None:
        self.close(1)

    def _flush(self):
        if self._row:
            self._run.log(self._row)
        self._row = {}


@LOGGER_REGISTRY.register()
def wandb(cfg: CfgNode, log_dir: str | Path, first_step: int | None, run: str) -> WeightsAndBiases:
    return WeightsAndBiases(cfg, run)


wandb.needs = NEEDS
