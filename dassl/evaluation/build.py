"""The registry of evaluators, and an evaluator from a config."""

import logging

from dassl.utils import Registry

logger = logging.getLogger(__name__)

EVALUATOR_REGISTRY = Registry("EVALUATOR")


def build_evaluator(cfg, lab2cname=None, **kwargs):
    """The evaluator named by cfg.TEST.EVALUATOR, built. Raises UserError with the nearest names if none."""
    evaluator = EVALUATOR_REGISTRY.get(cfg.TEST.EVALUATOR)
    if cfg.VERBOSE:
        logger.info("Loading evaluator: %s", cfg.TEST.EVALUATOR)
    return evaluator(cfg, lab2cname=lab2cname, **kwargs)
