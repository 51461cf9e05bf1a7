"""python -m datasets show: a contact sheet of a data set."""

import argparse
import random
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from dassl.data.datasets import Datum
from dassl.errors import printable
from dassl.utils import UserError, atomic_path, read_image
from datasets.tools import Tool, find, read

GAP = 6
WIDTH = 1600

Row = tuple[str, tuple[list[str], ...]]
"""A class name, and groups of its images' paths."""


class Show(Tool):
    """Draw a contact sheet: a few images of every class under its name; training images, then test images."""

    examples = ("show dtd --root data --out sheet.png",)

    def add_arguments(self, add: Any) -> None:
        super().add_arguments(add)
        add("--out", default="sheet.png", help="the picture (%(default)s)")
        add("--images", type=int, default=4, help="images per class, half of them from test (%(default)s)")
        add("--size", type=int, default=72, help="pixels of an image's longer side (%(default)s)")
        add("--quality", type=int, default=80, help="of JPEG and WebP, 1 to 100 (%(default)s)")

    def run(self, args: argparse.Namespace) -> None:
        if min(args.images, args.size) < 1 or not 1 <= args.quality <= 100:
            raise UserError("--images and --size must be at least 1, --quality 1 to 100")
        _, parts = read(*find(args.name, args.root))
        rows = choose(parts, args.images)
        numbers = ", ".join(f"{len(items):,} {part}" for part, items in parts.items() if items)
        title = f"{args.name}: {len(rows):,} classes, images: {numbers}"
        picture = sheet(
            rows, args.size, title + "; left train, right test" * any(map(all, (groups for _, groups in rows)))
        )
        try:
            with atomic_path(args.out) as temporary:
                picture.save(temporary, quality=args.quality, method=6)
        except ValueError as error:
            raise UserError(f"cannot write {args.out}: {error}") from error  # no format has this suffix
        print(f"{args.out}: {picture.width} x {picture.height} pixels")


def choose(parts: Mapping[str, Sequence[Datum]], number: int) -> list[Row]:
    """[(class name, (paths of training images, paths of test images)), ...] in the order of the labels.

    Args:
        parts: {"train": items, "test": items}.
        number: images per class, where there are as many. Always the same ones are chosen.
    """
    by_class: dict[tuple[int, str], tuple[list[str], list[str]]] = {}
    for side, part in enumerate(("train", "test")):
        for item in parts[part]:
            by_class.setdefault((item.label, item.classname), ([], []))[side].append(item.impath)
    rows: list[Row] = []
    for (_, name), (train, test) in sorted(by_class.items()):
        n_test = min(len(test), max(number // 2, number - len(train)))
        n_train = min(len(train), number - n_test)
        rng = random.Random(name)
        rows.append((name, (rng.sample(train, n_train), rng.sample(test, n_test))))
    return rows


def sheet(rows: Sequence[Row], size: int, title: str = "") -> Image.Image:
    """The picture of [(class name, groups of paths), ...], images within `size` pixels below the names."""
    font, large = ImageFont.load_default(max(12, size // 6)), ImageFont.load_default(max(18, size // 4))
    assert isinstance(font, ImageFont.FreeTypeFont)  # as it is of a given size
    line = sum(font.getmetrics()) + 2
    step = size + 2
    cell = max(sum(len(group) * step + GAP for group in groups if group) for _, groups in rows) + GAP
    across = max(1, min(len(rows), WIDTH // cell))
    down = -(-len(rows) // across)
    top = GAP + (2 * line if title else 0)
    picture = Image.new("RGB", (across * cell + GAP, top + down * (size + line + 2 * GAP)), "white")
    pen = ImageDraw.Draw(picture)
    if title:
        pen.text((GAP, GAP), _fitting(printable(title), large, picture.width - 2 * GAP), fill="black", font=large)
    for k, (name, groups) in enumerate(rows):
        x0, y = k % across * cell + GAP, top + k // across * (size + line + 2 * GAP)
        pen.text((x0, y), _fitting(printable(name).replace("_", " "), font, cell - GAP), fill="black", font=font)
        x = x0
        for group in groups:
            for path in group:
                picture.paste(ImageOps.pad(read_image(path), (size, size), color="white"), (x, y + line))
                x += step
            x += GAP if group else 0
    return picture


def _fitting(text, font, width):
    """The text, or as much of its beginning as fits into the width."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
