"""What a method tells of the parts that its answers are mixed from."""

from typing import NamedTuple

import torch


class Mixture(NamedTuple):
    """What each image's answer is made of, where a method mixes the answers of several parts.

    Attributes:
        names: of the K parts; "" where nothing is known of one.
        weights: (n, K) on the CPU, of each part in each image's answer; 0 where a part has none in it.
        named_by: what the names say, as the head of a column.
    """

    names: list[str]
    weights: torch.Tensor
    named_by: str = "name"
