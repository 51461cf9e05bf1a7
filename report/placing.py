"""Labels at the points of a figure, moved until they cover neither each other nor a marker."""

from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

SIZE = 7.5  # points, as all distances here
GAP = 7
STEP = 4


def beside(axes: Axes, text: str, x: float, y: float, colour: str) -> Annotation:
    """Label a point; `settle` finds its place."""
    return _label(axes, text, (x, y), colour, "beside", (GAP, 0), "offset points")


def behind(axes: Axes, text: str, x: float, y: float, colour: str) -> Annotation:
    """Label the end of a line, to the right of the axes; `settle` finds its height."""
    return _label(axes, text, (x, y), colour, "behind", (1.02, y), ("axes fraction", "data"))


def settle(figure: Figure) -> None:
    """Find places for all labels of a figure whose axes have got all else."""
    found = [
        (axes, place, own)
        for axes in figure.axes
        for gid, place in (("behind", _stack), ("beside", _scatter))
        if (own := [label for label in axes.texts if label.get_gid() == gid])
    ]
    for _ in range(2 if found else 0):  # labels outside make their axes smaller, which moves the points
        figure.draw_without_rendering()
        for axes, place, labels in found:
            place(axes, labels)


def _label(axes, text, point, colour, kind, place, coordinates):
    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
    style = {"fontsize": SIZE, "va": "center", "arrowprops": line, "gid": kind}
    label = axes.annotate(text, point, place, textcoords=coordinates, **style)
    label.arrow_patch.set_visible(False)
    return label


def _stack(axes, labels):
    """Heights as near as possible to the lines' ends, at least a line of text apart."""
    points = 72 / axes.figure.dpi
    labels = sorted(labels, key=lambda label: label.xy[1])
    wanted = np.array([axes.transData.transform(label.xy)[1] * points for label in labels])
    apart = SIZE * 1.25 * np.arange(len(labels))
    heights = _rising(wanted - apart) + apart
    for label, height, end in zip(labels, heights, wanted, strict=True):
        label.set_position((1.02, axes.transData.inverted().transform((0, height / points))[1]))
        label.arrow_patch.set_visible(bool(abs(height - end) > 3))


def _rising(values):
    """The non-decreasing sequence that is nearest to the values in squares: neighbours that fall are pooled."""
    pools: list[list[float]] = []  # sum, number
    for value in values:
        pools.append([value, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, number = pools.pop()
            pools[-1][0] += total
            pools[-1][1] += number
    return np.concatenate([np.full(int(number), total / number) for total, number in pools])


def _scatter(axes, labels):
    """One label after the other takes the nearest place that is free; those in a crowd come first."""
    points = 72 / axes.figure.dpi
    at = np.array([axes.transData.transform(label.xy) * points for label in labels])
    box = axes.bbox
    inside = np.array([box.x0, box.y0, box.x1, box.y1]) * points
    size = np.array([[Text.get_window_extent(label).width, SIZE / points * 1.2] for label in labels]) * points
    taken = [np.concatenate([xy - 4.5, xy + 4.5]) for xy in at]  # the markers
    distance = np.linalg.norm(at[:, None] - at[None], axis=-1)
    for i in np.argsort(np.sort(distance, axis=1)[:, : min(3, len(labels))].sum(axis=1), kind="stable"):
        spots = [_spot(at[i], size[i], angle, GAP + STEP * ring) for ring, angle in product(range(12), range(8))]
        cost = [
            sum(_overlap(spot, other) for other in taken)
            + 10 * _outside(spot, inside)
            + 40 * _nearer_to_others(spot, at, i)
            + 0.6 * (k // 8) ** 1.5
            for k, spot in enumerate(spots)
        ]
        best = int(np.argmin(cost))
        spot = spots[best]
        taken.append(spot)
        labels[i].set_position((spot[0] - at[i][0], (spot[1] + spot[3]) / 2 - at[i][1]))
        labels[i].arrow_patch.set_visible(best >= 8)


def _spot(point, size, angle, radius):
    """The box (left, low, right, high) of a text at one of eight sides of a point; right comes first."""
    turn = (0, 4, 2, 6, 1, 7, 3, 5)[angle] * np.pi / 4
    x, y = np.round([np.cos(turn), np.sin(turn)], 6)
    centre = point + radius * np.array([x, y]) + size / 2 * np.array([np.sign(x), np.sign(y)])
    return np.concatenate([centre - size / 2, centre + size / 2])


def _overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)


def _nearer_to_others(spot, points, own):
    """How many points are nearer to a box than its own, or nearly as near."""
    distances = np.linalg.norm(points - np.clip(points, spot[:2], spot[2:]), axis=1)
    return int((distances < distances[own] + 3).sum()) - 1


def _outside(spot, inside):
    return max(0, inside[0] - spot[0], inside[1] - spot[1], spot[2] - inside[2], spot[3] - inside[3])
