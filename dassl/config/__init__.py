"""A run's config: the defaults, and merging files and arguments into them with errors that help."""

import ast
from collections.abc import Collection, Sequence
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from dassl.config.defaults import DASSLS, DEFAULTS
from dassl.config.ranges import RANGES
from dassl.config.readers import last_words, source_of
from dassl.layout import flat
from dassl.utils import UserError, nearest

__all__ = [
    "check_ranges",
    "clean_cfg",
    "get_cfg_default",
    "merge_from_file",
    "merge_from_list",
    "require",
    "without_effect",
]

LARGEST = 2**63 - 1, 3.4e38
"""Of the whole and the other numbers that torch takes."""

KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    tuple: "a list",
    CfgNode: "keys of its own",
}


def get_cfg_default() -> CfgNode:
    """A fresh config (a yacs CfgNode) in which every key has its default value."""
    return DEFAULTS.clone()


def clean_cfg(cfg: CfgNode, trainer: str) -> None:
    """Drop, in place, every cfg.TRAINER block but that of the trainer of this name."""
    for key in list(cfg.TRAINER):
        if key not in ("NAME", trainer.upper()):
            del cfg.TRAINER[key]


def merge_from_file(cfg: CfgNode, path: str | Path) -> None:
    """Set the keys that a yaml file gives. A key whose default is None takes values of any type.

    Raises:
        UserError: the file is missing or no yaml, has an unknown key, or a value of the wrong type.
    """
    try:
        with open(path, encoding="utf-8") as file:
            tree = yaml.safe_load(file)
    except OSError as error:
        raise UserError(f"cannot read the config file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"the config file {path} is not valid yaml: {error}") from error
    if not isinstance(tree, dict | None):
        raise UserError(f"the config file {path} must hold KEY: VALUE lines, not a {type(tree).__name__}")
    _merge_tree(cfg, tree or {}, [], path)


def merge_from_list(cfg: CfgNode, opts: Sequence[Any], source: str = "config arguments") -> None:
    """Set keys from a flat list, [KEY, VALUE, KEY, VALUE, ...], as a command line has them.

    Args:
        cfg: the config.
        opts: keys such as "OPTIM.LR"; values as such or as python literals in a string.
        source: where they come from, for messages.

    Raises:
        UserError: an odd number of entries, an unknown key, or a value of the wrong type.
    """
    if len(opts) % 2:
        raise UserError(f"config arguments come in pairs, KEY VALUE: {opts[-1]} has no value")
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        _set(cfg, str(key).split("."), value, source)


def require(
    cfg: CfgNode,
    key: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    one_of: Collection[object] | None = None,
    note: str = "",
) -> None:
    """Check one value of a config: that it is one of some words, or a number, or numbers, between limits.

    Args:
        cfg: the config.
        key: such as "OPTIM.LR".
        at_least, above: the lower limit, itself allowed or not; or none.
        at_most, below: the upper limit, likewise.
        one_of: the words.
        note: what the message adds about the limits.

    Raises:
        UserError: the value is another one.
    """
    value: Any = cfg
    for name in key.split("."):
        value = value[name]
    if one_of is not None:
        if value not in one_of:
            raise UserError(f'unknown {key} "{value}": {nearest(value, one_of)}')
        return
    limits = ((at_least, ge), (above, gt), (at_most, le), (below, lt))
    numbers = value if isinstance(value, list | tuple) else [value]
    if all(isinstance(x, int | float) for x in numbers):  # a key whose default is None may hold anything
        if all(holds(x, limit) for x in numbers for limit, holds in limits if limit is not None):  # NaN holds none
            return
    words = f"a number above {above}" if at_least is None else f"{at_least}"
    if at_least is None and above is None:
        words = f"a number up to {at_most}" if below is None else f"a number below {below}"
    elif at_most is not None:
        words += f" to {at_most}" if above is None else f", up to {at_most}"
    elif below is not None:
        words += f" to below {below}"
    elif above is None:
        words += " or more"
    raise UserError(f"{key} is {value}: give {words}" + (f", {note}" if note else ""))


def check_ranges(cfg: CfgNode) -> None:
    """Raise UserError where a value of one of Dassl's keys or ours is such that no run can come of it, or no sound one.

    Of other keys' values, NaN, infinite and very large ones.
    """
    for key, value in flat(cfg).items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int | float) and not abs(number) <= LARGEST[isinstance(number, float)]:
                raise UserError(f"{key} is {value}: no run can use such a number")
    for key, limits in RANGES.items():
        require(cfg, key, **limits)
    if len(scale := cfg.INPUT.RRCROP_SCALE) != 2 or scale[0] > scale[1]:
        raise UserError(f"INPUT.RRCROP_SCALE is {tuple(scale)}: give the smallest share of the area, then the largest")


def without_effect(cfg: CfgNode, *readers: type) -> list[str]:
    """Keys of Dassl's that are set to something else than their default though nothing reads them, such as "VERSION".

    Args:
        cfg: the config.
        readers: the classes of its trainer and its data set; what one of their modules names counts as read, and so
            does the block of the trainer.
    """
    modules = {base.__module__ for reader in readers for base in reader.__mro__}
    words = {word for name in modules if not name.startswith("dassl.") for word in last_words(source_of(name))}
    default = flat(DEFAULTS)
    own = f"TRAINER.{cfg.TRAINER.NAME.upper()}"
    return [
        key
        for key, value in flat(cfg).items()
        if (key in DASSLS or key.rpartition(".")[0] in DASSLS)
        and value != default.get(key, value)
        and key.rpartition(".")[0] != own
        and key.rpartition(".")[2] not in words
    ]


def _merge_tree(cfg, tree, parents, source):
    for name, value in tree.items():
        path = [*parents, str(name)]
        if isinstance(value, dict) and isinstance(_node(cfg, path, source).get(path[-1]), CfgNode):
            _merge_tree(cfg, value, path, source)
        else:
            _set(cfg, path, value, source)


def _node(cfg, path, source):
    """The node that holds, or may be given, the key at the end of a path."""
    node = cfg
    for depth, name in enumerate(path):
        last = depth == len(path) - 1
        if name not in node and not (last and node.is_new_allowed()):
            where = f" in {'.'.join(path[:depth])}" if depth else ""
            raise UserError(f"{source}: unknown config key {'.'.join(path)}{where}: {nearest(name, node)}")
        if last:
            return node
        if not isinstance(node[name], CfgNode):
            raise UserError(
                f"{source}: unknown config key {'.'.join(path)}: {'.'.join(path[: depth + 1])} is "
                f"{_kind(node[name])} and has no keys of its own"
            )
        node = node[name]


def _set(cfg, path, value, source):
    node, name = _node(cfg, path, source), path[-1]
    default = node.get(name)
    any_type = node.__dict__.setdefault("__any_type__", set())  # yacs copies it along
    if default is None and name in node:
        any_type.add(name)
    try:
        if name in any_type:
            node[name] = default = None
        if isinstance(default, float) and not isinstance(value, bool | None):
            value = float(value)  # also from 1, and from 1e-5, which yaml takes for text
        if isinstance(default, str) and isinstance(value, str):
            value = _text(value)
            node[name] = value
        else:
            node.merge_from_other_cfg(CfgNode({name: value}))
            if node[name] is None and default is not None:  # yacs lets it pass
                node[name] = default
                raise TypeError("no value")
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(f"{source}: {'.'.join(path)} takes {_kind(default)}, not {value!r}") from error


def _text(value):
    """A string as it is, but for quotes around it: 2024 and None are names too."""
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
    return literal if isinstance(literal, str) else value


def _kind(value):
    return KINDS.get(type(value), "a plain value")
