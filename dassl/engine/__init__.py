"""The training engine: a registry of trainers and the loop whose hooks they override."""

from dassl.engine.build import TRAINER_REGISTRY, build_trainer
from dassl.engine.saved_models import MisfitError
from dassl.engine.simple_net import SimpleNet
from dassl.engine.trainer import SimpleTrainer, TrainerBase, TrainerX, TrainerXU

__all__ = [
    "TRAINER_REGISTRY",
    "MisfitError",
    "SimpleNet",
    "SimpleTrainer",
    "TrainerBase",
    "TrainerX",
    "TrainerXU",
    "build_trainer",
]
