"""KEY VALUE words of a command line, as train.py takes them: where they are, and the label they give to folders."""

import hashlib
import re
from collections.abc import Mapping, Sequence

from dassl.errors import UserError

KEY = re.compile(r"[A-Z][A-Z0-9_]*\.\S+")
NUMBER = re.compile(r"\d+(\.\d+)?(e-?\d+)?")
PART = re.compile(rf"[A-Z][A-Z0-9_.]*([A-Z_]{NUMBER.pattern}|=[A-Za-z0-9_.]+)")
"""A key and its value as a label has them; neither they nor several of them between hyphens can be read in two ways."""

LONGEST = 100
"""Characters of a label: file systems take names of 255."""


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the other words, the KEY VALUE words): these go from the first word like OPTIM.LR to the next option."""
    starts = [i for i, word in enumerate(words) if KEY.fullmatch(word) and not words[i - 1].startswith("--")]
    start = starts[0] if starts else len(words)
    end = next((i for i in range(start, len(words)) if words[i].startswith("--")), len(words))
    return [*words[:start], *words[end:]], list(words[start:end])


def pairs(words: Sequence[str]) -> dict[str, str]:
    """{key: value} in the order of the keys; of a key that comes twice the last word wins.

    Raises:
        UserError: there is an odd number of words.
    """
    if len(words) % 2:
        raise UserError(f'"{" ".join(words)}" is not a list of KEY VALUE pairs: its number of words is odd')
    return dict(sorted(zip(words[::2], words[1::2], strict=True)))


def label(overrides: Mapping[str, str]) -> str:
    """A folder's label, as "MAX_EPOCH2"; "" without overrides, and never the same for two different sets of them.

    Keys of OPTIM go without that word, as those of TRAINER. What cannot be spelled so ends in a digest.
    """
    told = []
    for key, value in sorted(overrides.items()):
        name = key.removeprefix("OPTIM.").removeprefix("TRAINER.")
        joint = "" if NUMBER.fullmatch(value) and not name[-1:].isdigit() else "="
        told.append(f"{name}{joint}{value}")
    text = "-".join(told)
    if len(text) <= LONGEST and all(map(PART.fullmatch, told)):
        return text
    digest = hashlib.sha256(repr(sorted(overrides.items())).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_.=]+', '_', text)[:LONGEST].strip('_')}-{digest}"
