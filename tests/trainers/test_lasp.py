"""LASP's loss and gradients in both forms against loops in float64 over whole 77-token prompts; its runs."""

import copy
import math

import pytest
import torch
import yaml

from dassl.utils import UserError, load_checkpoint
from prompting.backbone import load_backbone
from tests.conftest import REPO, TOY_CLASSES
from tests.reference import in_double, learned_in_full, relative_error, written_in_full
from trainers import lasp

TEMPLATES = ["a {}.", "the {}.", "my {} texture.", "a bad {}.", "itap of {}."]
KEYS = ("TRAINER.LASP.N_GROUPS", 2, "TRAINER.LASP.TEMPLATES", str(TEMPLATES))
BASE = ("DATASET.SUBSAMPLE_CLASSES", "base")


@pytest.fixture
def run(tmp_path, toy_run):
    """run(name, *keys, model=None): a run in a folder of its own."""

    def run(name, *keys, model=None, flags=(), **options):
        flags = flags if model is None else ["--eval-only", "--model-dir", str(tmp_path / model)]
        return toy_run("LASP", tmp_path / name, "OPTIM.LR", 0.1, *KEYS, *keys, flags=flags, **options)

    return run


def unit(vectors):
    return [v / v.square().sum().sqrt() for v in vectors]


def softmax(values):
    exps = [v.exp() for v in values]
    return [e / sum(exps) for e in exps]


def told_among_learned(learned, hand, scale):
    """-log P of the release, the mean over templates and classes: each hand-written prompt among the learned ones."""
    terms = [-softmax([scale * t @ h for t in learned])[y].log() for each in hand for y, h in enumerate(each)]
    return sum(terms) / len(terms)


def told_among_hand(learned, hand, scale):
    """-log P of the paper, the mean over classes: each learned prompt among the hand-written ones, P over templates."""
    terms = []
    for y, t in enumerate(learned):
        p = [softmax([scale * t @ h for h in each])[y] for each in hand]
        terms.append(-(sum(p) / len(p)).log())
    return sum(terms) / len(terms)


SLOW = {"released": told_among_learned, "paper": told_among_hand}


@pytest.mark.parametrize("virtual", [False, True])
@pytest.mark.parametrize(("form", "seed"), [("released", 0), ("released", 1), ("paper", 0)])
def test_loss_and_gradients_over_whole_prompts(form, seed, virtual, run, toy_backbone):
    """In both forms; one of the seeds brings noise to the release's."""
    options = ("TRAINER.LASP.TEXT_CLASSES", "all" if virtual else "train", "TRAINER.LASP.TEXT_WEIGHT", 3.0)
    trainer = run("a", *BASE, *options, "TRAINER.LASP.FORM", form)
    learner, batch = in_double(trainer.model).prompt_learner, next(iter(trainer.train_loader_x))
    torch.manual_seed(1)
    torch.nn.init.normal_(learner.ctx, std=0.02)
    torch.nn.init.normal_(learner.offset, std=0.2)
    trainer.before_train()  # the hard features in double, too
    learner.zero_grad()
    torch.manual_seed(seed)
    loss, told = trainer.loss(batch["img"], batch["label"])
    loss.backward()

    names = TOY_CLASSES if virtual else TOY_CLASSES[:2]
    model = in_double(load_backbone(toy_backbone))
    visual = in_double(copy.deepcopy(trainer.model.image_encoder))  # its LayerNorms have moved
    visual.zero_grad()
    ctx = learner.ctx.detach().double().requires_grad_(True)
    offset = learner.offset.detach().double().requires_grad_(True)
    scale = model.logit_scale.exp()
    groups = [unit(learned_in_full(model, c, names) + offset) for c in ctx]
    templates = [["a {}.", "my {} texture.", "itap of {}."], ["the {}.", "a bad {}."]]
    text = 0.0
    torch.manual_seed(seed)
    noisy = torch.rand(()) < 0.5
    assert noisy == (seed == 0)
    for group, hand in zip(groups, templates, strict=True):
        features = torch.stack([torch.stack(unit(written_in_full(model, template, names))) for template in hand])
        if noisy and form == "released":
            features = features + 0.05 * torch.randn(features.shape)
        text = text + SLOW[form](group, features, scale) / 2
    ce = 0.0
    for image, label in zip(unit(visual(batch["img"].double())), batch["label"], strict=True):
        logits = [sum(scale * group[c] @ image for group in groups) / 2 for c in range(2)]
        ce = ce - softmax(logits)[label].log() / len(batch["label"])
    (ce + 3 * text).backward()
    assert math.isclose(told["loss_ce"], ce.item(), rel_tol=1e-5)
    assert math.isclose(told["loss_text"], text.item(), rel_tol=1e-5)
    assert math.isclose(loss.item(), (ce + 3 * text).item(), rel_tol=1e-5)
    assert relative_error(learner.ctx.grad, ctx.grad) < 1e-3
    assert relative_error(learner.offset.grad, offset.grad) < 1e-3
    tuned = [m for block in visual.transformer.resblocks for m in (block.ln_1, block.ln_2)]
    assert len(tuned) == len(learner.layernorms) == 4
    for ours, reference in zip(
        learner.layernorms.parameters(), (p for m in tuned for p in m.parameters()), strict=True
    ):
        assert relative_error(ours.grad, reference.grad) < 1e-3


def test_the_release_s_templates_and_values():
    released = yaml.safe_load((REPO / "tests/recipes/templates.yaml").read_text())["lasp"]["text_loss"]
    assert list(lasp.FORMS["released"]["TEMPLATES"]) == released and len(released) == 35
    assert lasp.FORMS["paper"]["TEMPLATES"] == tuple(dict.fromkeys(released))
    assert len(set(released)) == 34


def test_noise_comes_in_half_of_the_steps_fresh_and_again_with_the_seed(run):
    trainer = run("a", "TRAINER.LASP.NOISE", 0.5)
    hard = [h.clone() for h in trainer.hard_features]

    def drawn(n):
        torch.manual_seed(1)
        return [[a - b for a, b in zip(trainer._noisy(hard), hard, strict=True)] for _ in range(n)]

    steps = drawn(400)
    noisy = [step for step in steps if step[0].any()]
    assert 160 < len(noisy) < 240 and all(torch.equal(*pair) for pair in zip(hard, trainer.hard_features, strict=True))
    values = torch.cat([h.flatten() for step in noisy for h in step])
    assert values.std().item() == pytest.approx(0.5, rel=0.02) and abs(values.mean()) < 0.01
    assert all(
        torch.equal(a, b) for one, two in zip(steps, drawn(400), strict=True) for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize(("form", "limit"), [("released", 1.0), ("paper", None)])
def test_the_gradient_norm_is_limited(form, limit, run):
    """Of all that is learned, LayerNorms included."""
    trainer = run("a", "TRAINER.LASP.FORM", form)
    for parameter in trainer.model.prompt_learner.parameters():
        parameter.grad = torch.ones_like(parameter)
    trainer.clip_gradients()
    grads = torch.cat([p.grad.flatten() for p in trainer.model.prompt_learner.parameters()])
    assert grads.norm().item() == pytest.approx(limit or len(grads) ** 0.5, rel=1e-4)


def test_groups_start_alike_and_part(run):
    start, trained = run("a", flags=["--no-train"]), run("b")
    ctx = start.model.prompt_learner.ctx
    assert ctx.shape == (2, 4, 64) and torch.equal(*ctx)
    hand = start.zero_shot_features("a photo of a {}.")
    assert relative_error(start.model.encode_text()[1], hand) < 1e-5, "they begin as zero-shot CLIP"
    assert not torch.equal(*trained.model.prompt_learner.ctx)


def test_layernorms_learn_at_a_tenth_of_the_rate(run):
    trainer = run("a", "OPTIM.MAX_EPOCH", 8)
    rest, norms = trainer._optims["prompt_learner"].param_groups
    assert norms["initial_lr"] == pytest.approx(0.1 * rest["initial_lr"])
    assert {id(p) for p in rest["params"]} == {id(getattr(trainer.model.prompt_learner, n)) for n in ("ctx", "offset")}
    assert any((m.weight != 1).any() for m in trainer.layernorms), "they moved"
    assert trainer.model.prompt_learner.offset.any()


@pytest.mark.parametrize(("config", "realigned"), [("vit_b16_ep50_paper", True), ("vit_b16_ep50", False)])
def test_a_run_is_saved_and_loads_to_the_same_outputs(config, realigned, tmp_path, run):
    keys = ("TRAINER.LASP.TUNE_LAYERNORM", realigned, "TRAINER.LASP.TEXT_OFFSET", realigned)
    trained = run("a", *BASE, *keys, config=config)
    state = load_checkpoint(str(tmp_path / "a" / "prompt_learner" / "model.pth.tar-3"))["state_dict"]
    assert len(state) == (2 + 2 * 4 if realigned else 1) and state["ctx"].shape == (2, 4, 64)
    alone = run("b", *BASE, *keys, model="a", config=config)
    batch = next(iter(alone.test_loader))["img"]
    with torch.no_grad():
        assert alone.model.encode_text().shape == (2, 2 if "paper" in config else 4, 32)
        assert torch.equal(trained.model(batch), alone.model(batch)) and alone.model(batch).shape == (len(batch), 2)
    assert trained.test() == alone.test()
    assert run("c", "DATASET.SUBSAMPLE_CLASSES", "new", *keys, model="a", config=config).num_classes == 2


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("N_GROUPS", 6, "give 1 to 5"),
        ("N_GROUPS", 0, "give 1 to 5"),
        ("FORM", "realeased", "unknown TRAINER.LASP.FORM .*: did you mean released"),
        ("TEXT_LOSS", "hands", "unknown TRAINER.LASP.TEXT_LOSS .*: did you mean hand"),
        ("NOISE", -0.1, "NOISE is -0.1: give 0 or more"),
        ("GRAD_CLIP", -1.0, "GRAD_CLIP is -1.0: give 0 or more"),
        ("TEMPLATES", "['a dog']", r"'a dog' of TRAINER.LASP must hold one \{\}"),
        ("TEXT_CLASSES", "trains", "did you mean train"),
        ("TEXT_WEIGHT", -1.0, "give 0 or more"),
        ("CTX_INIT", '" "', "holds no word"),
    ],
)
def test_mistakes_in_the_config(key, value, message, run):
    with pytest.raises(UserError, match=message):
        run("a", f"TRAINER.LASP.{key}", value)
