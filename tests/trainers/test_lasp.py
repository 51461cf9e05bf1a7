"""LASP's loss and gradients against loops in float64 over whole 77-token prompts; virtual classes; its runs."""

import copy
import math

import pytest
import torch

from dassl.utils import UserError, load_checkpoint
from prompting.backbone import load_backbone
from tests.conftest import TOY_CLASSES
from tests.reference import in_double, learned_in_full, relative_error, written_in_full

TEMPLATES = ["a {}.", "the {}.", "my {} texture.", "a bad {}.", "itap of {}."]
KEYS = ("TRAINER.LASP.N_GROUPS", 2, "TRAINER.LASP.TEMPLATES", str(TEMPLATES))
BASE = ("DATASET.SUBSAMPLE_CLASSES", "base")


@pytest.fixture
def run(tmp_path, toy_run):
    """run(name, *keys, model=None): a run in a folder of its own."""

    def run(name, *keys, model=None, **options):
        flags = [] if model is None else ["--eval-only", "--model-dir", str(tmp_path / model)]
        return toy_run("LASP", tmp_path / name, "OPTIM.LR", 0.1, *KEYS, *keys, flags=flags, **options)

    return run


def unit(vectors):
    return [v / v.square().sum().sqrt() for v in vectors]


def softmax(values):
    exps = [v.exp() for v in values]
    return [e / sum(exps) for e in exps]


@pytest.mark.parametrize("virtual", [False, True])
def test_loss_and_gradients_over_whole_prompts(virtual, run, toy_backbone):
    options = ("TRAINER.LASP.TEXT_CLASSES", "all" if virtual else "train", "TRAINER.LASP.TEXT_WEIGHT", 3.0)
    trainer = run("a", *BASE, *options)
    learner, batch = in_double(trainer.model).prompt_learner, next(iter(trainer.train_loader_x))
    torch.manual_seed(1)
    torch.nn.init.normal_(learner.ctx, std=0.02)
    torch.nn.init.normal_(learner.offset, std=0.2)
    trainer.before_train()  # the hard features in double, too
    learner.zero_grad()
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
    for group, hand in zip(groups, templates, strict=True):
        features = [unit(written_in_full(model, template, names)) for template in hand]
        for y, t in enumerate(group):
            p = [softmax([scale * t @ h for h in feature])[y] for feature in features]
            text = text - (sum(p) / len(p)).log() / (2 * len(names))
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


def test_groups_start_alike_and_part(run):
    start, trained = run("a", "OPTIM.MAX_EPOCH", 0), run("b")
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


@pytest.mark.parametrize(("config", "realigned"), [("vit_b16_ep50", True), ("vit_b16_ep50_virtual", False)])
def test_a_run_is_saved_and_loads_to_the_same_outputs(config, realigned, tmp_path, run):
    keys = ("TRAINER.LASP.TUNE_LAYERNORM", realigned, "TRAINER.LASP.TEXT_OFFSET", realigned)
    trained = run("a", *BASE, *keys, config=config)
    state = load_checkpoint(str(tmp_path / "a" / "prompt_learner" / "model.pth.tar-3"))["state_dict"]
    assert len(state) == (2 + 2 * 4 if realigned else 1) and state["ctx"].shape == (2, 4, 64)
    alone = run("b", *BASE, *keys, model="a", config=config)
    batch = next(iter(alone.test_loader))["img"]
    with torch.no_grad():
        assert alone.model.encode_text().shape == (2, 4 if "virtual" in config else 2, 32)
        assert torch.equal(trained.model(batch), alone.model(batch)) and alone.model(batch).shape == (len(batch), 2)
    assert trained.test() == alone.test()
    assert run("c", "DATASET.SUBSAMPLE_CLASSES", "new", *keys, model="a", config=config).num_classes == 2


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("N_GROUPS", 6, "give 1 to 5"),
        ("N_GROUPS", 0, "give 1 to 5"),
        ("TEMPLATES", "['a dog']", r"'a dog' of TRAINER.LASP must hold one \{\}"),
        ("TEXT_CLASSES", "trains", "did you mean train"),
        ("TEXT_WEIGHT", -1.0, "give 0 or more"),
        ("CTX_INIT", '" "', "holds no word"),
    ],
)
def test_mistakes_in_the_config(key, value, message, run):
    with pytest.raises(UserError, match=message):
        run("a", f"TRAINER.LASP.{key}", value)
