"""The registry of evaluators, and an evaluator from a config."""

import logging
from typing import Any

from yacs.config import CfgNode

from dassl.utils import Registry

logger = logging.getLogger(__name__)

EVALUATOR_REGISTRY = Registry("EVALUATOR", "dassl.evaluation", "mocoop.evaluators")
"""A file dropped into this folder adds its own; so does a package, by an entry point of the group naming its module."""


def build_evaluator(cfg: CfgNode, lab2cname: dict[int, str] | None = None, **kwargs: Any) -> Any:
    """The evaluator named by cfg.TEST.EVALUATOR, built. Raises UserError with the nearest names if none."""
    evaluator = EVALUATOR_REGISTRY.get(cfg.TEST.EVALUATOR)
    if cfg.VERBOSE:
        logger.info("Loading evaluator: %s", cfg.TEST.EVALUATOR)
    return evaluator(cfg, lab2cname=lab2cname, **kwargs)
