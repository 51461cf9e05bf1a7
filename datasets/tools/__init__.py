"""What the commands of `python -m datasets` share: readers by the names of their config files."""

from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

import datasets
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils import UserError, nearest
from datasets.base import SplitDataset
from datasets.split import PARTS
from mocoop.command import Command

CONFIGS = Path(__file__).parents[2] / "configs" / "datasets"


class Tool(Command):
    """A command that takes a data set's name and root."""

    name_needed = True

    def add_arguments(self, add: Any) -> None:
        name = "a file in configs/datasets, without .yaml, such as caltech101"
        add("name", metavar="NAME", nargs=None if self.name_needed else "?", help=name)
        add("--root", default="data", help="folder of the datasets (%(default)s)")


def config_names() -> list[str]:
    """The names of all dataset configs, in order."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def find(name: str, root: str | Path) -> tuple[Any, CfgNode]:
    """The reader (a class) and the config of a dataset's whole. Raises UserError where there is no such name."""
    if name not in config_names():
        raise UserError(f'no data set "{name}": {nearest(name, config_names())}')
    datasets.register()  # python -m datasets has not
    cfg = get_cfg_default()
    cfg.DATASET.ROOT = str(root)
    cfg.DATASET.NAME = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))["DATASET"]["NAME"]
    return DATASET_REGISTRY.get(cfg.DATASET.NAME), cfg


def read(reader: Any, cfg: CfgNode) -> tuple[Any, dict[str, list[Datum]]]:
    """(the dataset, {"train": items, "val": items, "test": items}), the images there or not.

    Raises UserError where the dataset's folder or split is not there or damaged.
    """
    if issubclass(reader, SplitDataset):
        unbuilt = reader.__new__(reader)  # __init__ would stop at the first image that is missing
        return unbuilt, dict(zip(PARTS, unbuilt.read(cfg.DATASET), strict=True))
    dataset = reader(cfg)
    return dataset, {"train": dataset.train_x, "val": dataset.val or [], "test": dataset.test}
