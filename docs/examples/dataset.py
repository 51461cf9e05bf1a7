"""Fruit: images of fruit, in a folder for each class.

fruit/
    images/<class>/*.jpg
"""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import SplitDataset


@DATASET_REGISTRY.register()
class Fruit(SplitDataset):
    dataset_dir = "fruit"  # below DATASET.ROOT (--root)
    image_dir = "images"
    split_file = "split_fruit.json"  # where there is none, one is made of the class folders and kept in the cache
    renamed = {"passion": "passion fruit"}
    template = "a photo of a {}, a type of fruit."
