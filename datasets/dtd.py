"""DescribableTextures (Cimpoi et al., CVPR 2014): 47 textures.

dtd/
    images/<class>/*.jpg
    split_zhou_DescribableTextures.json
"""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import SplitDataset
from datasets.sources import Source, coops


@DATASET_REGISTRY.register()
class DescribableTextures(SplitDataset):
    template = "{} texture."
    dataset_dir = "dtd"
    image_dir = "images"
    split_file = "split_zhou_DescribableTextures.json"
    counts = (47, 2820, 1128, 1692)
    sources = (
        Source(
            "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
            gives={name: f"dtd/{name}" for name in ("images", "imdb", "labels")},
            md5="fff73e5086ae6bdbea199a49dfb8a4c1",
        ),
        coops(split_file, "1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x"),
    )
