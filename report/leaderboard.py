"""A leaderboard over many grids and folders of runs: protocol x setting x method x data set, on one page.

The page is made of plain tables, one for each protocol, setting and figure; its script shows those that are asked for,
sorts and ranks them, and keeps what is shown in the address, so that a link shows the same.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.facts import dataset_and_style
from benchmark.grid import is_grid, read_grid
from benchmark.protocols import PROTOCOLS
from dassl.errors import UserError, printable
from dassl.utils import atomic_path, mkdir_if_missing
from mocoop.command import Command
from report import results, summary
from report.looks import Look, looks
from report.pages import origin, render
from report.published import AVERAGE
from report.results import ON

SAME = ["protocol", "part", "dataset", "shots", "seed", "method", "backbone"]
"""What two runs have in common that would stand in one place."""


@dataclass(frozen=True)
class Entry:
    """A figure; `rank` and `best` are among its column's, 0 and False where it is not to be compared.

    `over` says of how many data sets an average is, where it is not of all ("2 of 3"), else "".
    """

    mean: float
    std: float | None
    seeds: int
    over: str
    published: float | None
    difference: float | None
    source: str
    rank: int
    best: bool


@dataclass(frozen=True)
class Line:
    """A row: a method on a backbone, an Entry or None for each column, and the seeds of all of them ("3", "1 to 3")."""

    method: str
    look: Look
    backbone: str
    entries: list[Entry | None]
    seeds: str

    @property
    def rank(self) -> int:
        """By the first column; 0 where it has none."""
        return self.entries[0].rank if self.entries[0] else 0


@dataclass(frozen=True)
class Board:
    """A table.

    Attributes:
        protocol: a name in PROTOCOLS, whose title is `title`.
        setting: "16 shots", "closed world" and the like.
        figure: "H", "accuracy" and the like.
        main: whether it is the one of its protocol to begin with: the figure that decides, at the most shots.
        columns: the average, where there are several data sets, and the data sets.
        lines: its rows by rank, those without one at the end.
    """

    protocol: str
    title: str
    setting: str
    figure: str
    main: bool
    columns: list[str]
    lines: list[Line]

    @property
    def several_seeds(self) -> bool:
        return any(line.seeds != "1" for line in self.lines)

    def averaged(self, column: str) -> bool:
        """Whether averages may lack that column: not those over targets, which are there where all of these are."""
        return not PROTOCOLS[self.protocol].targets and _averaged(column)


def gather(places: Sequence[str]) -> pd.DataFrame:
    """The runs in folders and of grids, each once, as `results.read` gives them.

    Where several places have a run of the same method, data set, shots, seed and backbone, method and config have the
    place's name behind theirs: of a grid without folder and ending, unless another place has that name too.
    """
    frames, places = [], list(dict.fromkeys(places))
    names = [Path(place).stem if is_grid(place) else place for place in places]
    for place, name in zip(places, names, strict=True):
        runs = results.of_grid(read_grid(place)) if is_grid(place) else results.read(place)
        frames.append(runs.assign(place=printable(name if names.count(name) == 1 else place)))
    runs = pd.concat(frames, ignore_index=True)
    runs = runs[~runs.folder.map(os.path.realpath).duplicated()]
    runs = runs.assign(backbone=runs.backbone.fillna("-"))
    suffix = ON + runs.backbone  # which methods have that ran on several; here it has a column of its own
    bare = [name.removesuffix(end) for name, end in zip(runs.method, suffix, strict=True)]
    runs = runs.assign(method=pd.Series(bare, runs.index, dtype="string"))
    twice = runs[runs.duplicated(SAME, keep=False) & (runs.protocol != "")]
    recipes = set(zip(twice.trainer, twice.config, strict=True))
    apart = pd.Series([pair in recipes for pair in zip(runs.trainer, runs.config, strict=True)], runs.index)
    named = {name: runs[name].mask(apart, runs[name] + " [" + runs.place + "]") for name in ("method", "config")}
    return runs.assign(**named)


def boards(runs: pd.DataFrame) -> list[Board]:
    """The tables, in the order of the protocols. Backbones are summarised apart, so that no average mixes them."""
    parts = []
    for backbone, own in runs.groupby("backbone", sort=True):
        for protocol, cells in summary.summaries(own).items():
            parts.append(_long(protocol, cells).assign(backbone=backbone))
    if not parts:
        return []
    cells = pd.concat(parts, ignore_index=True)
    trainers = dict(cells[["method", "trainer"]].drop_duplicates("method").values)
    styles, found = looks(trainers), []
    for protocol in (name for name in PROTOCOLS if (cells.protocol == name).any()):
        own = cells[cells.protocol == protocol]
        settings = sorted(own.setting.unique(), key=lambda name: (summary.shots_of(name), name), reverse=True)
        figures = list(dict.fromkeys(own.figure))
        decides = PROTOCOLS[protocol].decides or figures[-1]
        figures.sort(key=lambda name: name != decides)
        for setting in settings:
            for figure in figures:
                part = own[(own.setting == setting) & (own.figure == figure)]
                if len(part):
                    main = (setting, figure) == (settings[0], figures[0])
                    found.append(_board(protocol, setting, figure, main, part, styles))
    return found


def page(found: Sequence[Board], runs: pd.DataFrame, places: Sequence[str]) -> str:
    """The HTML page, which loads nothing from elsewhere.

    Args:
        runs: as `gather` gives them.
        places: where those are.
    """
    methods = {line.method for board in found for line in board.lines}
    names = {name for board in found for name in board.columns if name != AVERAGE}
    backbones = sorted({line.backbone for board in found for line in board.lines})
    runs = runs[runs.protocol.isin([board.protocol for board in found])]
    told = [
        *(_count(len(methods), "method"), _count(len(names), "data set")),
        f"backbone {backbones[0]}" if len(backbones) == 1 else _count(len(backbones), "backbone"),
        _count(len(runs), "finished run"),
    ]
    return render(
        "leaderboard.html",
        boards=found,
        summary=f"{', '.join(told)} in {', '.join(places)}.",
        origin=origin(runs),
        protocols={board.protocol: board.title for board in found},
        datasets=sorted(names),
        backbones=backbones,
        sources=sorted({e.source for board in found for line in board.lines for e in line.entries if e and e.source}),
    )


class Leaderboard(Command):
    """All results at hand on one page: methods by data sets, for each protocol, number of shots and figure.

    Takes folders of runs and grids, any number of them, and writes one self-contained page, to be opened from disk or
    put on any server. Its tables can be sorted, searched, narrowed to a backbone or a data set, and saved as CSV as
    they are shown; the address is a link to what is shown. Methods are ranked by their average over the data sets. An
    average over fewer of them says so, has no rank and is never the best. Beside a figure is what a paper printed for
    the same backbone, and the difference.
    """

    examples = ("output", "demo my/grid.yaml elsewhere/output --out leaderboard.html")

    def add_arguments(self, add: Any) -> None:
        add(
            "places", metavar="GRID_OR_FOLDER", nargs="+", help="a grid, its yaml file or its name, or a folder of runs"
        )
        add("--out", metavar="FILE", default="leaderboard.html", help="the page (default: %(default)s)")

    def run(self, args: argparse.Namespace) -> int:
        runs = gather(args.places)
        found = boards(runs)
        if not found:
            raise UserError(
                f"no finished run of a protocol in {', '.join(args.places)}: give the folders of finished runs"
            )
        if os.path.isdir(args.out):
            raise UserError(f"--out {args.out} is a folder: give the page's file")
        mkdir_if_missing(os.path.dirname(args.out) or ".")
        with atomic_path(args.out) as temporary:
            places = [printable(place) for place in args.places]
            temporary.write_text(page(found, runs, places), encoding="utf-8")
        print(f"written: {args.out}, {_count(len(found), 'table')}")
        return 0


def _count(number, what):
    return f"{number} {what}{'s' * (number != 1)}"


def _long(protocol, cells):
    """The cells with `setting`, `figure` and `data` of the tables here, which have data sets across."""
    facts, columns = PROTOCOLS[protocol], cells.column.astype(str)
    if facts.targets:
        settings = [
            f"{setting} of {name}".removeprefix(" of ") for setting, name in cells[["setting", "dataset"]].values
        ]
        return cells.assign(setting=settings, figure="accuracy", data=columns)
    if not facts.setting:  # a zero-shot method is in the tables of all shots, having none of its own
        shots = columns.map({"0": "zero-shot", "1": "1 shot", "all": "all images"}).fillna(columns + " shots")
        cells = cells.assign(setting=shots, figure="accuracy", data=cells.dataset)
        learned, plain = cells[shots != "zero-shot"], cells[shots == "zero-shot"]
        if learned.empty:
            return plain
        return pd.concat([learned, *(plain.assign(setting=name) for name in learned.setting.unique())])
    return cells.assign(figure=columns, data=cells.dataset)


def _board(protocol, setting, figure, main, cells, styles):
    names = sorted(set(cells.data), key=summary.place_of)
    averaged = [name for name in names if _averaged(name)]
    whole = cells.datasets == (1 if PROTOCOLS[protocol].targets else len(averaged))
    rival = cells["mean"].round(2).where((cells.data != AVERAGE) | whole)
    rank = rival.groupby(cells.data).rank(method="min", ascending=False).fillna(0).astype(int)
    best = (rank == 1) & (rival.groupby(cells.data).transform("count") > 1)
    over = [
        f"{cell.datasets} of {len(averaged)}" if pd.isna(known) and cell.datasets else ""
        for cell, known in zip(cells.itertuples(), rival, strict=True)
    ]
    lines = []
    for (method, backbone), own in cells.assign(rank=rank, best=best, over=over).groupby(["method", "backbone"]):
        entries = {cell.data: _entry(cell) for cell in own.itertuples()}
        seeds = sorted(set(own.seeds))
        told = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
        lines.append(Line(method, styles[method], backbone, [entries.get(name) for name in names], told))
    lines.sort(key=lambda line: (line.rank == 0, line.rank, line.method, line.backbone))
    return Board(protocol, PROTOCOLS[protocol].title, setting, figure, main, names, lines)


def _averaged(name):
    """Whether a column is a data set whose figures go into averages, as those of one style of images do not."""
    return name != AVERAGE and dataset_and_style(name)[1] is None


def _entry(cell):
    figures = [None if pd.isna(x) else float(x) for x in (cell.std, cell.published, cell.difference)]
    std, known, difference = figures
    source = cell.source if known is not None else ""
    return Entry(
        float(cell.mean), std, int(cell.seeds), cell.over, known, difference, source, int(cell.rank), bool(cell.best)
    )
