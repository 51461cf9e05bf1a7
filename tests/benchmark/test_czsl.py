"""The tables of compositional zero-shot learning, by hand."""

import json
import statistics

from benchmark.czsl import COLUMNS, main, table


def write(root, world, seed, auc):
    folder = root / "czsl" / world / "mit_states" / "CSP" / "vit_l14" / f"seed{seed}"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({key: 50.0 for key in COLUMNS.values()} | {"auc": auc}))


def test_rows():
    rows = table({2: [10.0, 30.0], 1: [20.0, 30.0]})
    assert rows == [[1, 20, 30], [2, 10, 30], ["mean", 15, 30], ["std", statistics.pstdev([10, 20]), 0]]


def test_worlds_apart_and_seeds_chosen(tmp_path, capsys):
    write(tmp_path, "closed", 1, 19.0)
    write(tmp_path, "closed", 2, 21.0)
    write(tmp_path, "open", 1, 5.0)
    assert main([str(tmp_path)]) == 0
    closed, opened = capsys.readouterr().out.split("CSP (vit_l14) on mit_states, open world")
    assert "closed world" in closed and "20.00" in closed and "5.00" in opened
    assert main([str(tmp_path), "--seeds", "2", "--trainer", "CSP"]) == 0
    assert "open" not in capsys.readouterr().out


def test_nothing_there(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: no finished run of that kind below {tmp_path}/czsl\n"
