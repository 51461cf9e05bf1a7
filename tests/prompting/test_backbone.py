"""Backbones: every kind of file, and what a user hears when there is none."""

import os
import re
import urllib.request

import pytest
import torch

from dassl.utils import UserError
from prompting import backbone
from prompting.backbone import image_size, load_backbone
from tests.reference import tiny_clip


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder and no network."""

    def no_network(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    return tmp_path


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.:FutureWarning")
@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("file", ["state dict", "nested", "archive"])
def test_files(kind, file, tmp_path):
    model, path = tiny_clip(kind), str(tmp_path / "model.pt")
    if file == "archive":  # as OpenAI publishes them: a traced model
        arguments = torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.int)
        torch.jit.trace(model, arguments, check_trace=False).save(path)
    else:
        torch.save(model.state_dict() if file == "state dict" else {"state_dict": model.state_dict()}, path)
    loaded = load_backbone(path)
    assert image_size(path) == 32
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert loaded.dtype == torch.float32
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.encode_image(images), model.encode_image(images)), "float32 weights are not rounded"


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("amp", torch.float)]
)
def test_precision(precision, dtype, toy_backbone):
    model = load_backbone(toy_backbone, precision)
    assert model.dtype == model.transformer.resblocks[0].mlp.c_fc.weight.dtype == dtype
    assert model.ln_final.weight.dtype == torch.float32


def test_sizes_of_openai_need_no_weights(home):
    assert image_size("ViT-L/14@336px") == 336 and image_size("RN50x64") == 448


def test_without_network(home):
    (home / ".cache" / "clip").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"ViT-B/16 is not at .*\.cache/clip/ViT-B-16\.pt.*not known.*at hand"
    ) as caught:
        load_backbone("ViT-B/16")
    assert len(str(caught.value).splitlines()) == 1
    assert os.listdir(home / ".cache" / "clip") == []


def test_a_damaged_download_is_not_used(home):
    folder = home / ".cache" / "clip"
    folder.mkdir(parents=True)
    (folder / "RN50.pt").write_bytes(b"half a file")
    with pytest.raises(UserError, match=r"RN50\.pt is damaged .*delete it"):
        load_backbone("RN50")


def test_what_is_at_hand_is_named(home, monkeypatch, toy_backbone):
    folder = home / ".cache" / "clip"
    folder.mkdir(parents=True)
    (folder / "RN50.pt").write_bytes(b"")
    monkeypatch.setitem(backbone.EMBEDDED, "small", toy_backbone)
    with pytest.raises(UserError, match="at hand.*: RN50, icon-clip, icon-clip-vit, small"):
        load_backbone("RN101")
    assert load_backbone("small").visual.input_resolution == 32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no model", "neither a TorchScript archive nor a state dict"),
        ({"weight": torch.zeros(1)}, "it has no text_projection"),
        ({"text_projection": torch.zeros(1)}, "does not hold a CLIP model"),
    ],
)
def test_files_that_hold_no_clip(content, message, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*" + message) as caught:
        load_backbone(str(path))
    assert len(str(caught.value).splitlines()) == 1
