"""The linear probe: its search against a slow one, its features, and that it saves what it found."""

import logging
import math
import random
import re

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

import train
from dassl.utils import UserError, load_checkpoint
from learned.model import load_run
from trainers import linear_probe
from trainers.linear_probe import search


def test_a_whole_run(tmp_path, toy_run):
    trained = toy_run("LinearProbe", tmp_path / "a", config="vit_b16")
    assert trained.test() > 50, "the classes differ in colour"
    x, y = trained.features(trained.dm.dataset.train_x)
    with torch.no_grad():
        logits = trained.model.prompt_learner(torch.from_numpy(x))
    assert (logits.argmax(dim=1).numpy() == y).mean() > 0.9


def test_evaluation_needs_a_fitted_probe(tmp_path, toy_args, closing_logger, capsys):
    assert train.run(toy_args("LinearProbe", tmp_path, config="vit_b16", flags=["--eval-only"])) == 1
    assert "--eval-only needs --model-dir" in capsys.readouterr().err


def test_two_classes(tmp_path, toy_run):
    assert toy_run("LinearProbe", tmp_path, "DATASET.SUBSAMPLE_CLASSES", "base", config="vit_b16").test() > 60


def slow_search(accuracy, steps):
    """As tests/recipes has it, on C itself: (C, all that was fitted)."""
    first = [1e6, 1e4, 1e2, 1, 1e-2, 1e-4, 1e-6]
    taken, fitted = first[0], []
    for c in first:
        fitted.append(c)
        if accuracy(c) > accuracy(taken):
            taken = c
    left, right = taken / 10, taken * 10
    for _ in range(steps):
        fitted += [left, right]
        middle = 10 ** ((math.log10(left) + math.log10(right)) / 2)
        if accuracy(left) >= accuracy(right):
            taken, left, right = left, left, middle
        else:
            taken, left, right = right, middle, right
    return taken, fitted


@pytest.mark.parametrize("steps", [0, 1, 8])
@pytest.mark.parametrize("levels", [1, 2, 3, 100])
def test_the_search_equals_a_slow_one_ties_included(levels, steps):
    """Accuracies of a few validation images are much alike: of 1, 2, 3 or 100 values."""
    for seed in range(100):

        def accuracy(power, seed=seed):
            return random.Random(f"{seed} {float(power):.6f}").randrange(levels) / levels

        asked: list[float] = []

        def score(power, asked=asked, accuracy=accuracy):
            asked.append(power)
            return accuracy(power)

        found = search(score, steps)
        taken, fitted = slow_search(lambda c: accuracy(math.log10(c)), steps)
        assert math.isclose(10.0**found, taken, rel_tol=1e-9)
        assert len(set(asked)) == len(asked), "no value twice"
        assert {round(power, 6) for power in asked} == {round(math.log10(c), 6) for c in fitted}


def test_ties_by_hand():
    assert search(lambda power: 0.5, 0) == 6, "the larger"
    assert search(lambda power: 0.5, 1) == 5 and search(lambda power: 0.5, 8) == 5, "the smaller end, again and again"
    assert search(lambda power: float(power == 5.5), 2) == 5, "the middle is no end yet"
    assert search(lambda power: float(power == 5.5), 3) == 5.5
    scores = dict.fromkeys(range(-6, 7, 2), 0) | {0: 2, -1: 0, 1: 1}
    assert search(scores.__getitem__, 1) == 1, "an end, though the first search has better"


def test_search_prefers_strong_regularisation_where_features_are_noise(caplog, tmp_path, toy_run):
    trainer = toy_run("LinearProbe", tmp_path, "TRAINER.LINEARPROBE.STEPS", 4, config="vit_b16", flags=["--no-train"])
    caplog.clear()
    caplog.set_level(logging.INFO, "dassl.trainers")
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = rng.normal(size=(40, 30))
    x[:, 0] += 3 * y
    x_val, y_val = rng.normal(size=(400, 30)), np.arange(400) % 2
    x_val[:, 0] += 3 * y_val
    c = trainer.searched(x, y, x_val, y_val)
    score = LogisticRegression(C=c, max_iter=1000).fit(x, y).score(x_val, y_val)
    others = [LogisticRegression(C=10.0**p, max_iter=1000).fit(x, y).score(x_val, y_val) for p in range(-6, 7, 2)]
    assert score >= max(others) - 0.01
    steps = [re.fullmatch(r"C = (\S+): val accuracy (\S+)%, \S+ s", record.message) for record in caplog.records]
    assert len(steps) == 7 + 4 and {float(step[1]) for step in steps[:7]} == {10.0**p for p in range(-6, 7, 2)}
    assert f"{100 * score:.1f}" in {step[2] for step in steps if math.isclose(float(step[1]), c, rel_tol=0.01)}


@pytest.mark.parametrize("features", ["raw", "normalized"])
def test_features(features, tmp_path, toy_run):
    """What it is fitted to, evaluated with and saved with; raw ones are the encoder's output, to the bit."""
    keys = ("TRAINER.LINEARPROBE.FEATURES", features, "TRAINER.LINEARPROBE.STEPS", 0)
    trained = toy_run("LinearProbe", tmp_path / "a", *keys, config="rn50")
    items, batch = trained.dm.dataset.test, next(iter(trained.test_loader))["img"]
    with torch.no_grad():
        plain = trained.model.image_encoder(batch)
    found = torch.from_numpy(trained.features(items)[0])[: len(batch)]
    if features == "normalized":
        lengths = plain.square().sum(dim=1, keepdim=True).sqrt()
        plain = plain / lengths * plain.shape[1] ** 0.5
        assert torch.allclose(found, plain, rtol=1e-5)
    else:
        assert torch.equal(found, plain)
    weight, bias = trained.model.prompt_learner.weight, trained.model.prompt_learner.bias
    with torch.no_grad():
        expected = plain @ weight.t() + bias
        evaluated = next(output for output, _ in trained.predict(trained.test_loader))
        assert torch.allclose(evaluated, expected, atol=1e-4)
        assert torch.allclose(trained.model(batch), expected, atol=1e-4)
        assert torch.allclose(load_run(str(tmp_path / "a")).logits(batch), expected, atol=1e-4)

    other = ("TRAINER.LINEARPROBE.FEATURES", "normalized" if features == "raw" else "raw")
    flags = ["--eval-only", "--model-dir", str(tmp_path / "a")]
    again = toy_run("LinearProbe", tmp_path / "b", *other, config="rn50", flags=flags)
    with torch.no_grad():
        assert torch.equal(again.model(batch), trained.model(batch)), "the weights know"


def test_weights_of_before_there_were_raw_features_are_of_normalised_ones(tmp_path, toy_run):
    trained = toy_run("LinearProbe", tmp_path / "a", "TRAINER.LINEARPROBE.FEATURES", "normalized", config="vit_b16")
    (file,) = (tmp_path / "a" / "prompt_learner").glob("model.pth.tar-*")
    checkpoint = load_checkpoint(file)
    assert checkpoint["state_dict"].pop("raw").item() is False
    torch.save(checkpoint, file)
    flags = ["--eval-only", "--model-dir", str(tmp_path / "a")]
    again = toy_run("LinearProbe", tmp_path / "b", config="vit_b16", flags=flags)
    batch = next(iter(again.test_loader))["img"]
    with torch.no_grad():
        assert torch.equal(again.model(batch), trained.model(batch))


@pytest.mark.parametrize(("search_on", "shots"), [("val", 2), ("test", 1), ("test", 2), ("test", 8)])
def test_what_c_is_searched_on(search_on, shots, tmp_path, toy_run):
    keys = ("TRAINER.LINEARPROBE.SEARCH_ON", search_on, "DATASET.NUM_SHOTS", shots, "SEED", 3)
    trainer = toy_run("LinearProbe", tmp_path, *keys, config="rn50", flags=["--no-train"])
    found, dataset = trainer.tried_on(), trainer.dm.dataset
    assert found and found == trainer.tried_on(), "the same again"
    known = {item.impath for item in getattr(dataset, search_on)}
    assert {item.impath for item in found} <= known
    if search_on == "test":
        counts = [sum(item.label == label for item in found) for label in range(4)]
        available = [sum(item.label == label for item in dataset.test) for label in range(4)]
        assert counts == [min(shots, 4, n) for n in available] or min(available) < min(shots, 4)
    else:
        assert found == dataset.val


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("FEATURES", "rwa", "unknown TRAINER.LINEARPROBE.FEATURES .*: did you mean raw"),
        ("SEARCH_ON", "train", "unknown TRAINER.LINEARPROBE.SEARCH_ON"),
        ("STEPS", -1, "STEPS is -1: give 0 or more"),
    ],
)
def test_mistakes_in_the_config(key, value, message, tmp_path, toy_run):
    with pytest.raises(UserError, match=message):
        toy_run("LinearProbe", tmp_path, f"TRAINER.LINEARPROBE.{key}", value, config="rn50")


def test_a_fit_takes_one_thread(monkeypatch):
    """On a busy machine several wait for one another at every product."""
    seen = []

    class Watched(LogisticRegression):
        def fit(self, *data):
            seen.extend(pool["num_threads"] for pool in threadpool_info())
            return super().fit(*data)

    monkeypatch.setattr("sklearn.linear_model.LogisticRegression", Watched)
    with threadpool_limits(2):
        linear_probe.fit(np.eye(4), np.arange(4) % 2, 1.0)
        assert seen and set(seen) == {1} and {pool["num_threads"] for pool in threadpool_info()} != {1}
