"""What a run has learned, in words, images and figures."""

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from yacs.config import CfgNode

import datasets  # noqa: F401  registers every dataset
from dassl.data.datasets import Datum, build_dataset
from dassl.errors import printable
from dassl.utils import UserError, atomic_path, mkdir_if_missing
from learned.model import TrainedModel, build_for, load_run
from learned.pictures import Row, contact_sheet
from mocoop import escape
from mocoop.command import Command
from prompting.backbone import known_tokens
from prompting.mixture import Mixture
from prompting.nearest_words import nearest_words


@dataclass
class Table:
    """A table for the terminal and for a CSV file.

    Attributes:
        name: of the file, without suffix.
        title, header, rows: what it says.
        lines: how many rows the terminal gets from the head and, unless `tail` is false, from the end; None: all.
        digits: after the point, on the terminal.
    """

    name: str
    title: str
    header: list
    rows: list
    lines: int | None = None
    tail: bool = True
    digits: int = 1

    def show(self, folder: str | Path | None = None) -> None:
        """Print it; write <folder>/<name>.csv too where there is a folder."""
        rows, n = self.rows, self.lines
        # told here which cells are numbers: a word or a class may look like one
        numbers = [isinstance(cell, int | float) for cell in rows[0]] if rows else []
        if n is not None and len(rows) > n * (1 + self.tail):
            rows = rows[:n] + ([["..."] + [""] * (len(numbers) - 1), *rows[-n:]] if self.tail else [])
        rows = [[f"{x:.{self.digits}f}" if isinstance(x, float) else printable(x) for x in row] for row in rows]
        align = ["right" if number else "left" for number in numbers]
        print(f"\n{self.title}\n{tabulate(rows, self.header, colalign=align, disable_numparse=True)}")
        if folder:
            with (
                atomic_path(Path(folder, f"{self.name}.csv")) as temporary,
                open(temporary, "w", encoding="utf-8", newline="") as file,
            ):
                csv.writer(file).writerows(escape.csv_rows([self.header, *self.rows]))


def words(model: TrainedModel, n: int) -> Table | None:
    """The table of the n words nearest to each vector, or None where nothing is learned among words."""
    learned = model.vectors_among_words()
    if not learned:
        return None
    labels, vectors = zip(*learned, strict=True)
    trainer = model.trainer
    encoder, backbone = trainer.model.text_encoder, trainer.cfg.MODEL.BACKBONE
    known = known_tokens(backbone.NAME, backbone.FAMILY)
    nearest = nearest_words(torch.stack(vectors), encoder.token_embedding.weight, known, n, encoder.tokenizer)
    return Table(
        "words",
        "Words nearest to the learned vectors, with Euclidean distances",
        ["vector", *(f"{column} {k}" for k in range(1, n + 1) for column in ("word", "distance"))],
        [[label, *(x for pair in row for x in pair)] for label, row in zip(labels, nearest, strict=True)],
        digits=3,
    )


def experts(mixture: Mixture) -> Table:
    """The table of how often each expert is chosen."""
    gates = _gates(mixture)
    shares, weights = 100 * (gates > 0).mean(axis=0), 100 * gates.mean(axis=0)
    rows = [[g, t, s, w] for g, (t, s, w) in enumerate(zip(mixture.names, shares, weights, strict=True), start=1)]
    title = "Experts: by how many test images each is chosen, and its mean gate weight"
    return Table("experts", title, ["expert", mixture.named_by, "chosen %", "weight %"], rows)


def preferring(mixture: Mixture, k: int) -> list[list[int]]:
    """For each expert the k images, or fewer, that choose it with the most weight; G lists of indices."""
    gates = _gates(mixture)
    orders = (-gates).argsort(axis=0, kind="stable")[:k].T
    return [[i for i in order if gates[i, g] > 0] for g, order in enumerate(orders)]


def expert_images(mixture: Mixture, chosen: Sequence[Sequence[int]], items: Sequence[Datum]) -> Table:
    """The table of the images that `preferring` chose; items: the n test images."""
    gates = _gates(mixture)
    rows = [
        [g, float(gates[i, g - 1]), items[i].classname, items[i].impath]
        for g, images in enumerate(chosen, start=1)
        for i in images
    ]
    title = "Test images that give an expert most weight"
    return Table("expert_images", title, ["expert", "weight", "class", "image"], rows, digits=3)


def _gates(mixture):
    return mixture.weights.double().numpy()


def experts_picture(mixture: Mixture, chosen: Sequence[Sequence[int]], items: Sequence[Datum]) -> Image.Image:
    """The picture of the images that `preferring` chose, with classes and gate weights: a row for each expert."""
    rows = []
    for table, images in zip(experts(mixture).rows, chosen, strict=True):
        g, name, share, _ = table
        heading = f"Expert {g}: {name or '-'}   chosen by {share:.1f} % of the test images"
        below = [(items[i].classname, f"weight {float(mixture.weights[i, g - 1]):.2f}") for i in images]
        rows.append(Row(heading, [(items[i].impath, lines) for i, lines in zip(images, below, strict=True)]))
    return contact_sheet(rows, "Test images that give each expert most weight")


def confusions_picture(
    labels: np.ndarray,
    predicted: np.ndarray,
    names: Sequence[str],
    items: Sequence[Datum],
    pairs: int = 8,
    images: int = 5,
) -> Image.Image:
    """The picture of the classes that are confused most: a row for each pair of a true and a predicted one.

    Args:
        labels, predicted: (n,) true classes and the run's.
        names: N class names.
        items: the n test images.
        pairs, images: how many pairs, and images of each, at most.
    """
    found, counts = np.unique(np.stack([labels, predicted])[:, labels != predicted], axis=1, return_counts=True)
    rows = []
    for k in np.argsort(-counts, kind="stable")[:pairs]:
        true, taken = found[:, k]
        heading = f"{names[true]}, taken for {names[taken]}: {counts[k]} of {(labels == true).sum()} images"
        own = np.flatnonzero((labels == true) & (predicted == taken))[:images]
        rows.append(Row(heading, [(items[i].impath, (Path(items[i].impath).stem,)) for i in own]))
    return contact_sheet(rows, "The classes most often confused" if rows else "No image was taken for another class")


def classes(labels: np.ndarray, predicted: np.ndarray, zero_shot: np.ndarray, names: Sequence[str]) -> Table:
    """The table of every class's accuracy against zero-shot CLIP's, largest gain first.

    Args:
        labels, predicted, zero_shot: (n,) true classes, the run's and zero-shot CLIP's.
        names: N class names.
    """
    rows = []
    for label in np.unique(labels):
        own = labels == label
        before, after = (float(100 * (p[own] == label).mean()) for p in (zero_shot, predicted))
        rows.append([names[label], int(own.sum()), before, after, after - before])
    rows.sort(key=lambda row: -row[-1])
    title = "Accuracy by class, and what was gained over zero-shot CLIP"
    return Table("classes", title, ["class", "images", "zero-shot %", "run %", "gain"], rows, lines=8)


def confusions(labels: np.ndarray, predicted: np.ndarray, zero_shot: np.ndarray, names: Sequence[str]) -> Table:
    """The table of wrong predictions by how many images of a class they take; arguments as those of `classes`."""

    def count(wrong: np.ndarray) -> np.ndarray:
        matrix = np.zeros((len(names), len(names)), int)
        np.add.at(matrix, (labels, wrong), 1)
        return matrix

    now, before = count(predicted), count(zero_shot)
    pairs = [(t, p) for t, p in np.argwhere(now) if t != p]
    pairs.sort(key=lambda pair: -now[pair])
    rows = [[names[t], names[p], int(now[t, p]), int(now[t].sum()), int(before[t, p])] for t, p in pairs]
    header = ["class", "taken for", "images", "of", "zero-shot"]
    return Table("confusions", "Classes most often confused", header, rows, lines=10, tail=False)


def test_images(cfg: CfgNode, names: Sequence[str]) -> list[Datum]:
    """The test images of the run's dataset. Raises UserError where it is not there, or has other classes."""
    dataset = build_dataset(cfg)
    if list(dataset.classnames) != list(names):
        raise UserError(f"{cfg.DATASET.NAME} in {cfg.DATASET.ROOT} has other classes than the run: give its --root")
    return dataset.test


class Explain(Command):
    """What a run has learned, in words, images and figures.

    Prints the words nearest to each learned vector; where a method mixes experts, how often each is chosen and the
    test images that prefer it; the classes that gained and lost most against zero-shot CLIP; the classes most often
    confused. Everything but the words needs the dataset. --out saves the whole tables as CSV files, and as
    pictures the experts' images (experts.png) and those of the confused classes (confusions.png).
    """

    examples = ("explain RUN", "explain RUN --out what-it-learned --words 5 --images 10")

    def add_arguments(self, add: Any) -> None:
        add("run", metavar="RUN")
        add("--words", type=int, default=3, metavar="N", help="nearest words for each vector (default: 3)")
        add("--images", type=int, default=5, metavar="K", help="images for each expert or confused pair (default: 5)")
        add("--out", metavar="DIR", help="write tables and images there too")
        add("--root", help="where the datasets are (default: as the run's config says)")
        add("--load-epoch", type=int, help="use the weights of this epoch")

    def run(self, args: argparse.Namespace) -> None:
        for name in ("words", "images"):
            if getattr(args, name) < 1:
                raise UserError(f"--{name} is {getattr(args, name)}: give 1 or more")
        model = load_run(args.run, epoch=args.load_epoch)
        cfg, names = model.trainer.cfg, model.classnames
        if args.root is not None:
            cfg.DATASET.ROOT = args.root
        if args.out:
            mkdir_if_missing(args.out)

        print(f"{cfg.TRAINER.NAME} on {cfg.DATASET.NAME}, {len(names)} classes: {args.run}")
        if table := words(model, args.words):
            table.show(args.out)
        items = test_images(cfg, names)
        loader = model.loader(items)
        predicted = model.predicted(loader).numpy()
        if mixture := model.mixture():
            chosen = preferring(mixture, args.images)
            experts(mixture).show(args.out)
            expert_images(mixture, chosen, items).show(args.out)
            if args.out:
                with atomic_path(Path(args.out, "experts.png")) as temporary:
                    experts_picture(mixture, chosen, items).save(temporary)

        baseline = cfg.clone()
        baseline.TRAINER.NAME, baseline.MODEL.INIT_WEIGHTS = "ZeroshotCLIP", ""
        zero_shot = TrainedModel(build_for(baseline, {"classnames": names}), names).predicted(loader).numpy()
        labels = np.array([item.label for item in items])
        for told in (classes, confusions):
            told(labels, predicted, zero_shot, names).show(args.out)
        if args.out:
            with atomic_path(Path(args.out, "confusions.png")) as temporary:
                confusions_picture(labels, predicted, names, items, images=args.images).save(temporary)
        right, before = (int((p == labels).sum()) for p in (predicted, zero_shot))
        print(f"\n{right} of {len(labels)} test images are right, with zero-shot CLIP {before}")
