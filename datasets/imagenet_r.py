"""ImageNet-R (Hendrycks et al., ICCV 2021): renditions, from paintings to toys, of 200 classes. For testing alone.

imagenet-rendition/
    imagenet-r/<wnid>/*.jpg
    classnames.txt              or imagenet/classnames.txt: see datasets/imagenet.py

Its classes are those 200 of ImageNet's, so a model has to tell apart these and no others.
"""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.imagenet import ImageNetFolders
from datasets.sources import Source


@DATASET_REGISTRY.register()
class ImageNetR(ImageNetFolders):
    dataset_dir = "imagenet-rendition"
    image_dir = "imagenet-r"
    counts = (200, 0, 0, 30000)
    sources = (
        Source("https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar", gives={"imagenet-r": "imagenet-r"}),
    )
