"""The registry of metrics that TEST.METRICS names."""

from dassl.utils import Registry

METRIC_REGISTRY = Registry("METRIC", "dassl.metrics", "mocoop.metrics")
"""Functions of a whole test set: (n, N) float32 scores and (n,) labels, both on the CPU -> a number in percent.

The scores are the model's logits, before a softmax over the classes. A file dropped into this folder adds its own;
so does a package, by an entry point of the group naming its module.
"""
