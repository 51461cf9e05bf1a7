"""The figures of a report, drawn with matplotlib from what report/results.py and report/summary.py give.

A figure is a set of panels, one for each dataset: together they make a file, one by one they fit a phone.
"""

import io
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmark.facts import method_of
from benchmark.protocol import Protocol
from benchmark.protocols import PROTOCOLS
from dassl.errors import printable
from dassl.layout import METRICS
from dassl.utils import atomic_path
from report import placing, summary, svg
from report.logs import read_logs
from report.looks import HUES, LIGHT, Look, looks
from report.metrics import read_metrics, shares
from report.summary import AVERAGE, labels

PANEL = (4.4, 3.4)  # inches
COLUMNS = 3
INK = {
    "ink": ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor"),
    "quiet": ("axes.edgecolor", "xtick.color", "ytick.color"),
    "line": ("grid.color",),
    "paper": ("figure.facecolor", "axes.facecolor"),
}
STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "report",  # the same figure has the same bytes
    "text.parse_math": False,  # a name may have dollars in it
    **{key: LIGHT[name] for name, keys in INK.items() for key in keys},
}


@dataclass(frozen=True)
class Chart:
    """A figure.

    Attributes:
        name: of its files, without suffix.
        title, caption: what it shows.
        panels: what stands above each panel -> what draws it on Axes.
        legend: label -> its look; empty where the panels say all.
        beside_tables: whether a panel is of the table of the same title, and the looks are those of its methods.
        folded: whether it waits at the end of a page to be opened.
    """

    name: str
    title: str
    caption: str
    panels: Mapping[str, Callable]
    legend: dict[str, Look] = field(default_factory=dict)
    beside_tables: bool = False
    folded: bool = False

    def save(self, folder: Path) -> None:
        """Write <folder>/<name>.svg and .png, all panels together with the legend."""
        columns = min(COLUMNS, len(self.panels))
        rows = -(-len(self.panels) // columns)
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.4))
            grid = list(figure.subplots(rows, columns, squeeze=False).flat)
            for axes, (title, draw) in zip(grid, self.panels.items(), strict=False):
                draw(axes)
                axes.set_title(printable(title))
            for axes in grid[len(self.panels) :]:
                axes.remove()
            if self.legend:
                handles = [matplotlib.lines.Line2D([], [], **look.keywords()) for look in self.legend.values()]
                figure.legend(
                    handles, [*map(printable, self.legend)], loc="outside lower center", ncols=min(4, len(handles))
                )
            placing.settle(figure)
            for suffix in ("svg", "png"):
                with atomic_path(Path(folder, f"{self.name}.{suffix}")) as temporary:
                    figure.savefig(temporary, format=suffix, dpi=200, metadata=_nameless(suffix))

    def svgs(self) -> dict[str, str]:
        """{title: <svg> element of that panel alone, for a page}."""
        found = {}
        for title, draw in self.panels.items():
            with matplotlib.rc_context(STYLE | {"svg.hashsalt": f"{self.name} {title}"}):  # ids of a page's own
                figure = Figure(figsize=PANEL)
                draw(figure.add_subplot())
                placing.settle(figure)
                file = io.StringIO()
                figure.savefig(file, format="svg", metadata=_nameless("svg"), transparent=True)
            found[title] = svg.inline(file.getvalue(), f"{self.title}: {printable(title)}")
        return found


@dataclass(frozen=True)
class Data:
    """What the figures of a protocol are drawn from.

    Attributes:
        protocol: the protocol.
        runs: its runs as `results.read` gives them, and `label`, what tables call the method.
        cells: what `summary.summarise` gives.
        seeds: what `summary.figures` gives, methods as tables call them.
        styles: method -> its look.
    """

    protocol: Protocol
    runs: pd.DataFrame
    cells: pd.DataFrame
    seeds: pd.DataFrame
    styles: dict[str, Look]


def charts(runs: pd.DataFrame, summaries: dict[str, pd.DataFrame]) -> dict[str, list[Chart]]:
    """All Charts that the runs have data for, by protocol: its own, then those that every protocol has.

    Args:
        runs: as `results.read` gives them.
        summaries: as `summary.summaries` gives them.
    """
    styles = method_looks(summaries)
    found = {}
    for name, cells in summaries.items():
        protocol, names = PROTOCOLS[name], labels(runs, name)
        own = runs[runs.protocol == name]
        own = own.assign(label=own.method.map(names))
        seeds = summary.figures(runs, name).rename(index=names, level="method").sort_index()
        data = Data(protocol, own, cells, seeds, styles)
        draw = [globals()[one] if ":" not in one else pkgutil.resolve_name(one) for one in protocol.charts]
        drawn = [*(one(data) for one in draw), *trainers_figures(data), learning_curves(data)]
        found[name] = [chart for chart in drawn if chart.panels]
    return found


def method_looks(summaries: dict[str, pd.DataFrame]) -> dict[str, Look]:
    """{method, as tables call it: its look in a report}."""
    return looks(dict(pd.concat(summaries.values())[["method", "trainer"]].drop_duplicates("method").values))


def few_shot_curves(data: Data) -> Chart:
    """Accuracy over shots as in CoOp's paper: a panel for the average and each dataset, zero-shot CLIP as a star."""
    panels = {
        _name(part): partial(_draw_few_shot, cells=part, styles=data.styles)
        for _, part in data.cells.groupby("dataset", sort=False)
        if len({shots for shots in part.column if isinstance(shots, int) and shots}) > 1
    }
    caption = (
        "Accuracy against the number of training images per class. Bands are standard deviations over seeds. A star "
        "and its dashed line are a method without training. An average has the methods that ran on all data sets."
    )
    legend = _legend(data.cells.method, data.styles)
    return Chart(data.protocol.name, "Few-shot curves", caption, panels, legend, beside_tables=True)


def base_against_new(data: Data) -> Chart:
    """New against base accuracy: large the mean of a method, small its seeds, grey the lines of equal H."""
    panels = {}
    for (dataset, setting), part in data.cells.groupby(["dataset", "setting"], sort=False):
        if (part.datasets == part.of).any():
            draw = partial(_draw_base_new, cells=part, seeds=data.seeds.loc[dataset, setting], styles=data.styles)
            panels[f"{_name(part)}, {setting}"] = draw
    caption = (
        "Accuracy on new against base classes: large markers are means, small ones seeds. H is the same all along a "
        "thin line. Axes do not begin at zero."
    )
    legend = _legend(data.cells.method, data.styles)
    return Chart("base_new", "Base against new classes", caption, panels, legend, beside_tables=True)


def seen_unseen_curves(data: Data) -> Chart:
    """The seen-unseen curves, one for each seed, from metrics.json."""
    lines: dict[str, list] = {}
    for run in data.runs[data.runs.source == METRICS].itertuples():
        if curve := (read_metrics(run.folder) or {}).get("curve"):
            title = f"{run.dataset}, {data.protocol.parts[run.part]}"
            lines.setdefault(title, []).append((run.label, curve["seen"], curve["unseen"]))
    panels = {title: partial(_draw_curves, lines=found, styles=data.styles) for title, found in lines.items()}
    caption = (
        "Accuracy on images of unseen against those of seen pairs as the bias towards unseen pairs grows, a line for "
        "each seed, marked where both are nearest. AUC is the area below."
    )
    used = [label for found in lines.values() for label, *_ in found]
    return Chart("seen_unseen", "Seen-unseen curves", caption, panels, _legend(used, data.styles), beside_tables=True)


def trainers_figures(data: Data) -> list[Chart]:
    """The figures that methods name in their method.yaml: shares that a run wrote to metrics.json, as bars.

    At the largest number of shots; the bars have the names that the run wrote beside them.
    """
    found = []
    for trainer, own in data.runs.groupby("trainer"):
        for key, facts in method_of(trainer).figures.items():
            found.append(_shares(data, own, key, facts))
    return found


def _shares(data: Data, runs: pd.DataFrame, key: str, facts: dict[str, str]) -> Chart:
    found: dict[str, dict] = {}
    names: dict[str, list] = {}
    bars: dict[str, int] = {}
    for run in _at_most_shots(runs[runs.source == METRICS]).itertuples():
        metrics = read_metrics(run.folder) or {}
        if share := shares(run.folder, metrics, key):
            title = run.dataset if pd.isna(run.shots) else f"{run.dataset}, {run.shots} shots"
            title = f"{title}: {run.label}" if runs.label.nunique() > 1 else title
            if len(share) != bars.setdefault(
                title, len(share)
            ):  # of another mixture than the first: no mean goes over both
                continue
            part = data.protocol.parts.get(run.part, run.part)
            found.setdefault(title, {}).setdefault(part, []).append(share)
            told = metrics.get(facts.get("names", ""))
            names[title] = told if isinstance(told, list) else []
    parts = sorted({part for seeds in found.values() for part in seeds})
    styles = {part: Look(HUES[i % len(HUES)], "s", "") for i, part in enumerate(parts)}
    panels = {
        title: partial(_draw_shares, parts=seeds, names=names[title], label=facts["label"], styles=styles)
        for title, seeds in sorted(found.items())
    }
    return Chart(f"{data.protocol.name}_{key}", facts["title"], facts["caption"], panels, styles)


def learning_curves(data: Data) -> Chart:
    """Training loss of each epoch from the runs' logs, at the largest number of shots; mean over seeds."""
    runs = [(run, loss) for run in _at_most_shots(data.runs).itertuples() if (loss := read_losses(run.folder))]
    several = len({run.part for run, _ in runs}) > 1
    losses: dict[str, dict] = {}
    for run, loss in runs:
        part = f"{run.dataset}, {data.protocol.parts.get(run.part, run.part)}" if several else run.dataset
        title = part if pd.isna(run.shots) else f"{part}, {run.shots} shots"
        losses.setdefault(title, {}).setdefault(run.label, []).append(pd.Series(loss))
    panels = {title: partial(_draw_losses, losses=found, styles=data.styles) for title, found in losses.items()}
    caption = (
        "Training loss by epoch: the mean over seeds, bands are standard deviations. Methods add terms of their own "
        "to the loss, so its height does not compare them."
    )
    used = [label for found in losses.values() for label in found]
    legend = _legend(used, data.styles)
    return Chart(f"{data.protocol.name}_learning", "Learning curves", caption, panels, legend, folded=True)


def read_losses(folder: str | Path) -> dict[int, float]:
    """{epoch: mean training loss as last logged in it}, from all logs of a run's folder, in the order of writing."""
    losses = {}
    for _, text in read_logs(folder):
        for epoch, loss in re.findall(r"^epoch \[(\d+)/\d+\].*? loss \S+ \((\S+)\)", text, re.MULTILINE):
            losses[int(epoch)] = float(loss)
    return losses


def _at_most_shots(runs):
    """The runs with the largest number of shots of their dataset, and those without any."""
    return runs[runs.shots.isna() | (runs.shots == runs.groupby("dataset").shots.transform("max"))]


def _draw_few_shot(axes, cells, styles):
    whole = cells[cells.datasets == cells.of]
    shots = sorted({column for column in whole.column if isinstance(column, int)})
    for method, own in whole.groupby("method", sort=False):
        own, look = own[[isinstance(column, int) for column in own.column]].sort_values("column"), styles[method]
        if own.empty:  # it has learned from all images alone
            continue
        x, y = own.column.astype(int).to_numpy(), own["mean"].to_numpy()
        if list(x) == [0]:
            axes.axhline(y[0], color=look.colour, linestyle="--", linewidth=0.8)
            axes.plot(x, y, **look.keywords() | {"linestyle": "none", "markersize": 10}, label=method)
        else:
            axes.plot(x, y, **look.keywords(), label=method)
            spread = own["std"].fillna(0).to_numpy()
            axes.fill_between(x, y - spread, y + spread, color=look.colour, alpha=0.15, linewidth=0)
        placing.behind(axes, printable(method), shots[-1] if list(x) == [0] else x[-1], y[-1], look.colour)
    axes.set(xlabel="training images per class", ylabel="accuracy (%)", xticks=shots)


def _draw_base_new(axes, cells, seeds, styles):
    means = {method: own.set_index("column")["mean"] for method, own in cells.groupby("method", sort=False)}
    for method, mean in means.items():
        points, style = seeds.loc[method], styles[method].keywords() | {"linestyle": "none"}
        if len(points) > 1:
            axes.plot(points.base, points.new, **style | {"markersize": 3}, alpha=0.5)
        axes.plot(mean.base, mean.new, **style | {"markersize": 11 if style["marker"] == "*" else 8}, label=method)
    axes.margins(0.15)
    _lines_of_equal_h(axes)
    for method, mean in means.items():
        placing.beside(axes, printable(method), mean.base, mean.new, styles[method].colour)
    axes.grid(False)
    axes.set(xlabel="base classes, accuracy (%)", ylabel="new classes, accuracy (%)")


def _lines_of_equal_h(axes):
    """Thin lines, labelled where they leave the axes: at the right, else at the top, else at the bottom."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    left, low = max(left, 0.1), max(low, 0.1)
    axes.set(xlim=(left, right), ylim=(low, high))
    ends = [2 * x * y / (x + y) for x, y in ((left, low), (right, high))]
    for level in MaxNLocator(5).tick_values(*ends):
        if not ends[0] < level < ends[1]:
            continue
        base = np.linspace(max(left, level / 2 + 1e-3), right, 200)
        axes.plot(base, level * base / (2 * base - level), color=LIGHT["line"], linewidth=0.8, zorder=0.5)
        style = {"fontsize": 7, "color": LIGHT["quiet"]}
        at_right, at_top, at_bottom = (
            level * end / (2 * end - level) if 2 * end > level else np.inf for end in (right, high, low)
        )
        if low <= at_right <= high:
            axes.text(1.01, at_right, f"H {level:g}", **style, va="center", transform=axes.get_yaxis_transform())
        elif left <= at_top <= right:
            axes.text(at_top, 1.01, f"H {level:g}", **style, ha="center", transform=axes.get_xaxis_transform())
        elif left <= at_bottom <= right:
            axes.text(at_bottom, 0.01, f" H {level:g}", **style, va="bottom", transform=axes.get_xaxis_transform())


def _draw_curves(axes, lines, styles):
    named = set()
    for label, seen, unseen in lines:
        look = styles[label]
        axes.plot(seen, unseen, color=look.colour, linestyle=look.line or "-", label=label)
        at = int(np.argmin(np.abs(np.subtract(seen, unseen))))
        axes.plot(seen[at], unseen[at], **look.keywords())
        if label not in named:
            placing.beside(axes, printable(label), seen[at], unseen[at], look.colour)
        named.add(label)
    axes.set(xlabel="seen pairs, accuracy (%)", ylabel="unseen pairs, accuracy (%)")
    axes.set_xlim(0)
    axes.set_ylim(0)


def _draw_shares(axes, parts, names, label, styles):
    bars = max(len(share) for seeds in parts.values() for share in seeds)
    y, height = np.arange(bars), 0.8 / len(parts)
    for i, (part, seeds) in enumerate(sorted(parts.items())):
        seeds = 100 * np.array(seeds)
        error = seeds.std(axis=0) if len(seeds) > 1 else None
        place = y + (i - (len(parts) - 1) / 2) * height
        style = {"color": styles[part].colour, "error_kw": {"elinewidth": 0.8, "ecolor": LIGHT["ink"]}}
        axes.barh(place, seeds.mean(axis=0), height * 0.9, xerr=error, **style)
    numbered = [f"{i}: {names[i - 1]}" if i <= len(names) else str(i) for i in range(1, bars + 1)]
    axes.set_yticks(y, [*map(printable, numbered)], fontsize=7)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 100)
    axes.set_xlabel(label)


def _draw_losses(axes, losses, styles):
    for label, seeds in losses.items():
        table = pd.concat(seeds, axis=1)
        mean, std = table.mean(axis=1), table.std(axis=1, ddof=0)
        look = styles[label]
        axes.plot(mean.index, mean, color=look.colour, linestyle=look.line)
        axes.plot(mean.index[-1:], mean.iloc[-1:], **look.keywords())
        axes.fill_between(mean.index, mean - std, mean + std, color=look.colour, alpha=0.15, linewidth=0)
        placing.behind(axes, printable(label), mean.index[-1], mean.iloc[-1], look.colour)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="training loss")
    axes.set_ylim(0)


def _legend(methods, styles):
    used = set(methods)
    return {method: style for method, style in styles.items() if method in used}


def _name(cells):
    """A panel's dataset; of an average how many."""
    dataset = cells.dataset.iloc[0]
    return f"average over {cells.of.max()} datasets" if dataset == AVERAGE else dataset


def _nameless(suffix):
    """Metadata without the time."""
    return {"Date": None} if suffix == "svg" else {"Software": None}
