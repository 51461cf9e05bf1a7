"""The tables, by hand."""

import json
import statistics

import pytest

from benchmark.__main__ import main
from benchmark.protocols import PROTOCOLS
from report import results, tables

BASE2NEW = {1: (90.0, 60.0), 2: (92.0, 50.0), 3: (88.0, 70.0)}
INCREMENTAL = {1: (90.0, 80.0, 70.0, 60.0), 2: (92.0, 84.0, 72.0, 50.0)}


@pytest.fixture
def write(tmp_path):
    def write(folder, accuracy, **more):
        trainer = next(name for name in ("CoOp", "LAMM", "ZeroshotCLIP", "CSP") if f"/{name}/" in folder)
        (tmp_path / folder).mkdir(parents=True)
        metrics = {"accuracy": accuracy, "trainer": trainer, "dataset": "D", "shots": -1, "seed": 1} | more
        (tmp_path / folder / "metrics.json").write_text(json.dumps(metrics))

    return write


def shown(capsys, *args):
    """What the command prints, line by line; args begin with the folder."""
    assert main(["table", *map(str, args)]) == 0
    return capsys.readouterr().out.strip().splitlines()


@pytest.fixture
def base2new(write, tmp_path):
    for seed, (base, new) in BASE2NEW.items():
        write(f"base2new/train_base/dtd/shots_16/CoOp/rn50/seed{seed}", base)
        write(f"base2new/test_new/dtd/shots_16/CoOp/rn50/seed{seed}", new)
    write("base2new/train_base/dtd/shots_16/CoOp/rn50/seed4", 99.0)  # not tested on new classes yet
    write("base2new/test_base/dtd/ZeroshotCLIP/rn50/seed1", 50.0)
    write("base2new/test_new/dtd/ZeroshotCLIP/rn50/seed1", 0.0)
    return tmp_path


def test_base2new(base2new, capsys):
    lines = shown(capsys, base2new, "--trainer", "CoOp", "--seeds", 1, 2, 3, "--shots", 16)
    assert lines[0] == "CoOp (rn50) on dtd, 16 shots" and lines[1].split() == ["seed", "base", "new", "H"]
    assert lines[3].split() == ["1", "90.00", "60.00", "72.00"]
    assert lines[-2].split() == ["mean", "90.00", "60.00", "72.00"] and len(lines) == 8, "H of the means"
    lines = shown(capsys, base2new)
    assert "ZeroshotCLIP (rn50) on dtd, zero-shot" in lines and "not finished yet: seed 4" in lines
    assert lines[-2].split() == ["dtd", "-", "ZeroshotCLIP", "(rn50)", "1", "50.00", "0.00", "0.00"]
    assert lines[-1].split() == ["dtd", "16", "CoOp", "(rn50)", "3", "90.00", "60.00", "72.00"]


def test_no_new_classes_yet(write, tmp_path, capsys):
    """As in a grid that was stopped early."""
    write("base2new/train_base/dtd/shots_16/CoOp/rn50/seed1", 90.0)
    write("dtd/CoOp/rn50_16shots/seed1", 80.0)
    lines = shown(capsys, tmp_path)
    assert lines[0] == "CoOp on dtd, 16 shots, all classes" and lines[1].split() == ["seed", "accuracy"]


def test_standard_deviations_are_the_populations(base2new):
    figures = tables.per_seed(results.read(base2new), "base2new")
    mean, std, count = tables.over_seeds(figures.dropna(), "base2new")
    ours = ("dtd", 16, "CoOp (rn50)")
    assert figures.loc[(*ours, 4)].isna().tolist() == [False, True, True]
    assert std.loc[ours, "new"] == pytest.approx((2 * 100 / 3) ** 0.5) and count[ours] == 3
    h = [2 * base * new / (base + new) for base, new in BASE2NEW.values()]
    assert std.loc[ours, "H"] == pytest.approx(statistics.pstdev(h)) and mean.loc[ours, "H"] == 72


def test_harmonic_mean_of_nothing(write, tmp_path):
    for half in ("base", "new"):
        write(f"base2new/test_{half}/dtd/ZeroshotCLIP/rn50/seed1", 0.0)
    assert tables.per_seed(results.read(tmp_path), "base2new").H.tolist() == [0]


def test_few_shot(write, tmp_path, capsys):
    for seed, accuracy in ((1, 60.0), (2, 70.0)):
        write(f"dtd/CoOp/rn50_16shots/seed{seed}", accuracy)
    write("dtd/CoOp/rn50_ep50_1shots/seed1", 40.0)
    write("dtd/ZeroshotCLIP/rn50/seed1", 30.0)
    lines = shown(capsys, tmp_path)
    assert lines[0] == "ZeroshotCLIP (rn50) on dtd, zero-shot, all classes"
    assert lines[-4].split() == ["dataset", "method", "0", "1", "16"]
    # CoOp's recipe has another config for one shot, and is one method
    assert [line.split()[-2:] for line in lines[-2:]] == [["40.00", "65.00"], ["-", "-"]]


def test_incremental(write, tmp_path, capsys):
    for seed, accuracies in INCREMENTAL.items():
        for part, accuracy in zip(("train_base", "test_base", "train_new", "test_all"), accuracies, strict=True):
            write(f"incremental/{part}/dtd/shots_16/LAMM/vit/seed{seed}", accuracy)
            write(f"incremental/{part}/dtd/shots_16/CoOp/ctx/seed{seed}", accuracy / 2)
    write("incremental/train_base/dtd/shots_16/CoOp/ctx/seed3", 99.0)  # the second half is not learned yet
    lines = shown(capsys, tmp_path, "--trainer", "LAMM")
    assert lines[0] == "LAMM (vit) on dtd, 16 shots, one half of the classes after the other"
    assert lines[1].split() == ["seed", "first", "after", "second", "all", "classes"]
    assert lines[-2].split() == ["mean", "91.00", "82.00", "71.00", "55.00"]
    assert lines[-1].split() == ["std", "1.00", "2.00", "1.00", "5.00"] and len(lines) == 7
    lines = shown(capsys, tmp_path)
    assert "not finished yet: seed 3" in lines
    assert lines[-2].split() == ["dtd", "16", "CoOp", "(ctx)", "2", "45.50", "41.00", "35.50", "27.50"]
    assert lines[-1].split() == ["dtd", "16", "LAMM", "(vit)", "2", "91.00", "82.00", "71.00", "55.00"]


def test_transfers(write, tmp_path, capsys):
    targets = {"imagenetv2": 60.0, "imagenet_sketch": 40.0, "imagenet_a": 50.0, "imagenet_r": 70.0}
    write("imagenet/CoOp/c_16shots/seed1", 80.0)
    write("imagenet/CoOp/c_4shots/seed1", 10.0)  # tested on nothing else
    write("imagenet/ZeroshotCLIP/c/seed1", 65.0)
    for name, accuracy in targets.items():
        write(f"evaluation/CoOp/c_16shots/{name}/seed1", accuracy)
    write("evaluation/ZeroshotCLIP/c/imagenet_a/seed1", 5.0)  # three are missing
    lines = shown(capsys, tmp_path, "--protocol", "domain_generalization", "--dataset", "imagenet")
    assert lines[0] == "CoOp (c) on imagenet, 16 shots, tested on other domains" and len(lines) == 5
    assert lines[1].split() == ["seed", "imagenet", *targets, "average"]
    assert lines[3].split() == ["1", "80.00", "60.00", "40.00", "50.00", "70.00", "55.00"]


def test_transfers_from_two_sources_have_tables_apart(write, tmp_path, capsys):
    for icons, accuracy in (("common", 10.0), ("rare", 20.0)):
        write(f"icons_{icons}_outline/CoOp/c_16shots/seed1", 80.0)
        for style in ("pixel", "filled"):
            write(f"evaluation/CoOp/c_16shots/icons_{icons}_{style}/seed1", accuracy)
    lines = shown(capsys, tmp_path, "--protocol", "domain_generalization")
    assert [line.split() for line in lines if line.startswith("seed")] == [
        ["seed", "outline", "filled", "pixel", "average"]
    ] * 2
    assert [line.split()[-1] for line in lines if line.startswith("mean")] == ["10.00", "20.00"]


def test_worlds_apart(write, tmp_path, capsys):
    def czsl(world, seed, auc):
        figures = dict.fromkeys(PROTOCOLS["czsl"].columns, 50.0) | {"auc": auc}
        write(f"czsl/{world}/mit_states/CSP/vit_l14/seed{seed}", 30.0, **figures)

    czsl("closed", 1, 19.0)
    czsl("closed", 2, 21.0)
    czsl("open", 1, 5.0)
    closed, opened = "\n".join(shown(capsys, tmp_path)).split("CSP on mit_states, open world")
    assert "closed world" in closed and "20.00" in closed and "5.00" in opened
    assert "open" not in "\n".join(shown(capsys, tmp_path, "--seeds", 2))


def test_runs_outside_the_protocols(base2new, write, capsys):
    for seed, accuracy in ((1, 60.0), (2, 70.0)):
        write(f"my/own/CoOp/photos/seed{seed}", accuracy, dataset="Folder", shots=4, seed=seed)
    write("my/own/CoOp/once", 50.0, dataset="Folder", seed=-1)
    lines = shown(capsys, base2new)
    title = lines.index("other runs")
    assert lines[title + 1].split() == ["folder", "trainer", "dataset", "shots", "seeds", "accuracy", "std"]
    assert [line.split() for line in lines[title + 3 :]] == [
        [str(base2new / "my/own/CoOp/once"), "CoOp", "Folder", "-", "-", "50.00", "-"],
        [str(base2new / "my/own/CoOp/photos"), "CoOp", "Folder", "4", "1", "2", "65.00", "5.00"],
    ]
    assert "other runs" not in shown(capsys, base2new, "--protocol", "base2new")
    assert shown(capsys, base2new, "--dataset", "Folder", "--shots", 4)[0] == "other runs"


def test_nothing_to_print(base2new, tmp_path, capsys):
    assert main(["table", str(base2new), "--trainer", "CoCoOp"]) == 1
    assert capsys.readouterr().err.startswith("error: no finished run of that kind below")
    assert main(["table", str(tmp_path / "nowhere")]) == 1
