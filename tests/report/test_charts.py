"""The figures hold the data: read back from the axes, and from the files."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from report import charts as report_charts
from report import results, summary


@pytest.fixture
def charts(tmp_path):
    """charts(protocol): its Charts by name."""

    def charts(protocol):
        runs = results.read(tmp_path / "runs")
        return {chart.name: chart for chart in report_charts.charts(runs, summary.summaries(runs))[protocol]}

    return charts


def drawn(chart, panel):
    axes = Figure().add_subplot()
    chart.panels[panel](axes)
    return axes


def points(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return list(zip(*map(list, line.get_data()), strict=True))


def test_few_shot_curves(put, charts, tmp_path):
    for dataset, offset in (("dtd", 0), ("eurosat", 10)):
        put(f"{dataset}/ZeroshotCLIP/c/seed1", 40 + offset)
        for shots in (1, 4, 16):
            for seed in (1, 2):
                put(f"{dataset}/CoOp/c_{shots}shots/seed{seed}", 50 + shots + offset + seed)
    put("dtd/MoCoOp/c_4shots/seed1", 99)
    chart = charts("few_shot")["few_shot"]
    assert list(chart.panels) == ["average over 2 datasets", "dtd", "eurosat"]
    assert points(drawn(chart, "dtd"), "CoOp") == [(1, 52.5), (4, 55.5), (16, 67.5)]
    assert points(drawn(chart, "dtd"), "ZeroshotCLIP") == [(0, 40)]
    average = drawn(chart, "average over 2 datasets")
    assert points(average, "CoOp") == [(1, 57.5), (4, 60.5), (16, 72.5)]
    assert "MoCoOp" not in [line.get_label() for line in average.lines], "an average over one dataset of two"

    chart.save(tmp_path)
    text = (tmp_path / "few_shot.svg").read_text()
    for word in ("average over 2 datasets", "training images per class", "accuracy (%)", "ZeroshotCLIP", "MoCoOp"):
        assert f">{word}<" in text
    assert (tmp_path / "few_shot.png").read_bytes().startswith(b"\x89PNG")
    chart.save(tmp_path / "runs")
    assert (tmp_path / "runs" / "few_shot.svg").read_text() == text, "the same figure has the same bytes"


def test_base_against_new(base2new, charts):
    for seed, base in ((1, 60), (2, 70)):
        base2new("dtd", "CoOp", base, 30, seed=seed)
    base2new("dtd", "ZeroshotCLIP", 50, 50)
    axes = drawn(charts("base2new")["base_new"], "dtd, 16 shots")
    assert points(axes, "CoOp") == [(65, 30)] and points(axes, "ZeroshotCLIP") == [(50, 50)]
    assert [60, 70] in [list(line.get_xdata()) for line in axes.lines], "the seeds"


def test_seen_unseen_curves(put, charts):
    curve = {"seen": [46.0, 30.0, 0.0], "unseen": [0.0, 28.0, 50.0]}
    put("czsl/closed/mit_states/CSP/c/seed1", 30, auc=20, curve=curve)
    put("czsl/closed/mit_states/CoOp/c/seed1", 30, auc=20)  # of an earlier version, without a curve
    chart = charts("czsl")["seen_unseen"]
    axes = drawn(chart, "mit_states, closed world")
    assert (30, 28) in points(axes, "CSP") and list(chart.legend) == ["CSP"]
    assert len(axes.lines) == 2 and list(axes.lines[1].get_xdata()) == [30], "marked where both are alike"


def test_figures_that_a_method_names(put, charts):
    names = ["a {}.", "an icon of a {}."]
    for seed, usage in ((1, [0.2, 0.8]), (2, [0.4, 0.6])):
        put(f"dtd/MoCoOp/c_4shots/seed{seed}", 50, expert_usage=usage, expert_names=names)
        put(f"dtd/MoCoOp/c_1shots/seed{seed}", 50, expert_usage=[1, 0])
    chart = charts("few_shot")["few_shot_expert_usage"]
    (panel,) = chart.panels
    axes = drawn(chart, panel)
    assert panel == "dtd, 4 shots" and list(chart.legend) == ["all classes"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([30, 70])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["1: a {}.", "2: an icon of a {}."]


def test_learning_curves_go_on_after_an_interruption(put, charts):
    line = "epoch [{}/3] batch [5/5] time 0.1 (0.1) data 0.0 (0.0) loss 9.0 ({}) loss_ce 7.0 (7.0) lr 1e-3 eta 0\n"
    folder = put("dtd/CoOp/c_4shots/seed1", 50)
    (folder / "log.txt").write_text(line.format(1, 4.5) + line.format(1, 4.0) + line.format(2, 99))
    (folder / "log.txt-2026-11-21-10-00-00").write_text(line.format(2, 3.0) + line.format(3, 2.0))
    assert report_charts.read_losses(folder) == {1: 4, 2: 3, 3: 2}
    folder = put("dtd/CoOp/c_4shots/seed2", 50)
    (folder / "log.txt").write_text("".join(line.format(epoch, 0) for epoch in (1, 2, 3)))
    axes = drawn(charts("few_shot")["few_shot_learning"], "dtd, 4 shots")
    assert np.array_equal(np.array(axes.lines[0].get_data()).T, [(1, 2), (2, 1.5), (3, 1)])
