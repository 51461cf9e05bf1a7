"""From images on disk to batches: datasets, transforms, samplers, and the loaders built from them."""

from dassl.data.data_manager import DataManager, DatasetWrapper, build_data_loader, in_order

__all__ = ["DataManager", "DatasetWrapper", "build_data_loader", "in_order"]
