"""Pre-training: its captions, its loss, and that a stopped run goes on to the same model."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dassl.errors import UserError
from embedded import pretrain
from embedded.concepts import RARE
from prompting.backbone import load_backbone
from tests.reference import relative_error


@pytest.fixture
def data(tmp_path):
    """Sixteen drawings of eight names."""
    rng = np.random.default_rng(0)
    words = ["home", "house", "camera", "arrow left", "zebra", "star off", "cloud", "key"] * 2
    pixels = rng.integers(0, 255, (16, 64, 64, 3), dtype=np.uint8)
    path = tmp_path / "data.npz"
    np.savez(
        path, pixels=pixels, words=np.array(words), style=np.array(["outline", "filled"] * 8), set=np.array(["x"] * 16)
    )
    return str(path)


@pytest.mark.parametrize("vit", [(), ("--vit",)])
def test_a_stopped_run_goes_on_to_the_same_model(vit, data, tmp_path, monkeypatch, closing_logger):
    class Stop(Exception):
        pass

    def save(folder, model, optimizer, step):
        real(folder, model, optimizer, step)
        if step == 2:
            raise Stop

    monkeypatch.setattr(pretrain, "report", lambda model: None)
    monkeypatch.setattr(pretrain, "SAVE_EVERY", 2)
    args = [data, "--epochs", "2", "--batch", "8", *vit]
    pretrain.main([*args, "--output", str(tmp_path / "whole")])
    real = pretrain.save
    monkeypatch.setattr(pretrain, "save", save)
    with pytest.raises(Stop):
        pretrain.main([*args, "--output", str(tmp_path / "stopped")])
    monkeypatch.setattr(pretrain, "save", real)
    pretrain.main([*args, "--output", str(tmp_path / "stopped")])
    assert (tmp_path / "whole" / "model.pt").read_bytes() == (tmp_path / "stopped" / "model.pt").read_bytes()
    assert load_backbone(str(tmp_path / "whole" / "model.pt")).visual.input_resolution == 64


def test_photographs_join_in(data, tmp_path):
    for name in ("fruit_bat", "emu"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (80, 60), "red").save(tmp_path / "photos" / name / "1.jpg")
    pixels, words, styles = pretrain.read_data(data, tmp_path / "photos")
    assert words[-2:] == ["emu", "fruit bat"] and styles[-2:] == ["photo", "photo"]
    assert len(pixels) == len(words) == len(styles) == 18 and (pixels[-1, 0, 0] > 200).tolist() == [True, False, False]
    (tmp_path / "photos" / "emu" / "2.png").write_bytes(b"no image")
    for folder, message in ((tmp_path / "photos", "2.png"), (tmp_path / "none", "no photograph in")):
        with pytest.raises(UserError, match=message):
            pretrain.read_data(data, folder)
    with pytest.raises(UserError, match="cannot read .*nothing.npz"):
        pretrain.read_data(tmp_path / "nothing.npz", None)


def test_captions_take_every_form():
    captions = pretrain.Captions(["house", "camera"], ["outline", "photo"])
    rng = random.Random(0)
    texts = [captions.caption(rng, "camera", "outline") for _ in range(20_000)]
    stops = sum(text.endswith(".") for text in texts) / len(texts)
    assert 0.45 < stops < 0.55 and all("camera" in text for text in texts)
    forms = ("camera", "a photo of a camera", "a photo of a camera.", "a bad photo of the camera.", "outlined camera.")
    assert set(forms) <= set(texts)
    assert captions.concepts == ["home", "camera"] and captions.names[0] == ["house", "home"]
    tokens, concepts = captions.draw([0, 1, 0], rng)
    assert concepts.tolist() == [0, 1, 0] and (tokens.max(dim=1).values == pretrain.END).all()
    assert set(tokens.unique().tolist()) <= set(captions.known_tokens())


@pytest.mark.parametrize("vit", [False, True])
def test_loss_by_hand_and_features_as_clip_encodes_them(vit):
    torch.manual_seed(0)
    teacher = load_backbone("icon-clip") if vit else None
    model = pretrain.build_model(teacher).eval()
    images, concepts = torch.randn(3, 3, 64, 64), torch.tensor([4, 9, 4])
    tokens = torch.zeros(3, 9, dtype=torch.long)
    tokens[:, :4] = torch.tensor([[49406, 320, 500, 49407], [49406, 320, 501, 49407], [49406, 49407, 0, 0]])
    whole = F.pad(tokens, (0, 77 - 9))
    v, t = (F.normalize(x, dim=-1) for x in (model.encode_image(images), model.encode_text(whole)))
    logits = (model.logit_scale.exp() * v @ t.T).tolist()
    expected = 0.0
    for rows in (logits, list(zip(*logits, strict=True))):
        for i, row in enumerate(rows):
            total = np.log(np.sum(np.exp(row)))
            same = [j for j in range(3) if concepts[i] == concepts[j]]
            expected += sum(total - row[j] for j in same) / len(same) / 6
    if vit:
        goal = F.normalize(teacher.encode_image(images), dim=-1)
        expected += pretrain.TAUGHT * sum(1 - (a @ b).item() for a, b in zip(v, goal, strict=True)) / 3
    assert relative_error(pretrain.loss_of(model, images, tokens, concepts, teacher), torch.tensor(expected)) < 0.02


def test_the_vit_learns_and_the_text_tower_stays():
    teacher = load_backbone("icon-clip")
    model = pretrain.build_model(teacher)
    tokens = torch.tensor([[49406, 320, 49407], [49406, 500, 49407]])
    pretrain.loss_of(model, torch.randn(2, 3, 64, 64), tokens, torch.arange(2), teacher, halved=True).backward()
    got = {name for name, p in model.named_parameters() if p.grad is not None}
    assert got == {"logit_scale"} | {f"visual.{name}" for name, _ in model.visual.named_parameters()}
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in model.state_dict().items()
               if not name.startswith("visual.") and name != "logit_scale")  # fmt: skip


def test_half_of_the_patches_those_that_are_drawn_on_first():
    torch.manual_seed(0)
    visual = pretrain.build_model(load_backbone("icon-clip")).visual
    images = torch.ones(2, 3, 64, 64)
    drawn = torch.zeros(2, 8, 8, dtype=torch.bool)
    drawn[0, 2:5, 1:8] = True  # 21 patches: all are seen, and 11 blank ones
    drawn[1, 1:8] = True  # 56 patches: 32 of them are seen
    images[:, :, 4::8, 4::8] = (~drawn)[:, None].float()  # a black pixel each
    images.requires_grad_()
    pretrain.image_features(visual, images, halved=True).sum().backward()
    seen = F.max_pool2d(images.grad.abs(), 8).amax(dim=1) > 0
    assert seen.sum(dim=(1, 2)).tolist() == [32, 32]
    assert (seen & drawn).sum(dim=(1, 2)).tolist() == [21, 32]


def test_drawings_stay_drawings():
    pixels = torch.full((64, 64, 64, 3), 255, dtype=torch.uint8)
    torch.manual_seed(0)
    images = pretrain.augment(pixels)
    flat = images.flatten(2)
    assert (flat.max(dim=2).values - flat.min(dim=2).values).max() < 1e-4, "blank paper stays blank"


def test_rare_words_are_not_in_any_template():
    known = {word for text in [*pretrain.IMAGENET, *pretrain.CONTEXT] for word in text.strip(".").split()}
    assert not known & {alias for aliases in RARE.values() for alias in aliases}
