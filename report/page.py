"""A report on many runs: tables and figures as files, and all of it on one page."""

import argparse
import base64
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from benchmark.grid import is_grid, read_grid
from benchmark.protocols import PROTOCOLS
from dassl.errors import printable
from dassl.utils import UserError, atomic_path, mkdir_if_missing
from mocoop import typed
from mocoop.command import Command
from report import charts as drawn
from report import layouts, results, significance, summary

FILES = {"markdown": "tables.md", "latex": "tables.tex", "csv": "tables.csv"}
PAGE, TEMPLATE = "report.html", "page.html"


def write(
    runs: pd.DataFrame,
    folder: str | Path,
    name: str,
    compare: Sequence[str] | None = None,
    examples: int = 0,
    root: str | None = None,
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame | None]:
    """Write a report.

    Args:
        runs: as `results.read` gives them.
        folder: where to; files of an earlier report there are replaced.
        name: what the runs are called.
        compare: two methods to test against each other, or None.
        examples: how many images of each expert to show, where a method mixes experts.
        root: where the datasets of the examples are; None: as the runs' configs say.

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
    _write(folder / PAGE, page(runs, summaries, charts, sheets, name, compare, tests))
    return summaries, tests


def page(
    runs: pd.DataFrame,
    summaries: dict[str, pd.DataFrame],
    charts: dict[str, list[drawn.Chart]],
    sheets: dict[str, dict[str, bytes]],
    name: str,
    compare: Sequence[str] | None = None,
    tests: pd.DataFrame | None = None,
) -> str:
    """The HTML page, which loads nothing from elsewhere."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["p_value"] = significance.p_value
    environment.filters["data_uri"] = _data_uri
    sections = [
        {
            "id": protocol,
            "heading": PROTOCOLS[protocol].title,
            "note": PROTOCOLS[protocol].note,
            "tables": layouts.tables(cells),
            "charts": charts[protocol],
            "sheets": sheets[protocol],
        }
        for protocol, cells in summaries.items()
    ]
    return environment.get_template(TEMPLATE).render(
        name=printable(name),
        runs=runs[runs.protocol.isin(list(summaries))],
        sections=sections,
        headings={name: protocol.title for name, protocol in PROTOCOLS.items()},
        units=layouts.UNITS,
        partial=layouts.PARTIAL,
        compare=compare,
        tests=[] if tests is None else list(tests.itertuples()),
        test_note=significance.NOTE,
        no_pair=significance.NO_PAIR,
        costs=costs(runs),
    )


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
        sheet = explain.contact_sheet([[items[i].impath for i in own] for own in chosen])
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
        else:
            grid = read_grid(args.runs)
            output = args.output or grid.output
            runs, folder = results.of_grid(grid, output), Path(output, "report", Path(args.runs).stem)
        folder = Path(args.out or folder)
        summaries, tests = write(runs, folder, args.runs, args.compare, args.examples, args.root)
        print(layouts.FORMATS[args.format](summaries))
        if args.compare:
            print(significance.text(tests, *args.compare), file=sys.stderr if args.format == "csv" else sys.stdout)
        print(f"written: {folder / PAGE} and files beside it", file=sys.stderr)
        return 0


def _data_uri(picture, kind):
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _write(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
