"""The table as text, line by line as its rows come, as markdown, and as JSON."""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from benchmark.speed.rows import Row
from dassl.utils import atomic_path, mkdir_if_missing, write_json
from mocoop import escape

HEAD = ("method", "what", "plain s", "cold s", "x", "at hand s", "x", "floor s", "of cold", "of at hand", "error")
NAMES = 2
"""Columns of names, the first ones of any table."""

WIDTHS = 24, 6, 8
"""On a console: of the first column, of the second, and of any other, whose heading may be longer."""


def cells(row: Row) -> list[str]:
    """A row in the columns of HEAD; floors are those of cold and at hand."""
    f = row.figures()
    floors = [_seconds(f[f"{way}_floor"]) for way in ("cold", "at_hand")]
    shares = [_percent(f[f"{way}_share"]) for way in ("cold", "at_hand")]
    ratios = [f"{f[f'{way}_ratio']:.1f}" for way in ("cold", "at_hand")]
    error = f"{max(row.errors.values()):.0e}" if row.errors else ""
    floor = "" if shares == ["", ""] else " / ".join(floors)
    times = [_seconds(seconds) for seconds in (row.plain, row.cold, row.at_hand)]
    return [row.method, row.what, times[0], times[1], ratios[0], times[2], ratios[1], floor, *shares, error]


def line(cells: Sequence[str], head: Sequence[str] = HEAD) -> str:
    """A line of a table on a console, which can be printed before the others are known."""
    first, second, rest = WIDTHS
    widths = [first, second, *(max(rest, len(name)) for name in head[2:])]
    ways = ["<"] * NAMES + [">"] * (len(head) - NAMES)
    return "  ".join(f"{cell:{way}{width}}" for cell, way, width in zip(cells, ways, widths, strict=True)).rstrip()


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """A table and, above it, what it is of."""
    align = ["left"] * NAMES + ["right"] * (len(head) - NAMES)
    escaped = [[escape.markdown(cell) for cell in line] for line in lines]
    table = tabulate(escaped, head, tablefmt="github", disable_numparse=True, colalign=align)
    return "\n".join([*(f"- {escape.markdown(note)}" for note in notes), "", table, ""])


def write(folder: Path, name: str, text: str, values: Mapping[str, Any]) -> None:
    """Write <folder>/<name>.md and .json. Raises UserError where that is not possible."""
    mkdir_if_missing(folder)
    with atomic_path(folder / f"{name}.md") as path:
        path.write_text(text, encoding="utf-8")
    write_json(json.loads(json.dumps(values), parse_constant=lambda _: None), folder / f"{name}.json")


def machine(device: str) -> str:
    """What computes, in a line."""
    threads = f"{torch.get_num_threads()} threads"
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, {threads}, torch {torch.__version__}"
    return f"{_processor()}, {threads}, torch {torch.__version__}"


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _seconds(value):
    return "" if math.isnan(value) else f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:.0f}"


def _percent(value):
    return "" if math.isnan(value) else f"{100 * value:.0f}%"
