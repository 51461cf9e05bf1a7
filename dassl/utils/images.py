"""Image files as the RGB pixels that a person would see: the right way up, on white, from black to white in 256 steps.

Files of 8 bits without transparency and without an orientation give what PIL's convert("RGB") gives. Beyond those:

- grey of 16 bits, and TIFF's 12: the largest number is white; colour of 16 bits: its upper 8, as PIL reads it
- grey as floating point: 1 is white; refused where there is a number outside of 0 to 1, or of 32-bit integers, whose
  white is unknown
- what is transparent lies on white
- EXIF's orientation is obeyed; one that is damaged is none
"""

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from dassl.errors import UserError

warnings.filterwarnings("ignore", "Corrupt EXIF data", module="PIL")  # the images themselves are whole

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes EXIF's orientation."""

WITH_16_BITS = {"PNG", "PPM", "JPEG2000"}
"""Formats whose integers of more than 8 bits PIL gives as numbers from 0 to 65535."""

STEPS = {"1": 255, "L;2": 85, "L;4": 17}
"""PNG's greys of fewer than 8 bits, by PIL's word for them -> what PIL multiplies them by."""


class ImageError(UserError):
    """An image file cannot be read; made of its text alone where a worker process raised it.

    Args:
        reason: why, in words.
    """

    def __init__(self, message: object, reason: str = "") -> None:
        self.reason = reason
        super().__init__(message)


def _unreadable(path, reason):
    return ImageError(f"cannot read the image {path} ({reason}): replace the file", reason)


def check_regular(path: str | Path) -> None:
    """Raises UserError where a path is nothing that can be read to an end: a pipe, a device, a folder, or not there."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise UserError(f"no image at {path}: is the dataset complete?") from error
    except (OSError, ValueError) as error:  # ValueError: no path at all
        raise _unreadable(path, getattr(error, "strerror", None) or str(error)) from error
    if not stat.S_ISREG(mode):
        raise _unreadable(path, "it is no regular file")


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """An image file as PIL opens it, its pixels still to be loaded.

    What goes wrong in the block is reported as being wrong with the file.

    Raises:
        UserError: naming the path that cannot be read.
    """
    check_regular(path)
    try:
        with Image.open(path) as image:
            if image.format == "EPS":
                raise ValueError("PostScript is a program, which is not run")
            yield image
    except Exception as error:  # a damaged file makes PIL's decoders raise almost anything
        reason = str(error).partition(f" {str(path)!r}")[0] or type(error).__name__
        raise _unreadable(path, reason) from error


def read_image(path: str | Path) -> Image.Image:
    """The image file as an RGB PIL image, pixels loaded. Raises UserError naming the path it cannot read."""
    with open_image(path) as image:
        return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """The RGB pixels of what `open_image` gave. Raises ValueError where they cannot be known."""
    raw = _raw_mode(image)
    image.load()
    turn = TURNS.get(_orientation(image))
    if isinstance(key := image.info.get("transparency"), int):
        image.info["transparency"] = key * STEPS.get(raw, 1)
    elif key and raw == "RGB;16B":
        raise ValueError("its transparent colour is of 16 bits: save it with an alpha channel")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _in_8_bits(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _raw_mode(image):
    """PIL's word for how a PNG file has its samples, to be asked for before they are loaded; "" for other files."""
    return image.tile[0].args if image.format == "PNG" and image.tile else ""


def _orientation(image):
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # PIL's reader of EXIF raises almost anything too
        return None


def _in_8_bits(image):
    """The L or LA image of one whose samples are other numbers. Raises ValueError where their white is unknown."""
    samples = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        white = 1
    elif image.format in WITH_16_BITS:
        white = 65535
    elif image.format == "TIFF" and image.mode != "I":
        white = 2 ** tags[258][0] - 1  # BitsPerSample
    else:
        raise ValueError("its 32-bit integers do not say what is white: save it with 8 or 16 bits")
    if not (samples.min() >= 0 and samples.max() <= white):  # with NaN too
        raise ValueError(f"it has numbers outside of 0 to {white}, so what is white is unknown: save it with 8 bits")
    grey = np.rint(samples * (255 / white)).astype(np.uint8)
    if tags.get(262) == 0:  # PhotometricInterpretation: WhiteIsZero
        grey = 255 - grey
    key = image.info.get("transparency")
    if key is None:
        return Image.fromarray(grey)
    return Image.fromarray(np.stack([grey, np.where(samples == key, 0, 255).astype(np.uint8)], axis=-1))
