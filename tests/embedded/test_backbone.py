"""The embedded backbones: they load as any CLIP does, know what they should, and methods learn on them."""

import json
from pathlib import Path

import clip
import pytest
import torch
from clip.model import VisionTransformer

from prompting.backbone import image_size, load_backbone
from prompting.backbones.embedded import BACKBONES
from prompting.backbones.files import HOME
from prompting.tokenizers import openai_tokenizer


def accuracy(output):
    return json.loads(Path(output, "metrics.json").read_text())["accuracy"]


@pytest.fixture
def run(tmp_path, toy_args, closing_logger):
    """run(trainer, dataset, *keys): the accuracy of a run on the embedded benchmark, on icon-clip unless told."""
    import train
    from tests.conftest import REPO

    def one(trainer, dataset, *keys, config="vit_b16_ep50", flags=(), backbone="icon-clip"):
        output = tmp_path / f"{trainer}{dataset}{len(list(tmp_path.iterdir()))}"
        given = {"--backbone": backbone, "--seed": 1, "--trainer": trainer, "--output-dir": output}
        given["--dataset-config-file"] = REPO / f"configs/datasets/{dataset}.yaml"
        given["--config-file"] = REPO / f"configs/trainers/{trainer}/{config}.yaml"
        train.main([str(x) for x in (*(x for pair in given.items() for x in pair), *flags, *keys)])
        return accuracy(output)

    return one


def test_file_and_architecture():
    assert (HOME / "icon-clip.pt").stat().st_size < 20e6
    assert image_size("icon-clip") == 64
    model, again = load_backbone("icon-clip"), load_backbone("icon-clip")
    assert torch.equal(model.token_embedding.weight, again.token_embedding.weight), "unknown tokens too"
    assert model.token_embedding.weight.shape[0] == 49408 and model.context_length == 77
    assert model.token_embedding.weight.abs().sum(dim=1).min() > 0


def test_the_vit_goes_with_the_same_text_tower():
    assert (HOME / "icon-clip-vit.pt").stat().st_size < 7e6
    assert image_size("icon-clip-vit") == 64
    vit, resnet = load_backbone("icon-clip-vit"), load_backbone("icon-clip")
    assert isinstance(vit.visual, VisionTransformer) and vit.visual.conv1.kernel_size == (8, 8)
    tokens = clip.tokenize(["a photo of a camera.", "x", "zyzzyva"])
    assert torch.equal(vit.encode_text(tokens), resnet.encode_text(tokens)), "tokens that no caption has, too"
    images = torch.randn(2, 3, 64, 64)
    assert vit.encode_image(images).shape == resnet.encode_image(images).shape
    assert vit.logit_scale.exp() <= 100.01


def test_it_takes_every_form_of_prompt():
    model = load_backbone("icon-clip")
    known = torch.load(HOME / "icon-clip.pt", weights_only=True)["token_embedding.rows"].tolist()
    from prompting.templates import IMAGENET

    assert {i for text in IMAGENET for i in openai_tokenizer().encode(text.replace("{}", "camera"))} <= set(known)
    assert model.logit_scale.exp() <= 100.01


@pytest.mark.parametrize("backbone", [record.name for record in BACKBONES])
@pytest.mark.parametrize(("dataset", "least", "most"), [("icons_common", 55, 100), ("icons_rare", 0, 20)])
def test_zero_shot_knows_common_names_and_not_rare_ones(dataset, least, most, backbone, run):
    assert least < run("ZeroshotCLIP", dataset, config="vit_b16", flags=["--eval-only"], backbone=backbone) < most


def test_methods_learn_the_rare_classes(run):
    """What the benchmark is for; a few epochs are enough to see it."""
    keys = ("DATASET.SUBSAMPLE_CLASSES", "base")
    zero_shot = run("ZeroshotCLIP", "icons_rare", *keys, config="vit_b16", flags=["--eval-only"])
    probe = run("LinearProbe", "icons_rare", *keys, "DATASET.NUM_SHOTS", 16, config="vit_b16")
    shots = ("DATASET.NUM_SHOTS", 16, "INPUT.VIEWS", 2, "OPTIM.MAX_EPOCH", 8, "OPTIM.WARMUP_EPOCH", 1)
    assert probe > zero_shot + 15
    assert run("MoCoOp", "icons_rare", *keys, *shots) > zero_shot + 5
