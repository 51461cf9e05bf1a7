"""Optimizers get the config's settings; learning rates follow the curves worked out by hand."""

import math
import warnings

import pytest
import torch
from torch import nn

from dassl.config import get_cfg_default
from dassl.optim import (
    AVAI_OPTIMS,
    ConstantWarmupScheduler,
    LinearWarmupScheduler,
    build_lr_scheduler,
    build_optimizer,
)
from dassl.optim.radam import RAdam
from dassl.utils import UserError, load_checkpoint, save_checkpoint


def _cfg(**settings):
    cfg = get_cfg_default().OPTIM
    cfg.update({"NAME": "sgd", "LR": 0.002, **settings})
    return cfg


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.ctx = nn.Parameter(torch.ones(4))
        self.old = nn.Linear(2, 2)
        self.head = nn.Linear(2, 3)


def _curve(epochs, groups=None, **settings):
    """The learning rates of each epoch, with an optimizer step in each and every warning an error."""
    cfg = _cfg(**settings)
    parameter = nn.Parameter(torch.zeros(1))
    optim = build_optimizer(groups or [parameter], cfg)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sched = build_lr_scheduler(optim, cfg)
        for _ in range(epochs):
            rates.append([g["lr"] for g in optim.param_groups])
            optim.step()
            sched.step()
            assert sched.get_last_lr() == [g["lr"] for g in optim.param_groups]
    return rates if groups else [r for (r,) in rates]


# Optimizers


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.8, "dampening": 0, "nesterov": True}),
        ("adam", torch.optim.Adam, {"betas": (0.7, 0.8), "eps": 1e-3, "amsgrad": False}),
        ("amsgrad", torch.optim.Adam, {"betas": (0.7, 0.8), "eps": 1e-3, "amsgrad": True}),
        ("adamw", torch.optim.AdamW, {"betas": (0.7, 0.8), "eps": 1e-3}),
        ("radam", RAdam, {"betas": (0.7, 0.8), "eps": 1e-3, "decoupled_weight_decay": True}),
        ("rmsprop", torch.optim.RMSprop, {"momentum": 0.8, "alpha": 0.6}),
    ],
)
def test_every_optimizer(name, kind, settings):
    cfg = _cfg(NAME=name, LR=0.1, WEIGHT_DECAY=0.2, MOMENTUM=0.8, SGD_NESTEROV=True, RMSPROP_ALPHA=0.6)
    assert cfg.ADAM_EPS == 1e-8, "Dassl's, which has no key for it"
    cfg.ADAM_BETA1, cfg.ADAM_BETA2, cfg.ADAM_EPS = 0.7, 0.8, 1e-3
    optim = build_optimizer(Model(), cfg)
    (group,) = optim.param_groups
    assert type(optim) is kind and len(group["params"]) == 5
    expected = {"lr": 0.1, "weight_decay": 0.2, **settings}
    assert {k: group[k] for k in expected} == expected


def test_radam_against_the_published_algorithm():
    """Algorithm 2 of Liu et al. 2020 on numbers, the weight shrunk beside the step; both of its branches are taken."""
    lr, beta1, beta2, eps, decay = 0.1, 0.9, 0.99, 1e-3, 0.05
    gradients = [math.sin(3 * t) + 0.2 for t in range(1, 13)]
    parameter = nn.Parameter(torch.tensor([2.0], dtype=torch.double))
    optim = RAdam([parameter], lr, (beta1, beta2), eps, decay)
    x, m, v, rectified = 2.0, 0.0, 0.0, 0
    longest = 2 / (1 - beta2) - 1
    for t, g in enumerate(gradients, start=1):
        parameter.grad = torch.tensor([g], dtype=torch.double)
        optim.step()
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        mean = m / (1 - beta1**t)
        length = longest - 2 * t * beta2**t / (1 - beta2**t)
        x -= lr * decay * x
        if length > 5:
            rectified += 1
            share = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            x -= lr * math.sqrt(share) * mean * math.sqrt(1 - beta2**t) / (math.sqrt(v) + eps)
        else:
            x -= lr * mean
        assert parameter.item() == pytest.approx(x, rel=1e-12)
    assert 0 < rectified < len(gradients)
    with pytest.raises(NotImplementedError):
        RAdam([parameter], degenerated_to_sgd=False)


def test_all_optimizers_are_named():
    assert AVAI_OPTIMS == ["adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw"]


@pytest.mark.parametrize("layers", ["head", ["head"]])
def test_staged_learning_rate(layers):
    model = Model()
    optim = build_optimizer(nn.DataParallel(model), _cfg(STAGED_LR=True, NEW_LAYERS=layers, BASE_LR_MULT=0.5))
    base, new = optim.param_groups
    assert [id(p) for p in base["params"]] == [id(p) for p in (model.ctx, *model.old.parameters())]
    assert [id(p) for p in new["params"]] == [id(p) for p in model.head.parameters()]
    assert (base["lr"], new["lr"]) == (0.001, 0.002)


def test_own_groups_win_over_staged_rates(caplog):
    model = Model()
    groups = [{"params": [model.ctx], "lr": 1.0}, {"params": model.head.parameters()}]
    optim = build_optimizer(model, _cfg(STAGED_LR=True), groups)
    assert [g["lr"] for g in optim.param_groups] == [1.0, 0.002]
    assert "STAGED_LR is ignored" in caplog.text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"NAME": "sdg"}, "OPTIM.NAME.*did you mean sgd"),
        ({"STAGED_LR": True, "NEW_LAYERS": ["haed"]}, "NEW_LAYERS.*did you mean head"),
        ({"LR": -1.0}, "OPTIM: Invalid learning rate"),
        ({"SGD_NESTEROV": True, "MOMENTUM": 0.0}, "Nesterov"),
    ],
)
def test_bad_optimizer_settings(settings, words):
    with pytest.raises(UserError, match=words):
        build_optimizer(Model(), _cfg(**settings))


# Schedulers


def test_cosine():
    expected = [0.5 * 0.002 * (1 + math.cos(math.pi * k / 10)) for k in range(10)]
    assert _curve(10, LR_SCHEDULER="cosine", MAX_EPOCH=10) == pytest.approx(expected)


def test_single_step():
    assert _curve(5, STEPSIZE=(9, 2), GAMMA=0.5) == pytest.approx([0.002, 0.002, 0.001, 0.001, 0.0005])
    assert _curve(5, STEPSIZE=(-1,), MAX_EPOCH=5) == pytest.approx([0.002] * 5)


def test_multi_step():
    rates = _curve(5, LR_SCHEDULER="multi_step", STEPSIZE=(1, 3), GAMMA=0.1)
    assert rates == pytest.approx([2e-3, 2e-4, 2e-4, 2e-5, 2e-5])


def test_constant_warmup_then_cosine_from_its_start():
    settings = {"LR_SCHEDULER": "cosine", "MAX_EPOCH": 50, "WARMUP_TYPE": "constant"}
    expected = [1e-5] + [0.5 * 0.002 * (1 + math.cos(math.pi * k / 50)) for k in range(49)]
    assert _curve(50, WARMUP_EPOCH=1, **settings) == pytest.approx(expected)
    assert _curve(50, WARMUP_EPOCH=5, **settings) == pytest.approx([1e-5] * 5 + expected[1:46])


def test_without_recount_the_warmup_counts():
    settings = {"LR_SCHEDULER": "multi_step", "STEPSIZE": (4,), "WARMUP_TYPE": "constant", "WARMUP_EPOCH": 3}
    assert _curve(6, WARMUP_RECOUNT=False, **settings) == pytest.approx([1e-5] * 3 + [2e-3] + [2e-4] * 2)
    assert _curve(9, WARMUP_RECOUNT=True, **settings) == pytest.approx([1e-5] * 3 + [2e-3] * 4 + [2e-4] * 2)


def test_linear_warmup():
    rates = _curve(6, MAX_EPOCH=10, WARMUP_TYPE="linear", WARMUP_EPOCH=4, WARMUP_MIN_LR=1e-6)
    assert rates == pytest.approx([1e-6, 0.0005, 0.001, 0.0015, 0.002, 0.002])


def test_groups_keep_their_proportions():
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    groups = [{"params": [first]}, {"params": [second], "lr": 0.0002}]
    settings = {"LR_SCHEDULER": "cosine", "MAX_EPOCH": 6, "WARMUP_EPOCH": 2}
    constant = _curve(6, groups, WARMUP_TYPE="constant", **settings)
    assert constant[:2] == [[1e-5, 1e-5]] * 2
    assert [a / b for a, b in constant[2:]] == pytest.approx([10] * 4)
    linear = _curve(6, groups, WARMUP_TYPE="linear", **settings)
    assert [a / b for a, b in linear[1:]] == pytest.approx([10] * 5)


@pytest.mark.parametrize("killed_after", range(5))
@pytest.mark.parametrize(
    "settings",
    [
        {"LR_SCHEDULER": "cosine", "WARMUP_TYPE": "constant", "WARMUP_EPOCH": 2},
        {"LR_SCHEDULER": "multi_step", "STEPSIZE": (2, 3), "WARMUP_TYPE": "linear", "WARMUP_EPOCH": 2},
    ],
)
def test_interrupted_equals_uninterrupted(tmp_path, killed_after, settings):
    cfg = _cfg(MAX_EPOCH=6, **settings)

    def build():
        parameter = nn.Parameter(torch.ones(2))
        optim = build_optimizer([parameter], cfg)
        return parameter, optim, build_lr_scheduler(optim, cfg)

    def run(parameter, optim, sched, epochs):
        rates = []
        for _ in range(epochs):
            rates.append(optim.param_groups[0]["lr"])
            optim.zero_grad()
            (parameter**2).sum().backward()
            optim.step()
            sched.step()
        return rates

    whole = build()
    expected = run(*whole, 6)

    parameter, optim, sched = build()
    first = run(parameter, optim, sched, killed_after)
    state = {"state_dict": {"p": parameter.data}, "epoch": killed_after, "optimizer": optim.state_dict()}
    save_checkpoint(state | {"scheduler": sched.state_dict()}, tmp_path)
    saved = load_checkpoint(tmp_path / f"model.pth.tar-{killed_after}")
    assert type(saved["scheduler"]["successor"]) is dict
    parameter, optim, sched = build()
    parameter.data = saved["state_dict"]["p"]
    optim.load_state_dict(saved["optimizer"])
    sched.load_state_dict(saved["scheduler"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert first + run(parameter, optim, sched, 6 - killed_after) == expected
    assert torch.equal(parameter, whole[0])


def test_warmup_schedulers_take_dassls_arguments():
    optim = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    successor = torch.optim.lr_scheduler.CosineAnnealingLR(optim, 10)
    assert ConstantWarmupScheduler(optim, successor, 2, 0.25).get_last_lr() == [0.25]
    assert LinearWarmupScheduler(optim, successor, 2, 0.125).get_last_lr() == [0.125]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"LR_SCHEDULER": "cosin"}, "LR_SCHEDULER.*did you mean cosine"),
        ({"WARMUP_EPOCH": 1, "WARMUP_TYPE": "const"}, "WARMUP_TYPE.*did you mean constant"),
        ({"LR_SCHEDULER": "multi_step", "STEPSIZE": 3}, "STEPSIZE is 3"),
        ({"STEPSIZE": (1.5,)}, "STEPSIZE is .1.5"),
    ],
)
def test_bad_scheduler_settings(settings, words):
    cfg = _cfg(**settings)
    with pytest.raises(UserError, match=words):
        build_lr_scheduler(build_optimizer([nn.Parameter(torch.zeros(1))], cfg), cfg)
