"""PromptSRC's losses and aggregation against loops in float64, its prompts against the slow reference, whole runs."""

import math

import clip
import pytest
import torch
import torch.nn.functional as F
import yaml

from dassl.config import get_cfg_default
from dassl.utils import UserError
from prompting.backbone import load_backbone
from prompting.prompted_clip import DeepPromptedCLIP
from prompting.text_encoder import TextEncoder
from tests.conftest import REPO, TOY_CLASSES
from tests.reference import (
    encode_image_in_full,
    encode_in_full,
    in_double,
    relative_error,
    tiny_clip,
    written_in_full,
)
from trainers import extend_cfg, promptsrc
from trainers.promptsrc import PromptSRC

NAMES = ["cat", "yin_yang", "St. Bernard's dog No. 5."]
CONFIG = "vit_b16_c2_ep20_batch4_4+4ctx"


@pytest.mark.parametrize(("epochs", "mean", "std"), [(20, 15.0, 1.0), (5, 2.5, 10.0), (4, 90.0, 1.0)])
def test_running_shares_give_gaussian_weights(epochs, mean, std):
    values = torch.randn(epochs, dtype=torch.double, generator=torch.Generator().manual_seed(0)).tolist()
    largest = max(-0.5 * ((t - mean) / std) ** 2 for t in range(1, epochs + 1))  # far from the mean all would be zero
    weights = [math.exp(-0.5 * ((t - mean) / std) ** 2 - largest) for t in range(1, epochs + 1)]
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    running = 0.0
    for t, value in enumerate(values, start=1):
        running += promptsrc.epoch_share(t, mean, std) * (value - running)
    assert math.isclose(running, expected, rel_tol=1e-12)


def test_logits_and_gradients_equal_whole_prompts():
    cfg = get_cfg_default()
    extend_cfg(cfg)
    options = cfg.TRAINER.PROMPTSRC
    options.update({"N_CTX_TEXT": 3, "N_CTX_VISION": 2, "PROMPT_DEPTH_TEXT": 2, "PROMPT_DEPTH_VISION": 9})
    model = tiny_clip(layers=3, vit=(4, 128, 8))
    encoder = TextEncoder(model)
    learner = promptsrc.PromptLearner(options, NAMES, encoder, model.visual)
    for parameter in learner.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    shapes = {"ctx": (3, 64), "compound_prompts_text.0": (3, 64), **{f"vision.{i}": (2, 128) for i in range(4)}}
    assert {name: tuple(value.shape) for name, value in learner.state_dict().items()} == shapes

    def in_full(images):
        tokens = torch.cat([clip.tokenize(f"a photo of a {name.replace('_', ' ')}.") for name in NAMES])
        embedding, ctx = model.token_embedding(tokens), learner.ctx.expand(len(NAMES), -1, -1)
        prompts = torch.cat([embedding[:, :1], ctx, embedding[:, 4:]], dim=1)
        text = encode_in_full(model, prompts[None], tokens.argmax(dim=-1)[None], learner.compound_prompts_text)[0]
        seen = encode_image_in_full(model.visual, images, list(learner.vision))
        return model.logit_scale.exp() * F.normalize(seen, dim=-1) @ F.normalize(text, dim=-1).t()

    images, found = torch.randn(3, 3, 32, 32), []
    for logits in (DeepPromptedCLIP(model, learner, encoder)(images), in_full(images)):
        learner.zero_grad()
        F.cross_entropy(logits, torch.tensor([0, 2, 1])).backward()
        found.append([logits.detach(), *(p.grad.clone() for p in learner.parameters())])
    for value, reference in zip(*found, strict=True):
        assert relative_error(value, reference) < 1e-4


# Whole runs


def keys(**options):
    return [x for key, value in options.items() for x in (f"TRAINER.PROMPTSRC.{key}", value)]


def test_the_templates_are_the_release_s():
    released = yaml.safe_load((REPO / "tests/recipes/templates.yaml").read_text())["promptsrc"]["teacher"]
    assert released == promptsrc.SIXTY and len(released) == 60


@pytest.mark.parametrize("templates", [(), ["art of a {}.", "a {} in a video game."]])
def test_loss_and_gradients_equal_loops_over_whole_prompts(templates, tmp_path, toy_run, toy_backbone):
    """Frozen features are CLIP's own, of whole prompts and the bare images; all in float64, entry by entry."""
    weights = keys(TEXT_LOSS_WEIGHT=2.0, IMAGE_LOSS_WEIGHT=3.0, TEMPLATES=str(templates))
    trainer = toy_run("PromptSRC", tmp_path, *weights, "OPTIM.MAX_EPOCH", 1, config=CONFIG)
    batch = next(iter(trainer.train_loader_x))
    images, labels = batch["img"].double(), batch["label"]
    learner = in_double(trainer.model).prompt_learner
    torch.manual_seed(0)
    for parameter in learner.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    trainer.before_train()  # the frozen text features in float64, too
    learner.zero_grad()
    loss, told = trainer.loss(images, labels)
    loss.backward()
    found = [p.grad.clone() for p in learner.parameters()]

    model = in_double(load_backbone(toy_backbone, "fp32", "cpu"))
    names = [name.replace("_", " ") for name in TOY_CLASSES]
    with torch.no_grad():  # the mean of features of any length
        hand = [written_in_full(model, template, names) for template in templates or promptsrc.SIXTY]
        frozen_text = [vector / vector.norm() for vector in sum(hand) / len(hand)]
        frozen_image = [vector / vector.norm() for vector in model.encode_image(images)]
    learner.zero_grad()
    tokens = torch.cat([clip.tokenize(f"a photo of a {name}.") for name in names])
    embedding = model.token_embedding(tokens)
    prompts = torch.cat([embedding[:, :1], learner.ctx.expand(len(names), -1, -1), embedding[:, 5:]], dim=1)
    text = encode_in_full(model, prompts[None], tokens.argmax(dim=-1)[None], learner.compound_prompts_text)[0]
    text = [vector / vector.norm() for vector in text]
    image = [v / v.norm() for v in encode_image_in_full(model.visual, images, list(learner.vision))]

    def distance(learned, frozen):
        return sum((a - b).abs().sum() for a, b in zip(learned, frozen, strict=True)) / (len(learned) * len(learned[0]))

    scale = model.logit_scale.exp()
    ce = kl = 0.0
    for f, f0, label in zip(image, frozen_image, labels, strict=True):
        p, q = (
            torch.stack([scale * a @ t for t in texts]).log_softmax(dim=0)
            for a, texts in ((f0, frozen_text), (f, text))
        )
        ce = ce - q[label] / len(image)
        kl = kl + (p.exp() * (p - q)).sum() / (len(image) * len(text))
    expected = {
        "loss_ce": ce,
        "loss_text": 2 * distance(text, frozen_text),
        "loss_image": 3 * distance(image, frozen_image),
        "loss_logits": kl,
    }
    sum(expected.values()).backward()
    for name, value in expected.items():
        assert value > 0 and told[name] == pytest.approx(value.item(), rel=1e-3), name
    assert loss.item() == pytest.approx(sum(expected.values()).item(), rel=1e-4)
    for gradient, parameter in zip(found, learner.parameters(), strict=True):
        assert relative_error(gradient, parameter.grad) < 1e-3


def test_frozen_text_features_are_of_float32(tmp_path, toy_run):
    """Whatever the precision of the run."""
    flags = ["--no-train"]
    half, full = (
        toy_run("PromptSRC", tmp_path / p, *keys(PREC=p), config=CONFIG, flags=flags) for p in ("bf16", "fp32")
    )
    for trainer in (half, full):
        trainer.before_train()
    assert half.model.text_encoder.dtype == torch.bfloat16
    assert torch.equal(half.frozen_text_features, full.frozen_text_features)


SHORT = (*keys(GPA_MEAN=2.0, GPA_STD=1.5), "OPTIM.LR", 0.1)


def test_a_run_ends_with_the_aggregate(tmp_path, toy_run, monkeypatch):
    epochs, after_epoch = [], PromptSRC.after_epoch

    def record(trainer):
        epochs.append({name: value.double() for name, value in trainer.model.prompt_learner.state_dict().items()})
        after_epoch(trainer)

    monkeypatch.setattr(PromptSRC, "after_epoch", record)
    trained = toy_run("PromptSRC", tmp_path / "a", *SHORT, config=CONFIG)
    gauss = [math.exp(-0.5 * ((t - 2.0) / 1.5) ** 2) for t in (1, 2, 3)]
    for name, value in trained.model.prompt_learner.state_dict().items():
        expected = sum(w * epoch[name] for w, epoch in zip(gauss, epochs, strict=True)) / sum(gauss)
        assert relative_error(value, expected) < 1e-6
        assert relative_error(epochs[-1][name], expected) > 1e-4, "the last epoch alone is another"


def test_a_killed_run_goes_on_to_the_same_aggregate(tmp_path, toy_run, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(trainer, batch):
        if (trainer.epoch, trainer.batch_idx) == (2, 1):
            raise Killed
        return forward_backward(trainer, batch)

    whole = toy_run("PromptSRC", tmp_path / "whole", *SHORT, config=CONFIG)
    forward_backward = PromptSRC.forward_backward
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(PromptSRC, "forward_backward", killed)
        toy_run("PromptSRC", tmp_path / "killed", *SHORT, config=CONFIG)
    resumed = toy_run("PromptSRC", tmp_path / "killed", *SHORT, config=CONFIG)
    assert resumed.start_epoch == 2
    for name, value in whole.model.prompt_learner.state_dict().items():
        assert torch.equal(value, resumed.model.prompt_learner.state_dict()[name])
    again = toy_run("PromptSRC", tmp_path / "killed", *SHORT, config=CONFIG)
    assert again.start_epoch == 3 and again.test() == whole.test(), "the end is not aggregated twice"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"PROMPT_DEPTH_VISION": 0}, "PROMPT_DEPTH_VISION is 0: give 1 or more"),
        ({"N_CTX_TEXT": 5}, "has 4 tokens, but N_CTX_TEXT is 5"),
        ({"IMAGE_LOSS_WEIGHT": -1.0}, "0 or more"),
        ({"GPA_STD": 0.0}, "above 0"),
        ({"TEMPLATES": "['a dog']"}, "'a dog' of TRAINER.PROMPTSRC must hold one"),
    ],
)
def test_mistakes_in_the_config(options, message, tmp_path, toy_run):
    with pytest.raises(UserError, match=message):
        toy_run("PromptSRC", tmp_path, *keys(**options), config=CONFIG)
