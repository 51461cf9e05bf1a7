"""Trees of yaml and JSON with something wrong in them, for readers that may refuse them and must not fall over them."""

import copy
import datetime
import math
import random
from typing import Any

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 7, 2**40, 10**30, 1.5, math.nan, math.inf, -math.inf, datetime.date(2021, 11, 21)),
    *("", " ", "x", "16", "a\nb", "a\0b", "../x", "..", "/", "=1+1", "\x1b[31m", "a|b`c$d", "\ud800", "é" * 300),
    *([], [None], [1, "x"], [[1]], [True], {}, {"a": 1}, {1: 2}, {"": None}, {"trainer": []}, [{}]),
)
"""Values that stand where others belong."""


def mutant(tree: Any, rng: random.Random, most: int = 3) -> Any:
    """A copy of the tree in which one to `most` values, keys or types differ."""
    tree = [copy.deepcopy(tree)]  # so that the whole of it can be replaced too
    for _ in range(rng.randint(1, most)):
        holder, key = rng.choice(list(_places(tree)))
        kind = rng.randrange(6)
        if kind == 0 and holder is not tree:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(["x", f"{key}s", "", 3, None, True, "a.b", key])] = holder.pop(key)
        elif kind == 2:
            holder[key] = [holder[key]] * rng.choice([1, 2])
        elif kind == 3:
            holder[key] = {rng.choice(["x", "trainer", 0]): holder[key]}
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD))
    return tree[0]


def _places(tree):
    """(holder, key or index) of every value in a tree."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])
