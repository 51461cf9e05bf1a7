"""predict.py: what the run's own test finds, image by image, without the dataset; mistakes in one line."""

import csv
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import predict
from benchmark.__main__ import main as benchmark
from prompting.prompted_clip import PromptedCLIP
from tests.conftest import TOY_CLASSES

CONFIGS = {
    "CoOp": "vit_b16_ep50",
    "CoCoOp": "vit_b16_c4_ep10_batch1_ctxv1",
    "MoCoOp": "vit_b16_ep50",
    "LAMM": "vit_b16_ep50",
    "LASP": "vit_b16_ep50",
    "MaPLe": "vit_b16_c2_ep5_batch4_2ctx",
    "PromptSRC": "vit_b16_c2_ep20_batch4_4+4ctx",
    "LinearProbe": "vit_b16",
    "PLOT": "rn50_ep50",
    "ZeroshotCLIP": "vit_b16",
}


@pytest.fixture
def trained(tmp_path, toy_root, toy_run):
    """trained(trainer): (run's folder, folder of the test images, {file there: probabilities}); no dataset is left."""

    def one(trainer):
        data, photos = tmp_path / "data", tmp_path / "photos"
        shutil.copytree(toy_root, data)
        keys = ("DATASET.ROOT", data, "OPTIM.MAX_EPOCH", 1, "DATALOADER.NUM_WORKERS", 0)
        found = toy_run(trainer, tmp_path / "run", *keys, config=CONFIGS[trainer])
        probabilities = torch.cat([out.softmax(dim=-1) for out, _ in found.predict(found.test_loader)])
        expected = {}
        for item, row in zip(found.dm.dataset.test, probabilities.tolist(), strict=True):
            source = Path(item.impath)
            place = photos / source.parent.name[0] / f"{source.parent.name}-{source.name}"
            place.parent.mkdir(parents=True, exist_ok=True)
            expected[str(place)] = dict(zip(TOY_CLASSES, row, strict=True))
            source.rename(place)
        shutil.rmtree(data)
        logging.getLogger("dassl").handlers.clear()  # a process of its own would have none
        return str(tmp_path / "run"), photos, expected

    return one


@pytest.mark.parametrize("trainer", CONFIGS)
def test_what_the_evaluation_found(trainer, trained, capsys):
    run, photos, expected = trained(trainer)
    capsys.readouterr()
    assert predict.run(["--model-dir", run, str(photos), "--format", "json", "--batch-size", "5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [image["image"] for image in found] == sorted(expected), "recursively, in order"
    for image in found:
        probabilities = [c["probability"] for c in image["classes"]]
        assert probabilities == sorted(probabilities, reverse=True) and len(probabilities) == 4
        own = expected[image["image"]]
        assert image["classes"][0]["class"] == max(own, key=own.get)
        for c in image["classes"]:
            assert c["probability"] == pytest.approx(own[c["class"]], abs=1e-5)


def test_formats_and_unreadable_images(trained, tmp_path, capsys):
    run, photos, expected = trained("CoOp")
    whole = sorted(expected)[:3]
    broken = photos / "a" / "broken.jpg"
    broken.write_text("no image")
    (tmp_path / "empty").mkdir()
    odd = tmp_path / 'with, comma "and" no suffix'
    Image.new("L", (5, 9)).save(odd, format="png")
    arguments = ["--model-dir", run, *whole, str(broken), "/nowhere", str(odd), str(tmp_path / "empty"), "--top", "2"]
    capsys.readouterr()

    assert predict.run([*arguments, "--format", "csv"]) == 1
    output = capsys.readouterr()
    rows = list(csv.DictReader(output.out.splitlines()))
    assert [row["image"] for row in rows[::2]] == [*whole, str(odd)] == [row["image"] for row in rows[1::2]]
    assert [row["rank"] for row in rows] == ["1", "2"] * 4
    assert float(rows[0]["probability"]) == pytest.approx(expected[whole[0]][rows[0]["class"]], abs=1e-5)
    assert len(output.err.splitlines()) == 3
    for line, words in zip(sorted(output.err.splitlines()), ("cannot read", "no file", "no image in"), strict=True):
        assert line.startswith("error: ") and words in line

    assert predict.run([*arguments, "--format", "table", "--classnames", "emu, fox, gnu"]) == 1
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 8 and table[0].startswith(whole[0]) and table[0].split()[-1] in ("emu", "fox", "gnu")

    assert predict.run(["--model-dir", run, str(broken), "--format", "json"]) == 1
    assert json.loads(capsys.readouterr().out) == []


def test_scores_that_are_no_numbers_are_no_prediction(trained, tmp_path, capsys, monkeypatch):
    """Nor an export."""
    run, photos, _ = trained("CoOp")
    encode_text = PromptedCLIP.encode_text

    def broken(self):
        return encode_text(self) * torch.tensor([1, float("nan"), 1, 1])[:, None]

    monkeypatch.setattr(PromptedCLIP, "encode_text", broken)
    capsys.readouterr()
    assert predict.run(["--model-dir", run, str(photos), "--format", "csv"]) == 1
    assert "12 of 12 images have infinite or NaN values" in capsys.readouterr().err
    assert benchmark(["export", run, "--out", str(tmp_path / "file.safetensors")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: 1 of 4 classes have") and 'class "bee"' in line
    assert not (tmp_path / "file.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model-dir", "/nowhere", "x.png"], "no run in /nowhere"),
        (["--model-dir", ".", "x.png", "--top", "0"], "--top is 0"),
        (["--model-dir", ".", "x.png", "--batch-size", "-1"], "--batch-size is -1"),
        (["--model-dir", ".", "x.png", "--classnames", "no.txt"], "no file no.txt"),
    ],
)
def test_a_mistake_is_one_line(arguments, words, capsys):
    assert predict.run(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line
