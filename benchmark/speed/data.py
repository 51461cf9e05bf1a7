"""Data and weights made on the spot, for a machine that has none: photos of noise, names of words, a random CLIP."""

import csv
import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmark.cost import ARCHITECTURES
from prompting.backbone import find
from prompting.openai_clip import model as openai_model
from prompting.openai_clip import simple_tokenizer

PHOTO = (300, 200)  # pixels, as Caltech101's are
SMALL = (32, 1, 64, 16)
"""An image tower for measurements that have no use for one: pixels, layers, width, patch."""


def names(number: int, words: int = 2, seed: int = 0) -> list[str]:
    """Different names of one to so many words out of CLIP's vocabulary, an underscore between two."""
    vocabulary = simple_tokenizer.SimpleTokenizer().encoder
    known = [word.removesuffix("</w>") for word in vocabulary if word.endswith("</w>")]
    known = sorted(word for word in known if word.isascii() and word.isalpha() and 4 <= len(word) <= 9)
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < number:
        found["_".join(rng.choices(known, k=rng.randint(1, words)))] = None
    return list(found)


def photo(rng: np.random.Generator, size: tuple[int, int] = PHOTO) -> Image.Image:
    """Noise with the detail of a photo: smooth, with grain; size: width, height."""
    width, height = size
    smooth = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)).resize(size)
    grain = rng.normal(0, 8, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8))


def make_photos(folder: Path, classes: int, shots: int, tests: int) -> None:
    """A data set in the layout of datasets/folder.py.

    Args:
        classes, shots, tests: how many, and photos of each to train and to test on.
    """
    rng = np.random.default_rng(0)
    for name in names(classes):
        for part, number in (("train", shots), ("test", tests)):
            (folder / part / name).mkdir(parents=True)
            for i in range(number):
                photo(rng).save(folder / part / name / f"{i}.jpg", quality=90)


def make_table(folder: Path, classes: int, shots: int) -> None:
    """A data set whose images are all one file: it has many classes and costs little to read."""
    folder.mkdir(parents=True)
    photo(np.random.default_rng(0), (32, 32)).save(folder / "photo.jpg")
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        for name in names(classes):
            rows.writerows([["photo.jpg", name, "train"]] * shots + [["photo.jpg", name, "test"]])


def make_pairs(folder: Path, pairs: int, images: int = 100) -> None:
    """A compositional data set with about so many attribute-object pairs, as many of each word as in C-GQA's 278,362.

    Every word is in a seen pair; the pairs to test on are as many again. All images are one file.
    """
    n_attributes = max(2, round((pairs * 413 / 674) ** 0.5))
    n_objects = max(2, round(pairs / n_attributes))
    words = names(n_attributes + n_objects, words=1)
    attributes, objects = words[:n_attributes], words[n_attributes:]
    longest = max(n_attributes, n_objects)
    seen, unseen = (
        list(dict.fromkeys((attributes[i % n_attributes], objects[(i + shift) % n_objects]) for i in range(longest)))
        for shift in (0, 1)
    )
    known = set(seen)
    split = {"train": seen, "val": seen, "test": [*seen, *(pair for pair in unseen if pair not in known)]}
    (folder / "images").mkdir(parents=True)
    (folder / "compositional-split-natural").mkdir()
    photo(np.random.default_rng(0), (32, 32)).save(folder / "images" / "photo.jpg")
    entries = []
    for part, listed in split.items():
        lines = "".join(f"{attribute} {object_}\n" for attribute, object_ in listed)
        (folder / "compositional-split-natural" / f"{part}_pairs.txt").write_text(lines, encoding="utf-8")
        shown = _spread(listed, images)
        entries += [{"image": "photo.jpg", "attr": a, "obj": o, "set": part} for a, o in shown]
    torch.save(entries, folder / "metadata_compositional-split-natural.t7")


def _spread(items, number):
    """So many of the items, or all, from all over the list."""
    return items[:: max(1, len(items) // number)][:number]


def backbone_at_hand(name: str, folder: Path) -> tuple[str, bool]:
    """A backbone's name, or a file of random weights where it is one of OpenAI's whose weights are not here.

    Returns:
        What --backbone takes, and whether the weights are random. Raises UserError as `find` does.
    """
    if name not in ARCHITECTURES or find(name).at_hand():
        return name, False
    return str(random_clip(folder / "random.pt", ARCHITECTURES[name])), True


def text_tower(name: str, layers: int, path: Path) -> str:
    """A file of random weights of a backbone's text tower, with so many layers and a tiny image tower."""
    width, *_, context, vocabulary, text_width, heads, _ = ARCHITECTURES[name]
    pixels, depth, vision_width, patch = SMALL
    return str(
        random_clip(path, (width, pixels, depth, vision_width, patch, context, vocabulary, text_width, heads, layers))
    )


def random_clip(path: Path, architecture: Sequence[object]) -> Path:
    """Write a file of random weights, as those in OpenAI's archives are; architecture: as `ARCHITECTURES` has it."""
    torch.manual_seed(0)
    model = openai_model.CLIP(*architecture)
    sizes = (model.visual.input_resolution, model.context_length, model.vocab_size)
    marks = zip(("input_resolution", "context_length", "vocab_size"), map(torch.tensor, sizes), strict=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({key: value.half() for key, value in model.state_dict().items()} | dict(marks), path)
    return path


def free_memory_gb() -> float:
    """The machine's memory that programs may take, in GiB."""
    try:
        with open("/proc/meminfo", encoding="utf-8") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) * 1024 / 2**30
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 / 2**30
