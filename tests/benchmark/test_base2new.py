"""The base-to-new table, by hand."""

import json
import statistics

import pytest

from benchmark.base2new import harmonic_mean, main, table

RUNS = {1: (90.0, 60.0), 2: (92.0, 50.0), 3: (88.0, 70.0)}


@pytest.fixture
def output(tmp_path):
    def write(part, seed, accuracy, method="dtd/shots_16/CoOp/rn50"):
        folder = tmp_path / "base2new" / part / method / f"seed{seed}"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"accuracy": accuracy}))

    for seed, (base, new) in RUNS.items():
        write("train_base", seed, base)
        write("test_new", seed, new)
    write("train_base", 4, 99.0)  # unfinished: not tested on new classes yet
    write("test_base", 1, 50.0, "dtd/ZeroshotCLIP/rn50")
    write("test_new", 1, 0.0, "dtd/ZeroshotCLIP/rn50")
    return tmp_path


def test_harmonic_mean():
    assert harmonic_mean(90, 60) == 72 and harmonic_mean(0, 0) == 0 and harmonic_mean(50, 0) == 0


def test_rows():
    rows = table({seed: {"base": base, "new": new} for seed, (base, new) in RUNS.items()} | {4: {"base": 99.0}})
    assert [row[0] for row in rows] == [1, 2, 3, "mean", "std"]
    assert rows[0][1:] == [90, 60, 72]
    assert rows[3][1:] == [90, 60, 72], "H of the means"
    assert rows[4][2] == pytest.approx((2 * 100 / 3) ** 0.5)
    assert rows[4][3] == statistics.pstdev(harmonic_mean(*run) for run in RUNS.values())


def test_printed(output, capsys):
    assert main([str(output), "--trainer", "CoOp", "--seeds", "1", "2", "3", "--shots", "16"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "CoOp (rn50) on dtd, 16 shots" and lines[1].split() == ["seed", "base", "new", "H"]
    assert lines[-2].split() == ["mean", "90.00", "60.00", "72.00"] and len(lines) == 8
    assert main([str(output)]) == 0
    told = capsys.readouterr().out
    assert "ZeroshotCLIP (rn50) on dtd, zero-shot" in told and "not finished yet: seed 4" in told
    assert told.strip().splitlines()[-1].split() == ["dtd", "16", "CoOp", "(rn50)", "3", "90.00", "60.00", "72.00"]


def test_nothing_to_print(output, capsys):
    assert main([str(output), "--trainer", "CoCoOp"]) == 1
    assert capsys.readouterr().err.startswith("error: no finished base-to-new run")
