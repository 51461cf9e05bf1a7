"""What explain says of a run, counted again image by image."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.__main__ import main as benchmark
from dassl.data.datasets import Datum
from dassl.engine import TRAINER_REGISTRY
from learned import pictures
from learned.explain import classes, confusions, confusions_picture, experts, experts_picture, preferring
from learned.pictures import HEADING, THUMBNAIL
from prompting.mixture import Mixture
from tests.conftest import REPO, TOY_CLASSES
from trainers.coop import CoOp

SHORT = ("OPTIM.MAX_EPOCH", 1, "DATALOADER.NUM_WORKERS", 0)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))[1:]


def test_classes_and_confusions_by_hand():
    labels, predicted, zero_shot = np.array([0, 0, 0, 2, 2]), np.array([0, 2, 2, 2, 1]), np.array([0, 0, 1, 1, 0])
    names = ["ant", "bee", "cat"]
    table = classes(labels, predicted, zero_shot, names).rows
    assert table == [
        ["cat", 2, 0, 50, 50],
        ["ant", 3, pytest.approx(200 / 3), pytest.approx(100 / 3), pytest.approx(-100 / 3)],
    ]
    table = confusions(labels, predicted, zero_shot, names).rows
    assert table == [["ant", "cat", 2, 3, 0], ["cat", "bee", 1, 2, 1]]


def test_experts_by_hand():
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.9, 0.1], [0.2, 0.0, 0.8], [0.0, 0.7, 0.3]])
    mixture = Mixture(["a", "b", "c"], weights, "began as")
    assert preferring(mixture, 2) == [[0, 2], [1, 3], [2, 3]] and preferring(mixture, 9)[0] == [0, 2]
    table = experts(mixture)
    assert table.header == ["expert", "began as", "chosen %", "weight %"]
    assert [row[:2] for row in table.rows] == [[1, "a"], [2, "b"], [3, "c"]]
    assert np.allclose([row[2:] for row in table.rows], [[50, 17.5], [75, 52.5], [75, 30]])


def test_pictures_say_what_is_on_them(tmp_path, monkeypatch):
    """Headings and lines as given, images at full size though they are small, what is too long cut."""
    Image.new("RGB", (16, 8), "red").save(tmp_path / "a.png")
    items = [
        Datum(str(tmp_path / "a.png"), label, classname=name)
        for label, name in ((0, "ant"), (0, "ant"), (1, "bee" * 20))
    ]
    said = []
    monkeypatch.setattr(pictures.ImageDraw.ImageDraw, "text", lambda pen, at, text, **_: said.append(text))
    labels, predicted = np.array([0, 0, 1]), np.array([1, 1, 1])
    picture = confusions_picture(labels, predicted, ["ant", "bee"], items)
    assert said == ["The classes most often confused", "ant, taken for bee: 2 of 2 images", "a", "a"]
    red = (np.asarray(picture) == (255, 0, 0)).all(axis=-1)
    assert red.sum() == 2 * THUMBNAIL * THUMBNAIL // 2
    said.clear()
    experts_picture(Mixture(["a {}.", ""], torch.tensor([[0.5, 0], [0, 0], [1, 0]])), [[2, 0], []], items)
    assert said[1] == "Expert 1: a {}.   chosen by 66.7 % of the test images" and said[3:6] == [
        "weight 1.00",
        "ant",
        "weight 0.50",
    ]
    assert said[2].startswith("beebee") and said[2].endswith("...") and said[6].startswith("Expert 2: - ")


def test_a_whole_run(tmp_path, toy_run, capsys):
    trainer = toy_run("MoCoOp", tmp_path / "run", *SHORT)
    logits = [row for output, _ in trainer.predict(trainer.test_loader) for row in output.tolist()]
    weights = trainer.mixture().weights.tolist()
    items = trainer.dm.dataset.test
    zero_shot = toy_run("ZeroshotCLIP", tmp_path / "zero", config="vit_b16", flags=["--eval-only"])
    baseline = [row for output, _ in zero_shot.predict(zero_shot.test_loader) for row in output.tolist()]
    out = tmp_path / "out"
    assert benchmark(["explain", str(tmp_path / "run"), "--out", str(out), "--images", "2", "--words", "4"]) == 0

    def right(outputs, name):
        hits = [
            row.index(max(row)) == item.label
            for row, item in zip(outputs, items, strict=True)
            if item.classname == name
        ]
        return 100 * sum(hits) / len(hits)

    found = {row[0]: list(map(float, row[1:])) for row in rows_of(out / "classes.csv")}
    assert found.keys() == set(TOY_CLASSES)
    for name, (images, before, after, gain) in found.items():
        assert images == 3 and gain == pytest.approx(after - before)
        assert (before, after) == pytest.approx((right(baseline, name), right(logits, name)))

    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    table = rows_of(out / "experts.csv")
    assert [float(row[2]) for row in table] == pytest.approx([100 * x for x in metrics["expert_usage"]], abs=1e-3)
    assert [float(row[3]) for row in table] == pytest.approx([100 * x for x in metrics["expert_weight"]], abs=1e-3)
    assert [row[1] for row in table] == [group[0] for group in trainer.groups] == metrics["expert_names"]
    for g in range(len(table)):
        best = sorted((-row[g], i) for i, row in enumerate(weights) if row[g] > 0)[:2]
        told = [row for row in rows_of(out / "expert_images.csv") if int(row[0]) == g + 1]
        assert [row[3] for row in told] == [items[i].impath for _, i in best]
        assert [float(row[1]) for row in told] == pytest.approx([-weight for weight, _ in best], abs=1e-5)
    assert Image.open(out / "experts.png").height > THUMBNAIL + HEADING * len(table)
    assert Image.open(out / "confusions.png").width > 4 * THUMBNAIL
    layout = trainer.model.prompt_learner.layout
    assert len(rows_of(out / "words.csv")) == layout.sum() and len(rows_of(out / "words.csv")[0]) == 9
    wrong = sum(row.index(max(row)) != item.label for row, item in zip(logits, items, strict=True))
    assert sum(int(row[2]) for row in rows_of(out / "confusions.csv")) == wrong
    assert f"{12 - wrong} of 12 test images are right" in capsys.readouterr().out


def test_a_mixture_of_any_method(tmp_path, toy_run, monkeypatch):
    """It is asked for, not known by name; the whole and its half, here."""

    class Halves(CoOp):
        is_mixture = True

        def mixture(self):
            return Mixture(["whole", "half"], torch.tensor([[0.75, 0.25], [1.0, 0.0]] * 6))

    toy_run("CoOp", tmp_path / "runs" / "caltech101/CoOp/vit_b16_ep50_4shots/seed1", *SHORT)
    monkeypatch.setitem(TRAINER_REGISTRY._objects, "CoOp", Halves)
    (run,) = (tmp_path / "runs").rglob("seed1")
    assert benchmark(["explain", str(run), "--out", str(tmp_path / "out")]) == 0
    with open(tmp_path / "out" / "experts.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["expert", "name", "chosen %", "weight %"],
            ["1", "whole", "100.0", "87.5"],
            ["2", "half", "50.0", "12.5"],
        ]
    assert benchmark(["report", str(tmp_path / "runs"), "--examples", "1"]) == 0
    assert (tmp_path / "runs/report/figures/few_shot_experts_caltech101.jpg").is_file()


def test_experts_of_another_runs_groups(tmp_path, toy_run):
    """Other groups, more of them, whose names the evaluation's config does not know."""
    groups = "[['a {}.'], ['the {}.'], ['my {}.'], ['art of the {}.'], ['one {}.']]"
    toy_run("MoCoOp", tmp_path / "run", *SHORT, "TRAINER.MOCOOP.GROUPS", groups)
    flags = ["--eval-only", "--model-dir", str(tmp_path / "run")]
    keys = ("TRAINER.MOCOOP.GROUPS", "[['a photo of a {}.'], ['the {}.']]")
    toy_run("MoCoOp", tmp_path / "other", *keys, flags=flags)
    assert benchmark(["explain", str(tmp_path / "other"), "--out", str(tmp_path / "out")]) == 0
    assert [row[:2] for row in rows_of(tmp_path / "out" / "experts.csv")] == [[str(g), ""] for g in range(1, 6)]


@pytest.mark.parametrize(
    ("trainer", "config", "labels"),
    [
        ("CoOp", "vit_b16_ep50", [f"{name}, {k}" for name in TOY_CLASSES for k in (1, 2)]),
        ("LAMM", "vit_b16_ep50", ["1", "2", "3", "4", "ant", "bee", "crab claw", "dog"]),
        ("PLOT", "rn50_ep50", [f"{g}, {name}, {k}" for g in (1, 2) for name in TOY_CLASSES for k in (1, 2)]),
        ("LinearProbe", "vit_b16", None),
    ],
)
def test_vectors_of_other_methods_and_a_dataset_elsewhere(trainer, config, labels, tmp_path, toy_root, toy_run, capsys):
    keys = {
        "CoOp": ("TRAINER.COOP.CSC", True, "TRAINER.COOP.N_CTX", 2),
        "PLOT": ("TRAINER.PLOT.CSC", True, "TRAINER.PLOT.N_CTX", 2, "TRAINER.PLOT.N", 2),
        "LAMM": ("TRAINER.LAMM.BASE", "coop"),  # the context begins as four words
        "LinearProbe": ("TRAINER.LINEARPROBE.STEPS", 0),
    }[trainer]
    shutil.copytree(toy_root, tmp_path / "data")
    toy_run(trainer, tmp_path / "run", *SHORT, *keys, "DATASET.ROOT", tmp_path / "data", config=config)
    shutil.move(tmp_path / "data", tmp_path / "moved")
    capsys.readouterr()
    assert benchmark(["explain", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("error: no folder ") and len(output.err.splitlines()) == 1
    assert ("nearest" in output.out) == (labels is not None), "the words need no dataset"
    if labels:
        assert [row[0] for row in rows_of(tmp_path / "out" / "words.csv")] == labels
    assert benchmark(["explain", str(tmp_path / "run"), "--root", str(tmp_path / "moved")]) == 0
    assert "of 12 test images are right" in capsys.readouterr().out


def test_a_dataset_of_other_classes(tmp_path, toy_root, toy_run, capsys):
    toy_run("CoOp", tmp_path / "run", *SHORT)
    (tmp_path / "run" / "classes.json").write_text('{"classnames": ["ant", "bee"]}')
    (tmp_path / "run" / "inputs.json").unlink()  # which knows the classes by their digest
    assert benchmark(["explain", str(tmp_path / "run")]) == 1
    assert "has other classes than the run" in capsys.readouterr().err


def test_pairs_of_an_open_world(tmp_path, toy_pairs_root, toy_run, capsys):
    pairs = ["--root", toy_pairs_root, "--dataset-config-file", str(REPO / "configs/datasets/mit_states.yaml")]
    trained = toy_run("CSP", tmp_path / "closed", *SHORT, flags=pairs, config="vit_l14")
    hits = [(logits.argmax(dim=1) == labels).sum().item() for logits, labels in trained.predict(trained.test_loader)]
    flags = [*pairs, "--eval-only", "--model-dir", str(tmp_path / "closed")]
    toy_run("CSP", tmp_path / "open", *SHORT, "TRAINER.CSP.OPEN_WORLD", True, flags=flags, config="vit_l14")
    capsys.readouterr()
    assert benchmark(["explain", str(tmp_path / "open"), "--out", str(tmp_path / "out")]) == 0
    assert f"{sum(hits)} of {len(trained.dm.dataset.test)} test images are right" in capsys.readouterr().out
    words = ["Faux Leather", "dark", "pale", "boat", "dog", "sea shell"]
    assert [row[0] for row in rows_of(tmp_path / "out" / "words.csv")] == words
