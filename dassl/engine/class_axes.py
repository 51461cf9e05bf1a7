"""Weights that hold values for every class, for a run on other classes: matched by class name, or refused.

Class i here is not class i there; where both have equally many, a state dict loads and nobody notices.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from dassl.utils import UserError


def match(
    weights: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
    axes: Mapping[str, int],
    theirs: Sequence[str] | None,
    ours: Sequence[str],
    source: str,
    as_started: bool = False,
) -> Mapping[str, torch.Tensor]:
    """A state dict of some classes as one of others: each class takes what is there under its name.

    Args:
        weights: a state dict.
        own: the state dict of the model that it is for, as it started.
        axes: {key: axis of the classes} of the entries that hold something of every class.
        theirs: the class names of `weights` in the order of labels, or None where nobody knows.
        ours: those of `own`. Underscores count as spaces.
        source: where the weights come from, for messages.
        as_started: a class that the weights do not know keeps what is in `own`.

    Returns:
        A state dict; `weights` itself where the classes are the same or no entry is theirs.

    Raises:
        UserError: the classes of the weights are not known, or a class has nothing there, or it has it twice.
    """
    axes = {key: axis for key, axis in axes.items() if key in weights and key in own}
    if not axes:
        return weights
    what = " and ".join(axes)
    if theirs is None:
        raise UserError(
            f"{source} holds values for every class ({what}) but no classes.json beside it names the classes: repeat "
            "its run's train.py command, which writes the file, or write it: "
            '{"classnames": [names in the order of labels]}'
        )
    theirs, ours = _plain(theirs), _plain(ours)
    if theirs == ours:
        return weights
    lacking = [name for name in ours if name not in theirs]
    if lacking and not as_started:
        raise UserError(
            f"{source} holds values for each of its {len(theirs)} classes ({what}) and none for "
            f'{len(lacking)} of the {len(ours)} classes here ("{lacking[0]}"): it can only be used with classes that '
            "it knows"
        )
    twice = next((name for name in ours if theirs.count(name) > 1), None)
    if twice:
        raise UserError(f'{source} knows two classes named "{twice}": so it can only be used with its own classes')
    here = [i for i, name in enumerate(ours) if name in theirs]
    there = [theirs.index(ours[i]) for i in here]
    matched = {}
    for key, axis in axes.items():
        given, start = weights[key].movedim(axis, 0), own[key].detach().movedim(axis, 0)
        if len(given) != len(theirs) or given.shape[1:] != start.shape[1:]:
            raise UserError(
                f"{source}: {key} is {tuple(weights[key].shape)}, which does not match the {len(theirs)} classes of "
                f"its classes.json, or with this config's {tuple(own[key].shape)}"
            )
        value = start.to(given).clone()
        value[here] = given[there]
        matched[key] = value.movedim(0, axis)
    return {**weights, **matched}


def doubtful(model: nn.Module, theirs: Sequence[str], ours: Sequence[str]) -> list[str]:
    """The names of the learned parameters that may hold something of each of these classes or of those, or of neither.

    They have an axis as long as both lists, which are of different classes.
    """
    if same(theirs, ours) or len(theirs) != len(ours):  # another length does not load
        return []
    return [name for name, p in model.named_parameters() if p.requires_grad and len(ours) in p.shape]


def same(theirs: Sequence[str], ours: Sequence[str]) -> bool:
    """Whether class names are the same in the same order; underscores count as spaces."""
    return _plain(theirs) == _plain(ours)


def _plain(names):
    return [name.replace("_", " ") for name in names]
