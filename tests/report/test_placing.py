"""Labels in a crowd: none covers another or lies where it should not."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from report import placing


@pytest.fixture
def crowded():
    """crowded(place): labels of twelve points, half of them within a few pixels, settled by `place`."""

    def crowded(place):
        figure = Figure(figsize=(4.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        points = np.random.default_rng(0).normal(0, 1, (12, 2)) * np.where(np.arange(12) < 6, 1, 8)[:, None]
        axes.plot(*points.T, "o", markersize=8)
        axes.margins(0.15)
        labels = [place(axes, f"Method {i}", *point, "#000000") for i, point in enumerate(points)]
        placing.settle(figure)
        figure.draw_without_rendering()
        return axes, labels

    return crowded


def boxes(labels):
    """The texts' own, without their lines to the points."""
    return [Text.get_window_extent(label).padded(-0.5) for label in labels]


def test_beside_points(crowded):
    axes, labels = crowded(placing.beside)
    found = boxes(labels)
    assert not any(one.overlaps(other) for one, other in combinations(found, 2))
    assert all(axes.bbox.padded(3).contains(*corner) for box in found for corner in (box.min, box.max))


def test_behind_lines(crowded):
    axes, labels = crowded(placing.behind)
    found = boxes(labels)
    assert not any(one.overlaps(other) for one, other in combinations(found, 2))
    assert all(box.x0 > axes.bbox.x1 for box in found)
    heights = [label.xy[1] for label in labels]
    assert np.argsort(heights).tolist() == np.argsort([box.y0 for box in found]).tolist(), "in the order of the ends"
