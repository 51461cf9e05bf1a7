"""ProGrad's gradient by hand, by finite differences in float64 over whole 77-token prompts, and under amp; its runs."""

import itertools
import math

import clip
import pytest
import torch
import torch.nn.functional as F
import yaml

import train
from dassl.utils import UserError
from prompting.backbone import load_backbone
from prompting.context import PromptLearner
from prompting.prompts import encode_templates
from prompting.templates import custom_template
from prompting.text_encoder import TextEncoder
from tests.conftest import REPO, TOY_CLASSES
from tests.reference import in_double, learned_in_full, relative_error, tiny_clip, written_in_full
from trainers.prograd import prograd, template_start

CONFIG = "vit_b16_ep50_ctxv1"


@pytest.fixture
def run(tmp_path, toy_run):
    """run(name, *keys, model=None): a run in a folder of its own."""

    def run(name, *keys, model=None, trainer="ProGrad", config=CONFIG, flags=()):
        flags = flags if model is None else ["--eval-only", "--model-dir", str(tmp_path / model)]
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


RELEASED = yaml.safe_load((REPO / "tests/recipes/templates.yaml").read_text())["prograd"]


def options_on(dataset):
    """(reader's name, cfg.TRAINER.PROGRAD) on a data set."""
    files = REPO / f"configs/datasets/{dataset}.yaml", REPO / "configs/trainers/ProGrad/rn50.yaml"
    words = ["--dataset-config-file", *files[:1], "--config-file", *files[1:], "--trainer", "ProGrad"]
    cfg = train.setup_cfg(train.parse_args([str(word) for word in words]))
    return cfg.DATASET.NAME, cfg.TRAINER.PROGRAD


@pytest.mark.parametrize("dataset", RELEASED["context_start"])
def test_the_templates_and_the_start_of_context_are_the_releases(dataset):
    """Zeros, the learned tokens in the last of 16 vectors, the others between vectors and class name."""
    reader, options = options_on(dataset)
    template, released = options.TEMPLATE or custom_template(reader), RELEASED["context_start"][dataset]
    assert template == RELEASED["teacher"][dataset] and template.startswith(released["words"] + " {}")
    model = tiny_clip()
    encoder = TextEncoder(model)
    learner = PromptLearner(options, ["cat", "sea_lion"], encoder, *template_start(template, 16, encoder))

    def ids(words):
        return [clip.tokenize(word)[0, 1].item() for word in words]

    tokens = ids(released["learned_tokens"])
    start = model.token_embedding(torch.tensor(tokens))
    assert learner.ctx.shape == (16, 64) and torch.equal(learner.ctx[-len(tokens) :], start)
    assert not learner.ctx[: -len(tokens)].any()
    torch.nn.init.normal_(learner.ctx, std=0.2)
    names = [" ".join([*released["frozen_before_class"], name]) for name in ("cat", "sea lion")]
    assert relative_error(encoder(*learner())[0], learned_in_full(model, learner.ctx, names)) < 3e-5


def test_a_start_from_a_template_by_class(run):
    """Class-specific context, too; in the middle the class name stands among the vectors, the frozen word behind."""
    keys = ("TRAINER.PROGRAD.CTX_START", "template", "TRAINER.PROGRAD.CTX_INIT", "", "TRAINER.PROGRAD.N_CTX", 8)
    template = ("TRAINER.PROGRAD.TEMPLATE", "a type of pet, a photo of a {}.", "TRAINER.PROGRAD.CSC", True)
    middle = ("TRAINER.PROGRAD.CLASS_TOKEN_POSITION", "middle")
    trainer = run("a", *keys, *template, *middle, flags=["--no-train"])
    model, learner = trainer.model.text_encoder, trainer.model.prompt_learner
    ids = clip.tokenize("a type of pet, a photo of a")[0, 1:10]
    assert torch.equal(learner.ctx, model.token_embedding(ids[:8]).expand(4, -1, -1))
    plain = encode_templates(model, ["a type of pet {}, a photo of a."], TOY_CLASSES)[0]
    assert relative_error(model(*learner())[0], plain) < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_teacher_computes_in_float32(precision, run, toy_backbone):
    trainer = run("a", "TRAINER.PROGRAD.PREC", precision, "TRAINER.PROGRAD.TEMPLATE", "a type of thing, a {}.")
    images = next(iter(trainer.train_loader_x))["img"]
    features = F.normalize(trainer.model.encode_image(images).float(), dim=-1)
    model = load_backbone(toy_backbone)
    hand = clip.tokenize([f"a type of thing, a {name.replace('_', ' ')}." for name in TOY_CLASSES])
    found = trainer.zero_shot_logits(images, features)
    assert not found.requires_grad
    assert relative_error(found, model(images, hand)[0]) < 1e-5
    error = relative_error(features, F.normalize(model.encode_image(images), dim=-1))
    assert (error > 1e-3) == (precision == "bf16")


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
        ("CTX_START", "templates", "TRAINER.PROGRAD.CTX_START.*did you mean template"),
        ("CTX_START", "template", "CTX_START template takes no CTX_INIT"),
        ("TEMPLATE", "a photo", "TRAINER.PROGRAD.TEMPLATE must hold one {}"),
        ("LAMBDA", -1.0, "LAMBDA is -1.0: give 0 or more"),
        ("T", 0.0, "T is 0.0: give a number above 0"),
        ("CLASS_TOKEN_POSITION", "ends", "TRAINER.PROGRAD.CLASS_TOKEN_POSITION.*did you mean end"),
    ],
)
def test_mistakes_in_the_config(key, value, message, run):
    with pytest.raises(UserError, match=message):
        run("a", f"TRAINER.PROGRAD.{key}", value)


@pytest.mark.parametrize(("template", "n_ctx", "words"), [("{} texture.", 16, 0), ("a photo of a {}.", 3, 4)])
def test_a_template_that_gives_no_start(template, n_ctx, words, run):
    options = {"CTX_INIT": "", "CTX_START": "template", "TEMPLATE": template, "N_CTX": n_ctx}
    with pytest.raises(UserError, match=f"has {words} words before {{}}, but N_CTX takes 1 to {n_ctx}"):
        run("a", *[x for key, value in options.items() for x in (f"TRAINER.PROGRAD.{key}", value)])
