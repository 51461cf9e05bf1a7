"""The figures of a report, drawn with matplotlib from what benchmark/results.py and benchmark/summary.py found.

A figure is a set of panels, one for each dataset: together they make a file, one by one they fit a phone.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmark import summary
from benchmark.logs import read_logs
from benchmark.protocols import is_zero_shot
from benchmark.results import read_metrics
from benchmark.summary import AVERAGE, labels

PANEL = (3.6, 2.9)  # inches
COLUMNS = 3
# Okabe and Ito's colours, which colour-blind people tell apart; markers tell them apart in grey
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖"}
STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "report",  # the same figure has the same bytes
}
PARTS = {
    "train": "all classes",
    "test": "all classes",
    "train_base": "base classes",
    "test_base": "base classes",
    "train_new": "new classes",
    "test_new": "new classes",
    "test_all": "all classes",
    "closed": "closed world",
    "open": "open world",
}
"""A run's part -> what it was tested on."""


@dataclass(frozen=True)
class Chart:
    """A figure.

    Attributes:
        name: of its files, without suffix.
        title, caption: what it shows.
        panels: what stands above each panel -> what draws it on Axes.
        legend: label -> matplotlib's keywords for its colour and marker; empty where the panels say all.
    """

    name: str
    title: str
    caption: str
    panels: dict[str, Callable]
    legend: dict[str, dict] = field(default_factory=dict)

    def save(self, folder):
        """Write <folder>/<name>.svg and .png, all panels together with the legend."""
        columns = min(COLUMNS, len(self.panels))
        rows = -(-len(self.panels) // columns)
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.4))
            grid = figure.subplots(rows, columns, squeeze=False).flat
            for axes, (title, draw) in zip(grid, self.panels.items(), strict=False):
                draw(axes)
                axes.set_title(title)
            for axes in list(grid)[len(self.panels) :]:
                axes.remove()
            if self.legend:
                handles = [matplotlib.lines.Line2D([], [], **style) for style in self.legend.values()]
                figure.legend(handles, list(self.legend), loc="outside lower center", ncols=min(4, len(handles)))
            for suffix in ("svg", "png"):
                figure.savefig(Path(folder, f"{self.name}.{suffix}"), dpi=200, metadata=_nameless(suffix))

    def svgs(self):
        """{title: SVG of that panel alone}."""
        found = {}
        with matplotlib.rc_context(STYLE):
            for title, draw in self.panels.items():
                figure = Figure(figsize=PANEL)
                draw(figure.add_subplot())
                file = io.StringIO()
                figure.savefig(file, format="svg", metadata=_nameless("svg"))
                found[title] = file.getvalue()
        return found

    def swatches(self):
        """(label, colour, character) of each entry of the legend, for a page."""
        characters = MARKERS | {"*": "★"}
        return [(label, style["color"], characters[style["marker"]]) for label, style in self.legend.items()]


def charts(runs, summaries):
    """All Charts that the runs have data for, {protocol: list}.

    Args:
        runs: as `results.read` gives them.
        summaries: as `summary.summaries` gives them.
    """
    styles = _styles(summaries)
    found = {}
    for protocol, cells in summaries.items():
        own = runs[runs.protocol == protocol]
        own = own.assign(label=own.method.map(labels(runs, protocol)))
        drawn = []
        if protocol == "few_shot":
            drawn.append(few_shot_curves(cells, styles))
        if protocol == "base2new":
            drawn.append(base_against_new(cells, summary.figures(runs, protocol), labels(runs, protocol), styles))
        if protocol == "czsl":
            drawn.append(seen_unseen_curves(own, styles))
        drawn += [expert_usage(own, protocol), learning_curves(own, protocol, styles)]
        found[protocol] = [chart for chart in drawn if chart.panels]
    return found


def few_shot_curves(cells, styles):
    """Accuracy over shots as in the CoOp paper: a panel for the average and each dataset, zero-shot CLIP as a star."""
    panels = {
        _name(part): partial(_draw_few_shot, cells=part, styles=styles)
        for _, part in cells.groupby("dataset", sort=False)
    }
    caption = (
        "Accuracy (%) over training images per class; bands: standard deviation over seeds. Zero-shot methods have a "
        "star, and a dashed line to compare with. An average is drawn where a method has all datasets."
    )
    return Chart("few_shot", "Few-shot curves", caption, panels, _legend(cells.method, styles))


def base_against_new(cells, seeds, names, styles):
    """New against base accuracy: large the mean of a method, small its seeds, grey the lines of equal H."""
    seeds = seeds.rename(index=names, level="method").sort_index()
    panels = {}
    for (dataset, setting), part in cells.groupby(["dataset", "setting"], sort=False):
        if (part.datasets == part.of).any():
            draw = partial(_draw_base_new, cells=part, seeds=seeds.loc[dataset, setting], styles=styles)
            panels[f"{_name(part)}, {setting}"] = draw
    caption = (
        "Accuracy (%) on new against base classes: large the mean, small the seeds. Along a grey line the harmonic "
        "mean H is the same; the axes do not begin at zero."
    )
    return Chart("base_new", "Base against new classes", caption, panels, _legend(cells.method, styles))


def seen_unseen_curves(runs, styles):
    """The seen-unseen curves of czsl, one for each seed, from metrics.json."""
    lines = {}
    for run in runs[runs.source == "metrics.json"].itertuples():
        if curve := (read_metrics(run.folder) or {}).get("curve"):
            lines.setdefault(f"{run.dataset}, {run.part} world", []).append((run.label, curve["seen"], curve["unseen"]))
    panels = {title: partial(_draw_curves, lines=found, styles=styles) for title, found in lines.items()}
    caption = (
        "Accuracy (%) on images of unseen against those of seen pairs as the bias towards unseen pairs grows; a line "
        "for each seed. The area below is AUC."
    )
    used = [label for found in lines.values() for label, *_ in found]
    return Chart("seen_unseen", "Seen-unseen curves", caption, panels, _legend(used, styles))


def expert_usage(runs, protocol):
    """How many test images choose each of MoCoOp's experts, at the largest number of shots."""
    shares, groups = {}, {}
    several = runs[runs.trainer == "MoCoOp"].label.nunique() > 1
    for run in _at_most_shots(runs[runs.source == "metrics.json"]).itertuples():
        metrics = read_metrics(run.folder) or {}
        if usage := metrics.get("expert_usage"):
            title = run.dataset if pd.isna(run.shots) else f"{run.dataset}, {run.shots} shots"
            title = f"{title}: {run.label}" if several else title
            shares.setdefault(title, {}).setdefault(PARTS[run.part], []).append(usage)
            told = metrics.get("config", {}).get("TRAINER", {}).get("MOCOOP", {}).get("GROUPS")
            groups[title] = [group[0] for group in told] if isinstance(told, list) else []
    parts = sorted({part for found in shares.values() for part in found})
    styles = {
        part: {"color": COLOURS[i % len(COLOURS)], "marker": "s", "linestyle": ""} for i, part in enumerate(parts)
    }
    panels = {
        title: partial(_draw_usage, parts=found, groups=groups[title], styles=styles)
        for title, found in sorted(shares.items())
    }
    caption = (
        "Share of the test images (%) that choose each expert, named by the first template of its group; an image "
        "chooses as many as TOP_K says. Mean over seeds, with standard deviations."
    )
    return Chart(f"{protocol}_experts", "Expert usage of MoCoOp", caption, panels, styles)


def learning_curves(runs, protocol, styles):
    """Training loss of each epoch from the runs' logs, at the largest number of shots; mean over seeds."""
    losses = {}
    for run in _at_most_shots(runs).itertuples():
        if loss := read_losses(run.folder):
            part = f"{run.dataset}, {PARTS[run.part]}" if protocol == "incremental" else run.dataset
            title = part if pd.isna(run.shots) else f"{part}, {run.shots} shots"
            losses.setdefault(title, {}).setdefault(run.label, []).append(pd.Series(loss))
    panels = {title: partial(_draw_losses, losses=found, styles=styles) for title, found in losses.items()}
    caption = (
        "Training loss by epoch, mean over seeds, bands: standard deviation. Methods add terms of their own to the "
        "loss: its height does not compare them."
    )
    used = [label for found in losses.values() for label in found]
    return Chart(f"{protocol}_learning", "Learning curves", caption, panels, _legend(used, styles))


def read_losses(folder):
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
        own = own[[isinstance(column, int) for column in own.column]].sort_values("column")
        x, y = own.column.astype(int).to_numpy(), own["mean"].to_numpy()
        if list(x) == [0]:
            axes.axhline(y[0], color=styles[method]["color"], linestyle="--", linewidth=0.8)
            axes.plot(x, y, **styles[method] | {"linestyle": "none", "markersize": 10}, label=method)
        else:
            axes.plot(x, y, **styles[method], label=method)
            spread = own["std"].fillna(0).to_numpy()
            axes.fill_between(x, y - spread, y + spread, color=styles[method]["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="training images per class", ylabel="accuracy (%)", xticks=shots)


def _draw_base_new(axes, cells, seeds, styles):
    for method, own in cells.groupby("method", sort=False):
        points, style = seeds.loc[method], styles[method] | {"linestyle": "none"}
        mean = own.set_index("column")["mean"]
        axes.plot(points.base, points.new, **style | {"markersize": 3}, alpha=0.5)
        axes.plot(mean.base, mean.new, **style | {"markersize": 11 if style["marker"] == "*" else 8}, label=method)
    axes.margins(0.15)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    base, new = np.meshgrid(np.linspace(max(left, 0.1), right, 100), np.linspace(max(low, 0.1), high, 100))
    lines = axes.contour(base, new, 2 * base * new / (base + new), 4, colors="#BBBBBB", linewidths=0.6, zorder=0)
    axes.clabel(lines, fmt="H %g", fontsize=7)
    axes.grid(False)
    axes.set(xlabel="base classes, accuracy (%)", ylabel="new classes, accuracy (%)")


def _draw_curves(axes, lines, styles):
    for label, seen, unseen in lines:
        axes.plot(seen, unseen, color=styles[label]["color"], label=label)
        at = int(np.argmin(np.abs(np.subtract(seen, unseen))))
        axes.plot(seen[at], unseen[at], **styles[label])
    axes.set(xlabel="seen pairs, accuracy (%)", ylabel="unseen pairs, accuracy (%)")
    axes.set_xlim(0)
    axes.set_ylim(0)


def _draw_usage(axes, parts, groups, styles):
    experts = max(len(usage) for seeds in parts.values() for usage in seeds)
    y, height = np.arange(experts), 0.8 / len(parts)
    for i, (part, seeds) in enumerate(sorted(parts.items())):
        seeds = 100 * np.array(seeds)
        error = seeds.std(axis=0) if len(seeds) > 1 else None
        place = y + (i - (len(parts) - 1) / 2) * height
        style = {"color": styles[part]["color"], "error_kw": {"elinewidth": 0.8}}
        axes.barh(place, seeds.mean(axis=0), height * 0.9, xerr=error, **style)
    names = [f"{i}: {name}" for i, name in enumerate(groups, 1)] or [f"expert {i + 1}" for i in y]
    axes.set_yticks(y, names, fontsize=7)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 100)
    axes.set_xlabel("test images (%)")


def _draw_losses(axes, losses, styles):
    for label, seeds in losses.items():
        table = pd.concat(seeds, axis=1)
        mean, std = table.mean(axis=1), table.std(axis=1, ddof=0)
        axes.plot(mean.index, mean, color=styles[label]["color"])
        axes.plot(mean.index[-1:], mean.iloc[-1:], **styles[label])
        axes.fill_between(mean.index, mean - std, mean + std, color=styles[label]["color"], alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="training loss")
    axes.set_ylim(0)


def _styles(summaries):
    """{method: colour and marker}, the same in all figures; zero-shot methods are stars, the first of them black."""
    trainers = {
        method: trainer for cells in summaries.values() for method, trainer in cells[["method", "trainer"]].values
    }
    stars = [method for method in trainers if is_zero_shot(trainers[method])]
    styles = {method: {"color": "#888888" if i else "#000000", "marker": "*"} for i, method in enumerate(stars)}
    lines = ("-", "--", ":", "-.")
    for i, method in enumerate(method for method in trainers if method not in stars):
        turn, place = divmod(i, len(COLOURS))
        line = lines[turn % len(lines)]
        styles[method] = {"color": COLOURS[place], "marker": list(MARKERS)[place], "linestyle": line}
    return styles


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
