"""Caltech101 as published: its counts, and the few-shot sets of CoOp's release."""

import hashlib
import json
import os
import random

import pytest

import datasets  # noqa: F401  registers the readers
import trainers
from dassl.config import get_cfg_default, merge_from_file
from dassl.data.datasets import build_dataset

CONFIG = os.path.join(os.path.dirname(__file__), "..", "..", "configs", "datasets", "caltech101.yaml")

FEW_SHOTS = {
    (1, 1): "7c6caa4f8de17d8f0f856204e09c21a044d645fe154d226e3d8d6b6b82147766",
    (1, 2): "1adc5c8289b7aa3f5e18314a3f4f08c65c1845274414a5e006c58fac49e3cc74",
    (1, 4): "7ce6f159e04ee79697d5b5759b282c09e246a524ecdd11e65cbd8519957af6a8",
    (1, 8): "e1198add72dd9f718df10ae675d62130242f0f6d241a61a466c2d3578ce74548",
    (1, 16): "227259a57d0da32c948a621166ca4b2f7fe193fa5dcf84d084ac07130d5c3679",
    (2, 1): "a28d86e9adece4dfd4f58ec6b1b918c44acf797eecee0ee0c97991c9c9e1ace1",
    (2, 2): "a1721c93ceae5d1ee377aba54e41cbb3255c504ef48b6c9785782421b87bc60f",
    (2, 4): "714d37695353a9f7fc91a9410ad7a24bf5472307596ecbfcf863dc2285246fbc",
    (2, 8): "0318dbb6bb56f8d3d71e6e78b180293145fe5bfd1bb171b298620ea6930bea0f",
    (2, 16): "555bd45b9b099f2b2036ea070c7ad9b3463d1a24861e0dcef77ddc1b520a27ac",
    (3, 1): "39e815b1294dfa1a7d065c4e945abdcf489a42b37b2279347f65c885e1296107",
    (3, 2): "86625dc1095233b4a1c0d7b126ac342a6762946a7bfa751f47a71f725c9981e1",
    (3, 4): "ef20d37d04332b2c0396727350bae251cb935947e3f56d62d6dbbe4fc6d42634",
    (3, 8): "380944b33487902a64564e023e4be0c4e70ea5879dfde75b7d11262d4050be1d",
    (3, 16): "43acea3b0c7fb11877c684267bf6d3eb5fd526ce7c4ebb7fa26b1f24d3e4b328",
}
"""(seed, shots) -> sha256 of the train and val lists, one relative path a line."""


def config(root, **options):
    cfg = get_cfg_default()
    trainers.extend_cfg(cfg)  # whose keys the file may set
    merge_from_file(cfg, CONFIG)
    cfg.DATASET.ROOT = root
    for key, value in options.items():
        cfg.DATASET[key] = value
    return cfg


def digest(files):
    return hashlib.sha256("\n".join(files).encode()).hexdigest()


def test_counts(caltech_root):
    dataset = build_dataset(config(caltech_root))
    assert [len(items) for items in (dataset.train_x, dataset.val, dataset.test)] == [4128, 1649, 2465]
    assert dataset.num_classes == len(set(dataset.classnames)) == 100
    assert dataset.classnames[:4] == ["face", "leopard", "motorbike", "accordion"]


def test_base_and_new(caltech_root):
    base = build_dataset(config(caltech_root, SUBSAMPLE_CLASSES="base"))
    new = build_dataset(config(caltech_root, SUBSAMPLE_CLASSES="new"))
    assert (len(base.test), len(new.test)) == (1549, 916)
    assert base.num_classes == new.num_classes == 50
    assert base.classnames + new.classnames == base.all_classnames == new.all_classnames


@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_few_shot_sets_are_those_of_coops_release(caltech_root, seed, shots):
    with open(os.path.join(caltech_root, "caltech-101", "split_zhou_Caltech101.json")) as file:
        split = json.load(file)
    random.seed(seed)
    expected = []
    for part, n in (("train", shots), ("val", min(shots, 4))):
        by_class = {}
        for file, label, _ in split[part]:
            by_class.setdefault(label, []).append(file)
        for files in by_class.values():
            expected += random.sample(files, n) if len(files) >= n else files

    cfg = config(caltech_root, NUM_SHOTS=shots)
    cfg.SEED = seed
    dataset = build_dataset(cfg)
    files = [os.path.relpath(item.impath, dataset.image_dir) for item in dataset.train_x + dataset.val]
    assert files == expected
    assert digest(files) == FEW_SHOTS[seed, shots]
