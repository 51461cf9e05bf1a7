"""Scores that are no numbers make no result: not even the chance that argmax gives a class to NaN.

An image counts by its best score. Minus infinity among others is how methods leave a class out, and wins nothing.
"""

from collections.abc import Callable

import torch

from dassl.errors import UserError


class NonFiniteScoresError(UserError, FloatingPointError):
    """The best score of an image is infinite or NaN."""


def check_finite(finite: torch.Tensor, images: str, class_of: Callable[[int], str] | None = None) -> None:
    """Raises NonFiniteScoresError where the best score of an image, or what else was looked at, is no number.

    Args:
        finite: (n,) booleans, whether it is one.
        images: what the n are, in words: "test images".
        class_of: the class that has the score, of the i-th image.
    """
    if finite.all():
        return
    broken = (~finite).nonzero()[:, 0].tolist()
    of = f' for class "{class_of(broken[0])}"' if class_of else ""
    raise NonFiniteScoresError(
        f"{len(broken)} of {len(finite)} {images} have infinite or NaN values, first number {broken[0] + 1}{of}: "
        "take other weights, train again with a lower OPTIM.LR, or compute in fp32"
    )
