"""What is shown while runs go on, by hand."""

import json
from io import StringIO

import pytest
from rich.console import Console

from benchmark import progress
from benchmark.place import Place
from benchmark.protocol import Point
from benchmark.protocols import runs_of


@pytest.fixture
def runs():
    return runs_of("few_shot", [Point("caltech101", 4, "CoOp", "vit_b16", seed) for seed in (1, 2, 3, 4)])


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on when told: clock[0] is the time in seconds."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    return clock


def watch(kind, runs, tmp_path):
    return kind(runs, runs[1:], Place(output=str(tmp_path)), {run.folder: "CoOp" for run in runs})


def test_lines_and_the_time_that_is_left(runs, clock, tmp_path, capsys):
    told = watch(progress.Lines, runs, tmp_path)
    told.started(runs[1])
    told.started(runs[2])
    assert told.time_left() == ""
    clock[0] = 60
    (tmp_path / runs[1].folder).mkdir(parents=True)
    (tmp_path / runs[1].folder / "metrics.json").write_text(json.dumps({"accuracy": 81.234, "trainer": "CoOp"}))
    told.ended(runs[1], 0)
    name = "few_shot train: CoOp (vit_b16) on caltech101, 4 shots"
    # one runs for a minute already, one is to come: a minute for each, one at a time
    assert capsys.readouterr().out == f"[2/4] {name}, seed 2: 81.23, 0:01:00; about 0:01:00 left\n"
    told.ended(runs[2], -9)
    assert f"[3/4] {name}, seed 3: failed with exit status -9, 0:01:00; about" in capsys.readouterr().out


def test_the_table(runs, clock, tmp_path):
    told = watch(progress.Screen, runs, tmp_path)
    with told:
        told.started(runs[1])
        told.started(runs[2])
        clock[0] = 5
        told.ended(runs[2], 1)
        console = Console(file=StringIO(), width=120)
        console.print(told.table())
    shown = console.file.getvalue()
    assert [cell.strip() for cell in shown.split("│")[1:6]] == ["CoOp", "1", "1", "1", "1"]
    assert "0:00:05  few_shot train: CoOp (vit_b16) on caltech101, 4 shots, seed 2" in shown
