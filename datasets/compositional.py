"""Pairs of an attribute and an object, some of them never seen in training (Purushwalkam et al., ICCV 2019).

MIT-States (Isola et al., CVPR 2015), UT-Zappos (Yu and Grauman, CVPR 2014), C-GQA (Naeem et al., CVPR 2021), and a
folder of the user's own, in the layout that compositional methods have in common:

<folder>/
    images/<image>
    compositional-split-natural/{train,val,test}_pairs.txt      a line each: attribute object
    metadata_compositional-split-natural.t7                     torch.save'd [{image, attr, obj, set}, ...]

UT-Zappos may also be as it is before its reorganising step, with `_images/` in place of `images/` and the key `_image`.
"""

import logging
import os
import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils import UserError
from datasets.split import PARTS, check_files, path_inside

logger = logging.getLogger("dassl.datasets")

SPLIT = "compositional-split-natural"
WORDS = ("attributes", "objects", "spelling", "dropped", "pairs", "num_seen")
"""Attributes of a dataset that say what its classes are made of."""


@dataclass(slots=True, eq=False)
class PairDatum(Datum):
    """One image of a pair; its label is the pair.

    Attributes:
        attribute, object: indices into the dataset's `attributes` and `objects`.
        attribute_name, object_name: the names there.
    """

    attribute: int = 0
    object: int = 0
    attribute_name: str = ""
    object_name: str = ""


class CompositionalDataset(DatasetBase):
    """A folder in the layout above. Labels count all pairs of train, val and test, those of train (seen) first.

    A reader names its folder in DATASET.ROOT, as the class attribute dataset_dir (on an instance, its path), and may
    name its template, as SplitDataset's do.

    Attributes:
        attributes, objects: names in alphabetical order, dots and underscores read as spaces.
        spelling: {name: the name with its underscores} of those that have some; prompts of pairs keep them.
        dropped: attributes without a training image, by `drop_attributes`.
        pairs: (attribute, object) indices in the order of the labels.
        num_seen: how many pairs are seen; they are the first.
        phase_pairs: {"val": labels, "test": labels} that are candidates there in the closed world: the seen pairs and
            the phase's own.
        num_classes, lab2cname, classnames: of all pairs, although train_x shows the seen ones alone.

    Raises:
        UserError: the folder, a file of it or an image is missing or damaged, or a set's image is of a pair that the
            set does not list; or DATASET.SUBSAMPLE_CLASSES is set.
    """

    template = "a photo of {}."
    threshold: float | None = None
    """Published least feasibility of an unseen pair in the open world, with GloVe's word vectors."""
    dropped: Sequence[str] = ()

    def __init__(self, cfg: CfgNode) -> None:
        name, options = type(self).__name__, cfg.DATASET
        check_subsample(options, name)
        image_dir, image_key = self.locate(options)
        named = {part: read_pairs(os.path.join(self.dataset_dir, SPLIT, f"{part}_pairs.txt")) for part in PARTS}
        everything = [pair for part in PARTS for pair in named[part]]
        if not named["train"] or not named["test"]:
            raise UserError(f"{self.dataset_dir}/{SPLIT} lists no pair to {'test' if named['train'] else 'train'} on")
        attributes, objects = (sorted({pair[i] for pair in everything}) for i in (0, 1))
        seen = sorted(set(named["train"]))
        unseen = sorted(set(everything) - set(seen))
        label_of = {pair: label for label, pair in enumerate([*seen, *unseen])}
        self.attributes, self.objects = [words(a) for a in attributes], [words(o) for o in objects]
        self.spelling = spelling_of([*attributes, *objects])
        self.pairs = [(attributes.index(a), objects.index(o)) for a, o in label_of]
        self.num_seen = len(seen)
        self.phase_pairs = {
            part: sorted({label_of[pair] for pair in [*seen, *named[part]]}) for part in ("val", "test")
        }
        known = {part: set(seen).union(named[part]) for part in PARTS}

        path = os.path.join(self.dataset_dir, f"metadata_{SPLIT}.t7")
        parts: dict[str, list[Datum]] = {part: [] for part in PARTS}
        left_out = 0
        for file, attribute, object_, part in _read_metadata(path, image_key):
            if attribute == "NA" or part == "NA":
                continue
            pair = attribute, object_
            if pair not in label_of:
                left_out += 1
                continue
            if part not in parts:
                raise UserError(f'{path} puts {file} into the set "{part}": there are {", ".join(PARTS)} and NA')
            if pair not in known[part]:
                raise UserError(f'{path} has {part} image {file} of "{attribute} {object_}", not in {part}_pairs.txt')
            label = label_of[pair]
            a, o = self.pairs[label]
            parts[part].append(
                PairDatum(
                    impath=path_inside(file, image_dir, path),
                    label=label,
                    classname=f"{self.attributes[a]} {self.objects[o]}",
                    attribute=a,
                    object=o,
                    attribute_name=self.attributes[a],
                    object_name=self.objects[o],
                )
            )
        if left_out:
            logger.info("Left out: %d images of pairs that no set lists", left_out)
        if not parts["train"]:
            raise UserError(f"{path} names no training image")
        check_files([item for items in parts.values() for item in items], path)

        train = parts["train"]
        if options.NUM_SHOTS >= 1:
            # A generator of its own, as in datasets.base. Val stays whole: its curve needs all pairs.
            rng = random.Random(cfg.SEED) if cfg.SEED >= 0 else random
            train = self.generate_fewshot_dataset(train, num_shots=options.NUM_SHOTS, rng=rng)
        super().__init__(train_x=train, val=parts["val"] or None, test=parts["test"])
        self._name_classes()

    def _name_classes(self):
        self._classnames = [f"{self.attributes[a]} {self.objects[o]}" for a, o in self.pairs]
        self._lab2cname = dict(enumerate(self._classnames))
        self._num_classes = len(self.pairs)

    def drop_attributes(self, names: Collection[str]) -> None:
        """Leave out the training images of some attributes: their pairs count as unseen, behind the seen ones.

        Raises:
            UserError: no training image is left.
        """
        self.dropped = [name for name in self.attributes if name in names]
        kept = [self.attributes[a] not in names for a, _ in self.pairs]
        order = sorted(range(len(self.pairs)), key=lambda label: label >= self.num_seen or not kept[label])
        label_of = {label: new for new, label in enumerate(order)}
        self._train_x = [item for item in self.train_x if kept[item.label]]
        if not self._train_x:
            raise UserError(f"{type(self).__name__} has no training image without the attributes that are left out")
        for item in (*self.train_x, *(self.val or ()), *self.test):
            item.label = label_of[item.label]
        self.num_seen = sum(kept[: self.num_seen])
        self.pairs = [self.pairs[label] for label in order]
        self.phase_pairs = {part: sorted(label_of[label] for label in old) for part, old in self.phase_pairs.items()}
        self._name_classes()

    def locate(self, options: CfgNode) -> tuple[str, str]:
        """Make a path of dataset_dir. Raises UserError where it has no images.

        Returns:
            The images' folder, and the metadata's key for their paths.
        """
        self.dataset_dir = os.path.join(os.path.abspath(os.path.expanduser(options.ROOT)), self.dataset_dir)
        image_dir = os.path.join(self.dataset_dir, "images")
        before_reorganising = os.path.join(self.dataset_dir, "_images")
        if os.path.isdir(image_dir):
            return image_dir, "image"
        if os.path.isdir(before_reorganising):
            return before_reorganising, "_image"
        raise UserError(
            f"no folder {image_dir}: {type(self).__name__} needs images/, {SPLIT}/ and metadata_{SPLIT}.t7 in "
            f"{self.dataset_dir} (--root)"
        )

    def classes(self) -> dict[str, Any]:
        return super().classes() | {key: getattr(self, key) for key in WORDS}


def pairs_by_name(names: Iterable[str], attributes: Sequence[str], objects: Sequence[str]) -> list[tuple[int, ...]]:
    """(attribute, ..., object) indices of pairs given by name: "wet dog", "wet_dog", "old wet dog".

    Raises:
        UserError: a name is not one or more of the attributes, then one of the objects.
    """

    def readings(words: list[str]) -> Iterator[tuple[int, ...]]:
        for i in range(1, len(words)):
            attribute, rest = " ".join(words[:i]), words[i:]
            if attribute in attributes:
                if " ".join(rest) in objects:
                    yield attributes.index(attribute), objects.index(" ".join(rest))
                yield from ((attributes.index(attribute), *reading) for reading in readings(rest))

    pairs = []
    for name in names:
        pair = min(readings(words(name).split()), key=len, default=None)
        if pair is None:
            raise UserError(
                f'"{name}" is not made of an attribute and an object among the {len(attributes)} attributes and '
                f"{len(objects)} objects that were trained"
            )
        pairs.append(pair)
    return pairs


def check_subsample(options: CfgNode, name: str) -> None:
    """Raises UserError where cfg.DATASET asks for base or new classes of a data set of pairs."""
    if options.SUBSAMPLE_CLASSES != "all":
        raise UserError(
            f"DATASET.SUBSAMPLE_CLASSES is {options.SUBSAMPLE_CLASSES}, but {name} has no base and new classes: set it "
            "to all"
        )


def words(name: str) -> str:
    """Faux.Leather -> Faux Leather; the tokenizer takes care of capitals."""
    return " ".join(name.replace(".", " ").replace("_", " ").split()) or name


def spelling_of(names: Iterable[str]) -> dict[str, str]:
    """{words(name): the name with its underscores} of names that have some."""
    return {words(name): name.replace(".", " ") for name in names if "_" in name}


def read_pairs(path: str) -> list[tuple[str, str]]:
    """The (attribute, object) names in a file. Raises UserError, naming the line, where one is not two words."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the pairs {path}: {getattr(error, 'strerror', None) or error}") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if words and len(words) != 2:
            raise UserError(f'{path}, line {number}: "{line}" is not "attribute object"')
        if words:
            pairs.append((words[0], words[1]))
    return pairs


def _read_metadata(path, image_key):
    """(image, attribute, object, set) of every entry. Raises UserError where the file is missing or of another form."""
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # torch raises almost anything on a damaged file
        raise UserError(f"cannot load {path}: damaged, or not a torch.save'd list of dicts") from error
    try:
        return [tuple(str(entry[key]) for key in (image_key, "attr", "obj", "set")) for entry in entries]
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} is not a list of {{{image_key}, attr, obj, set}}: take the published file") from error


@DATASET_REGISTRY.register()
class MITStates(CompositionalDataset):
    dataset_dir = "mit-states"
    threshold = 0.4069159426


@DATASET_REGISTRY.register()
class UTZappos(CompositionalDataset):
    dataset_dir = "ut-zappos"
    threshold = 0.5299109123


@DATASET_REGISTRY.register()
class CGQA(CompositionalDataset):
    dataset_dir = "cgqa"
    threshold = 0.49937106273612186


@DATASET_REGISTRY.register()
class CompositionalFolder(CompositionalDataset):
    """A folder of the user's own: DATASET.ROOT itself."""

    dataset_dir = ""
    root_is_data = True
