"""The linear probe: what it saves is what it found."""

import logging
import math
import re

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

import train
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


def test_search_prefers_strong_regularisation_where_features_are_noise(caplog):
    caplog.set_level(logging.INFO, "dassl.trainers")
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = rng.normal(size=(40, 30))
    x[:, 0] += 3 * y
    x_val, y_val = rng.normal(size=(400, 30)), np.arange(400) % 2
    x_val[:, 0] += 3 * y_val
    c = search(x, y, x_val, y_val, 4)
    score = LogisticRegression(C=c, max_iter=1000).fit(x, y).score(x_val, y_val)
    others = [LogisticRegression(C=10.0**p, max_iter=1000).fit(x, y).score(x_val, y_val) for p in range(-6, 7, 2)]
    assert score >= max(others)
    steps = [re.fullmatch(r"C = (\S+): val accuracy (\S+)%, \S+ s", record.message) for record in caplog.records]
    assert len(steps) == 7 + 2 * 4 and {float(step[1]) for step in steps[:7]} == {10.0**p for p in range(-6, 7, 2)}
    assert f"{100 * score:.1f}" in {step[2] for step in steps if math.isclose(float(step[1]), c, rel_tol=0.01)}


def test_a_fit_takes_one_thread(monkeypatch):
    """On a busy machine several wait for one another at every product."""
    seen = []

    class Watched(LogisticRegression):
        def fit(self, *data):
            seen.extend(pool["num_threads"] for pool in threadpool_info())
            return super().fit(*data)

    monkeypatch.setattr(linear_probe, "LogisticRegression", Watched)
    with threadpool_limits(2):
        linear_probe.fit(np.eye(4), np.arange(4) % 2, 1.0)
        assert seen and set(seen) == {1} and {pool["num_threads"] for pool in threadpool_info()} != {1}
