"""Distances between the rows of two matrices."""

import torch
import torch.nn.functional as F

from dassl.utils import UserError, nearest


def compute_distance_matrix(input1: torch.Tensor, input2: torch.Tensor, metric: str = "euclidean") -> torch.Tensor:
    """(n, d), (m, d) -> (n, m) distances: "euclidean", squared as Dassl has it, or "cosine".

    Raises:
        UserError: an unknown metric.
    """
    metrics = {"euclidean": euclidean_squared_distance, "cosine": cosine_distance}
    if metric not in metrics:
        raise UserError(f'unknown metric "{metric}": {nearest(metric, metrics)}')
    return metrics[metric](input1, input2)


def euclidean_squared_distance(input1: torch.Tensor, input2: torch.Tensor) -> torch.Tensor:
    """(n, d), (m, d) -> (n, m): |a|^2 + |b|^2 - 2 a . b."""
    squares = input1.square().sum(dim=1, keepdim=True) + input2.square().sum(dim=1)
    return squares - 2 * input1 @ input2.t()


def cosine_distance(input1: torch.Tensor, input2: torch.Tensor) -> torch.Tensor:
    """(n, d), (m, d) -> (n, m): 1 - the cosine."""
    return 1 - F.normalize(input1, dim=1) @ F.normalize(input2, dim=1).t()
