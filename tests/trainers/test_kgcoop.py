"""KgCoOp's loss and gradient against loops in float64 over whole 77-token prompts; its runs."""

import math

import pytest
import torch
import torch.nn.functional as F
import yaml

import train
from dassl.utils import UserError
from prompting.backbone import load_backbone
from prompting.templates import custom_template
from tests.conftest import REPO, TOY_CLASSES
from tests.reference import in_double, learned_in_full, relative_error, written_in_full
from trainers.kgcoop import LOSSES, knowledge_loss

CONFIG = "vit_b16_ep100_ctxv1"


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, dtype=torch.double, generator=generator), dim=-1)


def build(dataset, config):
    """The frozen config of a run."""
    files = REPO / f"configs/datasets/{dataset}.yaml", REPO / f"configs/trainers/KgCoOp/{config}.yaml"
    words = ["--dataset-config-file", *files[:1], "--config-file", *files[1:], "--trainer", "KgCoOp"]
    return train.setup_cfg(train.parse_args([str(word) for word in words]))


@pytest.fixture
def run(tmp_path, toy_run):
    """run(name, *keys, model=None): a run in a folder of its own."""

    def run(name, *keys, model=None, trainer="KgCoOp", config=CONFIG):
        flags = [] if model is None else ["--eval-only", "--model-dir", str(tmp_path / model)]
        return toy_run(trainer, tmp_path / name, "OPTIM.LR", 0.1, *keys, flags=flags, config=config)

    return run


def slow_loss(form, text, hand):
    """L_kg class by class and entry by entry."""
    if form == "paper":
        return sum((t[e] - h[e]) ** 2 for t, h in zip(text, hand, strict=True) for e in range(len(t))) / len(text)
    return sum(1 - sum(t[e] * h[e] for e in range(len(t))) for t, h in zip(text, hand, strict=True)) / len(text)


@pytest.mark.parametrize("form", LOSSES)
def test_the_loss_of_a_form(form):
    text, frozen = unit(4, 32), unit(4, 32, seed=1)
    loss = LOSSES[form]
    assert math.isclose(loss(text, frozen).item(), slow_loss(form, text, frozen).item(), rel_tol=1e-12)
    assert math.isclose(loss(text, frozen).item(), (1 + (form == "paper")) * LOSSES["released"](text, frozen).item())
    assert abs(loss(frozen, frozen).item()) < 1e-12
    assert torch.autograd.gradcheck(lambda t: loss(t, frozen), text.requires_grad_(True))


@pytest.mark.parametrize("form", LOSSES)
def test_loss_and_gradient_over_whole_prompts(form, run, toy_backbone):
    template = "a photo of a {}, a type of texture."
    keys = ("TRAINER.KGCOOP.W", 3.0, "TRAINER.KGCOOP.FORM", form, "TRAINER.KGCOOP.TEMPLATE", template)
    trainer = run("a", *keys, "DATALOADER.TRAIN_X.BATCH_SIZE", 5)
    learner, batch = trainer.model.prompt_learner, next(iter(trainer.train_loader_x))
    learner.zero_grad()
    loss, told = trainer.loss(batch["img"], batch["label"])
    loss.backward()

    model = in_double(load_backbone(toy_backbone))
    ctx = learner.ctx.detach().double().requires_grad_(True)
    text = learned_in_full(model, ctx, TOY_CLASSES)
    text = [t / t.square().sum().sqrt() for t in text]
    hand = [h / h.square().sum().sqrt() for h in written_in_full(model, template, TOY_CLASSES)]
    kg = slow_loss(form, text, hand)
    ce = 0.0
    for image, label in zip(model.encode_image(batch["img"].double()), batch["label"], strict=True):
        logits = [model.logit_scale.exp() * t @ image / image.square().sum().sqrt() for t in text]
        ce = ce - (logits[label].exp() / sum(z.exp() for z in logits)).log() / len(batch["label"])
    (ce + 3 * kg).backward()
    assert learner.ctx.shape == (4, 64) and kg > 1e-3
    assert math.isclose(told["loss_ce"], ce.item(), rel_tol=1e-5)
    assert math.isclose(told["loss_kg"], kg.item(), rel_tol=1e-4)
    assert math.isclose(loss.item(), (ce + 3 * kg).item(), rel_tol=1e-5)
    assert relative_error(learner.ctx.grad.double(), ctx.grad) < 1e-4


def test_the_templates_are_the_releases():
    """On every data set that it has; they differ from zero-shot CLIP's on dtd alone."""
    templates = yaml.safe_load((REPO / "tests/recipes/templates.yaml").read_text())["kgcoop"]["by_dataset"]
    assert len(templates) == 15
    for dataset, template in templates.items():
        cfg = build(dataset, CONFIG)
        assert (cfg.TRAINER.KGCOOP.TEMPLATE or custom_template(cfg.DATASET.NAME)) == template, dataset
        assert bool(cfg.TRAINER.KGCOOP.TEMPLATE) == (dataset == "dtd")
    assert cfg.TRAINER.KGCOOP.FORM == "released" and cfg.TRAINER.KGCOOP.W == 8


def test_without_its_weight_it_is_coop(run):
    coop = run("a", "DATALOADER.TRAIN_X.BATCH_SIZE", 4, trainer="CoOp", config="vit_b16_ep50_ctxv1")
    ours, held = run("b", "TRAINER.KGCOOP.W", 0), run("c", "TRAINER.KGCOOP.W", 100)
    assert torch.equal(ours.model.prompt_learner.ctx, coop.model.prompt_learner.ctx)

    def distance(trainer):
        return knowledge_loss(trainer.model.encode_text(), trainer.frozen_features)

    assert distance(held) < distance(ours)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("W", -1.0, "KGCOOP.W is -1.0: give 0 or more"),
        ("FORM", "papers", "TRAINER.KGCOOP.FORM.*did you mean paper"),
        ("TEMPLATE", "a photo", "TRAINER.KGCOOP.TEMPLATE must hold one {}"),
        ("CLASS_TOKEN_POSITION", "ends", "TRAINER.KGCOOP.CLASS_TOKEN_POSITION.*did you mean end"),
        ("CTX_INIT", '" "', "TRAINER.KGCOOP.CTX_INIT holds no word"),
    ],
)
def test_mistakes_in_the_config(key, value, message, run):
    with pytest.raises(UserError, match=message):
        run("a", f"TRAINER.KGCOOP.{key}", value)
