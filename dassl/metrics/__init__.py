"""Measures of a batch's outputs, for the training loop."""

from dassl.metrics.accuracy import compute_accuracy

__all__ = ["compute_accuracy"]
