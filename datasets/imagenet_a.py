"""ImageNet-A (Hendrycks et al., CVPR 2021): photos that mislead networks, of 200 classes. For testing alone.

imagenet-adversarial/
    imagenet-a/<wnid>/*.jpg
    classnames.txt              or imagenet/classnames.txt: see datasets/imagenet.py

Its classes are those 200 of ImageNet's, so a model has to tell apart these and no others.
"""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.imagenet import ImageNetFolders
from datasets.sources import Source


@DATASET_REGISTRY.register()
class ImageNetA(ImageNetFolders):
    dataset_dir = "imagenet-adversarial"
    image_dir = "imagenet-a"
    counts = (200, 0, 0, 7500)
    sources = (
        Source("https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar", gives={"imagenet-a": "imagenet-a"}),
    )
