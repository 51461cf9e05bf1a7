"""What all readers share: from a dataset's folder and a run's config to its train, val and test lists.

Nothing is written under DATASET.ROOT. The few-shot sets are those of CoOp's release for the same seed.
"""

import hashlib
import json
import logging
import os
import random

from dassl.data.datasets import DatasetBase
from dassl.utils import UserError, cache_dir, write_json
from datasets.split import check_files, read_split, split_class_folders, subsample_classes

logger = logging.getLogger("dassl.datasets")


class SplitDataset(DatasetBase):
    """A folder of images with a published split; where the split's file is missing, one is made and kept.

    A reader names its places, as class attributes:
        dataset_dir: the dataset's folder in DATASET.ROOT. On an instance, its path.
        image_dir: the folder in there that the split's paths start from. On an instance, its path.
        split_file: the published split, in dataset_dir.
        ignored: class folders left out of a split made here.
        renamed: class folder -> class name, where they differ.

    Attributes:
        all_classnames: every class name in the order of the labels, before DATASET.SUBSAMPLE_CLASSES.

    Raises:
        UserError: the folder, an image or a valid split is missing, or DATASET.SUBSAMPLE_CLASSES is unknown.
    """

    image_dir = ""
    split_file = ""
    ignored = ()
    renamed = {}

    def __init__(self, cfg):
        options = cfg.DATASET
        train, val, test = self.read(options)
        if options.NUM_SHOTS >= 1:
            # A generator of its own: what others draw, before or after, makes no difference.
            rng = random.Random(cfg.SEED) if cfg.SEED >= 0 else random
            train = self.generate_fewshot_dataset(train, num_shots=options.NUM_SHOTS, rng=rng)
            val = self.generate_fewshot_dataset(val, num_shots=min(options.NUM_SHOTS, 4), rng=rng)
        self.all_classnames = self.get_lab2cname(train)[1]
        train, val, test = subsample_classes(train, val, test, subsample=options.SUBSAMPLE_CLASSES)
        super().__init__(train_x=train, val=val, test=test)

    def classes(self):
        return super().classes() | {"all_classnames": self.all_classnames}

    def read(self, options):
        """The whole train, val and test lists of Datum; options is cfg.DATASET."""
        name = type(self).__name__
        layout = f"{self.dataset_dir}/{{{self.image_dir}/<class>/<image>, {self.split_file}}}"
        self.dataset_dir = os.path.join(os.path.abspath(os.path.expanduser(options.ROOT)), self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, self.image_dir)
        if not os.path.isdir(self.image_dir):
            raise UserError(f"no folder {self.image_dir}: {name} needs {layout} in DATASET.ROOT (--root)")

        path = os.path.join(self.dataset_dir, self.split_file)
        if not os.path.isfile(path):
            path = self._keep_split(name, published=path)
        parts = read_split(path, self.image_dir)
        check_files([item for part in parts for item in part], path)
        return parts

    def make_split(self):
        """A split for want of the published one, in its format; by default, made of the class folders."""
        return split_class_folders(self.image_dir, self.ignored, self.renamed)

    def _keep_split(self, name, published):
        """The path of the split made of the images on disk: made once, then found again in the cache."""
        split = self.make_split()
        listing = sorted(entry for entries in split.values() for entry in entries)
        digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]
        path = cache_dir("splits") / f"{name}-{digest}.json"
        if not path.exists():
            write_json(split, path)
        logger.info("No published split at %s; using the one made here, %s", published, path)
        return path
