"""The seen-unseen curve against a sweep over all biases, one prediction at a time."""

import numpy as np
import pytest

from dassl.evaluation.compositional import seen_unseen_curve


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
