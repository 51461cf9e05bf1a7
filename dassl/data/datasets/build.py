"""Datasets by name."""

import logging

from yacs.config import CfgNode

from dassl.data.datasets.base_dataset import DatasetBase
from dassl.utils import Registry

logger = logging.getLogger(__name__)

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg: CfgNode) -> DatasetBase:
    """The dataset that cfg.DATASET.NAME names. Raises UserError, with the nearest names, if there is none."""
    dataset = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    logger.info("Loading dataset: %s", cfg.DATASET.NAME)
    return dataset(cfg)
