"""What report/summary.py gives, laid out as tables: for the terminal, Markdown, LaTeX (booktabs), CSV.

In all of them "-" stands for what was not run, a deviation only where there are several seeds, and a column of seeds
only where methods have different numbers of several.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from tabulate import tabulate

from benchmark.protocols import PROTOCOLS
from dassl.errors import printable
from mocoop import escape
from report.summary import AVERAGE

UNITS = "In percent: mean ± standard deviation over seeds; best in bold."
SEEDS = "In percent: mean ± standard deviation over {} seeds (one seed where there is no ±); best in bold."
ONE_SEED = "In percent, one seed each; best in bold."
NOT_RUN, PUBLISHED = "-", "published"
PARTIAL = "(n of N): over n of the N datasets only, not to be compared."

LATEX_WIDTH = 84
"""Characters side by side in LaTeX. In a paper's column of 8.25 cm they become about 6 points high; what is wider is
split, and its parts stand below each other."""

LATEX_HEAD = r"""% needs \usepackage{booktabs,graphicx}
\providecommand{\fitcolumn}[1]{\resizebox{\ifdim\width>\columnwidth\columnwidth\else\width\fi}{!}{#1}}"""


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

    @property
    def beside(self) -> str:
        """The published figure, and what ours is above it; "" where none is known."""
        return f"{self.published:.2f} ({self.difference:+.2f})" if self.published is not None else ""


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
    def published(self) -> str:
        """What the rows of published figures are, and whose."""
        return f"Published, and in brackets how far ours are above: {'; '.join(self.sources)}"

    @property
    def not_compared(self) -> str:
        """A sentence of what stands beside no published figure, and why; "" where all do."""
        methods: dict[str, list[str]] = {}
        for why in self.uncompared:
            *method, reason = why.split(": ", 1)
            methods.setdefault(reason, []).extend(method)
        told = [f"{', '.join(names)}: {reason}" if names else reason for reason, names in methods.items()]
        return f"Not compared: {'; '.join(told)}." if told else ""

    @property
    def seeds(self) -> set[str]:
        """The numbers of seeds that figures with a deviation are over."""
        return {seeds for *_, seeds in self.rows} - {"1"}

    @property
    def seeds_differ(self) -> bool:
        """Whether they are told row by row."""
        return len(self.seeds) > 1

    def flat(self, bold: Callable[[str], str], between: str = " ± ") -> tuple[list[str], list[list[str]]]:
        """(header, rows) of strings; the figures published of a method are in a row below its own."""
        header, rows = ["method", *self.columns, "seeds"], []
        for method, row, seeds in self.rows:
            rows.append([method, *(cell.text(bold, between) if cell else NOT_RUN for cell in row), seeds])
            if any(cell and cell.published is not None for cell in row):
                rows.append([PUBLISHED, *(cell.beside if cell else "" for cell in row), ""])
        return (header, rows) if self.seeds_differ else (header[:-1], [row[:-1] for row in rows])


def tables(cells: pd.DataFrame) -> list[Table]:
    """The tables of one protocol, a list in the order of the cells that `summary.summarise` gives."""
    grouped = cells.groupby(["dataset", "setting"], sort=False)
    return [_table(dataset, setting, part) for (dataset, setting), part in grouped]


def units(laid_out: Sequence[Table]) -> str:
    """What the figures of tables are, in a sentence."""
    seeds = set().union(*(table.seeds for table in laid_out))
    return ONE_SEED if not seeds else UNITS if len(seeds) > 1 or " " in max(seeds) else SEEDS.format(*seeds)


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
    """A table environment for each table, no wider than a column of the document."""
    lines, labels = [LATEX_HEAD, ""], [""]
    for protocol, cells in summaries.items():
        for table in tables(cells):
            caption = f"{PROTOCOLS[protocol].title}: {table.title}. {units([table])}"
            caption += f" {PARTIAL}" * table.partial + f" {table.published}." * bool(table.sources)
            label = name = re.sub(r"[^a-z0-9]+", "-", f"{protocol} {table.title}".lower()).strip("-")
            while label in labels:
                label = f"{name}-{len(labels)}"
            labels.append(label)
            lines += [f"% {printable(table.not_compared)}"] * bool(table.uncompared)
            lines += [
                "\\begin{table}[htbp]",
                "\\centering",
                f"\\caption{{{escape.latex(caption)}}}",
                f"\\label{{tab:{label}}}",
                "\\par\\smallskip",
                *_tabulars(table),
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


def _tabulars(table):
    """The lines of the table's tabular, or where it is wider than LATEX_WIDTH of as few, equal ones as are not."""
    header, rows = table.flat(r"\textbf{{{}}}".format, r" $\pm$ ")
    widths = [max(map(len, column)) + 2 for column in zip(header, *table.flat(str)[1], strict=True)]
    columns = range(1, len(header))
    for parts in columns:
        size = -(-len(columns) // parts)
        split = [columns[i : i + size] for i in range(0, len(columns), size)]
        if all(widths[0] + sum(widths[i] for i in part) <= LATEX_WIDTH for part in split):
            break
    yield r"\fitcolumn{\begin{tabular}{@{}c@{}}"
    for part in split:
        yield f"\\begin{{tabular}}{{l{'r' * len(part)}}}\n\\toprule"
        yield " & ".join(escape.latex(header[i]) for i in [0, *part]) + "\\\\\n\\midrule"
        for name, *cells in ([row[0], *(row[i] for i in part)] for row in rows):
            if name != PUBLISHED:
                yield " & ".join([escape.latex(name), *cells]) + r"\\"
            elif any(cells):
                yield " & ".join([rf"\quad {name}", *(cell.replace("(-", "($-$") for cell in cells)]) + r"\\"
        yield "\\bottomrule\n\\end{tabular}" + (r"\\\addlinespace" if part is not split[-1] else "")
    yield r"\end{tabular}}"


def _document(summaries, heading, title, style, bold, escaped):
    lines = []
    for protocol, cells in summaries.items():
        laid_out = tables(cells)
        told = units(laid_out)
        lines += [heading.format(escaped(PROTOCOLS[protocol].title)), f"{PROTOCOLS[protocol].note} {told}"]
        lines += [PARTIAL] * any(table.partial for table in laid_out)
        for table in laid_out:
            header, rows = table.flat(bold)
            header, rows = [escaped(name) for name in header], [[escaped(method), *line] for method, *line in rows]
            align = ["left", *["right"] * (len(header) - 1)]
            lines.append(title.format(escaped(table.title)))
            lines.append(tabulate(rows, header, tablefmt=style, colalign=align, disable_numparse=True))
            lines += [f"\nOver {seeds} seeds." for seeds in table.seeds if told == UNITS and len(table.seeds) == 1]
            lines += [f"\n{escaped(table.published)}"] * bool(table.sources)
            lines += [f"\n{escaped(table.not_compared)}"] * bool(table.uncompared)
        lines.append("")
    return "\n".join(lines)
