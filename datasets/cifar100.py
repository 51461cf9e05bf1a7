"""CIFAR-100 (Krizhevsky, 2009): 100 classes of 32 x 32 pixels, in torchvision's layout. A fifth of train is val.

cifar-100-python/{train, test, meta}

The images lie unpacked in the cache folder, since an image here is a file.
"""

from itertools import count
from pathlib import Path

from PIL import Image
from torchvision.datasets import CIFAR100 as Published
from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UserError, atomic_folder, cache_dir
from dassl.utils.locks import hold
from datasets.base import SplitDataset
from datasets.sources import Source
from datasets.split import Split, class_folders, split_training
from mocoop import typed


@DATASET_REGISTRY.register()
class CIFAR100(SplitDataset):
    dataset_dir = "cifar-100-python"
    counts = (100, 40000, 10000, 10000)
    sources = (
        Source(
            Published.url,
            gives={name: f"cifar-100-python/{name}" for name in ("train", "test", "meta")},
            md5=Published.tgz_md5,
        ),
    )

    def locate(self, options: CfgNode) -> None:
        super().locate(options)
        self.image_dir = str(unpacked(self.dataset_dir))

    def make_split(self) -> Split:
        return split_training(*(self._entries(part) for part in ("train", "test")))

    def _entries(self, part):
        for label, (name, files) in enumerate(class_folders(f"{self.image_dir}/{part}").items()):
            yield from ([f"{part}/{name}/{file}", label, name] for file in files)


def unpacked(path: str | Path) -> Path:
    """The folder {train,test}/<class>/*.png in the cache, made of the published files at a path."""
    folder = cache_dir() / f"cifar-100-{Published.train_list[0][1][:12]}"
    hold(folder)
    if not folder.is_dir():
        try:
            parts = {part: Published(Path(path).parent, train=part == "train") for part in ("train", "test")}
        except RuntimeError as error:  # a checksum differs: nothing was unpickled
            raise UserError(f"{path} is not the published CIFAR-100: {typed('datasets prepare')} cifar100") from error
        with atomic_folder(folder) as temporary:
            for part, images in parts.items():
                numbers = [count() for _ in images.classes]
                for name in images.classes:
                    (temporary / part / name).mkdir(parents=True)
                for pixels, label in zip(images.data, images.targets, strict=True):
                    file = temporary / part / images.classes[label] / f"{next(numbers[label]):05}.png"
                    Image.fromarray(pixels).save(file, compress_level=1)
        hold(folder)
    return folder
