"""Caltech101 (Fei-Fei et al., 2004): 100 classes of objects.

caltech-101/
    101_ObjectCategories/<class>/*.jpg
    split_zhou_Caltech101.json
"""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import SplitDataset
from datasets.sources import Source, coops


@DATASET_REGISTRY.register()
class Caltech101(SplitDataset):
    dataset_dir = "caltech-101"
    image_dir = "101_ObjectCategories"
    split_file = "split_zhou_Caltech101.json"
    ignored = ("BACKGROUND_Google", "Faces_easy")
    renamed = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
    counts = (100, 4128, 1649, 2465)
    sources = (
        Source(
            "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
            gives={"101_ObjectCategories": "101_ObjectCategories"},
            md5="3138e1922a9193bfa496528edbbc45d0",
            inner="caltech-101/101_ObjectCategories.tar.gz",
        ),
        coops(split_file, "1hyarUivQE36mY6jSomru6Fjd-JzwcCzN"),
    )
