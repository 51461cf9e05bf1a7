"""Folder: images of the user's own. DATASET.ROOT itself is one of these:

<root>/<class>/*.jpg                        split here: of every class 50% to train, 20% to val, the rest to test
<root>/{train,val,test}/<class>/*.jpg       without test, val is the test set; without val there is none
<root>/labels.csv, or <root> a CSV file     rows of path, class name[, train | val | test]; paths from the file's folder

Classes are in the order of their names.
"""

import csv
import os

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UserError
from datasets.base import SplitDataset
from datasets.split import PARTS, as_items, class_folders, split_class_folders, split_whole


@DATASET_REGISTRY.register()
class Folder(SplitDataset):
    root_is_data = True

    def read(self, options):
        root = os.path.abspath(os.path.expanduser(options.ROOT))
        table = root if os.path.isfile(root) else os.path.join(root, "labels.csv")
        if not options.ROOT or not os.path.exists(root):
            raise UserError(f'no folder "{options.ROOT}": give a folder of class folders, or a CSV file, as --root')
        self.dataset_dir = self.image_dir = os.path.dirname(table)
        self.split = table if os.path.isfile(table) else None
        return as_items(split_table(table) if self.split else split_folders(root), self.image_dir, self.split or root)


def split_folders(root):
    """The split of class folders, or of train, val and test folders of them."""
    folders = {part: os.path.join(root, part) for part in PARTS if os.path.isdir(os.path.join(root, part))}
    if "train" not in folders or len(folders) == 1:
        return split_class_folders(root)
    return _split(
        (f"{part}/{folder}/{file}", folder, part)
        for part, path in folders.items()
        for folder, files in class_folders(path).items()
        for file in files
    )


def split_table(path):
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
