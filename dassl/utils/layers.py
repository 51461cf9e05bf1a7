"""Which layers of a model learn, what they start from, and how many parameters it has."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from dassl.errors import UserError, nearest
from dassl.utils.tools import tolist_if_not


def open_all_layers(model: nn.Module) -> None:
    """Let every layer learn: train mode, gradients on."""
    model.train()
    model.requires_grad_(True)


def open_specified_layers(model: nn.Module, open_layers: str | Iterable[str]) -> None:
    """Let the named children of a model learn; put all others in eval mode, without gradients.

    Args:
        model: an nn.Module, or one wrapped in DataParallel.
        open_layers: the name of a child, or several.

    Raises:
        UserError: the model has no such child.
    """
    if isinstance(model, nn.DataParallel):
        model = model.module
    open_layers = {open_layers} if isinstance(open_layers, str) else set(open_layers)
    children = dict(model.named_children())
    for name in sorted(open_layers - children.keys()):
        raise UserError(f'{type(model).__name__} has no layer "{name}" to open: {nearest(name, children)}')
    for name, module in children.items():
        module.train(name in open_layers)
        module.requires_grad_(name in open_layers)


def init_network_weights(model: nn.Module, init_type: str = "normal", gain: float = 0.02) -> None:
    """Initialise a model again: random weights and no bias in convolutions and linear layers, norms as the identity.

    Args:
        model: its layers are changed in place.
        init_type: normal, of standard deviation `gain`; xavier or orthogonal, scaled by `gain`; or kaiming.
        gain: see there.

    Raises:
        UserError: an unknown init_type.
    """
    draw = {
        "normal": lambda weight: nn.init.normal_(weight, std=gain),
        "xavier": lambda weight: nn.init.xavier_normal_(weight, gain=gain),
        "kaiming": nn.init.kaiming_normal_,
        "orthogonal": lambda weight: nn.init.orthogonal_(weight, gain=gain),
    }
    if init_type not in draw:
        raise UserError(f'unknown init_type "{init_type}": {nearest(init_type, draw)}')
    for layer in model.modules():
        kind = type(layer).__name__
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        if weight is None or not any(word in kind for word in ("Conv", "Linear", "BatchNorm", "InstanceNorm")):
            continue
        if "Norm" in kind:
            nn.init.ones_(weight)
        else:
            draw[init_type](weight)
        if bias is not None:
            nn.init.zeros_(bias)


def count_num_param(model: nn.Module | None = None, params: Iterable[Any] | None = None) -> int:
    """The number of scalars in a model's parameters, or in an iterable of parameters or optimizer groups."""
    if model is not None:
        params = model.parameters()
    if params is None:
        raise ValueError("count_num_param() needs a model or params")
    return sum(p.numel() for item in params for p in _parameters(item))


def _parameters(item):
    """The parameters in an optimizer group, or in a parameter."""
    return tolist_if_not(item["params"]) if isinstance(item, dict) else [item]
