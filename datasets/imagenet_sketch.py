"""ImageNet-Sketch (Wang et al., NeurIPS 2019): drawings of ImageNet's classes. For testing alone.

imagenet-sketch/
    images/<wnid>/*.JPEG
    classnames.txt              or imagenet/classnames.txt: see datasets/imagenet.py
"""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.imagenet import ImageNetFolders
from datasets.sources import Source


@DATASET_REGISTRY.register()
class ImageNetSketch(ImageNetFolders):
    dataset_dir = "imagenet-sketch"
    image_dir = "images"
    counts = (1000, 0, 0, 50889)
    sources = (
        Source(
            path="ImageNet-Sketch.zip", gives={"images": "sketch"}, page="https://github.com/HaohanWang/ImageNet-Sketch"
        ),
    )
