"""python -m datasets check: what is present of a data set, and what is missing, unreadable or not as published."""

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from dassl.errors import printable
from dassl.utils import UserError
from dassl.utils.images import as_rgb, open_image
from datasets.split import missing_files
from datasets.tools import Tool, config_names, find, read

SHOWN = 10
"""Problems of a kind that are listed one by one."""

CHUNK = 4096
"""Images queued at a time: the pool would otherwise take in all of ImageNet's million at once."""


class Check(Tool):
    """Report what is present of a data set, and what is missing, unreadable or not as published.

    Without NAME, it checks all data sets that have a folder in the root. The exit status is 1 when something is off.
    """

    examples = ("caltech101 --root data --quick",)
    name_needed = False

    def add_arguments(self, add: Any) -> None:
        super().add_arguments(add)
        add("--quick", action="store_true", help="do not open the images")

    def run(self, args: argparse.Namespace) -> int:
        names = [args.name] if args.name else present(args.root)
        return int(not all([check(name, args.root, args.quick, per_class=bool(args.name)) for name in names]))


def present(root: str) -> list[str]:
    """The names of the data sets that have a folder in the root."""
    readers = {name: find(name, root)[0] for name in config_names()}
    folders = {name: reader.dataset_dir for name, reader in readers.items()}
    # the list_file of those that share another one's folder tells whether they are there
    paths = {name: os.path.join(folder, getattr(readers[name], "list_file", "")) for name, folder in folders.items()}
    home = os.path.expanduser(root)
    names = [name for name, path in paths.items() if folders[name] and os.path.exists(os.path.join(home, path))]
    if not names:
        raise UserError(f"no data set in {root}: their folders would be {', '.join(filter(None, folders.values()))}")
    return names


def check(name: str, root: str, quick: bool = False, per_class: bool = False) -> bool:
    """Print what is present; return whether all is well.

    Args:
        name, root: the data set and DATASET.ROOT.
        quick: look for the images' files without opening them.
        per_class: print the counts of every class too.
    """
    reader, cfg = find(name, root)
    try:
        dataset, parts = read(reader, cfg)
    except UserError as error:
        print(f"{name}: {error}\n")
        return False
    split_file, counts = (getattr(reader, key, None) for key in ("split_file", "counts"))
    as_published = not split_file or dataset.split == os.path.join(dataset.dataset_dir, split_file)
    print(f"{name}: {cfg.DATASET.NAME} in {dataset.dataset_dir}")
    if split_file:
        print(f"{split_file} {'is there' if as_published else f'is not there; made here: {dataset.split}'}")

    if per_class:
        images = {part: Counter(item.label for item in items) for part, items in parts.items()}
        classes = sorted({(item.label, item.classname) for items in parts.values() for item in items})
        rows = [[label, printable(classname), *(images[part][label] for part in parts)] for label, classname in classes]
        print("", tabulate(rows, ["label", "class", *parts], disable_numparse=[1]), sep="\n")

    missing = {part: missing_files(items) for part, items in parts.items()}
    unreadable: dict[str, dict[str, str]] = {part: {} for part in parts}
    if not quick:
        for part, items in parts.items():
            unreadable[part] = find_unreadable(sorted({item.impath for item in items} - set(missing[part])))
    n_classes, *published = counts or [""] * 4
    rows = [
        [part, len({item.label for item in items}), len(items), wanted, len(missing[part]), len(unreadable[part])]
        for (part, items), wanted in zip(parts.items(), published, strict=True)
    ]
    print("", tabulate(rows, ["split", "classes", "images", "published", "missing", "unreadable"]), "", sep="\n")

    problems = [
        *_first(f"missing: {path}" for paths in missing.values() for path in paths),
        *_first(f"unreadable: {path} ({why})" for found in unreadable.values() for path, why in found.items()),
    ]
    if counts:
        found = {part: (classes, images) for part, classes, images, *_ in rows}
        problems += _differences(found, n_classes, dict(zip(parts, published, strict=True)), as_published)
    print(*map(printable, problems or [f"{name}: all is well"]), "", sep="\n")
    return not problems


def find_unreadable(paths: Sequence[str]) -> dict[str, str]:
    """{path: why} of the image files that cannot be decoded to their end."""
    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        chunks = (paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK))
        whys = (why for chunk in chunks for why in pool.map(_why_unreadable, chunk))
        bar = tqdm(whys, total=len(paths), unit=" images", disable=None, leave=False)
        return {path: why for path, why in zip(paths, bar, strict=True) if why}


def _why_unreadable(path):
    try:
        with open_image(path) as image:
            image.draft("RGB", (1, 1))  # reads all of a JPEG, but computes few of its pixels
            as_rgb(image)
    except UserError as error:
        return getattr(error, "reason", str(error))
    return None


def _first(problems):
    """The first of them, and how many more there are."""
    problems = list(problems)
    more = len(problems) - SHOWN
    return problems if more <= 0 else [*problems[:SHOWN], f"... and {more} more {problems[0].partition(':')[0]}"]


def _differences(found, n_classes, published, as_published):
    """What differs from the published numbers; a split that was made here need only have as many images in all.

    Args:
        found: {part: (classes, images)}. n_classes: as published. published: {part: images}.
        as_published: whether the split is the published one.
    """
    classes = max(n for n, _ in found.values())
    differing = [f"{classes} classes: {n_classes} were published"] if classes != n_classes else []
    if as_published:
        pairs = [(part, images, published[part]) for part, (_, images) in found.items()]
    else:
        pairs = [("in all", sum(images for _, images in found.values()), sum(published.values()))]
    return differing + [f"{part}: {n} images, {wanted} were published" for part, n, wanted in pairs if n != wanted]
