"""Dassl's module of that name: helpers too small for a file of their own, and what has one here."""

import difflib
from collections.abc import Iterable
from typing import Any

from dassl.errors import UserError, nearest
from dassl.utils.downloads import download_url
from dassl.utils.environment import collect_env_info
from dassl.utils.files import (
    check_isfile,
    listdir_nohidden,
    mkdir_if_missing,
    read_json,
    write_json,
)
from dassl.utils.images import read_image
from dassl.utils.random_state import set_random_seed

__all__ = [
    "check_availability",
    "check_isfile",
    "collect_env_info",
    "download_url",
    "get_most_similar_str_to_a_from_b",
    "listdir_nohidden",
    "mkdir_if_missing",
    "read_image",
    "read_json",
    "set_random_seed",
    "tolist_if_not",
    "write_json",
]


def tolist_if_not(x: Any) -> list[Any]:
    """x itself if it is a list, else [x]."""
    return x if isinstance(x, list) else [x]


def get_most_similar_str_to_a_from_b(a: str, b: Iterable[str]) -> str:
    """The string of b that is most like a, the first of several."""
    return max(b, key=lambda other: difflib.SequenceMatcher(None, str(a), str(other)).ratio())


def check_availability(requested: str, available: Iterable[str]) -> None:
    """Raises UserError, with the nearest names, where `requested` is not in `available`."""
    if requested not in available:
        raise UserError(f'no "{requested}": {nearest(requested, available)}')
