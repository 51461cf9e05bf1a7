"""Folder: images of the user's own. DATASET.ROOT itself is one of these:

<root>/<class>/*.jpg                        split here: of every class 50% to train, 20% to val, the rest to test
<root>/{train,val,test}/<class>/*.jpg       without test, val is the test set; without val there is none
<root>/labels.csv, or <root> a CSV file     rows of path, class name[, train | val | test]; paths from the file's folder

Classes are in the order of their names.
"""

import csv
import os
from collections.abc import Sequence

from torchvision.datasets.folder import is_image_file
from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils import UserError, listdir_nohidden
from datasets.base import SplitDataset
from datasets.split import PARTS, Split, as_items, class_folders, split_class_folders, split_whole


@DATASET_REGISTRY.register()
class Folder(SplitDataset):
    root_is_data = True

    def read(self, options: CfgNode) -> Sequence[list[Datum]]:
        self.locate(options)
        split = split_table(self.split) if self.split else split_folders(self.image_dir)
        return as_items(split, self.image_dir, self.split or self.image_dir)

    def locate(self, options: CfgNode) -> None:
        root = os.path.abspath(os.path.expanduser(options.ROOT))
        table = root if os.path.isfile(root) else os.path.join(root, "labels.csv")
        if not options.ROOT or not os.path.exists(root):
            raise UserError(f'no folder "{options.ROOT}": give a folder of class folders, or a CSV file, as --root')
        self.dataset_dir = self.image_dir = os.path.dirname(table)
        self.split = table if os.path.isfile(table) else None
        if not self.split:
            check_folders(root)


def check_folders(path: str) -> None:
    """Raises UserError where a folder holds no class folder, and says what it holds instead."""
    names = listdir_nohidden(path)
    if any(os.path.isdir(os.path.join(path, name)) for name in names):
        return
    images = sum(map(is_image_file, names))
    tables = [name for name in names if name.lower().endswith(".csv")]
    held = f"{images} image{'s' * (images != 1)} and no folder" if images else "no image and no folder"
    hint = f" (is {tables[0]} one? Then give its path)" if tables else ""
    raise UserError(
        f"{path} holds {held}: give, as --root, a folder of class folders (dog/1.jpg), a folder with train, val and "
        f"test folders of them (train/dog/1.jpg), or a CSV file of path,label[,train|val|test]{hint}"
    )


def split_folders(root: str) -> Split:
    """The split of class folders, or of train, val and test folders of them."""
    folders = {part: os.path.join(root, part) for part in PARTS if os.path.isdir(os.path.join(root, part))}
    if "train" not in folders or len(folders) == 1:
        return split_class_folders(root)
    return _split(
        (f"{part}/{folder}/{file}", folder, part)
        for part, path in folders.items()
        for folder, files in _class_folders(path).items()
        for file in files
    )


def _class_folders(path):
    check_folders(path)
    return class_folders(path)


def split_table(path: str) -> Split:
    """The split in a CSV file; one is made where it has no third column. Raises UserError, naming a line amiss."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path} ({error}): it must be a CSV file in UTF-8") from error
    if rows and [cell.strip().lower() for cell in rows[0][1][:2]] == ["path", "label"]:
        rows = rows[1:]
    entries = []
    for number, row in rows:
        entry = [cell.strip() for cell in row]
        like_the_others = len(entry) == len(rows[0][1])
        if not (like_the_others and all(entry) and (len(entry) == 2 or len(entry) == 3 and entry[2] in PARTS)):
            raise UserError(f'{path}, line {number}: "{",".join(row)}" is not path,label or path,label,train|val|test')
        entries.append(entry)
    if not entries:
        raise UserError(f"{path} has no row path,label or path,label,train|val|test")
    return _split(entries)


def _split(entries):
    """The split, in the published format, of (path, class name[, part]) entries."""
    entries = list(entries)
    label_of = {name: label for label, name in enumerate(sorted({name for _, name, *_ in entries}))}
    labelled = [([path, label_of[name], name], part) for path, name, *part in entries]
    if not any(part for _, part in labelled):
        return split_whole(entry for entry, _ in labelled)
    split = {part: [entry for entry, own in labelled if own == [part]] for part in PARTS}
    return split if split["test"] else split | {"val": [], "test": split["val"]}
