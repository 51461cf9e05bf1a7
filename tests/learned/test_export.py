"""An exported classifier with the clip package's own image and text encoders."""

import json

import clip
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from benchmark.__main__ import main as benchmark
from dassl.engine import TRAINER_REGISTRY
from prompting.backbone import load_backbone
from trainers.coop import CoOp

SHORT = ("OPTIM.MAX_EPOCH", 1, "DATALOADER.NUM_WORKERS", 0)


def read(path):
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()


@pytest.mark.parametrize("trainer", ["CoOp", "LAMM"])
def test_features_times_image_features_are_the_runs_logits(trainer, tmp_path, toy_run, toy_backbone):
    found = toy_run(trainer, tmp_path / "run", *SHORT)
    expected = torch.cat([logits for logits, _ in found.predict(found.test_loader)])
    images = torch.cat([batch["img"] for batch in found.test_loader])
    assert benchmark(["export", str(tmp_path / "run"), "--out", str(tmp_path / "new" / "file.safetensors")]) == 0
    tensors, metadata = read(tmp_path / "new" / "file.safetensors")
    assert tensors["text_features"].dtype == tensors["logit_scale"].dtype == torch.float32
    assert torch.allclose(tensors["text_features"].norm(dim=-1), torch.ones(4))
    with torch.no_grad():
        features = F.normalize(load_backbone(toy_backbone).encode_image(images), dim=-1)
    assert torch.allclose(tensors["logit_scale"] * features @ tensors["text_features"].T, expected, atol=1e-4)
    assert json.loads(metadata["classnames"]) == ["ant", "bee", "crab_claw", "dog"]
    assert (metadata["backbone"], metadata["trainer"], metadata["image_size"]) == (toy_backbone, trainer, "32")


def test_other_classes(tmp_path, toy_run, toy_backbone):
    """Zero-shot CLIP's are those of the clip package; and as many as the run has."""
    toy_run("ZeroshotCLIP", tmp_path / "run", config="vit_b16", flags=["--eval-only"])
    names = ["emu", "fruit bat", "gnu", "yak"]
    out = tmp_path / "file.safetensors"
    assert benchmark(["export", str(tmp_path / "run"), "--out", str(out), "--classnames", ",".join(names)]) == 0
    tensors, metadata = read(out)
    with torch.no_grad():
        tokens = clip.tokenize([f"a photo of a {name}." for name in names])
        expected = F.normalize(load_backbone(toy_backbone).encode_text(tokens), dim=-1)
    assert torch.allclose(tensors["text_features"], expected, atol=1e-5) and json.loads(metadata["classnames"]) == names


@pytest.mark.parametrize(
    ("trainer", "config"), [("CoCoOp", "vit_b16_c4_ep10_batch1_ctxv1"), ("MoCoOp", "vit_b16_ep50")]
)
def test_text_features_of_every_image_are_refused(trainer, config, tmp_path, toy_run, capsys):
    toy_run(trainer, tmp_path / "run", *SHORT, config=config)
    assert benchmark(["export", str(tmp_path / "run"), "--out", str(tmp_path / "file.safetensors")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {trainer} does not score images by one text feature per class: use predict.py"
    assert not (tmp_path / "file.safetensors").exists()


def test_a_changed_image_encoder_is_refused(tmp_path, toy_run, capsys, monkeypatch):
    class Tuned(CoOp):
        frozen_image_encoder = False

    toy_run("CoOp", tmp_path / "run", *SHORT)
    monkeypatch.setitem(TRAINER_REGISTRY._objects, "CoOp", Tuned)
    assert benchmark(["export", str(tmp_path / "run"), "--out", str(tmp_path / "file.safetensors")]) == 1
    assert "has changed CLIP's image encoder" in capsys.readouterr().err


def test_mistakes_are_one_line(capsys):
    for arguments in (["export", "/nowhere", "--out", "x"], ["explain", "/nowhere", "--words", "0"]):
        assert benchmark(arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
