"""What tests of the engine share."""

import json
from pathlib import Path

import pytest

from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils import set_random_seed


@pytest.fixture
def cfg(tmp_path, toy_root):
    """A config of a dataset with labelled and unlabelled images, small enough for any network."""

    @DATASET_REGISTRY.register(force=True)
    class Toy(DatasetBase):
        def __init__(self, cfg):
            split = json.loads((folder.parent / "split_zhou_Caltech101.json").read_text())
            parts = {
                part: [Datum(str(folder / path), label, 0, name) for path, label, name in entries]
                for part, entries in split.items()
            }
            super().__init__(train_x=parts["train"], train_u=parts["train"][:8], val=parts["val"], test=parts["test"])

    folder = Path(toy_root) / "caltech-101" / "101_ObjectCategories"
    cfg = get_cfg_default()
    cfg.SEED = 1
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    cfg.DATASET.NAME = "Toy"
    cfg.INPUT.SIZE = (32, 32)
    cfg.INPUT.TRANSFORMS = ("random_flip", "normalize")
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 4
    cfg.MODEL.BACKBONE.NAME = "squeezenet1_1"
    cfg.OPTIM.MAX_EPOCH = 3
    set_random_seed(1)
    return cfg
