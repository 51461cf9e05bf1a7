"""The tables of config keys in docs/, made from the code: `python -m tests.docs.reference` writes them again.

docs/config.md has all keys; docs/methods/*.md have those of a method between `<!-- keys COOP -->` and `<!-- /keys -->`.
"""

import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from trainers.keys import Key, reference

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "config.md"
BLOCK = re.compile(r"(<!-- keys( \w+)? -->\n)(.*?)(<!-- /keys -->)", re.DOTALL)


def block_of(key: Key) -> str:
    """The heading that a key stands under."""
    first, _, rest = key.name.partition(".")
    return f"TRAINER.{key.section}" if key.section else first if rest else ""


def code(value: object) -> str:
    """A value in a cell."""
    return f"`{str(value)!r}`" if isinstance(value, str) else f"`{value!r}`"


def cell(text: str) -> str:
    """Text of a comment in a cell: what it says of Python values as code, so that no page takes it for markup."""
    text = re.sub(r"(?<!`)(\{\}|\(\)|\"\"|'[^']*'(?=[,)])|\w+(?:_\w+)+|OUTPUT_DIR/\S+)", r"`\1`", text)
    return text.replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*")


def table(keys: Iterable[Key], prefix: str = "", with_readers: bool = True) -> str:
    """A Markdown table.

    Args:
        keys: its rows.
        prefix: what their names are shown without.
        with_readers: the column of the files that read them.
    """
    lines = ["| key | default | meaning |", "|---|---|---|"]
    if with_readers:
        lines = ["| key | default | meaning | read by |", "|---|---|---|---|"]
    for key in keys:
        row = f"| `{key.name.removeprefix(prefix)}`{' †' * key.ours} | {code(key.default)} | {cell(key.meaning)} |"
        lines.append(row + f" {', '.join(f'`{name}`' for name in key.readers)} |" * with_readers)
    return "\n".join(lines) + "\n"


def whole(keys: list[Key]) -> str:
    """The tables of all keys."""
    parts = ["\n"]
    read = [key for key in keys if not key.unread]
    for block, own in groupby(sorted(read, key=lambda key: _order(read, block_of(key))), block_of):
        parts += [f"## {block or 'The run'}\n\n", table(own, f"{block}." if block else ""), "\n"]
    unread = [key for key in keys if key.unread]
    parts += ["## Keys that nothing here reads\n\n"]
    parts += [
        "They belong to data sets and trainers that Dassl has and this project has not; releases may read them.\n\n"
    ]
    parts += ["| key | default |\n|---|---|\n", *(f"| `{key.name}` | {code(key.default)} |\n" for key in unread), "\n"]
    return "".join(parts)


def _order(keys, block):
    """Where a block begins; keys of no block come first."""
    return -1 if not block else next(i for i, key in enumerate(keys) if block_of(key) == block)


def filled(text: str, keys: list[Key]) -> str:
    """A page with its blocks as they have to be. Raises KeyError where one names a block that has no keys."""

    def fill(match):
        section = (match[2] or "").strip()
        own = [key for key in keys if key.section == section]
        if section and not own:
            raise KeyError(section)
        return match[1] + (table(own, f"TRAINER.{section}.", False) if section else whole(keys)) + match[4]

    return BLOCK.sub(fill, text)


def pages() -> list[Path]:
    """Those with tables."""
    return [PAGE, *sorted((DOCS / "methods").glob("*.md"))]


if __name__ == "__main__":
    for path in pages():
        path.write_text(filled(path.read_text(encoding="utf-8"), reference()), encoding="utf-8")
