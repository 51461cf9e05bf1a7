"""What all readers share: from a dataset's folder and a run's config to its train, val and test lists.

Nothing is written under DATASET.ROOT. The few-shot sets are those of CoOp's release for the same seed.
"""

import hashlib
import json
import logging
import os
import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from yacs.config import CfgNode

from dassl.data.datasets import DatasetBase, Datum
from dassl.utils import UserError, cache_dir, write_json
from datasets.sources import Source
from datasets.split import Split, as_items, check_files, read_split, split_class_folders, subsample_classes
from mocoop import typed

logger = logging.getLogger("dassl.datasets")


class SplitDataset(DatasetBase):
    """A folder of images with a published split; where the split's file is missing, one is made and kept.

    A reader names its places, as class attributes:
        dataset_dir: the dataset's folder in DATASET.ROOT. On an instance, its path.
        image_dir: the folder in there that the split's paths start from. On an instance, its path.
        split_file: the published split, in dataset_dir; "" where the dataset has a split of its own.
        ignored: class folders left out of a split made here.
        renamed: class folder -> class name, where they differ.
        counts: numbers of classes and of train, val and test images, as published; None where there are none.
        template: zero-shot CLIP's prompt for a class, whose name takes the place of {}.
        sources: where its files can be downloaded (see datasets.sources), for `python -m datasets prepare`.

    Attributes:
        all_classnames: every class name in the order of the labels, before DATASET.SUBSAMPLE_CLASSES.
        split: the path of what named the images; None where they were listed on the disk.

    Raises:
        UserError: the folder, an image or a valid split is missing, or DATASET.SUBSAMPLE_CLASSES is unknown.
    """

    image_dir = ""
    split_file = ""
    template = "a photo of a {}."
    ignored: Collection[str] = ()
    renamed: Mapping[str, str] = {}
    counts: tuple[int, int, int, int] | None = None
    sources: tuple[Source, ...] = ()
    split: str | None = None

    def __init__(self, cfg: CfgNode) -> None:
        options = cfg.DATASET
        train, val, test = self.read(options)
        if self.split:
            check_files([*train, *val, *test], self.split)
        if options.NUM_SHOTS >= 1:
            # A generator of its own: what others draw, before or after, makes no difference.
            rng = random.Random(cfg.SEED) if cfg.SEED >= 0 else random
            train = self.generate_fewshot_dataset(train, num_shots=options.NUM_SHOTS, rng=rng)
            val = self.generate_fewshot_dataset(val, num_shots=min(options.NUM_SHOTS, 4), rng=rng)
        self.all_classnames = self.get_lab2cname(train or test)[1]
        train, val, test = subsample_classes(train, val, test, subsample=options.SUBSAMPLE_CLASSES)
        super().__init__(train_x=train, val=val, test=test)

    def classes(self) -> dict[str, Any]:
        return super().classes() | {"all_classnames": self.all_classnames}

    def read(self, options: CfgNode) -> Sequence[list[Datum]]:
        """The whole train, val and test lists, whether their files are there or not; options: cfg.DATASET."""
        self.locate(options)
        self.split = os.path.join(self.dataset_dir, self.split_file)
        if not self.split_file:
            return as_items(self._made_split(), self.image_dir, self.dataset_dir)
        if not os.path.isfile(self.split):
            self.split = str(self._keep_split(published=self.split))
        return read_split(self.split, self.image_dir)

    def locate(self, options: CfgNode) -> None:
        """Make paths of dataset_dir and image_dir. Raises UserError where there is no such folder."""
        wanted = f"{self.dataset_dir}/{{{', '.join(filter(None, (self.image_dir, self.split_file)))}}}"
        self.dataset_dir = os.path.join(os.path.abspath(os.path.expanduser(options.ROOT)), self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, self.image_dir)
        if not os.path.isdir(self.image_dir):
            raise UserError(
                f"no folder {self.image_dir}: {type(self).__name__} needs {wanted} in DATASET.ROOT (--root)"
                + (f"; {typed('datasets prepare')} {config_name(type(self))} gets it" if self.sources else "")
            )

    def make_split(self) -> Split:
        """The split that the dataset comes with, or one for want of the published one; in the published format.

        By default it is made of the class folders.
        """
        return split_class_folders(self.image_dir, self.ignored, self.renamed)

    def lines(self, file: str) -> list[str]:
        """The lines of a text file in dataset_dir, without empty ones. Raises UserError if it cannot be read."""
        try:
            with open(os.path.join(self.dataset_dir, file), encoding="utf-8") as text:
                return [line.strip() for line in text if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise self._unreadable(file, error) from error

    def mat(self, file: str) -> dict[str, Any]:
        """The variables of a MATLAB file in dataset_dir, squeezed. Raises UserError if it cannot be read."""
        from scipy.io import loadmat  # slow to import, and only a missing split needs it

        try:
            return loadmat(os.path.join(self.dataset_dir, file), squeeze_me=True)
        except Exception as error:  # scipy raises almost anything on a damaged file
            raise self._unreadable(file, error) from error

    def _unreadable(self, file, error):
        instead = f", or the published {self.split_file}" if self.split_file else ""
        reason = getattr(error, "strerror", None) or error
        return UserError(
            f"cannot read {os.path.join(self.dataset_dir, file)} ({reason}): {type(self).__name__} needs it{instead}"
        )

    def _made_split(self):
        try:
            return self.make_split()
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"the lists in {self.dataset_dir} are not those that {type(self).__name__} comes with "
                f"({type(error).__name__}: {error}): unpack the dataset again"
            ) from error

    def _keep_split(self, published):
        """The path of the split made of the images on disk: made once, then found again in the cache."""
        split = self._made_split()
        listing = sorted(entry for entries in split.values() for entry in entries)
        digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]
        path = cache_dir("splits") / f"{type(self).__name__}-{digest}.json"
        if not path.exists():
            write_json(split, path)
        logger.info("No published split at %s; using the one made here, %s", published, path)
        return path


def config_name(reader: type) -> str:
    """The name of a reader's config file: that of its module."""
    return reader.__module__.rpartition(".")[2]
