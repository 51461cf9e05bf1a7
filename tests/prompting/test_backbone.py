"""Backbones: every kind of file, and what a user hears when there is none."""

import dataclasses
import hashlib
import os
import random
import re
import shutil
import urllib.request
from pathlib import Path

import pytest
import torch
from clip.model import convert_weights
from safetensors.torch import save_file

from dassl.utils import UserError
from prompting import backbone
from prompting.backbone import HALF, digest, find, image_size, known_names, load_backbone
from prompting.backbones.files import HOME, OPENAI, OPENAI_MARKS, in_file
from prompting.deep_prompts import check_vision_transformer
from prompting.local_features import global_and_local_features
from prompting.text_encoder import TextEncoder
from tests.reference import openai_weights, tiny_clip

SHIPPED = {
    "icon-clip": "f906c11cb63e990d8badae402ca1b474045822c564519f8d115e7c74406c27c5",
    "icon-clip-vit": "75b823106f8fd1bd7b1921ec47744432959e0c36d68522b886860920dabd0da2",
}
"""SHA-256 of the embedded backbones' files; of the second, which has its text tower in the first, of both digests."""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder and no network."""

    def no_network(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    return tmp_path


def save_archive(model, path, marked=True):
    """A traced model, as OpenAI publishes them, with the entries that only theirs have; or without."""
    if marked:
        for name, value in openai_weights(model).items():
            if name not in model.state_dict():
                vars(model).pop(name, None)
                model.register_buffer(name, value)
    arguments = torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.int)
    torch.jit.trace(model, arguments, check_trace=False).save(path)


def with_gelu(model):
    for module in model.modules():
        if hasattr(module, "mlp"):
            module.mlp.gelu = torch.nn.GELU()
    return model


tracing = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.:FutureWarning")


@tracing
@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("file", ["state dict", "nested", "archive", "archive's state dict"])
def test_files(kind, file, tmp_path):
    """Those that tell whose they are, and those of which the user tells it."""
    model, path, family = tiny_clip(kind), str(tmp_path / "model.pt"), ""
    if file == "archive":
        save_archive(model, path)
    elif file == "archive's state dict":
        torch.save(openai_weights(model), path)
    elif file == "nested":
        torch.save({"state_dict": model.state_dict(), "family": "openai"}, path)
    else:
        torch.save(model.state_dict(), path)
        family = "openai"
    loaded = load_backbone(path, family=family)
    assert image_size(path, family) == 32 and find(path, family).family == OPENAI
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert loaded.dtype == torch.float32
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.encode_image(images), model.encode_image(images)), "float32 weights are not rounded"


def test_weights_that_do_not_tell_whose_they_are(tmp_path, toy_backbone):
    """open_clip's have OpenAI's names and shapes: read as OpenAI's, a model with GELU gives other features."""
    foreign, path = with_gelu(tiny_clip()), str(tmp_path / "model.pt")
    torch.save(foreign.state_dict(), path)
    images = torch.randn(2, 3, 32, 32)
    wrong = load_backbone(path, family="openai").encode_image(images)
    assert not torch.allclose(wrong, foreign.encode_image(images), rtol=1e-2), "nothing in the file tells"
    with pytest.raises(UserError, match=r"does not show whether .*MODEL\.BACKBONE\.FAMILY openai") as caught:
        load_backbone(path)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UserError, match='family "open_clip" cannot be loaded.*openai'):
        load_backbone(path, family="open_clip")
    torch.save(foreign.state_dict() | {"family": "open_clip"}, path)
    with pytest.raises(UserError, match='family "open_clip" cannot be loaded'):
        load_backbone(path)
    for file in (path, "ViT-B/16", "icon-clip", toy_backbone):
        with pytest.raises(UserError, match="FAMILY is siglip, but the weights of .* are of the family open"):
            find(file, "siglip")


@tracing
@pytest.mark.parametrize("marked", [True, False])
def test_an_archive_that_computes_something_else(marked, tmp_path):
    """Its code tells, whatever the user says; where it is OpenAI's, nothing tells the width of the heads."""
    save_archive(with_gelu(tiny_clip()), tmp_path / "model.pt", marked)
    with pytest.raises(UserError, match="is not a model of OpenAI's: its code does not compute QuickGELU"):
        load_backbone(str(tmp_path / "model.pt"), family="openai")
    save_archive(tiny_clip(), tmp_path / "again.pt", marked=False)
    with pytest.raises(UserError, match="does not show"):
        load_backbone(str(tmp_path / "again.pt"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 96}, "text encoder in .* is 96 wide.*heads of 64"),
        ({"vit": (2, 96, 16)}, "image encoder in .* is 96 wide.*heads of 64"),
    ],
)
def test_heads_of_another_width(wrong, message, tmp_path):
    torch.save(openai_weights(tiny_clip(**wrong)), tmp_path / "model.pt")
    with pytest.raises(UserError, match=message):
        load_backbone(str(tmp_path / "model.pt"))


def test_another_tokenizer(tmp_path):
    weights = openai_weights(tiny_clip())
    weights["token_embedding.weight"] = weights["token_embedding.weight"][:-1]
    torch.save(weights, tmp_path / "model.pt")
    with pytest.raises(UserError, match="embeddings of 49407 tokens.*49408"):
        load_backbone(str(tmp_path / "model.pt"))


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("amp", torch.float)]
)
def test_precision(precision, dtype, toy_backbone):
    model = load_backbone(toy_backbone, precision)
    assert model.dtype == model.transformer.resblocks[0].mlp.c_fc.weight.dtype == dtype
    assert model.ln_final.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize(("precision", "image"), [("fp16", ""), ("fp32", "bf16"), ("bf16", "fp32"), ("amp", "")])
def test_weights_of_each_precision_are_openais(kind, precision, image, tmp_path):
    """Those that clip's own code halves are rounded, each tower's to its precision; the others are as they were."""
    torch.save(openai_weights(tiny_clip(kind)), tmp_path / "model.pt")
    expected = tiny_clip(kind)
    convert_weights(expected)
    halves = {name for name, p in expected.named_parameters() if p.dtype == torch.float16}
    exact, state = tiny_clip(kind).state_dict(), torch.get_rng_state()
    found = load_backbone(str(tmp_path / "model.pt"), precision, image_precision=image)
    assert torch.equal(torch.get_rng_state(), state), "to load draws nothing"
    assert found.state_dict().keys() == exact.keys()
    for name, value in found.state_dict().items():
        said = image or precision if name.startswith("visual.") else precision
        dtype = HALF.get(said, torch.float32) if name in halves else exact[name].dtype
        assert value.dtype == dtype and torch.equal(value, exact[name].to(dtype)), name
    masks = {block.attn_mask.data_ptr() for block in found.transformer.resblocks}
    assert len(masks) == 1 and torch.equal(found.transformer.resblocks[0].attn_mask, expected.build_attention_mask())


def test_sizes_of_openai_need_no_weights(home):
    assert image_size("ViT-L/14@336px") == 336 and image_size("RN50x64") == 448


def test_without_network(home):
    (home / ".cache" / "clip").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"ViT-B/16 is not at .*\.cache/clip/ViT-B-16\.pt.*not known.*available"
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
    small = in_file("small", Path(toy_backbone), OPENAI, image_size=32, image_encoder="vit")
    monkeypatch.setitem(backbone._found()[0], "small", small)
    with pytest.raises(UserError, match="available: icon-clip, icon-clip-vit, RN50, small"):
        load_backbone("RN101")
    assert load_backbone("small").visual.input_resolution == 32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no model", "neither a TorchScript archive nor a state dict"),
        ({"weight": torch.zeros(1)}, "it has no text_projection"),
        ({"text_projection": torch.zeros(1)}, "does not hold a CLIP model"),
        ({"text_tower": "none"}, "needs the text tower of another backbone, which is not at .*none.pt"),
        ({"text_tower": "../../up/model"}, "which is not at .*embedded/model.pt"),
        ({"text_projection": "text"}, "text_projection in it is not a tensor"),
        ({"state_dict": "text"}, "holds no state dict"),
        ([torch.zeros(1)], "holds no state dict"),
    ],
)
def test_files_that_hold_no_clip(content, message, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*" + message) as caught:
        load_backbone(str(path))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_weights_that_are_not_what_they_should_be(kind, suffix, tmp_path):
    """A value of another type, shape or number, or none at all, whichever it is of."""
    whole, generator = openai_weights(tiny_clip(kind)), random.Random(0)
    others = (*OPENAI_MARKS, "token_embedding", "num_batches_tracked")  # the last is of no use to a frozen model
    keys = [key for key in whole if not any(other in key for other in others)]
    path = tmp_path / f"model{suffix}"

    def load(**changed):
        weights = {key: torch.as_tensor(value).contiguous() for key, value in (whole | changed).items()}
        weights = {key: value for key, value in weights.items() if value.numel()}
        save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
        return load_backbone(str(path))

    assert torch.equal(load().text_projection, whole["text_projection"])
    for key in generator.sample(keys, 5):
        value = whole[key]
        many = value.reshape(1, -1) if value.dim() else value.repeat(2)
        wrong = [(changed, "does not hold a CLIP model") for changed in (torch.cat([many, many], -1), torch.zeros(0))]
        if value.is_floating_point():
            for number in ("nan", "inf", "-inf"):
                damaged = value.clone()
                damaged.view(-1)[-1] = float(number)
                wrong.append((damaged, f"not finite .{re.escape(key)}"))
            wrong.append((value.int(), "is of the type torch.int32"))
        for damaged, message in wrong:
            with pytest.raises(UserError, match=message) as caught:
                load(**{key: damaged})
            assert len(str(caught.value).splitlines()) == 1


def test_what_a_record_says_reaches_the_text_encoder(monkeypatch, toy_backbone):
    other = [1, 2]  # any object serves
    family = dataclasses.replace(OPENAI, name="other", causal=False, read_at="last", tokenizer=lambda: other)
    small = in_file("small", Path(toy_backbone), OPENAI, image_size=32, image_encoder="vit")
    small = dataclasses.replace(small, family=family)
    monkeypatch.setitem(backbone._found()[0], "small", small)
    model = load_backbone("small", family="other")
    assert model.backbone is model.visual.backbone is small
    encoder = TextEncoder(model)
    assert (encoder.causal, encoder.read_at, encoder.tokenizer) == (False, "last", other)
    with pytest.raises(UserError, match="FAMILY is openai, but the weights of small are of the family other"):
        load_backbone("small", family="openai")
    with pytest.raises(ValueError, match="read at one of end, last"):
        dataclasses.replace(family, read_at="first")


def test_an_image_encoder_of_another_kind(monkeypatch, toy_backbone):
    small = in_file("small", Path(toy_backbone), OPENAI, image_size=32, image_encoder="other")
    monkeypatch.setitem(backbone._found()[0], "small", small)
    visual = load_backbone("small").visual
    with pytest.raises(UserError, match="this backbone has another image encoder: .*icon-clip-vit"):
        check_vision_transformer(visual)
    with pytest.raises(UserError, match="local features need OpenAI's image encoder"):
        global_and_local_features(visual, torch.zeros(1, 3, 32, 32))


def test_a_file_that_is_written_again(tmp_path):
    path = tmp_path / "model.pt"
    for size in (32, 64):
        weights = openai_weights(tiny_clip())
        if size == 64:
            weights["visual.positional_embedding"] = torch.zeros(17, 64)
        torch.save(weights, path)
        os.utime(path, ns=(size, size))
        assert image_size(str(path)) == size


def test_a_file_that_changes_while_it_is_in_use(tmp_path):
    """Another in its place leaves the run alone; one that is written to is mapped, so that the run has to end."""
    path, other = tmp_path / "model.pt", tmp_path / "other.pt"
    torch.save(openai_weights(tiny_clip()), path)
    torch.save(openai_weights(tiny_clip("resnet")), other)
    model = load_backbone(str(path))
    before, first = digest(str(path)), model.text_projection.clone()
    shutil.copyfile(path, tmp_path / "kept.pt")
    os.replace(tmp_path / "kept.pt", path)
    assert digest(str(path)) == before
    os.replace(other, path)
    assert digest(str(path)) == before and torch.equal(model.text_projection, first)
    path.unlink()
    assert digest(str(path)) == before and torch.equal(model.text_projection, first)
    torch.save(openai_weights(tiny_clip()), path)
    load_backbone(str(path))
    whole, content = digest(str(path)), path.read_bytes()
    os.utime(path, ns=(1, 1))  # as where a disk is purged of what nobody touches
    assert digest(str(path)) == whole
    with open(path, "r+b") as file:
        file.write(content[:100] + bytes([content[100] ^ 1]))
    os.utime(path, ns=(2, 2))
    with pytest.raises(UserError, match="was written to while this run computes with it"):
        digest(str(path))


def test_names_that_were_known_stay_known():
    names = {"RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"}
    assert names | {"icon-clip", "icon-clip-vit"} == set(known_names())
    assert {name for name in known_names() if "vit" in name.lower()} == set(known_names("vit"))
    for name in ("icon-clip", "icon-clip-vit"):  # their records say what their files hold
        shipped = load_backbone(name).visual
        assert shipped.input_resolution == image_size(name)


def test_digests(tmp_path, toy_backbone):
    """Those that ship are the ones that were trained; of a file, what others say of it, too."""
    assert digest(toy_backbone) == hashlib.sha256(Path(toy_backbone).read_bytes()).hexdigest()
    assert {name: digest(name) for name in SHIPPED} == SHIPPED
    copy = tmp_path / "icon-clip-vit.pt"
    shutil.copyfile(HOME / copy.name, copy)
    assert digest(str(copy), "openai") == SHIPPED["icon-clip-vit"], "with its text tower"
