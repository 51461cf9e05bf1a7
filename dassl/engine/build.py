"""The registry of trainers, and a trainer from a config."""

import logging
from typing import Any

from yacs.config import CfgNode

from dassl.utils import Registry

logger = logging.getLogger(__name__)

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg: CfgNode) -> Any:
    """The trainer named by cfg.TRAINER.NAME, built. Raises UserError with the nearest names if there is none."""
    trainer = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    if cfg.VERBOSE:
        logger.info("Loading trainer: %s", cfg.TRAINER.NAME)
    return trainer(cfg)
