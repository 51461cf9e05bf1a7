"""An optimizer from a config."""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn, optim
from yacs.config import CfgNode

from dassl.optim.radam import RAdam
from dassl.utils import UserError, nearest

logger = logging.getLogger(__name__)

BUILDERS: dict[str, Any] = {
    "adam": lambda p, cfg, **how: optim.Adam(p, **_adam(cfg), **how),
    "amsgrad": lambda p, cfg, **how: optim.Adam(p, **_adam(cfg), amsgrad=True, **how),
    "sgd": lambda p, cfg, **how: optim.SGD(
        p, **_common(cfg), momentum=cfg.MOMENTUM, dampening=cfg.SGD_DAMPNING, nesterov=cfg.SGD_NESTEROV, **how
    ),
    "rmsprop": lambda p, cfg: optim.RMSprop(p, **_common(cfg), momentum=cfg.MOMENTUM, alpha=cfg.RMSPROP_ALPHA),
    "radam": lambda p, cfg: RAdam(p, **_adam(cfg)),
    "adamw": lambda p, cfg, **how: optim.AdamW(p, **_adam(cfg), **how),
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
    build = BUILDERS[name]
    try:
        optimizer = build(param_groups, optim_cfg)
    except ValueError as error:
        raise UserError(f"the optimizer {name} cannot be built from OPTIM: {error}") from error
    if _fuses(name, optim_cfg, optimizer):
        groups = [group | {"fused": True} for group in optimizer.param_groups]
        optimizer = build(groups, optim_cfg, fused=True)
        if name == "sgd" and optim_cfg.MOMENTUM:
            optimizer.register_step_pre_hook(_start_momentum)
    if "fused" in optimizer.defaults:
        optimizer.register_load_state_dict_pre_hook(_stay_fused_or_not)
    return optimizer


def _fuses(name, cfg, optimizer):
    """Whether to make the step one kernel, on a GPU; there a GradScaler leaves out a step without waiting to know."""
    # a first step with dampening is no step from a momentum of zeros
    has_kernel = name in ("adam", "amsgrad", "adamw") or (name == "sgd" and not cfg.SGD_DAMPNING)
    return has_kernel and all(p.is_cuda and p.is_floating_point() for g in optimizer.param_groups for p in g["params"])


def _stay_fused_or_not(optimizer, state):
    """Checkpoints of a GPU load on a CPU and the other way round, and say how their optimizer was."""
    fused = optimizer.defaults["fused"]
    return state | {"param_groups": [group | {"fused": fused} for group in state["param_groups"]]}


def _start_momentum(optimizer, args, kwargs):
    """From zeros: torch starts from whatever is in memory where a GradScaler skips the first step of a fused SGD."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None and optimizer.state[p].get("momentum_buffer") is None:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


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
