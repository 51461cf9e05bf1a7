"""Contact sheets of what a run has learned: rows of images under headings, each with a line or two below it."""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

from dassl.errors import printable
from dassl.utils import read_image

THUMBNAIL, GAP = 112, 8  # pixels
TEXT, HEADING = 13, 16  # pixels high
INK, QUIET = "#1a1a1a", "#595959"


class Row(NamedTuple):
    """A heading, and below it images: (file, lines of text below it) pairs."""

    heading: str
    images: Sequence[tuple[str, Sequence[str]]]


def contact_sheet(rows: Sequence[Row], title: str = "") -> Image.Image:
    """The picture of rows, images within THUMBNAIL pixels, small ones enlarged; what does not fit is cut off."""
    text, bold = ImageFont.load_default(TEXT), ImageFont.load_default(HEADING)
    longest = [*(row.heading for row in rows), title]
    words = max(bold.getlength(printable(line)) for line in longest)
    across = max(4, *(len(row.images) for row in rows)) if rows else 4
    step = THUMBNAIL + GAP
    width = max(across * step, min(int(words) + 1, 2 * across * step)) + GAP
    heights = [_height(row) for row in rows]
    top = (HEADING + 2 * GAP) if title else GAP
    picture = Image.new("RGB", (width, top + sum(heights)), "white")
    pen = ImageDraw.Draw(picture)
    if title:
        pen.text((GAP, GAP), fitting(title, bold, width - 2 * GAP), fill=QUIET, font=bold)
    for row, height in zip(rows, heights, strict=True):
        pen.text((GAP, top), fitting(row.heading, bold, width - 2 * GAP), fill=INK, font=bold)
        for i, (path, lines) in enumerate(row.images):
            x, y = GAP + i * step, top + HEADING + GAP
            picture.paste(ImageOps.pad(read_image(path), (THUMBNAIL, THUMBNAIL), color="white"), (x, y))
            for k, line in enumerate(lines):
                below = y + THUMBNAIL + 2 + k * (TEXT + 3)
                pen.text((x, below), fitting(line, text, THUMBNAIL), fill=QUIET if k else INK, font=text)
        top += height
    return picture


def fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text without control characters, or as much of its beginning as fits into the width, in pixels."""
    text = printable(text).replace("_", " ")
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _height(row):
    lines = max((len(lines) for _, lines in row.images), default=0)
    return HEADING + 2 * GAP + (THUMBNAIL + lines * (TEXT + 3) + GAP if row.images else 0)
