"""What would stop a run at its start, found before any run starts. Imports what train.py does: call it in a worker."""

from functools import cache
from types import SimpleNamespace

from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError
from prompting import backbone
from trainers.base import PromptTrainer


def problems(cfg: CfgNode) -> list[str]:
    """Why runs of this config cannot start: a line for each of trainer, weights and data that is not there."""
    name, weights = cfg.TRAINER.NAME, cfg.MODEL.BACKBONE.NAME
    told = [
        _trainer(name),
        _backbone(weights, cfg.MODEL.BACKBONE.FAMILY, name),
        _data(cfg.DATASET.NAME, cfg.DATASET.ROOT),
    ]
    return [line for line in told if line]


def _once(check):
    """The check as a function that gives its UserError's line, or None; of many runs' same facts it is made once."""

    @cache
    def told(*facts):
        try:
            check(*facts)
        except UserError as error:
            return str(error)
        return None

    return told


@_once
def _trainer(name):
    TRAINER_REGISTRY.get(name)


@_once
def _backbone(name, family, trainer):
    known = trainer in TRAINER_REGISTRY.registered_names()
    ours = known and issubclass(TRAINER_REGISTRY.get(trainer), PromptTrainer)
    if ours or backbone.is_clip(name):  # what another trainer makes of a name is its own business
        backbone.fetch(name, family)


@_once
def _data(name, root):
    reader = DATASET_REGISTRY.get(name)
    if hasattr(reader, "locate"):  # readers written for Dassl have none
        reader.__new__(reader).locate(SimpleNamespace(ROOT=root))
