"""What report/summary.py gives, laid out as tables: for the terminal, Markdown, LaTeX (booktabs), CSV."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
from tabulate import tabulate

from benchmark.protocols import PROTOCOLS
from dassl.errors import printable
from mocoop import escape
from report.summary import AVERAGE

UNITS = "In percent: mean ± standard deviation over seeds; best in bold."
PARTIAL = "(n of N): over n of the N datasets only, not to be compared."


@dataclass(frozen=True)
class Cell:
    """A figure in a table; `published` and `difference` are None where no paper is known to print it."""

    mean: float
    std: float | None
    best: bool
    datasets: str
    published: float | None
    difference: float | None

    def text(self, bold: Callable[[str], str], between: str = " ± ") -> str:
        """Mean, deviation, and of how many datasets where some are missing; bold makes the best mean so."""
        mean = f"{self.mean:.2f}"
        deviation = "" if self.std is None else f"{between}{self.std:.2f}"
        return (bold(mean) if self.best else mean) + deviation + (f" ({self.datasets})" if self.datasets else "")


@dataclass(frozen=True)
class Table:
    """One table of a paper.

    Attributes:
        title: the dataset and the setting.
        columns: their names, as the paper has them.
        compared: those of the columns of which a published figure is known.
        rows: (method, a Cell or None for each column, seeds) tuples.
        sources: the papers.
        uncompared: why methods have no published figure beside theirs; [] where nothing of the protocol is published.
    """

    title: str
    columns: list
    compared: list
    rows: list
    sources: list
    uncompared: list

    @property
    def partial(self) -> bool:
        return any(cell and cell.datasets for _, row, _ in self.rows for cell in row)

    @property
    def not_compared(self) -> str:
        """A sentence of what stands beside no published figure, and why; "" where all do."""
        return f"Not compared: {'; '.join(self.uncompared)}." if self.uncompared else ""

    def flat(self, bold: Callable[[str], str], between: str = " ± ") -> tuple[list[str], list[list[str]]]:
        """(header, rows) of strings: after each column that is compared the published figure and the difference."""
        header, rows = ["method"], [[method] for method, *_ in self.rows]
        for i, column in enumerate(self.columns):
            header += [column, *(["published", "difference"] if column in self.compared else [])]
            for line, (_, row, _) in zip(rows, self.rows, strict=True):
                line.append(row[i].text(bold, between) if row[i] else "")
                if column in self.compared:
                    known = row[i] and row[i].published is not None
                    line += [f"{row[i].published:.2f}", f"{row[i].difference:+.2f}"] if known else ["", ""]
        return [*header, "seeds"], [[*line, seeds] for line, (*_, seeds) in zip(rows, self.rows, strict=True)]


def tables(cells: pd.DataFrame) -> list[Table]:
    """The tables of one protocol, a list in the order of the cells that `summary.summarise` gives."""
    grouped = cells.groupby(["dataset", "setting"], sort=False)
    return [_table(dataset, setting, part) for (dataset, setting), part in grouped]


def heading(column: str | int) -> str:
    """What stands above a column."""
    return f"{column}-shot" if isinstance(column, int) else {"all": "all images"}.get(column, column)


def text(summaries: Mapping[str, pd.DataFrame], ansi: bool | None = None) -> str:
    """Tables for the terminal. Best figures are bold there (ANSI), and between stars in a file."""
    bold = "\033[1m{}\033[0m" if (sys.stdout.isatty() if ansi is None else ansi) else "*{}*"
    return _document(summaries, "{}\n", "\n{}\n", "simple", bold.format, printable)


def markdown(summaries: Mapping[str, pd.DataFrame]) -> str:
    """Tables for GitHub and the like."""
    return _document(summaries, "## {}\n", "\n### {}\n", "pipe", "**{}**".format, escape.markdown)


def latex(summaries: Mapping[str, pd.DataFrame]) -> str:
    """A table environment for each table; the document needs \\usepackage{booktabs}."""
    lines = ["% needs \\usepackage{booktabs}"]
    for protocol, cells in summaries.items():
        for table in tables(cells):
            header, rows = table.flat(r"\textbf{{{}}}".format, r" $\pm$ ")
            caption = f"{PROTOCOLS[protocol].title}: {table.title}. {UNITS}"
            caption += f" Published: {'; '.join(table.sources)}." if table.sources else ""
            caption += f" {table.not_compared}" if table.uncompared else ""
            header = [escape.latex(name) for name in header]
            rows = [[escape.latex(method), *line] for method, *line in rows]
            lines += [
                "\\begin{table}[htbp]",
                "\\centering",
                f"\\caption{{{escape.latex(caption)}}}",
                f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
                "\\toprule",
                " & ".join(header) + r" \\",
                "\\midrule",
                *(" & ".join(row) + r" \\" for row in rows),
                "\\bottomrule",
                "\\end{tabular}",
                "\\end{table}",
                "",
            ]
    return "\n".join(lines)


def csv(summaries: Mapping[str, pd.DataFrame]) -> str:
    """All cells of all tables, a line each, unrounded; `summary.summarise` tells the columns."""
    cells = pd.concat(summaries.values())
    return cells.apply(lambda column: column.map(escape.csv)).to_csv(index=False, lineterminator="\n")


FORMATS = {"text": text, "markdown": markdown, "latex": latex, "csv": csv}


def _table(dataset, setting, cells):
    columns = list(dict.fromkeys(cells.column))
    known = cells[cells.published.notna()]
    rows = []
    for method, own in cells.groupby("method", sort=False):
        found = {cell.column: cell for cell in own.itertuples()}
        seeds = sorted(set(own.seeds))
        row = [_cell(found[column]) if column in found else None for column in columns]
        rows.append((method, row, str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"))
    name = f"average over {cells.of.max()} datasets" if dataset == AVERAGE else dataset
    return Table(
        ", ".join(part for part in (name, setting) if part),
        [heading(column) for column in columns],
        [heading(column) for column in dict.fromkeys(known.column)],
        rows,
        list(dict.fromkeys(known.source)),
        list(dict.fromkeys(why for why in cells.why_not if why)),
    )


def _cell(cell):
    datasets = "" if cell.datasets == cell.of else f"{cell.datasets} of {cell.of}"
    figures = [None if pd.isna(x) else x for x in (cell.std, cell.published, cell.difference)]
    return Cell(cell.mean, figures[0], cell.best, datasets, *figures[1:])


def _document(summaries, heading, title, style, bold, escaped):
    lines = []
    for protocol, cells in summaries.items():
        laid_out = tables(cells)
        lines += [heading.format(escaped(PROTOCOLS[protocol].title)), f"{PROTOCOLS[protocol].note} {UNITS}"]
        lines += [PARTIAL] * any(table.partial for table in laid_out)
        for table in laid_out:
            header, rows = table.flat(bold)
            header, rows = [escaped(name) for name in header], [[escaped(method), *line] for method, *line in rows]
            align = ["left", *["right"] * (len(header) - 1)]
            lines.append(title.format(escaped(table.title)))
            lines.append(tabulate(rows, header, tablefmt=style, colalign=align, disable_numparse=True))
            lines += [f"\nPublished: {escaped('; '.join(table.sources))}"] * bool(table.sources)
            lines += [f"\n{escaped(table.not_compared)}"] * bool(table.uncompared)
        lines.append("")
    return "\n".join(lines)
