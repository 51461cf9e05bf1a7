"""Food101 (Bossard et al., ECCV 2014): 101 dishes. CoOp's split is made from the class folders, not the official one.

food-101/
    images/<class>/*.jpg
    split_zhou_Food101.json
"""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import SplitDataset
from datasets.sources import Source, coops


@DATASET_REGISTRY.register()
class Food101(SplitDataset):
    template = "a photo of {}, a type of food."
    dataset_dir = "food-101"
    image_dir = "images"
    split_file = "split_zhou_Food101.json"
    counts = (101, 50500, 20200, 30300)
    sources = (
        Source(
            "https://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
            gives={name: f"food-101/{name}" for name in ("images", "meta", "README.txt", "license_agreement.txt")},
            md5="85eeb15f3717b99a5da872d97d918f87",
        ),
        coops(split_file, "1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl"),
    )
