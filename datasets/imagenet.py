"""ImageNet (Deng et al., CVPR 2009): 1,000 classes. Its validation images are the test set; there is no val.

imagenet/
    images/{train,val}/<wnid>/*.JPEG
    classnames.txt              a line each: wnid, class name

Without classnames.txt the class names are those that the open_clip package has. Labels follow the wnids in order, here
as in the data sets that test what was learned on ImageNet.
"""

import os
from collections.abc import Mapping, Sequence

from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils import UserError
from datasets.base import SplitDataset
from datasets.sources import Source, coops
from datasets.split import class_folders
from mocoop import typed

PAGE = "https://image-net.org/download-images.php"


def _unpack_train(archive, folder):
    from torchvision.datasets.imagenet import parse_train_archive

    parse_train_archive(os.path.dirname(archive), folder=folder)


def _unpack_val(archive, folder):
    from torchvision.datasets.imagenet import META_FILE, parse_devkit_archive, parse_val_archive

    images = os.path.dirname(archive)
    parse_devkit_archive(images)
    parse_val_archive(images, folder=folder)
    os.remove(os.path.join(images, META_FILE))


class ImageNetFolders(SplitDataset):
    """Folders named after wnids; class names from classnames.txt, ImageNet's where the dataset has none."""

    def read(self, options: CfgNode) -> Sequence[list[Datum]]:
        """All images are for testing."""
        self.locate(options)
        return [], [], self.items(self.image_dir, self.classnames_by_wnid())

    def classnames_by_wnid(self) -> dict[str, str]:
        """{wnid: class name}, wnids in order. Raises UserError where no list is available."""
        path = next(filter(os.path.isfile, self._lists()), None)
        if path is None:
            return _open_clips(self._lists()[-1])
        return dict(sorted(line.partition(" ")[::2] for line in self.lines(path)))

    def _lists(self):
        folders = dict.fromkeys((self.dataset_dir, os.path.join(os.path.dirname(self.dataset_dir), "imagenet")))
        return [os.path.join(folder, "classnames.txt") for folder in folders]

    def wnid(self, folder: str, names: Mapping[str, str]) -> str:
        """The wnid that a class folder stands for."""
        return folder

    def items(self, path: str, names: Mapping[str, str]) -> list[Datum]:
        """Those of class folders, labels in the order of their wnids."""
        folders = class_folders(path)
        by_wnid = {self.wnid(folder, names): folder for folder in folders}
        unnamed = sorted(by_wnid.keys() - names.keys())
        if unnamed:
            raise UserError(f"{path}/{by_wnid[unnamed[0]]} is not one of the {len(names)} classes that have names")
        return [
            Datum(f"{path}/{folder}/{file}", label, classname=names[wnid])
            for label, (wnid, folder) in enumerate(sorted(by_wnid.items()))
            for file in folders[folder]
        ]


def _open_clips(path):
    try:
        from open_clip import IMAGENET_CLASSNAMES
        from timm.data import ImageNetInfo  # the wnids in order; open_clip brings timm along
    except ImportError as error:
        raise UserError(
            f"no class names at {path}: put CoOp's classnames.txt there ({typed('datasets prepare')} imagenet), or "
            "pip install open_clip_torch, which has a list"
        ) from error
    return dict(zip(ImageNetInfo().label_names(), IMAGENET_CLASSNAMES, strict=True))


@DATASET_REGISTRY.register()
class ImageNet(ImageNetFolders):
    dataset_dir = "imagenet"
    image_dir = "images"
    counts = (1000, 1281167, 0, 50000)
    sources = (
        Source(path="images/ILSVRC2012_img_train.tar", gives={"images/train": ""}, page=PAGE, unpack=_unpack_train),
        Source(
            path="images/ILSVRC2012_img_val.tar",
            gives={"images/val": ""},
            page=f"{PAGE}, and ILSVRC2012_devkit_t12.tar.gz beside it",
            unpack=_unpack_val,
        ),
        coops("classnames.txt", "1-61f_ol79pViBFDG_IDlUQSwoLcn2XXF"),
    )

    def read(self, options: CfgNode) -> Sequence[list[Datum]]:
        self.locate(options)
        names = self.classnames_by_wnid()
        train, test = (self.items(f"{self.image_dir}/{part}", names) for part in ("train", "val"))
        classes = ({item.label: item.classname for item in part} for part in (train, test))
        if next(classes) != next(classes):
            raise UserError(f"{self.image_dir}/train and val do not have the same class folders: unpack them again")
        return train, [], test
