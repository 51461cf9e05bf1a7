"""The seen-unseen curve and its evaluator against sweeps over all biases, one prediction at a time."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dassl.config import get_cfg_default
from dassl.evaluation import BestPairs, build_evaluator
from dassl.evaluation.compositional import seen_unseen_curve, thinned
from dassl.utils import UserError


def by_sweep(scores, labels, seen):
    """Points of the curve for every bias between two thresholds, by argmax over all pairs."""
    thresholds = sorted({s[seen].max() - s[~seen].max() for s in scores})
    middles = [(a + b) / 2 for a, b in zip(thresholds, thresholds[1:], strict=False)]
    points = []
    for bias in [thresholds[0] - 1, *middles, thresholds[-1] + 1]:
        right = (scores + bias * ~seen).argmax(axis=1) == labels
        points.append((100 * right[~seen[labels]].mean(), 100 * right[seen[labels]].mean()))
    return np.array(points)


@pytest.mark.parametrize("seed", range(5))
def test_curve_is_exact(seed):
    rng = np.random.default_rng(seed)
    n, pairs = 60, 12
    seen = np.arange(pairs) % 3 > 0
    labels = rng.integers(0, pairs, n)
    scores = rng.normal(size=(n, pairs)).round(1 if seed == 4 else 9) + 1.5 * np.eye(pairs)[labels]
    found, expected = seen_unseen_curve(scores, labels, seen), by_sweep(scores, labels, seen)
    if seed < 4:  # with ties in the scores argmax may take another of the best
        assert np.allclose(np.stack([found["unseen"], found["seen"]], axis=1), expected)
        assert found["auc"] == pytest.approx(np.trapezoid(expected[:, 1], expected[:, 0]) / 100)
    h = 2 * expected.prod(axis=1) / np.maximum(expected.sum(axis=1), 1e-9)
    assert found["best_harmonic"] == pytest.approx(h.max(), abs=5 if seed == 4 else 1e-9)


def test_a_perfect_and_a_blind_model():
    seen, labels = np.array([True, True, False]), np.array([0, 1, 2, 2])
    perfect = seen_unseen_curve(np.eye(3)[labels], labels, seen)
    assert [perfect[k] for k in ("best_seen", "best_unseen", "best_harmonic", "auc")] == [100, 100, 100, 100]
    blind = seen_unseen_curve(np.eye(3)[[1, 0, 0, 0]], labels, seen)
    assert blind["best_seen"] == 0 and blind["auc"] == 0 and blind["closed_accuracy"] == 0
    with pytest.raises(ValueError, match="seen and unseen"):
        seen_unseen_curve(np.eye(3), np.arange(3), np.ones(3, bool))


# The evaluator: 3 attributes, 4 objects; ten pairs, of which six are seen, the seventh of val alone.

ATTRIBUTES, OBJECTS, SEEN = 3, 4, 6
PAIRS = [(0, 0), (1, 1), (2, 2), (0, 3), (1, 0), (2, 1), (0, 2), (1, 3), (2, 0), (0, 1)]
PHASES = {"val": [*range(SEEN), 6], "test": [*range(SEEN), 7, 8, 9]}


def evaluator(tmp_path, **settings):
    cfg = get_cfg_default()
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.TEST.update({"EVALUATOR": "Compositional"} | settings)
    cfg.TRAINER.NAME, cfg.DATASET.NAME = "CSP", "MITStates"
    dataset = SimpleNamespace(
        attributes=["a"] * ATTRIBUTES, objects=["o"] * OBJECTS, pairs=PAIRS, num_seen=SEEN, phase_pairs=PHASES
    )
    return build_evaluator(cfg, dataset=dataset)


def drawn(seed, n=80, columns=10, split="test"):
    """Scores that favour the true pair and seen pairs a little, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(PHASES[split], n)
    scores = rng.normal(size=(n, columns)).astype(np.float32)
    scores[:, :SEEN] += 1
    scores[np.arange(n), labels] += 1.5
    return scores, labels


def fed(evaluator, scores, labels, split="test"):
    evaluator.split = split
    for chunk, label in zip(torch.tensor(scores).split(32), torch.tensor(labels).split(32), strict=True):
        evaluator.process(chunk, label)
    return evaluator.evaluate()


def twenty_points(scores, labels, seen):
    """Points of the curve of CSP's release, by argmax over all pairs at each of its biases."""

    def right(bias):
        return (scores + bias * ~seen).argmax(axis=1) == labels

    gaps = []
    for score, label, found in zip(scores, labels, right(1e3), strict=True):
        if found and not seen[label]:
            gaps.append(score[seen].max() - score[label] - 1e-4)
    points = []
    for bias in [*sorted(gaps)[:: max(len(gaps) // 20, 1)], 1e3]:
        points.append((100 * right(bias)[~seen[labels]].mean(), 100 * right(bias)[seen[labels]].mean()))
    return np.array(points)


def check_curve(figures, points, suffix=""):
    h = 2 * points.prod(axis=1) / np.maximum(points.sum(axis=1), 1e-9)
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(points, points[1:], strict=False)) / 100
    expected = {"auc": area, "best_harmonic": h.max(), "best_seen": points[:, 1].max(), "best_unseen": points[-1, 0]}
    assert {name: figures[name + suffix] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("seed, n, close", [(0, 80, 1), (1, 80, 1), (2, 30, 1), (3, 300, 1), (4, 300, 1e-3)])
def test_evaluator_against_a_sweep(tmp_path, seed, n, close, split):
    scores, labels = drawn(seed, n, split=split)
    scores *= close  # many thresholds within the 1e-4 that the release takes off
    figures = fed(evaluator(tmp_path), scores, labels, split)
    assert list(figures)[0] == "auc"
    alone = np.full(len(PAIRS), -np.inf)
    alone[PHASES[split]] = 0
    closed = scores.astype(np.float64) + alone  # pairs of other phases cannot win
    seen = np.arange(len(PAIRS)) < SEEN
    check_curve(figures, by_sweep(closed, labels, seen))
    check_curve(figures, twenty_points(closed, labels, seen), "_20")
    predicted, true = np.array(PAIRS)[closed.argmax(axis=1)], np.array(PAIRS)[labels]
    assert figures["accuracy"] == pytest.approx(100 * (predicted == true).all(axis=1).mean())
    assert figures["attribute_accuracy"] == pytest.approx(100 * (predicted == true)[:, 0].mean())
    assert figures["object_accuracy"] == pytest.approx(100 * (predicted == true)[:, 1].mean())


@pytest.mark.parametrize("size", [1, 5, 12])
def test_open_world_in_chunks_of_pairs(tmp_path, size):
    """All attribute x object pairs, in any chunks, are what a sweep over all of them finds."""
    codes = np.array([a * OBJECTS + o for a, o in PAIRS])
    open_scores, labels = drawn(0, columns=ATTRIBUTES * OBJECTS)
    all_scores = open_scores.copy()
    all_scores[:, codes], all_scores[:, np.setdiff1d(np.arange(12), codes)] = open_scores[:, :10], open_scores[:, 10:]
    seen = np.isin(np.arange(12), codes[:SEEN])
    best = BestPairs(len(labels), groups=3)
    groups = torch.tensor(np.where(seen, 0, 1 + np.arange(12) % 2))
    for chunk in torch.arange(12).split(size):
        for images in (slice(0, 50), slice(50, 80)):
            best.update(torch.tensor(all_scores)[images, chunk], chunk, groups[chunk], images)
    found = evaluator(tmp_path)
    found.process(best, torch.tensor(labels))
    figures = found.evaluate()
    check_curve(figures, by_sweep(all_scores.astype(np.float64), codes[labels], seen))
    assert figures["accuracy"] == pytest.approx(100 * (all_scores.argmax(axis=1) == codes[labels]).mean())

    last = best.seen_and_unseen(first=2)[1][:, 1]
    assert (groups[last] == 2).all(), "of the groups from 2 on"


def test_pairs_left_out_never_win():
    best = BestPairs(2)
    best.update(torch.tensor([[9.0, 1, 0], [9.0, 0, 1]]), torch.tensor([5, 6, 7]), torch.tensor([-1, 0, 1]))
    assert best.pairs.tolist() == [[6, 7], [6, 7]] and best.scores.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("pair", [0, 8])
def test_scores_that_are_no_numbers_make_no_curve(pair, tmp_path):
    scores, labels = drawn(0)
    scores[41, pair] = np.nan
    with pytest.raises(UserError, match="1 of 80 test images have infinite or NaN values, first number 42"):
        fed(evaluator(tmp_path), scores, labels)
    codes = torch.tensor([a * OBJECTS + o for a, o in PAIRS])
    groups = (torch.arange(len(PAIRS)) >= SEEN).long()
    for order in (torch.arange(10), torch.arange(9, -1, -1)):  # the pair's chunk is followed by others, or is the last
        best = BestPairs(len(labels))
        for chunk in order.split(2):
            best.update(torch.tensor(scores)[:, chunk], codes[chunk], groups[chunk])
        assert best.finite().nonzero().numel() == 79 and not best.finite()[41]
    assert BestPairs(3).finite().all(), "an empty group is no mistake"


def test_evaluator_forgets_and_logs(tmp_path, caplog):
    found, drawn_scores = evaluator(tmp_path), drawn(0)
    first = fed(found, *drawn_scores)
    found.reset()
    with caplog.at_level(logging.INFO, "dassl"):
        assert fed(found, *drawn_scores) == first
    assert caplog.messages[-1].startswith(f"=> result\n* total: 80\n* correct: {found._correct}\n* auc: ")
    assert f"* accuracy: {first['accuracy']:.1f}%" in caplog.text


def test_evaluator_refuses(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="nothing to evaluate: the test split is empty"):
        evaluator(tmp_path).evaluate()
    with pytest.raises(UserError, match='unknown TEST.CURVE_PLOT "pgn": did you mean png'):
        evaluator(tmp_path, CURVE_PLOT="pgn")
    monkeypatch.setitem(PHASES, "val", list(range(SEEN)))
    with pytest.raises(UserError, match="the val split of MITStates lists no unseen pair"):
        fed(evaluator(tmp_path), *drawn(0), split="val")
    cfg = get_cfg_default()
    cfg.TEST.EVALUATOR, cfg.DATASET.NAME = "Compositional", "Caltech101"
    with pytest.raises(UserError, match="needs pairs of attribute and object, which Caltech101 does not have"):
        build_evaluator(cfg)


def test_the_kept_curve_is_the_exact_one_to_the_eye(tmp_path):
    found = evaluator(tmp_path)
    kept, exact = fed(found, *drawn(0))["curve"], found.curve
    corners = set(zip(exact["seen"].round(2), exact["unseen"].round(2), strict=True))
    assert set(zip(kept["seen"], kept["unseen"], strict=True)) <= corners
    assert (kept["seen"][0], kept["unseen"][-1]) == (round(exact["best_seen"], 2), round(exact["best_unseen"], 2))

    t = np.linspace(0, np.pi / 2, 10**5)
    few = thinned({"seen": 100 * np.cos(t), "unseen": 100 * np.sin(t)}, points=50)
    assert len(few["seen"]) == 50 and few["seen"][0] == few["unseen"][-1] == 100
    area = np.trapezoid(few["seen"], few["unseen"]) / 100
    assert area == pytest.approx(100 * np.pi / 4, abs=0.05)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_plot(tmp_path, kind):
    fed(evaluator(tmp_path, CURVE_PLOT=kind), *drawn(0))
    assert [path.name for path in tmp_path.iterdir()] == [f"seen_unseen.{kind}"]
