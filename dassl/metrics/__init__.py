"""Measures of a model's outputs: on a batch, for the training loop, and on a test set (METRIC_REGISTRY)."""

from dassl.metrics.accuracy import compute_accuracy
from dassl.metrics.build import METRIC_REGISTRY
from dassl.metrics.distance import compute_distance_matrix

__all__ = ["METRIC_REGISTRY", "compute_accuracy", "compute_distance_matrix"]
