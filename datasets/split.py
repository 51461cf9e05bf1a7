"""Splits into train, val and test: the published split_zhou_*.json format, and splits made where none exists.

The format: {"train": [[path, label, class name], ...], "val": ..., "test": ...}, with paths relative to the
images' folder and labels from 0.
"""

import math
import os
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from itertools import islice
from operator import index
from typing import Any

from torchvision.datasets.folder import is_image_file

from dassl.data.datasets import Datum
from dassl.utils import UserError, listdir_nohidden, read_json

PARTS = ("train", "val", "test")

Entry = Sequence[Any]
Split = dict[str, list[Entry]]
"""As the file has it; an entry is path, label, class name."""


def read_split(path: str, image_dir: str) -> list[list[Datum]]:
    """The train, val and test lists of Datum in a split file. Raises UserError as `as_items` does."""
    return as_items(read_json(path), image_dir, path)


def as_items(split: Mapping[str, Iterable[Entry]], image_dir: str, source: str) -> list[list[Datum]]:
    """The train, val and test lists of Datum of a split in the published format.

    Args:
        image_dir: the folder that its paths start from.
        source: the path of what names the images, for messages.

    Raises:
        UserError: it is not in the format; it names a file outside of image_dir; a label has two class names or no
            training image; or labels do not run from 0 without gaps.
    """
    try:
        parts = [[(str(file), index(label), str(name)) for file, label, name in split[key]] for key in PARTS]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f'{source} is not a split {{"train": [[path, label, class name], ...], "val": ..., "test": ...}}: '
            "take the published file, or remove it to have a split made"
        ) from error
    _check_labels(parts, source)
    return [
        [Datum(path_inside(file, image_dir, source), label, classname=name) for file, label, name in part]
        for part in parts
    ]


def path_inside(file: str, image_dir: str, source: str) -> str:
    """The path of a file that a split names. Raises UserError where it leaves the folder."""
    normal = os.path.normpath(file)
    if os.path.isabs(normal) or normal.split(os.sep)[0] == os.pardir:
        raise UserError(f'{source} names "{file}", which is outside {image_dir}: refused; take the published file')
    return os.path.join(image_dir, normal)


def _check_labels(parts: list[list[tuple[str, int, str]]], source: str) -> None:
    names: dict[int, str] = {}
    for _, label, name in (entry for part in parts for entry in part):
        if names.setdefault(label, name) != name:
            raise UserError(f'{source} gives label {label} two class names, "{names[label]}" and "{name}"')
    untrained = sorted(names.keys() - {label for _, label, _ in parts[0]})
    if untrained:
        raise UserError(f'{source} has no training image of class "{names[untrained[0]]}": every class needs one')
    if not names or names.keys() != set(range(len(names))):
        raise UserError(f"{source} needs training images, with labels from 0 without gaps")


def check_files(items: Sequence[Datum], source: str) -> None:
    """Raises UserError where images are missing on disk.

    Args:
        source: the split file that names them.
    """
    missing = missing_files(items)
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(items)} images in {source} are missing, the first one {missing[0]}: "
            "unpack the dataset again"
        )


def missing_files(items: Iterable[Datum]) -> list[str]:
    """The paths in a list of Datum that are not on disk; lists each folder once instead of asking for each."""
    listings: dict[str, set[str]] = {}
    missing = []
    for item in items:
        folder, name = os.path.split(item.impath)
        if folder not in listings:
            listings[folder] = _names(folder)
        if name not in listings[folder]:
            missing.append(item.impath)
    return missing


def _names(folder):
    try:
        return set(os.listdir(folder))
    except (OSError, ValueError):  # ValueError: no path at all
        return set()


def class_folders(path: str, ignored: Collection[str] = ()) -> dict[str, list[str]]:
    """{class folder: its image files} of a folder, names in order. Nothing is asked of a file but its name.

    Args:
        path: the folder that holds the class folders.
        ignored: names of folders to leave out.

    Raises:
        UserError: there is no class folder, or one has no image.
    """
    folders = {}
    for name in listdir_nohidden(path, sort=True):
        folder = os.path.join(path, name)
        if name not in ignored and os.path.isdir(folder):
            folders[name] = [file for file in listdir_nohidden(folder, sort=True) if is_image_file(file)]
            if not folders[name]:
                raise UserError(f"no image in {folder}: remove the folder, or add its images")
    if not folders:
        raise UserError(f"no class folder in {path}: unpack the dataset again")
    return folders


def split_class_folders(
    image_dir: str, ignored: Collection[str] = (), renamed: Mapping[str, str] | None = None
) -> Split:
    """A split of class folders (see `split_whole`), labels in the order of the folders' names.

    Args:
        image_dir, ignored: as `class_folders` takes them.
        renamed: folder -> class name; the others are named as their folder.
    """
    folders = class_folders(image_dir, ignored)
    return split_whole(
        [f"{folder}/{file}", label, (renamed or {}).get(folder, folder)]
        for label, (folder, files) in enumerate(folders.items())
        for file in files
    )


def split_whole(entries: Iterable[Entry]) -> Split:
    """A split of [path, label, class name] entries: of every class 50% to train, 20% to val, the rest to test."""
    return dict(zip(PARTS, _divide(entries, 0.5, 0.2), strict=True))


def split_training(trainval: Iterable[Entry], test: Iterable[Entry]) -> Split:
    """A split of entries of which the test ones are given: of the others, of every class 80% to train, 20% to val."""
    return dict(zip(PARTS, (*_divide(trainval, 0.8), list(test)), strict=True))


def _divide(entries: Iterable[Entry], *shares: float) -> list[list[Entry]]:
    """Divide the entries of every class, shuffled, into parts of these shares and a last one of what is left.

    The first part has an entry of every class. The same entries are always divided the same way.
    """
    rng = random.Random(0)
    by_class: dict[int, list[Entry]] = {}
    for entry in entries:
        by_class.setdefault(entry[1], []).append(entry)
    parts: list[list[Entry]] = [[] for _ in range(len(shares) + 1)]
    first, *others = parts
    for items in by_class.values():
        rng.shuffle(items)
        sizes = [round(share * len(items)) for share in shares]
        rest = iter(items)
        first += islice(rest, max(1, sizes[0]))
        for part, size in zip(others, [*sizes[1:], None], strict=True):
            part += islice(rest, size)
    return parts


def subsample_classes(*data_sources: list[Datum], subsample: str = "all") -> Sequence[list[Datum]]:
    """Keep the base or the new classes of lists of Datum, relabelled from 0 in order.

    Args:
        data_sources: the labels of the first that is not empty decide.
        subsample: "base" for the first half of the classes in the order of their labels, rounded up; "new"
            for the rest; "all" for the lists as they are.

    Raises:
        UserError: `subsample` is something else, or leaves no class.
    """
    if subsample == "all":
        return data_sources
    labels = sorted({item.label for item in next(filter(None, data_sources))})
    half = math.ceil(len(labels) / 2)
    halves = {"base": labels[:half], "new": labels[half:]}
    if subsample not in halves:
        raise UserError(f'DATASET.SUBSAMPLE_CLASSES is "{subsample}": choose all, base or new')
    if not halves[subsample]:
        raise UserError(f"there is only one class, which is not {subsample}: set DATASET.SUBSAMPLE_CLASSES to all")
    new_labels = {label: i for i, label in enumerate(halves[subsample])}
    return [
        [_relabeled(item, new_labels[item.label]) for item in source if item.label in new_labels]
        for source in data_sources
    ]


def _relabeled(item, label):
    item = copy(item)
    item.label = label
    return item
