"""An optimizer from a config."""

import logging
from collections.abc import Iterable
from typing import Any

from torch import nn, optim
from yacs.config import CfgNode

from dassl.optim.radam import RAdam
from dassl.utils import UserError, nearest

logger = logging.getLogger(__name__)

BUILDERS = {
    "adam": lambda p, cfg: optim.Adam(p, **_adam(cfg)),
    "amsgrad": lambda p, cfg: optim.Adam(p, **_adam(cfg), amsgrad=True),
    "sgd": lambda p, cfg: optim.SGD(
        p, **_common(cfg), momentum=cfg.MOMENTUM, dampening=cfg.SGD_DAMPNING, nesterov=cfg.SGD_NESTEROV
    ),
    "rmsprop": lambda p, cfg: optim.RMSprop(p, **_common(cfg), momentum=cfg.MOMENTUM, alpha=cfg.RMSPROP_ALPHA),
    "radam": lambda p, cfg: RAdam(p, **_adam(cfg)),
    "adamw": lambda p, cfg: optim.AdamW(p, **_adam(cfg)),
}
AVAI_OPTIMS = list(BUILDERS)


def build_optimizer(model: Any, optim_cfg: CfgNode, param_groups: Iterable[Any] | None = None) -> optim.Optimizer:
    """The optimizer that cfg.OPTIM describes.

    Args:
        model: an nn.Module, or an iterable of parameters or of parameter groups.
        optim_cfg: cfg.OPTIM. With STAGED_LR the layers of the model (its children, and parameters of its own)
            that NEW_LAYERS does not name learn at LR * BASE_LR_MULT.
        param_groups: groups to use instead of the model's parameters; STAGED_LR is then ignored.

    Raises:
        UserError: an unknown optimizer or layer, or a setting that the optimizer refuses.
    """
    name = optim_cfg.NAME
    if name not in BUILDERS:
        raise UserError(f'unknown optimizer "{name}" (OPTIM.NAME): {nearest(name, AVAI_OPTIMS)}')
    if param_groups is None:
        if optim_cfg.STAGED_LR:
            param_groups = _staged(model, optim_cfg)
        else:
            param_groups = model.parameters() if isinstance(model, nn.Module) else model
    elif optim_cfg.STAGED_LR:
        logger.warning("OPTIM.STAGED_LR is ignored: the trainer brings parameter groups of its own")
    try:
        return BUILDERS[name](param_groups, optim_cfg)
    except ValueError as error:
        raise UserError(f"the optimizer {name} cannot be built from OPTIM: {error}") from error


def _common(cfg):
    return {"lr": cfg.LR, "weight_decay": cfg.WEIGHT_DECAY}


def _adam(cfg):
    return _common(cfg) | {"betas": (cfg.ADAM_BETA1, cfg.ADAM_BETA2), "eps": cfg.ADAM_EPS}


def _staged(model, cfg):
    """Two groups: base layers, at a fraction of the learning rate, and new layers."""
    if not isinstance(model, nn.Module):
        raise TypeError("OPTIM.STAGED_LR needs a model (an nn.Module), not bare parameters")
    if isinstance(model, nn.DataParallel):
        model = model.module
    parameters = [(name.partition(".")[0], p) for name, p in model.named_parameters()]
    layers = {layer for layer, _ in parameters}
    new = [cfg.NEW_LAYERS] if isinstance(cfg.NEW_LAYERS, str) else cfg.NEW_LAYERS
    for layer in new:
        if layer not in layers:
            raise UserError(f'no layer "{layer}" in the model (OPTIM.NEW_LAYERS): {nearest(layer, layers)}')
    return [
        {"params": [p for layer, p in parameters if layer not in new], "lr": cfg.LR * cfg.BASE_LR_MULT},
        {"params": [p for layer, p in parameters if layer in new]},
    ]
