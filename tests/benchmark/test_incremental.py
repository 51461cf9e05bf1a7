"""The table of continual learning, by hand."""

import json

import pytest

from benchmark.incremental import main, table

PARTS = ("train_base", "test_base", "train_new", "test_all")
RUNS = {1: (90.0, 80.0, 70.0, 60.0), 2: (92.0, 84.0, 72.0, 50.0)}


@pytest.fixture
def output(tmp_path):
    def write(part, seed, accuracy, method="LAMM/vit"):
        folder = tmp_path / "incremental" / part / "dtd/shots_16" / method / f"seed{seed}"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"accuracy": accuracy}))

    for seed, accuracies in RUNS.items():
        for part, accuracy in zip(PARTS, accuracies, strict=True):
            write(part, seed, accuracy)
            write(part, seed, accuracy / 2, "CoOp/ctx")
    write("train_base", 3, 99.0)  # unfinished: the second half is not learned yet
    return tmp_path


def test_rows():
    seeds = {seed: dict(zip(("first", "after", "second", "all"), run, strict=True)) for seed, run in RUNS.items()}
    rows = table(seeds | {3: {"first": 99.0}})
    assert rows == [[1, *RUNS[1]], [2, *RUNS[2]], ["mean", 91, 82, 71, 55], ["std", 1, 2, 1, 5]]
    assert table({3: {"first": 99.0}}) == []


def test_printed(output, capsys):
    assert main([str(output), "--methods", "LAMM/vit", "--seeds", "1", "--shots", "16", "--dataset", "dtd"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith("LAMM (vit) on dtd, 16 shots")
    assert lines[1].split() == ["seed", "first", "after", "second", "all"]
    assert lines[-2].split() == ["mean", "90.00", "80.00", "70.00", "60.00"] and len(lines) == 6
    assert main([str(output)]) == 0
    told = capsys.readouterr().out
    assert "not finished yet: seed 3" in told
    lines = [line.split() for line in told.strip().splitlines()[-2:]]
    assert lines[0] == ["dtd", "16", "CoOp", "(ctx)", "2", "45.50", "41.00", "35.50", "27.50"]
    assert lines[1] == ["dtd", "16", "LAMM", "(vit)", "2", "91.00", "82.00", "71.00", "55.00"]


def test_nothing_to_print(output, capsys):
    assert main([str(output), "--methods", "LAMM/rn50"]) == 1
    assert capsys.readouterr().err.startswith("error: no finished incremental run")
