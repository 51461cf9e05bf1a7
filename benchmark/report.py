"""A report on the runs of a folder: tables and figures as files, and all of it on one page.

    <folder>/report.html     the page: self-contained, for a screen, a phone, a printer
    <folder>/tables.md       Markdown; tables.tex: LaTeX; tables.csv: every cell, unrounded
    <folder>/figures/        SVG and PNG
"""

import base64
from pathlib import Path

import jinja2

from benchmark import figures, layouts, significance, summary
from benchmark.protocols import PROTOCOLS
from dassl.errors import UserError
from dassl.utils import atomic_path, mkdir_if_missing

FILES = {"markdown": "tables.md", "latex": "tables.tex", "csv": "tables.csv"}
PAGE = "report.html"


def write(runs, folder, name, compare=None):
    """Write a report.

    Args:
        runs: as `results.read` gives them.
        folder: where to; files of an earlier report there are replaced.
        name: what the runs are called.
        compare: two methods to test against each other, or None.

    Returns:
        (summaries, tests): what `summary.summaries` and `significance.compare` give, the latter None without compare.

    Raises:
        UserError: no run of a protocol is finished; or the two methods cannot be compared.
    """
    summaries = summary.summaries(runs)
    if not summaries:
        raise UserError(f"no finished run of a protocol in {name}: python -m benchmark status tells what is going on")
    tests = significance.compare(runs, *compare) if compare else None
    charts = figures.charts(runs, summaries)

    folder = Path(folder)
    mkdir_if_missing(folder / "figures")
    for kind, file in FILES.items():
        _write(folder / file, layouts.FORMATS[kind](summaries))
    for chart in (chart for drawn in charts.values() for chart in drawn):
        chart.save(folder / "figures")
    _write(folder / PAGE, page(runs, summaries, charts, name, compare, tests))
    return summaries, tests


def page(runs, summaries, charts, name, compare=None, tests=None):
    """The HTML page, which loads nothing from elsewhere."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["data_uri"] = lambda svg: "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    sections = [
        {
            "id": protocol,
            "heading": layouts.HEADINGS[protocol],
            "note": layouts.NOTES[protocol],
            "tables": layouts.tables(cells),
            "charts": charts[protocol],
        }
        for protocol, cells in summaries.items()
    ]
    return environment.get_template(PAGE).render(
        name=name,
        runs=runs[runs.protocol.isin(list(summaries))],
        sections=sections,
        headings=layouts.HEADINGS,
        units=layouts.UNITS,
        partial=layouts.PARTIAL,
        compare=compare,
        tests=[] if tests is None else list(tests.itertuples()),
        test_note=significance.NOTE,
        costs=costs(runs),
    )


def costs(runs):
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


def _write(path, text):
    with atomic_path(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")
