"""Objects with two attributes (attribute-attribute-object), for testing alone, as Nayak et al. (ICLR 2023) test CSP.

MITStatesAAO is in MIT-States' folder, AAOFolder in one of the user's own. What lists the images there is either

<folder>/
    images/<image>
    193-annot.csv                           the annotations in CSP's release, of 193 images of MIT-States
    compositional-split-natural/            with them, to tell what is an attribute

or a list of this project's own, in which the attributes of a class always come in the same order:

<folder>/
    images/<image>
    aao.json                                [[image, attribute, attribute, object], ...]

The annotations are read by what stands in a line, whatever its columns are called: the image, whose folder
`attribute_object` gives the image's own attribute, which comes first, and the object; and the other attribute.
"""

import csv
import os
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import Any

from torchvision.datasets.folder import is_image_file
from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils import UserError, read_json
from datasets.compositional import SPLIT, WORDS, check_subsample, read_pairs, spelling_of, words
from datasets.split import PARTS, check_files, path_inside

Entry = tuple[str, str, str, str]
"""image, attribute, attribute, object"""


class AAODataset(DatasetBase):
    """A folder in one of the layouts above; its list says what the classes are.

    A reader names its folder in DATASET.ROOT, as the class attribute dataset_dir (on an instance, its path), and may
    name its template, as SplitDataset's do.

    Attributes:
        attributes, objects, spelling, dropped: as CompositionalDataset has them.
        pairs: (attribute, attribute, object) indices in the order of the labels.
        num_seen: 0.

    Raises:
        UserError: the list or an image is missing or damaged; or DATASET.SUBSAMPLE_CLASSES is set.
    """

    template = "a photo of {}."
    annotations, list_file = "193-annot.csv", "aao.json"
    num_seen = 0
    dropped: Sequence[str] = ()

    def __init__(self, cfg: CfgNode) -> None:
        check_subsample(cfg.DATASET, type(self).__name__)
        self.dataset_dir = os.path.join(os.path.abspath(os.path.expanduser(cfg.DATASET.ROOT)), self.dataset_dir)
        image_dir, path = (os.path.join(self.dataset_dir, name) for name in ("images", self.annotations))
        if os.path.isfile(path):
            entries = _read_annotations(path, image_dir, self._known_attributes())
        else:
            path = os.path.join(self.dataset_dir, self.list_file)
            entries = _read_list(path)
        if not entries:
            raise UserError(f"{path} names no image")
        named = [(file, tuple(map(words, triple))) for file, *triple in entries]
        triples = sorted({triple for _, triple in named})
        self.attributes = sorted({word for *attributes, _ in triples for word in attributes})
        self.objects = sorted({object_ for *_, object_ in triples})
        self.spelling = spelling_of(name for _, *names in entries for name in names)
        self.pairs = [(*map(self.attributes.index, pair), self.objects.index(object_)) for *pair, object_ in triples]
        label_of = {triple: label for label, triple in enumerate(triples)}
        test = [
            Datum(path_inside(file, image_dir, path), label_of[triple], classname=" ".join(triple))
            for file, triple in named
        ]
        check_files(test, path)
        super().__init__(test=test)

    def _known_attributes(self) -> set[str]:
        lists = (os.path.join(self.dataset_dir, SPLIT, f"{part}_pairs.txt") for part in PARTS)
        return {attribute for path in lists for attribute, _ in read_pairs(path)}

    def classes(self) -> dict[str, Any]:
        return super().classes() | {key: getattr(self, key) for key in WORDS}


def _read_list(path: str) -> list[Entry]:
    try:
        return [(str(image), *_names(a, b, o)) for image, a, b, o in read_json(path)]
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is not a list [[image, attribute, attribute, object], ...]") from error


def _names(*names: Any) -> tuple[str, str, str]:
    if not all(isinstance(name, str) for name in names):
        raise TypeError
    return names


def _read_annotations(path: str, image_dir: str, attributes: Collection[str]) -> list[Entry]:
    """The entries of CSP's annotations. Raises UserError, naming the line, where one cannot be understood."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = [[cell.strip() for cell in line] for line in csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    entries = []
    for number, cells in enumerate(lines, start=1):
        images = [cell for cell in cells if is_image_file(cell)]
        if not images and number == 1:
            continue  # the columns' names
        if not any(cells):
            continue
        pair = PurePosixPath(images[0]).parent.name.replace(" ", "_") if images else ""
        own = max((a for a in attributes if pair.startswith(f"{a}_")), key=len, default=None)
        others = {cell for cell in cells if cell in attributes} - {own}
        if own is None or len(others) != 1:
            raise UserError(
                f"{path}, line {number}, does not name an image in a folder attribute_object and one more of the "
                f"{len(attributes)} attributes in {SPLIT}"
            )
        object_ = pair.removeprefix(f"{own}_")
        # CSP's release has underscores in place of the blanks that MIT-States' folders come with
        folder = f"{own} {object_}" if os.path.isdir(os.path.join(image_dir, f"{own} {object_}")) else pair
        entries.append((f"{folder}/{PurePosixPath(images[0]).name}", own, others.pop(), object_))
    return entries


@DATASET_REGISTRY.register()
class MITStatesAAO(AAODataset):
    dataset_dir = "mit-states"


@DATASET_REGISTRY.register()
class AAOFolder(AAODataset):
    """A folder of the user's own: DATASET.ROOT itself."""

    dataset_dir = ""
    root_is_data = True
