"""OxfordFlowers, also Flowers102 (Nilsback and Zisserman, 2008): 102 kinds of flowers.

oxford_flowers/
    jpg/image_*.jpg
    imagelabels.mat             the classes, from 1, of the images in order
    cat_to_name.json            class -> class name
    split_zhou_OxfordFlowers.json
"""

import os

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import read_json
from datasets.base import SplitDataset
from datasets.sources import Source, coops
from datasets.split import Split, split_whole

URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"


@DATASET_REGISTRY.register()
class OxfordFlowers(SplitDataset):
    template = "a photo of a {}, a type of flower."
    dataset_dir = "oxford_flowers"
    image_dir = "jpg"
    split_file = "split_zhou_OxfordFlowers.json"
    counts = (102, 4093, 1633, 2463)
    sources = (
        Source(f"{URL}/102flowers.tgz", gives={"jpg": "jpg"}, md5="52808999861908f626f3c1f4e79d11fa"),
        Source(f"{URL}/imagelabels.mat", md5="e0620be6f572b9609742df49c70aed4d"),
        coops("cat_to_name.json", "1AkcxCXeK_RCGCEC_GvmWxjcjaNhu-at0"),
        coops(split_file, "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT"),
    )

    def make_split(self) -> Split:
        names = read_json(os.path.join(self.dataset_dir, "cat_to_name.json"))
        numbers = map(int, self.mat("imagelabels.mat")["labels"])
        return split_whole(
            [f"image_{i:05}.jpg", number - 1, names[str(number)]] for i, number in enumerate(numbers, start=1)
        )
