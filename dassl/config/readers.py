"""Which source texts read which config keys, as far as the texts alone tell."""

import ast
import functools
import inspect
import re
import sys
from collections.abc import Collection, Mapping

KEY = re.compile(r"[A-Z][A-Z0-9_]*(?:\.[A-Z][A-Z0-9_]*)*")


@functools.cache
def names(source: str, listed: bool = False) -> frozenset[str]:
    """What a text names of a config: "OPTIM.LR" for cfg.OPTIM.LR, "LR" for optim_cfg.LR and "LR" in quotes.

    Comments, docstrings and messages name nothing. A text that is not Python's names all its words.

    Args:
        listed: count whole keys in lists, too, which may be merged somewhere, or be a list of keys.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return frozenset(re.findall(r"\w+", source))
    found = set()
    imports = [node.names for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {alias.asname or alias.name for aliases in imports for alias in aliases}  # and what else is no config
    asked = {id(arg) for node in ast.walk(tree) if isinstance(node, ast.Call) for arg in node.args}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            words: list[str] = []
            part: ast.AST = node
            while isinstance(part, ast.Attribute) and KEY.fullmatch(part.attr):
                words.insert(0, part.attr)
                part = part.value
            if not (isinstance(part, ast.Name) and part.id in modules):
                found.add(".".join(words))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and KEY.fullmatch(node.value):
            if listed or "." not in node.value or id(node) in asked:
                found.add(node.value)
    return frozenset(found - {""})


def last_words(source: str) -> set[str]:
    """The last word of everything that a text names, lists of keys included."""
    return {name.rpartition(".")[2] for name in names(source, listed=True)}


def readers(keys: Collection[str], texts: Mapping[str, str]) -> dict[str, list[str]]:
    """{key: names of the texts that read it}.

    A text reads a key that it names whole, or by an end ("LR") that is no other key's; an end that several keys have
    is theirs whose block, or whole name, the text speaks of anywhere.

    Args:
        keys: whole keys, such as "OPTIM.LR".
        texts: {name: Python source}.
    """
    owners: dict[str, list[str]] = {}
    for key in keys:
        words = _capitals(key).split(".")
        for i in range(1, len(words)):
            owners.setdefault(".".join(words[i:]), []).append(key)
    found: dict[str, list[str]] = {key: [] for key in keys}
    for text, source in texts.items():
        said, spoken = names(source), set(KEY.findall(source))
        read = set(said)
        for end in said & owners.keys():
            several = owners[end]
            read |= {
                key for key in several if len(several) == 1 or {key, _capitals(key).removesuffix(f".{end}")} & spoken
            }
        for key in read & found.keys():
            found[key].append(text)
    return found


def _capitals(key):
    """A key without an end that users choose: DATASET.BACKBONES of DATASET.BACKBONES.any."""
    return ".".join(word for word in key.split(".") if KEY.fullmatch(word))


def source_of(module: str) -> str:
    """A module's text; "" where it has none."""
    try:
        return inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):
        return ""
