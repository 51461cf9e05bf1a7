"""Splits into train, val and test: the published split_zhou_*.json format, and splits made of class folders.

The format: {"train": [[path, label, class name], ...], "val": ..., "test": ...}, with paths relative to the
images' folder and labels from 0.
"""

import math
import os
import random
from copy import copy
from operator import index

from torchvision.datasets.folder import is_image_file

from dassl.data.datasets import Datum
from dassl.utils import UserError, listdir_nohidden, read_json

PARTS = ("train", "val", "test")


def read_split(path, image_dir):
    """The train, val and test lists of Datum in a split file.

    Args:
        path: the file.
        image_dir: the folder that its paths start from.

    Raises:
        UserError: the file is missing or not in the format; it names a file outside of image_dir; a label has
            two class names or no training image; or labels do not run from 0 without gaps.
    """
    split = read_json(path)
    try:
        parts = [[(str(file), index(label), str(name)) for file, label, name in split[key]] for key in PARTS]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f'{path} is not a split {{"train": [[path, label, class name], ...], "val": ..., "test": ...}}: '
            "take the published file, or remove it to have a split made"
        ) from error
    _check_labels(parts, path)
    return [
        [Datum(path_inside(file, image_dir, path), label, classname=name) for file, label, name in part]
        for part in parts
    ]


def path_inside(file, image_dir, source):
    """The path of a file that a split names. Raises UserError where it leaves the folder."""
    normal = os.path.normpath(file)
    if os.path.isabs(normal) or normal.split(os.sep)[0] == os.pardir:
        raise UserError(f'{source} names "{file}", not within {image_dir}: refused; take the published file')
    return os.path.join(image_dir, normal)


def _check_labels(parts, source):
    names = {}
    for _, label, name in (entry for part in parts for entry in part):
        if names.setdefault(label, name) != name:
            raise UserError(f'{source} gives label {label} two class names, "{names[label]}" and "{name}"')
    trained = {label for _, label, _ in parts[0]}
    if not names or trained != set(range(len(names))):
        raise UserError(f"{source} needs training images of every label, from 0 without gaps")


def check_files(items, source):
    """Raises UserError where images are missing on disk; lists each folder once instead of asking for each.

    Args:
        items: a list of Datum.
        source: the split file that names them.
    """
    listings, missing = {}, []
    for item in items:
        folder, name = os.path.split(item.impath)
        if folder not in listings:
            listings[folder] = _names(folder)
        if name not in listings[folder]:
            missing.append(item.impath)
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(items)} images in {source} are missing, the first one {missing[0]}: "
            "unpack the dataset again"
        )


def _names(folder):
    try:
        return set(os.listdir(folder))
    except (OSError, ValueError):  # ValueError: no path at all
        return set()


def split_class_folders(image_dir, ignored=(), renamed=None):
    """Of every class folder, about 50% of the images for training, 20% for validation, the rest for testing.

    Labels follow the folders' names in order. The same images are always split the same way.

    Args:
        image_dir: the folder that holds the class folders.
        ignored: names of folders to leave out.
        renamed: folder -> class name; the others are named as their folder.

    Returns:
        The split in the published format.

    Raises:
        UserError: there is no class folder, or one has no image.
    """
    folders = [
        name
        for name in listdir_nohidden(image_dir, sort=True)
        if name not in ignored and os.path.isdir(os.path.join(image_dir, name))
    ]
    if not folders:
        raise UserError(f"no class folder in {image_dir}: unpack the dataset again")
    rng = random.Random(0)
    split = {part: [] for part in PARTS}
    for label, folder in enumerate(folders):
        path = os.path.join(image_dir, folder)
        files = [name for name in listdir_nohidden(path, sort=True) if is_image_file(name)]
        if not files:
            raise UserError(f"no image in {path}: remove the folder, or add its images")
        rng.shuffle(files)
        classname = (renamed or {}).get(folder, folder)
        entries = [[f"{folder}/{name}", label, classname] for name in files]
        train = max(1, round(0.5 * len(entries)))
        val = train + round(0.2 * len(entries))
        split["train"] += entries[:train]
        split["val"] += entries[train:val]
        split["test"] += entries[val:]
    return split


def subsample_classes(*data_sources, subsample="all"):
    """Keep the base or the new classes of lists of Datum, relabelled from 0 in order.

    Args:
        data_sources: lists of Datum; the first one's labels decide.
        subsample: "base" for the first half of the classes in the order of their labels, rounded up; "new"
            for the rest; "all" for the lists as they are.

    Raises:
        UserError: `subsample` is something else, or leaves no class.
    """
    if subsample == "all":
        return data_sources
    labels = sorted({item.label for item in data_sources[0]})
    half = math.ceil(len(labels) / 2)
    halves = {"base": labels[:half], "new": labels[half:]}
    if subsample not in halves:
        raise UserError(f'DATASET.SUBSAMPLE_CLASSES is "{subsample}": choose all, base or new')
    if not halves[subsample]:
        raise UserError(f"the only class is not {subsample}: set DATASET.SUBSAMPLE_CLASSES to all")
    new_labels = {label: i for i, label in enumerate(halves[subsample])}
    return [
        [_relabeled(item, new_labels[item.label]) for item in source if item.label in new_labels]
        for source in data_sources
    ]


def _relabeled(item, label):
    item = copy(item)
    item.label = label
    return item
