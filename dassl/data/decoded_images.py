"""Images decoded once and kept in memory, as pixels."""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image

from dassl.utils import UserError, read_image
from dassl.utils.images import open_image

logger = logging.getLogger(__name__)


class DecodedImages:
    """The pixels of image files, in one block of memory.

    Args:
        paths: image files; those that do not fit the budget are left out.
        budget_gb: GiB that may be used.
        shared: put them in shared memory, where worker processes, forked or spawned, use the same copy.

    Raises:
        UserError: an image cannot be read.
    """

    def __init__(self, paths: Iterable[str], budget_gb: float, shared: bool) -> None:
        paths = list(dict.fromkeys(paths))
        with ThreadPoolExecutor() as pool:  # decoding releases the GIL
            self._places, size = _places(paths, pool.map(_size, paths), budget_gb * 2**30)
            try:
                self._pixels = torch.empty(size, dtype=torch.uint8)
                if shared:
                    self._pixels.share_memory_()
            except RuntimeError as error:
                logger.warning(
                    "Not enough memory for %.2f GiB of decoded images (is /dev/shm large enough?), so each is "
                    "decoded on every use: %s",
                    size / 2**30,
                    error,
                )
                self._places, size = {}, 0
            for _ in pool.map(self._decode, self._places):
                pass  # raises what a thread raised
        logger.info("Keeping %d of %d training images decoded (%.2f GiB)", len(self._places), len(paths), size / 2**30)

    def __len__(self):
        return len(self._places)

    def read(self, path: str) -> Image.Image:
        """The RGB PIL image of a file, decoded now if it is not kept."""
        if path not in self._places:
            return read_image(path)
        return Image.fromarray(self._view(path))

    def _decode(self, path):
        image, (start, *size) = read_image(path), self._places[path]
        if sorted(image.size) != sorted(size):
            raise UserError(f"cannot read the image {path} (its size is not what it says first): replace the file")
        self._places[path] = start, *image.size  # turned, where EXIF says so
        self._view(path)[:] = np.asarray(image)

    def _view(self, path):
        """The (H, W, 3) array of an image's pixels."""
        start, width, height = self._places[path]
        return self._pixels[start : start + height * width * 3].view(height, width, 3).numpy()


def _size(path):
    with open_image(path) as image:  # reads the header only
        return image.size


def _places(paths, sizes, budget):
    """The dict path -> (start, width, height) of the images that fit the budget, and their bytes in all."""
    places, end = {}, 0
    for path, (width, height) in zip(paths, sizes, strict=True):
        start, end = end, end + height * width * 3
        if end > budget:
            return places, start
        places[path] = start, width, height
    return places, end
