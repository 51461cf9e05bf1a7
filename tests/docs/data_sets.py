"""Writes what docs/data-sets.md says of each data set, from its reader: python -m tests.docs.data_sets"""

import importlib
import inspect

from datasets.sources import Source
from datasets.tools import config_names, find
from tests.conftest import REPO

PAGE = REPO / "docs" / "data-sets.md"
BEGIN, END = "<!-- begin: python -m tests.docs.data_sets -->\n", "<!-- end -->\n"


def section(names: list[str], module: str) -> str:
    """Of the data sets of one file: what its first lines say, how many images there are, where they come from."""
    title, _, layout = inspect.getdoc(importlib.import_module(module)).partition("\n\n")
    lines = [f"### {', '.join(f'`{name}`' for name in names)}", "", title, ""]
    for paragraph in filter(None, layout.split("\n\n")):
        tree = "/" in paragraph.split()[0]  # a layout, not words
        lines += ["\n".join(f"    {line}" for line in paragraph.splitlines()) if tree else paragraph, ""]
    reader = find(names[0], "")[0]
    if counts := getattr(reader, "counts", None):
        parts = (f"{n:,} {part}" for part, n in zip(("train", "val", "test"), counts[1:], strict=True) if n)
        lines += [f"{counts[0]:,} classes; images: {', '.join(parts)}.", ""]
    sources = getattr(reader, "sources", ())
    lines += [f"- {told(source)}" for source in sources]
    return "\n".join([*lines, *[""] * bool(sources)])


def told(source: Source) -> str:
    """Where a file is."""
    if not source.url:
        page, comma, more = source.page.partition(",")
        return f"`{source.path}`: **by hand**, from <{page}>{comma}{more}"
    checked = f"MD5 {source.md5}" if source.md5 else "no published checksum"
    return f"`{source.path}`: <{source.url}> ({checked})"


def text() -> str:
    """All sections, in the order of the names."""
    modules: dict[str, list[str]] = {}
    for name in config_names():
        modules.setdefault(find(name, "")[0].__module__, []).append(name)
    own = {module: names for module, names in modules.items() if "icons" not in module}
    return "\n".join(section(names, module) for module, names in own.items())


def page() -> str:
    """The page as it should be."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{head}{BEGIN}\n{text()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
