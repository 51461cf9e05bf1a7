"""What went into a run is recorded, and the run can be done again from it: `train.py --replay`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train
from dassl.engine import inputs
from dassl.utils import load_checkpoint
from learned.replay import DIFFERENT
from tests.conftest import TOY_CLASSES

SMALL = ("OPTIM.MAX_EPOCH", 2, "DATALOADER.NUM_WORKERS", 0)
LAST = "prompt_learner/model.pth.tar-2"
SPLIT = "caltech-101/split_zhou_Caltech101.json"


def read(folder, name="inputs.json"):
    return json.loads(Path(folder, name).read_text())


@pytest.fixture
def root(toy_root, tmp_path):
    """A DATASET.ROOT that a test may change."""
    return shutil.copytree(toy_root, tmp_path / "root")


@pytest.fixture
def run(tmp_path, root, toy_run):
    def one(name, *keys, flags=(), trainer="CoOp", **options):
        return toy_run(trainer, tmp_path / name, *SMALL, *keys, flags=["--root", str(root), *flags], **options)

    return one


@pytest.fixture
def replay(tmp_path, closing_logger, caplog, capsys):
    """replay(run, *arguments): the exit status, and the log's lines or else the one on stderr."""

    def again(name, *arguments):
        caplog.clear()
        capsys.readouterr()
        status = train.run(["--replay", str(tmp_path / name), *map(str, arguments)])
        lines = [r.getMessage() for r in caplog.records if r.name == "dassl.learned"]
        return status, lines if status != 1 else capsys.readouterr().err

    return again


def test_what_goes_in_is_recorded_before_anything_is_computed(run, tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.coop.CoOp.train", lambda self: None)
    trainer = run("a")
    found = read(tmp_path / "a")
    assert found == json.loads(json.dumps(trainer.inputs))
    assert found["arguments"] == {"eval_only": False, "model_dir": "", "load_epoch": None, "no_train": False}
    data = found["data"]
    assert [data[part]["images"] for part in ("train", "val", "test")] == [16, 8, 12] and data["unlabelled"] is None
    digests = [data[part][what] for part in ("train", "val", "test") for what in ("list", "contents")]
    digests += [data["split"], data["classes"], found["weights"]["backbone"]["sha256"]]
    digests += [found["weights"]["start"]["prompt_learner"]]
    digests += [found["code"][name] for name in ("dassl", "datasets", "prompting", "trainers")]
    assert all(len(digest) == 64 for digest in digests) and len({*digests}) == len(digests)
    assert found["environment"]["threads"] == 1 and found["environment"]["versions"]["torch"] in torch.__version__
    assert not (tmp_path / "a" / "metrics.json").exists()
    run("untested", "TEST.NO_TEST", True)
    assert read(tmp_path / "untested")["data"]["test"] == data["test"] | {"contents": None}


def test_metrics_repeat_it_and_the_same_run_elsewhere_has_the_same(run, tmp_path, root):
    run("a")
    run("b", flags=["--root", str(shutil.copytree(root, tmp_path / "elsewhere"))])
    a, b = read(tmp_path / "a"), read(tmp_path / "b")
    assert a == b == read(tmp_path / "a", "metrics.json")["inputs"]
    run("c", "SEED", 2)
    told = [line.partition(" was ")[0] for line in inputs.differences(a, read(tmp_path / "c"))]
    assert told == ["data.train.list", "data.train.contents", "weights.start.prompt_learner"]


def test_evaluation_records_the_weights_that_it_is_given(run, tmp_path):
    run("a")
    run("eval", flags=["--eval-only", "--model-dir", str(tmp_path / "a")])
    found = read(tmp_path / "eval")
    assert list(found["weights"]["files"]) == [LAST]
    assert found["data"]["train"]["contents"] is None and found["data"]["test"] == read(tmp_path / "a")["data"]["test"]
    run("zero", trainer="ZeroshotCLIP", config="vit_b16", flags=["--eval-only"])
    assert read(tmp_path / "zero", "metrics.json")["inputs"]["weights"]["files"] == {}


def test_a_run_that_went_on_with_something_else_says_so(run, root, tmp_path, caplog):
    run("a", "OPTIM.MAX_EPOCH", 1)
    (tmp_path / "a" / "metrics.json").unlink()
    image = root / "caltech-101/101_ObjectCategories/bee/9.png"
    image.write_bytes((image.parent / "8.png").read_bytes())
    run("a", "OPTIM.MAX_EPOCH", 1)
    assert "Since this run began: data.test.contents was " in caplog.text
    (held,) = read(tmp_path / "a")["earlier"]
    assert held["data"]["test"]["contents"] != read(tmp_path / "a")["data"]["test"]["contents"]


@pytest.mark.parametrize(
    ("trainer", "config", "flags"),
    [
        ("CoOp", "vit_b16_ep50", []),
        ("LAMM", "vit_b16_ep50", []),
        ("LinearProbe", "vit_b16", []),
        ("ZeroshotCLIP", "vit_b16", ["--eval-only"]),
    ],
)
def test_again_the_bits_agree(trainer, config, flags, run, replay, tmp_path):
    run("a", trainer=trainer, config=config, flags=flags)
    status, lines = replay("a")
    assert status == 0 and lines[0] == f"What goes in is what went into {tmp_path / 'a'}"
    assert len(lines) == 2 and lines[1].startswith("=> identical: ")
    assert lines[1] in (tmp_path / "a-replay" / "log.txt").read_text()
    metrics = read(tmp_path / "a-replay", "metrics.json")
    assert metrics["predictions"] == read(tmp_path / "a", "metrics.json")["predictions"]
    assert metrics["train_seconds"] > 0 or trainer in ("LinearProbe", "ZeroshotCLIP")


def test_an_evaluation_again_also_where_its_output_was_moved(run, replay, tmp_path):
    run("out/a")
    run("out/eval", "TEST.FINAL_MODEL", "best_val", flags=["--eval-only", "--model-dir", str(tmp_path / "out/a")])
    assert replay("out/eval")[0] == 0
    (tmp_path / "out").rename(tmp_path / "moved")
    assert replay("moved/eval", "--output-dir", tmp_path / "b")[0] == 0
    shutil.rmtree(tmp_path / "moved" / "a")
    status, line = replay("moved/eval", "--output-dir", tmp_path / "c")
    assert status == 1 and line.endswith("out/a, which are gone: it cannot be done again\n")


def test_pairs_again(toy_pairs_run, replay, tmp_path):
    toy_pairs_run("CSP", tmp_path / "a", "OPTIM.MAX_EPOCH", 1, "TEST.FINAL_MODEL", "best_val")
    assert (tmp_path / "a" / "prompt_learner" / "model-best.pth.tar").is_file()
    assert replay("a")[0] == 0


def test_what_differs_is_said_line_by_line(run, replay, root, tmp_path):
    run("a")
    image = root / "caltech-101/101_ObjectCategories"
    for name in TOY_CLASSES:
        for number in range(6):
            Image.fromarray(np.full((40, 48, 3), number, np.uint8)).save(image / name / f"{number}.png")
    status, lines = replay("a")
    assert status == DIFFERENT
    assert [line.partition(" was ")[0] for line in lines[:1]] == ["Went in: data.train.contents"]
    assert any(line.startswith(f"Came out: {LAST}: ctx differs by ") for line in lines)
    assert lines[-1].startswith("=> different in ") and "weights by at most " in lines[-1]


def test_one_bit_and_one_prediction(run, replay, tmp_path):
    run("a")
    path = tmp_path / "a" / LAST
    checkpoint = load_checkpoint(path)
    checkpoint["state_dict"]["ctx"].view(torch.int32)[3, 5] ^= 1
    torch.save(checkpoint, path)
    status, lines = replay("a")
    assert status == DIFFERENT and lines[1].startswith(f"Came out: {LAST}: ctx differs by ") and len(lines) == 3
    shutil.copy(tmp_path / "a-replay" / LAST, path)
    metrics = read(tmp_path / "a", "metrics.json")
    (tmp_path / "a" / "metrics.json").write_text(json.dumps(metrics | {"predictions": "0" * 64}))
    status, lines = replay("a", "--overwrite")
    assert status == DIFFERENT and lines[1].startswith("Came out: predictions is ") and len(lines) == 3


def test_a_run_of_an_earlier_version(run, replay, tmp_path):
    run("a")
    (tmp_path / "a" / "inputs.json").unlink()
    metrics = read(tmp_path / "a", "metrics.json")
    del metrics["inputs"], metrics["predictions"]
    (tmp_path / "a" / "metrics.json").write_text(json.dumps(metrics))
    status, lines = replay("a")
    assert status == 0 and "which did not record what went into a run" in lines[0]


def test_what_is_refused(run, replay, root, tmp_path):
    run("a", "DATASET.NUM_SHOTS", 1)

    def refusal(*arguments, name="a"):
        status, line = replay(name, *arguments)
        assert status == 1 and line.startswith("error: ") and len(line.splitlines()) == 1
        return line

    assert "--replay repeats the run as it was: leave out --seed" in refusal("--seed", 2)
    assert "OPTIM.LR cannot be set" in refusal("OPTIM.LR", 1)
    assert "OUTPUT_DIR cannot be set" in refusal("OUTPUT_DIR", "x")
    assert "no run in" in refusal(name="nowhere")
    assert "or itself: choose another --output-dir" in refusal("--output-dir", tmp_path / "a", "--overwrite")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "metrics.json").write_text("{}")
    assert "holds a run" in refusal("--output-dir", tmp_path / "taken")
    assert "--root" in refusal("--root", tmp_path / "no data")
    assert replay("a", "DATALOADER.NUM_WORKERS", 1, "TEST.PER_CLASS_RESULT", True, "--root", root)[0] == 1, "order"
    assert replay("a", "--root", root, "DATALOADER.NUM_WORKERS", 1, "TEST.PER_CLASS_RESULT", True)[0] == 0
    (tmp_path / "a" / LAST).unlink()
    assert "are gone" in refusal("--output-dir", tmp_path / "b")
    (tmp_path / "a" / "metrics.json").unlink()
    assert "is not finished" in refusal("--output-dir", tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"arguments": 1, "data": {}, "weights": {}}'])
def test_a_damaged_record_is_one_line(text, run, replay, tmp_path):
    run("a", "OPTIM.MAX_EPOCH", 1)
    (tmp_path / "a" / "inputs.json").write_text(text)
    status, line = replay("a")
    assert status == 1 and "inputs.json" in line and len(line.splitlines()) == 1
    run("a", "OPTIM.MAX_EPOCH", 1)
    assert read(tmp_path / "a")["weights"]
    (tmp_path / "a" / LAST).with_name("checkpoint").write_bytes(b"\xff")
    assert replay("a")[0] == 0
    run("b", flags=["--resume", str(tmp_path / "a")])
    assert [*read(tmp_path / "b")["weights"]["files"]] == ["prompt_learner/model.pth.tar-1"]
