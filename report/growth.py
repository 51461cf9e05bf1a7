"""The picture of `python -m benchmark speed --growth`: seconds and memory against what a run is made of."""

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from report.charts import Chart
from report.looks import Look

LINES = {"seconds": ("seconds", Look("blue", "o")), "peak_gb": ("peak memory, GiB", Look("vermilion", "s"))}


def chart(points: Sequence[Any]) -> Chart:
    """A panel for each axis that has two points or more; points: as benchmark/speed/growth.py has them."""
    axes = {name: list(group) for name, group in groupby(points, lambda point: point.axis)}
    panels = {
        f"{group[0].trainer}, {group[0].what}: {name}": partial(_draw, group, name)
        for name, group in axes.items()
        if len(group) > 1
    }
    legend = dict(LINES.values())
    caption = "Seconds, and the peak memory of the process, image features at hand."
    return Chart("growth", "Growth of time and memory", caption, panels, legend)


def _draw(points, name, axes):
    known = [point for point in points if point.seconds is not None]
    for figure, (_, look) in LINES.items():
        axes.plot([p.value for p in known], [getattr(p, figure) for p in known], **look.keywords())
    axes.set(xscale="log", yscale="log", xlabel=name)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 3), numticks=7))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())
