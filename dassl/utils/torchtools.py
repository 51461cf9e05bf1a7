"""Dassl's module of that name: checkpoints and layers, which have files of their own here."""

from dassl.utils.checkpoints import (
    load_checkpoint,
    load_pretrained_weights,
    resume_from_checkpoint,
    save_checkpoint,
)
from dassl.utils.layers import count_num_param, init_network_weights, open_all_layers, open_specified_layers

__all__ = [
    "count_num_param",
    "init_network_weights",
    "load_checkpoint",
    "load_pretrained_weights",
    "open_all_layers",
    "open_specified_layers",
    "resume_from_checkpoint",
    "save_checkpoint",
]
