"""The command that measures speed: that the plain way is plain and computes the same, that floors are counted right,
and that what is printed and written holds together. No time is tested.
"""

import json

import pytest
import torch
import torch.nn.functional as F

import train
from benchmark.__main__ import main
from benchmark.speed import data, growth, ways
from benchmark.speed.measure import Steps, race, relative_error, take
from benchmark.speed.rows import Row
from benchmark.speed.settings import Settings
from dassl.data import data_manager
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import read_image
from prompting import whole_prompts
from report.growth import chart


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """What ways.py registers is gone afterwards."""
    TRAINER_REGISTRY.registered_names()  # finds them
    monkeypatch.setattr(TRAINER_REGISTRY, "_objects", dict(TRAINER_REGISTRY._objects))


@pytest.fixture
def words(toy_args, tmp_path):
    """words(name, trainer, keys): of a run in place of a trainer's, two epochs of two batches of eight images."""

    def words(name, trainer, keys=(), config="vit_b16_ctxv1"):
        keys = (*keys, "DATASET.NUM_SHOTS", 4, "DATALOADER.TRAIN_X.BATCH_SIZE", 8, "OPTIM.MAX_EPOCH", 2)
        keys = (*keys, "DATALOADER.TEST.BATCH_SIZE", 5, "DATALOADER.NUM_WORKERS", 0)
        found = toy_args(trainer, tmp_path / name, *keys, config=config)
        found[found.index("--trainer") + 1] = name
        return found

    return words


@pytest.fixture
def seen(monkeypatch):
    """Counts of what happens: files decoded, images encoded at a time, tokens of whole prompts at a time."""
    seen = {"decoded": 0, "encoded": [], "whole": []}

    def read(path):
        seen["decoded"] += 1
        return read_image(path)

    def whole(encoder, shared, own, *args):
        seen["whole"].append((len(shared), own.shape[1]))
        return whole_prompts.encode_whole(encoder, shared, own, *args)

    monkeypatch.setattr(data_manager, "read_image", read)
    monkeypatch.setattr(ways, "encode_whole", whole)
    return seen


def watched(name, seen):
    """The trainer of that name, with an image encoder that counts."""
    kind = TRAINER_REGISTRY.get(name)

    def build_model(self):
        super(kind, self).build_model()
        self.model.image_encoder.register_forward_hook(lambda m, images, _: seen["encoded"].append(len(images[0])))

    kind.build_model = build_model
    return name


def test_the_plain_way_keeps_nothing(words, seen, closing_logger):
    """4 classes, 16 training and 12 test images: 2 epochs of 2 batches, a test of batches of 5, 5 and 2."""
    name = watched(ways.plain("CoOp", 2.0), seen)
    trainer = train.main(words(name, "CoOp", ways.PLAIN))
    assert seen["decoded"] == 2 * 16 + 12
    # one picture of nothing tells the size of features
    assert seen["encoded"] == [1] + [8, 8] * 2 + [5, 5, 2]
    assert seen["whole"] == [(1, 4)] * (4 + 3), "text features for every step, and for every batch of the test"
    assert type(trainer.model.text_encoder) is ways.WholeTextEncoder
    assert [len(trainer.took[what]) for what in ("epoch", "test")] == [2, 1]


def test_ours_computes_once(words, seen, closing_logger):
    runs = [words(ways.ours("CoOp"), "CoOp")]
    watched("TimedCoOp", seen)
    cold = take(runs, ways.seconds)
    assert seen["encoded"] == [1, 16, 16, 5, 5, 2] and not seen["whole"]
    assert (cold.epochs, cold.trained, cold.tested) == (2, 16, [12])
    seen["encoded"].clear()
    again = [word.replace("TimedCoOp", "again") if "/" in word else word for word in runs[0]]
    take([again], ways.seconds)
    assert seen["encoded"] == [1], "features at hand"


@pytest.mark.parametrize(("trainer", "config"), [
    ("CoOp", "vit_b16_ctxv1"), ("CoCoOp", "vit_b16_c4_ep10_batch1_ctxv1"), ("ProGrad", "vit_b16_ep50_ctxv1"),
    ("MaPLe", "vit_b16_c2_ep5_batch4_2ctx"),
])  # fmt: skip
def test_both_ways_compute_the_same(trainer, config, words):
    ours = Steps(words(ways.ours(trainer), trainer, config=config))
    plain = Steps(words(ways.plain(trainer, 2.0), trainer, ways.PLAIN, config))
    for each in (ours, plain):
        each.leave_the_start()
    assert relative_error(ours.logits(), plain.logits()) < 1e-5
    (flops, gradient), (more, reference) = ours.first_step(), plain.first_step()
    assert relative_error(gradient, reference) < 1e-4
    assert flops < more / 3, "there is something to gain"
    assert ours.frozen == (trainer != "MaPLe") and bool(ours.images().trained) == ours.frozen


def test_operations_by_hand():
    x, y = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7)
    assert ways.flops(lambda: x @ y)[0] == 2 * 3 * 5 * 7
    assert ways.flops(lambda: torch.autograd.grad((x @ y).sum(), x))[0] == 2 * (2 * 3 * 5 * 7), "y is not learned"
    q = torch.randn(2, 4, 6, 8)  # two products of 2 x 4 pairs of matrices
    assert ways.flops(lambda: F.scaled_dot_product_attention(q, q, q))[0] == 2 * (2 * 4) * (2 * 6 * 8 * 6)
    inner = []
    assert ways.flops(lambda: inner.append(ways.flops(lambda: x @ y)[0]))[0] == inner[0] > 0, "one in another"


def test_a_rows_figures():
    row = Row("Mine", "step", 12.0, 4.0, 0.5, cold_flops=2e9, at_hand_flops=1e8, rate=1e9, errors={"logits": 1e-6})
    figures = row.figures()
    assert (figures["cold_ratio"], figures["at_hand_ratio"]) == (3, 24)
    assert (figures["cold_floor"], figures["cold_share"]) == (2, 0.5)
    assert figures["at_hand_floor"] == pytest.approx(0.1) and figures["at_hand_share"] == pytest.approx(0.2)
    assert figures["logits_error"] == 1e-6


def test_race_takes_turns():
    order = []
    times = race({name: lambda name=name: order.append(name) for name in "abc"}, 2)
    assert order == list("abcabc") and set(times) == set("abc")


def test_runs_of_a_method(tmp_path):
    """Both of the protocol's, the second on what the first learned, with the keys of configs/speed.yaml."""
    settings = Settings(tmp_path, "root", "caltech101", "base2new", 4, "icon-clip", "cpu", 3, 0, 1.0, ("SEED", "7"))
    base, new = settings.runs("MoCoOp", 1, "PlainMoCoOp", ways.PLAIN)
    for run, classes in ((base, "base"), (new, "new")):
        cfg = dict(zip(run[-2::-2], run[::-2], strict=False))
        assert cfg["DATASET.SUBSAMPLE_CLASSES"] == classes and run[run.index("--trainer") + 1] == "PlainMoCoOp"
        assert cfg["TRAINER.MOCOOP.TUNE_LAYERNORM"] == "False" and cfg["OPTIM.MAX_EPOCH"] == "3"
        assert cfg["TRAIN.FEATURES_GB"] == "0.0" and cfg["SEED"] == "7"
    assert new[new.index("--model-dir") + 1] == base[base.index("--output-dir") + 1]
    assert base[base.index("--output-dir") + 1] != settings.runs("MoCoOp", 1, "x")[0][base.index("--output-dir") + 1]


def test_made_pairs(tmp_path):
    """As many of each word as in C-GQA; every pair of the open world can be asked for."""
    from dassl.config import get_cfg_default
    from datasets.compositional import CompositionalFolder

    data.make_pairs(tmp_path / "set", 278362 // 100)
    cfg = get_cfg_default()
    cfg.DATASET.ROOT = str(tmp_path / "set")
    dataset = CompositionalFolder(cfg)
    assert (len(dataset.attributes), len(dataset.objects)) == (41, 68)
    assert {a for a, _ in dataset.pairs[: dataset.num_seen]} == set(range(41))
    assert len(dataset.pairs) > dataset.num_seen and len(dataset.test) >= 100


def test_a_point_of_growth(tmp_path, monkeypatch):
    axis = {"axis": "classes", "trainer": "CoOp", "config": "vit_b16_ctxv1", "what": "step", "size": "classes"}
    monkeypatch.setattr(growth, "listed", lambda: {"growth": [axis | {"values": [3, 5]}]})
    (point,) = growth.points(tmp_path, "ViT-B/32", "cpu", layers=1, most=1)
    assert (point.axis, point.value, point.layers, point.why) == ("classes", 3, 1, "")
    assert point.seconds > 0 and 0.1 < point.before_gb <= point.peak_gb < 8
    drawn = chart([point, growth.Point("classes", "CoOp", "step", 5, 1, 2 * point.seconds, point.peak_gb)])
    drawn.save(tmp_path)
    assert "classes" in (tmp_path / "growth.svg").read_text() and list(drawn.panels) == ["CoOp, step: classes"]


def test_the_command(tmp_path, tmp_cache, capsys):
    words = ["speed", "--quick", "--methods", "CoOp", "--grid", "--seeds", "1", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "speed.json").read_text())
    assert [row["what"] for row in found["rows"]] == ["step", "epoch", "test", "run", "grid"]
    assert found["rows"][-1]["method"] == "1 methods x 1 seeds"
    assert found["rows"][-1]["plain"] == found["rows"][-2]["plain"], "what is measured is not measured again"
    for row in found["rows"][:-1]:
        assert row["at_hand_flops"] < row["cold_flops"] and row["rate"] > 1e9
        assert row["cold_ratio"] == pytest.approx(row["plain"] / row["cold"])
    step = found["rows"][0]
    assert step["logits_error"] < 1e-5 and step["gradients_error"] < 1e-4
    lines = [line.split() for line in printed.splitlines() if line.startswith("CoOp ")]
    table = (tmp_path / "out" / "speed.md").read_text()
    assert len(lines) == 4 and all(f" {line[2]} " in table for line in lines), "what is printed is what is written"
    assert not any(tmp_cache.iterdir()), "it has a store of its own"


def test_refusals(tmp_path, capsys):
    assert main(["speed", "--classes", "0"]) == 1
    assert capsys.readouterr().err == "error: --classes 0: give 1 or more\n"
    assert main(["speed", "--quick", "--methods", "CoOpp", "--out", str(tmp_path)]) == 1
    assert "did you mean CoOp" in capsys.readouterr().err.splitlines()[-1]
