"""The seen-unseen curve of compositional zero-shot learning (Purushwalkam et al., ICCV 2019; Nayak et al., ICLR 2023).

A bias is added to the scores of unseen pairs. As it goes from minus to plus infinity predictions move from seen to
unseen pairs; accuracy on images of seen pairs falls and on images of unseen pairs rises.
"""

import numpy as np


def seen_unseen_curve(scores, labels, seen):
    """The curve at every bias at which a prediction changes, exactly, in O(n log n) after the scores.

    For one image only its best seen pair, with score s, and its best unseen pair, with score u, can win: the unseen
    one does as soon as the bias exceeds s - u.

    Args:
        scores: (n, P) of n images for P pairs.
        labels: (n,) the true pairs.
        seen: (P,) booleans.

    Returns:
        A dict of unseen, seen: (k,) accuracies in percent along the curve, from bias minus to plus infinity;
        best_seen, best_unseen, best_harmonic: percent; auc: the area below, 100 for a perfect model; and
        closed_accuracy: with no bias.

    Raises:
        ValueError: no pair is seen, or none is unseen.
    """
    scores, labels, seen = np.asarray(scores, np.float64), np.asarray(labels), np.asarray(seen, bool)
    if seen.all() or not seen.any():
        raise ValueError("the curve needs seen and unseen pairs")
    best = {}
    for name, columns in (("seen", np.flatnonzero(seen)), ("unseen", np.flatnonzero(~seen))):
        part = scores[:, columns]
        at = part.argmax(axis=1)
        best[name] = columns[at], part[np.arange(len(part)), at]
    threshold = best["seen"][1] - best["unseen"][1]
    true_seen = seen[labels]
    right_seen = true_seen & (best["seen"][0] == labels)  # right for biases up to the threshold
    right_unseen = ~true_seen & (best["unseen"][0] == labels)  # right above it
    biases = np.unique(threshold)
    falling = np.sort(threshold[right_seen])
    rising = np.sort(threshold[right_unseen])
    # before the first threshold, then just above each
    lost = np.concatenate([[0], np.searchsorted(falling, biases, side="right")])
    won = np.concatenate([[0], np.searchsorted(rising, biases, side="right")])
    seen_accuracy = 100 * (len(falling) - lost) / max(1, true_seen.sum())
    unseen_accuracy = 100 * won / max(1, (~true_seen).sum())
    total = seen_accuracy + unseen_accuracy
    harmonic = np.divide(2 * seen_accuracy * unseen_accuracy, total, out=np.zeros_like(total), where=total > 0)
    return {
        "seen": seen_accuracy,
        "unseen": unseen_accuracy,
        "best_seen": float(seen_accuracy[0]),
        "best_unseen": float(unseen_accuracy[-1]),
        "best_harmonic": float(harmonic.max()),
        "auc": float(np.trapezoid(seen_accuracy, unseen_accuracy) / 100),
        "closed_accuracy": float(100 * (scores.argmax(axis=1) == labels).mean()),
    }
