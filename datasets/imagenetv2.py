"""ImageNetV2 (Recht et al., ICML 2019): new test images of ImageNet's classes. For testing alone.

imagenetv2/
    imagenetv2-matched-frequency-format-val/{0,1,...,999}/*.jpeg      numbers count the wnids in order
    classnames.txt              or imagenet/classnames.txt: see datasets/imagenet.py
"""

from collections.abc import Mapping

from dassl.data.datasets import DATASET_REGISTRY
from datasets.imagenet import ImageNetFolders
from datasets.sources import Source


@DATASET_REGISTRY.register()
class ImageNetV2(ImageNetFolders):
    dataset_dir = "imagenetv2"
    image_dir = "imagenetv2-matched-frequency-format-val"
    counts = (1000, 0, 0, 10000)
    sources = (
        Source(
            "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/imagenetv2-matched-frequency.tar.gz",
            gives={image_dir: image_dir},
        ),
    )

    def wnid(self, folder: str, names: Mapping[str, str]) -> str:
        wnids = list(names)
        return wnids[int(folder)] if folder.isdecimal() and int(folder) < len(wnids) else folder
