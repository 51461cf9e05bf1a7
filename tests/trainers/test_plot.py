"""PLOT: transport plans against loops and exact optima, logits and prompts against one at a time, whole runs."""

import math

import clip
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from dassl.config import get_cfg_default
from dassl.utils import UserError
from prompting.local_features import global_and_local_features
from prompting.text_encoder import TextEncoder
from prompting.transport import transport_plan
from tests.pretend_cuda import pretend_cuda
from tests.reference import encode_in_full, in_double, learned_in_full, relative_error, tiny_clip
from trainers import extend_cfg, plot
from trainers.plot import PLOTCLIP, PromptLearner

NAMES = ["cat", "yin_yang", "flamingo head"]
SINKHORN = (0.1, 1000, 1e-5, "log_v")
RELEASED = (0.1, 100, 0.01, "u")


def options(**values):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.TRAINER.PLOT.update({"N": 2, "N_CTX": 3} | values)
    return cfg.TRAINER.PLOT


def costs(*shape, seed=0):
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# Transport


def plan_by_loops(cost, eps, max_iter):
    """Sinkhorn's iterations on u and v themselves, entry by entry in float64, to their limit or until nothing moves."""
    m, n = cost.shape
    kernel = [[math.exp(-cost[i, j].item() / eps) for j in range(n)] for i in range(m)]
    u, v = [1.0] * m, [1.0] * n
    for _ in range(max_iter):
        before = u
        u = [1 / m / sum(kernel[i][j] * v[j] for j in range(n)) for i in range(m)]
        v = [1 / n / sum(kernel[i][j] * u[i] for i in range(m)) for j in range(n)]
        if max(abs(math.log(a / b)) for a, b in zip(u, before, strict=True)) < 1e-14:
            break
    return torch.tensor([[u[i] * kernel[i][j] * v[j] for j in range(n)] for i in range(m)])


def released_plan_by_loops(cost):
    """From r = c = 1: r = u / (K c), c = v / (K^T r), up to 100 times, until the mean of |r - before| is below 0.01."""
    m, n = cost.shape
    kernel = [[math.exp(-cost[i, j].item() / 0.1) for j in range(n)] for i in range(m)]
    r, c = [1.0] * m, [1.0] * n
    for _ in range(100):
        before = r
        r = [1 / m / sum(kernel[i][j] * c[j] for j in range(n)) for i in range(m)]
        c = [1 / n / sum(kernel[i][j] * r[i] for i in range(m)) for j in range(n)]
        if sum(abs(a - b) for a, b in zip(r, before, strict=True)) / m < 0.01:
            break
    return torch.tensor([[r[i] * kernel[i][j] * c[j] for j in range(n)] for i in range(m)])


def plan_in_full(cost, eps, iterations=5000):
    """Very many of Sinkhorn's iterations, all in float64."""
    log_kernel = -cost.double() / eps
    log_v = torch.zeros_like(log_kernel[..., 0, :])
    for _ in range(iterations):
        log_u = -math.log(cost.shape[-2]) - (log_kernel + log_v[..., None, :]).logsumexp(dim=-1)
        log_v = -math.log(cost.shape[-1]) - (log_kernel + log_u[..., None]).logsumexp(dim=-2)
    return (log_kernel + log_u[..., None] + log_v[..., None, :]).exp()


def test_plans_equal_loops_and_do_not_depend_on_one_another():
    cost = costs(3, 4, 5, 2)
    cost[0] *= 0.01  # these converge at once
    plans = transport_plan(cost, *SINKHORN)
    for b in range(3):
        for k in range(4):
            assert relative_error(plans[b, k], plan_by_loops(cost[b, k], 0.1, 5000)) < 1e-4
    for b in range(3):
        assert torch.equal(transport_plan(cost[b : b + 1], *SINKHORN), plans[b : b + 1])


def test_the_release_s_plans_end_one_by_one():
    """Each at its own iteration, before, at and after a look at who has ended; the last at the limit."""
    cost = torch.cat([spread * costs(4, 5, 2, seed=1) for spread in (0.05, 0.3, 1, 2)])
    plans = transport_plan(cost, *RELEASED)
    for plan, alone in zip(plans, cost, strict=True):
        assert relative_error(plan, released_plan_by_loops(alone)) < 1e-4
    for limit in (1, 7, 10, 23):
        assert torch.equal(transport_plan(cost, 0.1, limit, 0.0, "u"), transport_plan(cost, 0.1, limit, 0.0, "log_v"))


def test_what_the_release_s_rule_changes():
    """At the spread of CLIP's cosines, 0.2 +- 0.06: less than 1e-3 of a logit."""
    cost = 1 - (0.2 + 0.06 * torch.randn(200, 49, 4, generator=torch.Generator().manual_seed(0)))
    early, late = (transport_plan(cost, *rule) for rule in (RELEASED, SINKHORN))
    assert 100 * ((early - late) * cost).sum(dim=(-2, -1)).abs().max() < 1e-3
    assert 49 * (early.sum(dim=-1) - late.sum(dim=-1)).abs().max() < 1e-2 and not torch.equal(early, late)


@pytest.mark.parametrize("kind", ["CLIP's", "peaked"])
@pytest.mark.parametrize("places", [49, 196])
def test_plans_converge(kind, places):
    """The defaults' distance from the limit: at the spread of CLIP's cosines, 0.2 +- 0.06, rounding alone."""
    noise = torch.randn(20, places, 4, generator=torch.Generator().manual_seed(0))
    cost = 1 - (0.2 + 0.06 * noise) if kind == "CLIP's" else costs(20, places, 4)
    assert SINKHORN[1:] == tuple(plot.FORMS["paper"][key] for key in ("MAX_ITER", "THRESH", "STOP"))
    plan, limit = transport_plan(cost, *SINKHORN), plan_in_full(cost, SINKHORN[0])
    assert relative_error(plan, limit) < (2e-6 if kind == "CLIP's" else 5e-5)
    distance, at_limit = ((p * cost).sum(dim=(-2, -1)) for p in (plan, limit))
    assert (distance - at_limit).abs().max() < (5e-7 if kind == "CLIP's" else 5e-6)


@pytest.mark.parametrize("rule", [RELEASED, SINKHORN, (0.1, 13, 0.0, "u"), (0.1, 13, 1e-3, "log_v")])
def test_plans_on_a_gpu_wait_for_nothing_and_are_the_same(rule, monkeypatch):
    """Whether it comes to be known that all have ended, or never: then iterations go on for nothing."""
    cost = torch.cat([spread * costs(4, 5, 2, seed=1) for spread in (0.05, 0.3, 1)])
    operations = []
    with pretend_cuda() as gpu:
        on_gpu = cost.to("cuda")
        for arrived in (True, False):
            monkeypatch.setattr(torch.cuda.Event, "query", lambda event, arrived=arrived: arrived)
            gpu.clear()
            plans = transport_plan(on_gpu, *rule)
            assert not gpu.syncs
            operations.append(gpu.operations)
            assert torch.equal(plans.cpu(), transport_plan(cost, *rule))
    assert rule[1] == 13 or operations[0] < operations[1] / 1.5


@pytest.mark.parametrize("limit", [3, 10, 13])
def test_iterations_end_at_the_limit(limit):
    cost = costs(4, 3)
    assert relative_error(transport_plan(cost, 0.02, limit, 0.0, "log_v"), plan_by_loops(cost, 0.02, limit)) < 1e-4


def test_marginals_are_uniform():
    plan = transport_plan(costs(6, 49, 4), 0.1, 1000, 1e-6, "log_v")
    assert (plan > 0).all()
    assert torch.allclose(plan.sum(dim=-1), torch.full((6, 49), 1 / 49), atol=1e-6)
    assert torch.allclose(plan.sum(dim=-2), torch.full((6, 4), 1 / 4), atol=1e-6)


def test_small_eps_gives_the_cheapest_assignment():
    """A kernel of exp(-2 / 1e-3) would be zero in float32."""
    by_hand = torch.tensor([[1.0, 0.25], [0.5, 0.125]])  # crossing costs 0.75, going straight 1.125
    assert torch.allclose(
        transport_plan(by_hand, 1e-3, 2000, 0.0, "log_v"), torch.tensor([[0, 0.5], [0.5, 0]]), atol=1e-3
    )
    for seed in range(3):
        cost = costs(3, 3, seed=seed)
        rows, columns = linear_sum_assignment(cost)
        plan = transport_plan(cost, 1e-3, 2000, 0.0, "log_v")
        best = cost[rows, columns].mean()
        assert torch.allclose((plan * cost).sum(), best, atol=1e-3)
        assert (transport_plan(cost, 0.1, 2000, 0.0, "log_v") * cost).sum() > best + 1e-3
        expected = torch.zeros(3, 3)
        expected[rows, columns] = 1 / 3
        assert torch.allclose(plan, expected, atol=1e-3)


# Model


def plot_clip(kind="vit", sinkhorn=SINKHORN, whole=False, tokens=10**6, **values):
    model = tiny_clip(kind)
    encoder = TextEncoder(model)
    torch.manual_seed(1)
    learner = PromptLearner(options(**values), NAMES, encoder)
    torch.nn.init.normal_(learner.ctx, std=0.2)
    return model, PLOTCLIP(model, learner, encoder, sinkhorn, tokens, whole)


def one_by_one(prompted, image_features, text_features, plan_of=lambda cost: plan_by_loops(cost, 0.1, 5000)):
    """(B, K) logits of one image and one class at a time, with the plan given to the backward pass as numbers."""
    rows = []
    for image in image_features:
        row = []
        for k in range(text_features.shape[1]):
            cost = torch.stack([torch.stack([1 - f @ g for g in text_features[:, k]]) for f in image])
            plan = plan_of(cost.detach())
            row.append(prompted.logit_scale * (1 - (plan * cost).sum()))
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("at_once", [1, plot.COSTS_AT_ONCE])
def test_logits_and_gradients_equal_one_image_and_class_at_a_time(at_once, monkeypatch):
    monkeypatch.setattr(plot, "COSTS_AT_ONCE", at_once)
    _, prompted = plot_clip()
    image_features = F.normalize(torch.randn(4, 5, 32), dim=-1)
    target = torch.randn(4, len(NAMES))
    found = []
    for logits in (prompted.logits, lambda *features: one_by_one(prompted, *features)):
        text_features = prompted.encode_text().detach().requires_grad_(True)
        outputs = logits(image_features, text_features)
        (outputs * target).sum().backward()
        found.append((outputs, text_features.grad))
    for fast, plain in zip(*found, strict=True):
        assert relative_error(fast, plain) < 1e-4


@pytest.mark.parametrize(("form", "whole"), [("released", False), ("released", True), ("paper", False)])
def test_loss_and_gradients_of_both_forms_over_whole_prompts(form, whole):
    """In float64, from the formulas: transport, in the release on ImageNet with the global features beside it."""
    sinkhorn, plan_of = {
        "released": (RELEASED, released_plan_by_loops),
        "paper": (SINKHORN, lambda cost: plan_by_loops(cost, 0.1, 5000)),
    }[form]
    model, prompted = plot_clip("resnet", sinkhorn, whole)
    images, labels = torch.randn(2, 3, 64, 64), torch.tensor([2, 0])
    positions = model.visual.attnpool.positional_embedding
    model.visual.attnpool.positional_embedding = torch.nn.Parameter(torch.randn(1 + 4, positions.shape[1]) * 0.1)
    in_double(model), in_double(prompted)
    learner = prompted.prompt_learner
    F.cross_entropy(prompted(images.double()), labels).backward()
    found = learner.ctx.grad.double()

    ctx = learner.ctx.detach().clone().requires_grad_(True)
    names = [name.replace("_", " ") for name in NAMES]
    raw = torch.stack([learned_in_full(model, vectors, names) for vectors in ctx])
    text = raw / raw.square().sum(dim=-1, keepdim=True).sqrt()
    features, local = global_and_local_features(model.visual, images.double())
    assert local.shape[1] == 4
    logits = one_by_one(prompted, F.normalize(local, dim=-1), text, plan_of)
    if whole:
        rows = []
        for f in features:
            mean = [sum(raw[:, k]) / len(raw) for k in range(len(NAMES))]
            rows.append(torch.stack([f @ g / (f.norm() * g.norm()) for g in mean]))
        logits = logits + prompted.logit_scale * torch.stack(rows)
    loss = -sum(row[label] - row.exp().sum().log() for row, label in zip(logits, labels, strict=True)) / len(labels)
    loss.backward()
    assert relative_error(prompted(images.double()).double(), logits) < 1e-4
    assert relative_error(found, ctx.grad) < 1e-3


@pytest.mark.parametrize("kind, places", [("vit", 4), ("resnet", 1)])
def test_a_whole_model(kind, places):
    _, prompted = plot_clip(kind)
    images = torch.randn(2, 3, 32, 32)
    local = prompted.encode_image(images)
    assert local.shape == (2, places, 32)
    expected = prompted.logits(F.normalize(local, dim=-1), prompted.encode_text())
    assert torch.equal(prompted(images), expected)


@pytest.mark.parametrize("csc", [False, True])
@pytest.mark.parametrize("position", ["end", "front"])
def test_prompts_equal_whole_ones(csc, position):
    model, prompted = plot_clip(CSC=csc, CLASS_TOKEN_POSITION=position)
    learner = prompted.prompt_learner
    assert learner.ctx.shape == ((2, 3, 3, 64) if csc else (2, 3, 64))
    target = torch.randn(2, len(NAMES), model.text_projection.shape[1])
    (prompted.text_encoder(*learner()) * target).sum().backward()

    ctx = learner.ctx.detach().clone().requires_grad_(True)
    vectors = ctx if csc else ctx[:, None].expand(-1, len(NAMES), -1, -1)
    tokens = torch.cat([clip.tokenize(f"X X X {name.replace('_', ' ')}.") for name in NAMES])
    rows = []
    for embedding, name, end in zip(model.token_embedding(tokens), NAMES, tokens.argmax(dim=-1), strict=True):
        k = NAMES.index(name)
        words, rest = embedding[4 : end - 1], embedding[end - 1 :]
        parts = {"end": lambda v, w: [v, w], "front": lambda v, w: [w, v]}[position]
        rows.append(torch.stack([torch.cat([embedding[:1], *parts(v, words), rest]) for v in vectors[:, k]]))
    plain = encode_in_full(model, torch.stack(rows, dim=1), tokens.argmax(dim=-1).expand(2, -1))
    (plain * target).sum().backward()
    assert relative_error(prompted.text_encoder(*learner()), plain) < 1e-5
    assert relative_error(learner.ctx.grad, ctx.grad) < 1e-5


@pytest.mark.parametrize("csc", [False, True])
@pytest.mark.parametrize(("fit", "sizes"), [(0.5, [1, 1, 1]), (1, [1, 1, 1]), (2, [2, 1]), (2.9, [2, 1]), (3, [3])])
def test_chunks_of_classes_equal_all_at_once(csc, fit, sizes, monkeypatch):
    _, whole = plot_clip(CSC=csc, sinkhorn=RELEASED, whole=True)
    prompts = whole.prompt_learner.prompts
    tokens = int(2 * (prompts.shared.shape[1] + fit * (int(prompts.eot.max()) + 1)))  # of two prompts a class
    _, chunked = plot_clip(CSC=csc, sinkhorn=RELEASED, whole=True, tokens=tokens)
    encode, held = chunked.text_encoder.forward, []
    monkeypatch.setattr(chunked.text_encoder, "forward", lambda *x: (held.append(x[1].shape[1]), encode(*x))[1])
    found, target = [], torch.randn(3, len(NAMES), 32)
    for model in (whole, chunked):
        features = model.encode_text()
        (features * target).sum().backward()
        found.append((features, model.prompt_learner.ctx.grad))
    for at_once, in_parts in zip(*found, strict=True):
        assert relative_error(in_parts, at_once) < 1e-5
    assert held == (sizes if len(sizes) == 1 else [*sizes, *reversed(sizes)]), "again for the backward pass"


def test_prompts_start_from_words_and_apart():
    model = tiny_clip()
    ctx = PromptLearner(options(N=3, CTX_INIT="a photo of a"), NAMES, TextEncoder(model)).ctx
    words = model.token_embedding(clip.tokenize("a photo of a"))[0, 1:5]
    assert torch.equal(ctx[0], words)
    assert not torch.equal(ctx[1], words) and not torch.equal(ctx[1], ctx[2])


# Whole runs


@pytest.mark.parametrize(
    ("keys", "sinkhorn", "whole"),
    [
        ({}, RELEASED, False),
        ({"GLOBAL": True}, RELEASED, True),
        ({"FORM": "paper", "GLOBAL": True}, SINKHORN, False),
        ({"FORM": "paper", "MAX_ITER": 7}, (0.1, 7, 1e-5, "log_v"), False),
    ],
)
def test_what_the_forms_say(keys, sinkhorn, whole, tmp_path, toy_run):
    words = [x for key, value in keys.items() for x in (f"TRAINER.PLOT.{key}", value)]
    model = toy_run("PLOT", tmp_path, *words, "TRAINER.PLOT.N_CTX", 2, flags=["--no-train"]).model
    assert (model.sinkhorn, model.whole) == (sinkhorn, whole)


def test_a_run_with_the_global_features(tmp_path, toy_run):
    keys = ("TRAINER.PLOT.GLOBAL", True, "TRAINER.PLOT.N", 2, "OPTIM.MAX_EPOCH", 1)
    trained = toy_run("PLOT", tmp_path / "a", *keys)
    again = toy_run("PLOT", tmp_path / "b", *keys, flags=["--eval-only", "--model-dir", str(tmp_path / "a")])
    batch = next(iter(again.test_loader))["img"]
    with torch.no_grad():
        assert torch.equal(trained.model(batch), again.model(batch))
    assert trained.test() == again.test()


@pytest.mark.parametrize("csc, last", [(False, "4, 2"), (True, "4, dog, 2")])
def test_vectors_are_told_by_prompt_class_and_number(tmp_path, toy_run, csc, last):
    """Where there are as many prompts as classes, too."""
    keys = ("TRAINER.PLOT.CSC", csc, "TRAINER.PLOT.N_CTX", 2)
    trainer = toy_run("PLOT", tmp_path, *keys, flags=["--no-train"])
    vectors, ctx = trainer.vectors_among_words(), trainer.model.prompt_learner.ctx
    assert vectors[-1][0] == last and torch.equal(torch.stack([v for _, v in vectors]), ctx.flatten(0, -2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"N": 0}, "N is 0: give 1 or more"),
        ({"MAX_ITER": 0}, "MAX_ITER is 0"),
        ({"THRESH": -1.0}, "THRESH is -1.0"),
        ({"STOP": "v"}, "unknown TRAINER.PLOT.STOP .*u"),
        ({"FORM": "papers"}, "unknown TRAINER.PLOT.FORM .*: did you mean paper"),
        ({"EPS": 0.0}, "EPS is 0.0: give a number above 0"),
        ({"N_CTX": 0}, "N_CTX is 0"),
        ({"CLASS_TOKEN_POSITION": "ned"}, "unknown TRAINER.PLOT.CLASS_TOKEN_POSITION .*end"),
    ],
)
def test_mistakes_in_the_config(values, message, tmp_path, toy_run):
    with pytest.raises(UserError, match=message):
        toy_run("PLOT", tmp_path, *(x for key, value in values.items() for x in (f"TRAINER.PLOT.{key}", value)))
