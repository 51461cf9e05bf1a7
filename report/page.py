"""A report on many runs: tables and figures as files, and all of it on one page."""

import argparse
import io
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.facts import method_of
from benchmark.grid import is_grid, read_grid
from benchmark.protocols import PROTOCOLS
from dassl.errors import printable
from dassl.utils import UserError, atomic_path, mkdir_if_missing
from mocoop import typed
from mocoop.command import Command
from report import answer, layouts, results, significance, summary
from report import charts as drawn
from report.looks import Look
from report.pages import origin, render

FILES = {"markdown": "tables.md", "latex": "tables.tex", "csv": "tables.csv"}
PAGE, TEMPLATE = "report.html", "page.html"


def write(
    runs: pd.DataFrame,
    folder: str | Path,
    name: str,
    compare: Sequence[str] | None = None,
    examples: int = 0,
    root: str | None = None,
    unfinished: Mapping[str, int] | None = None,
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame | None]:
    """Write a report.

    Args:
        runs: as `results.read` gives them.
        folder: where to; files of an earlier report there are replaced.
        name: what the runs are called.
        compare: two methods to test against each other, or None.
        examples: how many images of each expert to show, where a method mixes experts.
        root: where the datasets of the examples are; None: as the runs' configs say.
        unfinished: method -> how many of its runs are missing, as far as that is known.

    Returns:
        (summaries, tests): what `summary.summaries` and `significance.compare` give, the latter None without compare.

    Raises:
        UserError: no run of a protocol is finished; or a method to compare is unknown.
    """
    summaries = summary.summaries(runs)
    if not summaries:
        raise UserError(f"no finished run of a protocol in {name}: {typed('benchmark status')} shows their progress")
    tests = significance.compare(runs, *compare) if compare else None
    charts = drawn.charts(runs, summaries)
    sheets = {protocol: preferred_images(runs, protocol, examples, root) if examples else {} for protocol in summaries}

    folder = Path(folder)
    mkdir_if_missing(folder / "figures")
    for kind, file in FILES.items():
        _write(folder / file, layouts.FORMATS[kind](summaries))
    for chart in (chart for found in charts.values() for chart in found):
        chart.save(folder / "figures")
    for protocol, pictures in sheets.items():
        for dataset, picture in pictures.items():
            with atomic_path(folder / "figures" / f"{protocol}_experts_{dataset}.jpg") as temporary:
                temporary.write_bytes(picture)
    _write(folder / PAGE, page(runs, summaries, charts, sheets, name, compare, tests, unfinished))
    return summaries, tests


def page(
    runs: pd.DataFrame,
    summaries: dict[str, pd.DataFrame],
    charts: dict[str, list[drawn.Chart]],
    sheets: dict[str, dict[str, bytes]],
    name: str,
    compare: Sequence[str] | None = None,
    tests: pd.DataFrame | None = None,
    unfinished: Mapping[str, int] | None = None,
) -> str:
    """The HTML page, which loads nothing from elsewhere."""
    looks = drawn.method_looks(summaries)
    reported = runs[runs.protocol.isin(list(summaries))]
    return render(
        TEMPLATE,
        title=printable(answer.title(summaries, runs)),
        name=printable(name),
        answers=answer.answers(runs, summaries),
        facts=facts(reported, unfinished or {}),
        sections=[section(each, cells, charts[each], sheets[each], looks) for each, cells in summaries.items()],
        folded=[(PROTOCOLS[each].title, chart) for each in summaries for chart in charts[each] if chart.folded],
        headings={name: protocol.title for name, protocol in PROTOCOLS.items()},
        compare=compare,
        tests=[] if tests is None else list(tests.itertuples()),
        p_value=significance.p_value,
        test_note=significance.NOTE,
        no_pair=significance.NO_PAIR,
        costs=costs(runs),
    )


def section(
    protocol: str,
    cells: pd.DataFrame,
    charts: Sequence[drawn.Chart],
    sheets: Mapping[str, bytes],
    looks: Mapping[str, Look],
) -> dict[str, Any]:
    """What the template needs of a protocol; each of its tables has the panels that show the same figures."""
    tables = layouts.tables(cells)
    untrained = {name for name, trainer in cells[["method", "trainer"]].values if not method_of(trainer).trains}
    beside: dict[str, list] = {table.title: [] for table in tables}
    more = []
    for chart in (chart for chart in charts if not chart.folded):
        svgs = chart.svgs()
        if chart.beside_tables:
            for title in beside.keys() & svgs.keys():
                beside[title].append(svgs.pop(title))
        if svgs:
            more.append((chart, svgs))
    return {
        "id": protocol,
        "heading": PROTOCOLS[protocol].title,
        "note": " ".join([PROTOCOLS[protocol].note, *_units(tables)]),
        "shown": [chart.caption for chart in charts if chart.beside_tables],
        "tables": [
            {
                "table": table,
                "rows": [
                    (method, looks[method], row, "-" if method in untrained else seeds)
                    for method, row, seeds in table.rows
                ],
                "svgs": beside[table.title],
            }
            for table in tables
        ],
        "charts": more,
        "sheets": sheets,
    }


def facts(runs: pd.DataFrame, unfinished: Mapping[str, int]) -> list[tuple[str, str]]:
    """(what, which) pairs of what a reader has to know of the runs before their figures."""

    def known(column: str) -> str:
        return ", ".join(sorted(map(printable, runs[column].dropna().unique()))) or "not known"

    seeds = sorted(runs.seed.dropna().unique())
    left = f"{sum(unfinished.values())}: {', '.join(f'{printable(who)} {n}' for who, n in unfinished.items())}"
    backbones = runs.backbone.dropna().nunique()
    return [
        *origin(runs),
        ("Device", known("device")),
        ("Backbones" if backbones > 1 else "Backbone", known("backbone")),
        ("Seeds", ", ".join(map(str, seeds)) or "none"),
        ("Runs", f"{len(runs)} finished"),
        *([("Unfinished runs", left)] if unfinished else []),
    ]


def _units(tables):
    """Sentences on how to read the figures of tables."""
    cells = [cell for table in tables for _, row, _ in table.rows for cell in row if cell]
    seeds = {seeds for table in tables for *_, seeds in table.rows}
    yield f"In percent{', one seed' if seeds == {'1'} else ''}; the best of a column is bold."
    if any(cell.std is not None for cell in cells):
        yield "Behind ± is the standard deviation over seeds; one seed where there is none."
    if any(table.partial for table in tables):
        yield layouts.PARTIAL
    if any(cell is None for table in tables for _, row, _ in table.rows for cell in row):
        yield "A dash stands for what was not run."
    if any(cell.published is not None for cell in cells):
        yield "Small below a figure: the published one and, in brackets, the difference from it."


def preferred_images(runs: pd.DataFrame, protocol: str, images: int, root: str | None = None) -> dict[str, bytes]:
    """The test images that give experts most weight: {dataset: JPEG as bytes}, a row for each expert.

    From one run of each dataset and method that mixes experts (where there are several such methods, the names of the
    datasets end in theirs): the first seed at the largest number of shots, tested on what it was trained on.
    """
    from learned import explain
    from learned.model import is_mixture, load_run

    mixtures = [trainer for trainer in runs.trainer.unique() if is_mixture(trainer)]
    runs = runs[(runs.protocol == protocol) & runs.trainer.isin(mixtures) & runs.part.isin(["train", "train_base"])]
    runs = runs.sort_values(["shots", "seed", "folder"], ascending=[False, True, True])
    runs = runs.drop_duplicates(["dataset", "trainer"])
    pictures = {}
    for run in runs.sort_values(["dataset", "trainer"]).itertuples():
        model = load_run(run.folder)
        cfg = model.trainer.cfg
        if root is not None:
            cfg.DATASET.ROOT = root
        items = explain.test_images(cfg, model.classnames)
        model.predicted(model.loader(items))
        if (mixture := model.mixture()) is None:  # its method mixes with other options
            continue
        chosen = explain.preferring(mixture, images)
        sheet = explain.experts_picture(mixture, chosen, items)
        sheet.save(file := io.BytesIO(), "JPEG", quality=85)
        pictures[run.dataset if len(mixtures) == 1 else f"{run.dataset}_{run.trainer}"] = file.getvalue()
    return pictures


def costs(runs: pd.DataFrame) -> list[list[Any]]:
    """Rows of what the methods' training runs cost: protocol, method, config, runs, and medians; None is unknown.

    The medians: trainable parameters, seconds of training, peak memory in MB.
    """
    rows = []
    for protocol in PROTOCOLS:
        own = runs[(runs.protocol == protocol) & (runs.trainable_parameters > 0) & (runs.train_seconds > 0)]
        names = summary.labels(runs, protocol)
        for method, trained in own.groupby("method"):
            medians = trained[["trainable_parameters", "train_seconds", "peak_memory_mb"]].astype(float).median()
            known = [None if value != value else value for value in medians]
            rows.append([protocol, names[method], trained.config.iloc[0], len(trained), *known])
    return rows


class Report(Command):
    """Tables and figures of finished runs, as files and on one page.

    Prints the tables, best figures in bold, and writes

        report.html              the page: self-contained, for a screen, a phone, a printer
        tables.md, tables.tex    Markdown and LaTeX (booktabs)
        tables.csv               every cell of every table, unrounded
        figures/                 SVG and PNG

    for the runs finished so far. An average over fewer datasets than another method's says so and is never the best.
    Beside a figure is what a paper printed for the same backbone, and the difference (report/published/). --compare
    tests two methods, named as in the tables, paired by dataset and seed. --examples adds, for methods that mix
    experts, the K test images that each expert prefers, from one run on each dataset; it needs the datasets, and takes
    a few seconds for each.
    """

    examples = ("output", "demo --compare ONE ANOTHER", "output --format latex --examples 5")

    def add_arguments(self, add: Any) -> None:
        add("runs", metavar="OUTPUT_OR_GRID", help="a folder of runs, or a grid: its yaml file or its name")
        add("--output", help="where the runs of a grid are (default: as the grid says)")
        add("--out", metavar="DIR", help="where to write (default: report/ in the folder of the runs)")
        add("--compare", nargs=2, metavar="METHOD", help="two methods to test against each other")
        add("--format", choices=list(layouts.FORMATS), default="text", help="format of what is printed")
        add("--examples", type=int, default=0, metavar="K", help="images of each part of a mixture (default: none)")
        add("--root", help="where the datasets of the examples are (default: as the runs' configs say)")

    def run(self, args: argparse.Namespace) -> int:
        if not is_grid(args.runs):
            runs, folder = results.read(args.runs), Path(args.runs, "report")
            unfinished = results.unfinished(args.runs)
        else:
            grid = read_grid(args.runs)
            output = args.output or grid.output
            runs, folder = results.of_grid(grid, output), Path(output, "report", Path(args.runs).stem)
            done = {str(Path(output, run.folder)) for run in grid.runs}.intersection(runs.folder)
            left = [run.folder for run in grid.runs if str(Path(output, run.folder)) not in done]
            unfinished = Counter(grid.methods[folder] for folder in left)
        folder = Path(args.out or folder)
        summaries, tests = write(runs, folder, args.runs, args.compare, args.examples, args.root, unfinished)
        print(layouts.FORMATS[args.format](summaries))
        if args.compare:
            print(significance.text(tests, *args.compare), file=sys.stderr if args.format == "csv" else sys.stdout)
        print(f"written: {folder / PAGE} and files beside it", file=sys.stderr)
        return 0


def _write(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
