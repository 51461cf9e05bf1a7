"""The embedded benchmark: icons drawn by people, in many styles. It ships with the project and needs no DATASET.ROOT.

IconsCommon has 100 everyday concepts whose names the embedded backbone knows, IconsRare 54 whose names and images it
has never seen. IconsBlurred and IconsEdges are IconsCommon out of focus and reduced to edges: domains that the plain
prompt serves badly, so that there is something left to learn for names that the backbone knows. Datum.domain is the
style: with DATASET.SOURCE_DOMAINS and TARGET_DOMAINS training and testing keep to some of the STYLES. IconsPairs has
164 pairs of modifier and object, 54 of them never seen in training. The archive is unpacked once into the cache folder,
and filtered there once.
"""

import hashlib
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import ImageFilter
from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils import UserError, cache_dir, read_image, read_json
from datasets.base import SplitDataset
from datasets.compositional import CompositionalDataset
from datasets.derived import derived
from datasets.split import read_split

ARCHIVE = Path(__file__).parents[1] / "embedded" / "icons.zip"
STYLES = ("outline", "filled", "duotone", "pixel", "hand-drawn", "colour")
RESTORE = "restore the file from the repository, or install the project again"
FILTERS = {"blurred3": ImageFilter.GaussianBlur(3), "edges": ImageFilter.FIND_EDGES()}
"""What makes other domains of icons, by the end of their folder's name; 3 is sigma in pixels, of an icon's 64 x 64."""


def unpacked(part: str = "") -> Path:
    """The folder of the unpacked archive; `part` is the folder in there that has to be whole, "" for all of it.

    Raises:
        UserError: the archive is gone or damaged.
    """
    try:
        digest = hashlib.sha256(ARCHIVE.read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise UserError(f"cannot read {ARCHIVE} ({error.strerror}): {RESTORE}") from error
    return derived(cache_dir() / f"icons-{digest}", _unpack, part)


def _unpack(folder):
    try:
        with zipfile.ZipFile(ARCHIVE) as archive:
            archive.extractall(folder)
    except OSError:  # of the folder
        raise
    except Exception as error:  # a damaged archive makes zipfile raise almost anything
        raise UserError(f"{ARCHIVE} is damaged ({error}): {RESTORE}") from error
    # the pairs' list in the form that CSP's readers take
    pairs = folder / "pairs"
    torch.save(read_json(pairs / "metadata.json"), pairs / "metadata_compositional-split-natural.t7")


def filtered(part: str, name: str) -> Path:
    """The folder of a part of the archive with one of the FILTERS over all of its images."""
    source = unpacked(part) / part

    def make(folder: Path) -> None:
        shutil.copyfile(source / "split.json", folder / "split.json")
        for image in (source / "images").rglob("*.png"):
            path = folder / image.relative_to(source)
            path.parent.mkdir(parents=True, exist_ok=True)
            read_image(image).filter(FILTERS[name]).save(path)

    return derived(cache_dir() / f"{source.parent.name}-{part}-{name}", make)


class Icons(SplitDataset):
    """A part of the archive, in the published split format; the first folder of a path is the style."""

    domains = list(STYLES)
    template = "an icon of a {}."
    part = ""

    def read(self, options: CfgNode) -> Sequence[list[Datum]]:
        self.check_input_domains(options.SOURCE_DOMAINS, options.TARGET_DOMAINS)
        self.locate(options)
        path = os.path.join(self.dataset_dir, "split.json")
        train, val, test = read_split(path, self.image_dir)
        for item in (*train, *val, *test):
            item.domain = STYLES.index(Path(item.impath).relative_to(self.image_dir).parts[0])
        classes = {item.label for item in train}
        train, val = (_keep(items, options.SOURCE_DOMAINS) for items in (train, val))
        if {item.label for item in train} != classes:
            raise UserError(f"some classes have no training icon in {', '.join(options.SOURCE_DOMAINS)}: add a style")
        return train, val, _keep(test, options.TARGET_DOMAINS)

    def locate(self, options: CfgNode) -> None:
        self.dataset_dir = str(self.folder())
        self.image_dir = os.path.join(self.dataset_dir, "images")

    def folder(self) -> Path:
        """Where the part lies."""
        return unpacked(self.part) / self.part


def _keep(items, domains):
    """The items of these domains; all of them where none is named."""
    numbers = {STYLES.index(name) for name in domains} or set(range(len(STYLES)))
    return [item for item in items if item.domain in numbers]


@DATASET_REGISTRY.register()
class IconsCommon(Icons):
    part = "common"


@DATASET_REGISTRY.register()
class IconsBlurred(IconsCommon):
    def folder(self) -> Path:
        return filtered(self.part, "blurred3")


@DATASET_REGISTRY.register()
class IconsEdges(IconsCommon):
    def folder(self) -> Path:
        return filtered(self.part, "edges")


@DATASET_REGISTRY.register()
class IconsRare(Icons):
    part = "rare"


@DATASET_REGISTRY.register()
class IconsPairs(CompositionalDataset):
    template = "a photo of a {}."

    def locate(self, options: CfgNode) -> tuple[str, str]:
        self.dataset_dir = str(unpacked("pairs") / "pairs")
        return super().locate(options)
