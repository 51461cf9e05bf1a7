"""ProGrad's gradient by hand, by finite differences in float64 over whole 77-token prompts, and under amp; its runs."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from dassl.utils import UserError
from prompting.backbone import load_backbone
from tests.conftest import TOY_CLASSES
from tests.reference import in_double, learned_in_full, relative_error, written_in_full
from trainers.prograd import prograd

CONFIG = "vit_b16_ep50_ctxv1"


@pytest.fixture
def run(tmp_path, toy_run):
    """run(name, *keys, model=None): a run in a folder of its own."""

    def run(name, *keys, model=None, trainer="ProGrad", config=CONFIG):
        flags = [] if model is None else ["--eval-only", "--model-dir", str(tmp_path / model)]
        return toy_run(trainer, tmp_path / name, "OPTIM.LR", 0.1, *keys, flags=flags, config=config)

    return run


@pytest.mark.parametrize(
    ("general", "weight", "expected"),
    [
        ([-1.0, 1.0], 1.0, [0.5, 0.5]),  # obtuse: what is left stands at a right angle
        ([-3.0, 3.0], 1.0, [0.5, 0.5]),  # whatever its length
        ([-1.0, 1.0], 0.5, [0.75, 0.25]),
        ([-2.0, 0.0], 1.0, [0.0, 0.0]),
        ([1.0, 1.0], 1.0, [1.0, 0.0]),  # acute
        ([0.0, 5.0], 1.0, [1.0, 0.0]),  # right
        ([0.0, 0.0], 1.0, [1.0, 0.0]),  # zero-shot CLIP's predictions are met
    ],
)
def test_by_hand(general, weight, expected):
    assert prograd(torch.tensor([1.0, 0.0]), torch.tensor(general), weight).tolist() == expected


@pytest.mark.parametrize("sign", [1, -1])
def test_against_loops(sign):
    generator = torch.Generator().manual_seed(0)
    domain, general = torch.randn(2, 4, 8, dtype=torch.double, generator=generator)
    product = sum(a * b for a, b in zip(domain.flatten().tolist(), general.flatten().tolist(), strict=True))
    general, product = (general * sign, product * sign) if product > 0 else (-general * sign, -product * sign)
    share = 0.7 * product / sum(b * b for b in general.flatten().tolist()) if product < 0 else 0
    got = prograd(domain, general, 0.7)
    for i in range(4):
        for j in range(8):
            assert math.isclose(got[i, j].item(), domain[i, j].item() - share * general[i, j].item(), rel_tol=1e-9)


def test_gradients_that_overflow_leave_nothing_to_step_along():
    for domain, general in (([1.0, 0.0], [-math.inf, 1.0]), ([1.0, 0.0], [math.inf, 1.0])):
        assert not prograd(torch.tensor(domain), torch.tensor(general), 1.0).isfinite().all()


def unit(vectors):
    return [v / v.square().sum().sqrt() for v in vectors]


def outcomes(model, ctx, features, hand, temperature):
    """(B * N + 1,): -log p of every image and class, then the KL divergence, with loops."""
    text = unit(learned_in_full(model, ctx, TOY_CLASSES))
    surprise, kl = [], 0.0
    for image in features:
        learned, zero_shot = ([(model.logit_scale.exp() * t @ image).item() for t in part] for part in (text, hand))
        surprise += [math.log(sum(map(math.exp, learned))) - z for z in learned]
        p, q = ([math.exp(z / temperature) for z in part] for part in (zero_shot, learned))
        kl += sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True)) / len(features)
    return torch.tensor([*surprise, kl], dtype=torch.double)


def test_gradient_against_finite_differences(run, toy_backbone):
    options = {"CTX_INIT": "", "N_CTX": 2, "LAMBDA": 0.8, "T": 2.0}
    keys = [x for key, value in options.items() for x in (f"TRAINER.PROGRAD.{key}", value)]
    trainer = run("a", *keys, "DATALOADER.TRAIN_X.BATCH_SIZE", 3)
    ctx = in_double(trainer.model).prompt_learner.ctx  # of two gradients at an obtuse angle a small rest remains
    trainer.frozen_features = trainer.zero_shot_features()
    torch.manual_seed(1)
    torch.nn.init.normal_(ctx, std=0.02)

    images = next(iter(trainer.train_loader_x))["img"]
    model = in_double(load_backbone(toy_backbone))
    with torch.no_grad():
        features = unit(model.encode_image(images.double()))
        hand = unit(written_in_full(model, "a photo of a {}.", TOY_CLASSES))
        steps = 1e-5 * torch.eye(ctx.numel(), dtype=torch.double).unflatten(1, ctx.shape)
        here, *there = (outcomes(model, ctx + s, features, hand, 2.0) for s in (0, *steps, *-steps))
    ahead, behind = torch.stack(there).chunk(2)
    *surprise, general = ((ahead - behind) / 2e-5).t()
    batches = []  # every way to label the images: the labels, G_d, the cosine of G_d and G_g
    for labels in itertools.product(range(4), repeat=3):
        domain = sum(surprise[4 * b + label] for b, label in enumerate(labels)) / 3
        batches.append((labels, domain, F.cosine_similarity(domain, general, dim=0).item()))

    for wanted in (-0.5, 0.5):
        labels, domain, cosine = min(batches, key=lambda batch: abs(batch[2] - wanted))
        assert abs(cosine - wanted) < 0.45
        expected = domain
        if cosine < 0:
            expected = domain - 0.8 * (domain @ general) / (general @ general) * general
            assert relative_error(expected, domain) > 0.01
        loss, told = trainer.loss(images, torch.tensor(labels))
        assert math.isclose(loss.item(), sum(here[4 * b + y].item() for b, y in enumerate(labels)) / 3, rel_tol=1e-5)
        assert math.isclose(told["loss_kl"], here[-1].item(), rel_tol=1e-4)
        trainer.model_zero_grad()
        trainer.model_backward(loss)
        assert relative_error(ctx.grad.flatten(), expected) < 1e-3


def test_one_step_for_a_batch_and_the_same_one_under_amp(run):
    trainer = run("a")
    ctx, optimizer = trainer.model.prompt_learner.ctx, trainer._optims["prompt_learner"]
    batch, start = next(iter(trainer.train_loader_x)), ctx.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.1
    steps, found = [], []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        trainer.scaler = scaler
        optimizer.state.clear()
        with torch.no_grad():
            ctx.copy_(start)
        trainer.model_backward_and_update(trainer.loss(batch["img"], batch["label"])[0])
        found.append(ctx.detach().clone())
    assert len(steps) == 2
    assert relative_error(found[1] - start, found[0] - start) < 1e-5 and not torch.equal(found[0], start)

    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    trainer.model_backward_and_update(trainer.loss(batch["img"], batch["label"])[0] * 100)
    assert torch.equal(ctx, found[1]) and trainer.scaler.get_scale() == 2.0**126, "too large: no step"


def test_without_its_weight_it_is_coop(run):
    coop = run("a", trainer="CoOp", config="vit_b16_ep50_ctxv1")
    ours, held = run("b", "TRAINER.PROGRAD.LAMBDA", 0), run("c")
    assert torch.equal(ours.model.prompt_learner.ctx, coop.model.prompt_learner.ctx)
    assert not torch.equal(held.model.prompt_learner.ctx, coop.model.prompt_learner.ctx)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("LAMBDA", -1.0, "LAMBDA is -1.0: give 0 or more"),
        ("T", 0.0, "T is 0.0: give a number above 0"),
        ("CLASS_TOKEN_POSITION", "ends", "TRAINER.PROGRAD.CLASS_TOKEN_POSITION.*did you mean end"),
    ],
)
def test_mistakes_in_the_config(key, value, message, run):
    with pytest.raises(UserError, match=message):
        run("a", f"TRAINER.PROGRAD.{key}", value)
