"""The expected calibration error (Guo et al., ICML 2017): how far confidence is from accuracy, over 15 bins of it."""

import torch

from dassl.metrics import METRIC_REGISTRY

BINS = 15


@METRIC_REGISTRY.register()
def ece(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """(n, N) logits, (n,) labels -> percent."""
    confidence, predicted = scores.softmax(dim=1).max(dim=1)
    right = (predicted == labels).float()
    bins = (confidence * BINS).ceil().clamp(min=1)
    gaps = [(confidence[bins == k] - right[bins == k]).sum().abs() for k in bins.unique()]
    return 100 * sum(gaps).item() / len(labels)
