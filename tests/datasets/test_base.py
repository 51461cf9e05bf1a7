"""What all readers share, on tiny copies of Caltech101's layout; and that the folder registers them."""

import json
import os
import random

import pytest

from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, build_dataset
from dassl.utils import UserError
from datasets.base import SplitDataset

CLASSES = ("ant", "bee", "cow")


def config(root, shots=-1, seed=1, subsample="all"):
    cfg = get_cfg_default()
    cfg.SEED = seed
    cfg.DATASET.ROOT = str(root)
    cfg.DATASET.NAME = "Caltech101"
    cfg.DATASET.NUM_SHOTS = shots
    cfg.DATASET.SUBSAMPLE_CLASSES = subsample
    return cfg


@pytest.fixture
def root(tmp_path):
    """Three classes of ten images each, without a split."""
    for name in CLASSES:
        folder = tmp_path / "caltech-101" / "101_ObjectCategories" / name
        folder.mkdir(parents=True)
        for i in range(10):
            (folder / f"{i}.jpg").touch()
    return tmp_path


@pytest.fixture
def split(root):
    """The published split of it: images 0-5, 6-8 and 9 of each class."""
    parts = {"train": range(6), "val": range(6, 9), "test": range(9, 10)}
    split = {
        part: [[f"{name}/{i}.jpg", label, name] for label, name in enumerate(CLASSES) for i in images]
        for part, images in parts.items()
    }
    (root / "caltech-101" / "split_zhou_Caltech101.json").write_text(json.dumps(split))
    return split


def files(items):
    return [os.path.join(*item.impath.split(os.sep)[-2:]) for item in items]


def snapshot(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def test_the_published_split(root, split):
    before = snapshot(root)
    dataset = build_dataset(config(root))
    for items, part in ((dataset.train_x, "train"), (dataset.val, "val"), (dataset.test, "test")):
        assert files(items) == [file for file, _, _ in split[part]]
    assert dataset.classnames == dataset.all_classnames == list(CLASSES)
    assert dataset.dataset_dir == str(root / "caltech-101")
    assert all(os.path.isfile(item.impath) for item in dataset.train_x)
    assert snapshot(root) == before


@pytest.mark.parametrize("shots, val_shots", [(2, 2), (5, 4)])
def test_few_shots_and_base_and_new_classes(root, split, shots, val_shots):
    random.seed(3)
    train, val = [], []
    for drawn, part, n in ((train, "train", shots), (val, "val", val_shots)):
        for wanted in range(3):
            items = [file for file, label, _ in split[part] if label == wanted]
            drawn.append(random.sample(items, n) if n <= len(items) else items)
    state = random.getstate()

    dataset = build_dataset(config(root, shots=shots, seed=3))
    assert files(dataset.train_x) == sum(train, [])
    assert files(dataset.val) == sum(val, [])
    assert len(dataset.test) == 3
    assert random.getstate() == state

    base = build_dataset(config(root, shots=shots, seed=3, subsample="base"))
    new = build_dataset(config(root, shots=shots, seed=3, subsample="new"))
    assert files(base.train_x) == train[0] + train[1] and base.classnames == ["ant", "bee"]
    assert files(new.val) == val[2] and new.lab2cname == {0: "cow"} and new.test[0].label == 0
    assert base.all_classnames == new.all_classnames == list(CLASSES)


def test_without_a_seed_the_global_generator_draws(root, split):
    random.seed(3)
    expected = files(build_dataset(config(root, shots=2, seed=3)).train_x)
    assert files(build_dataset(config(root, shots=2, seed=-1)).train_x) == expected
    assert files(build_dataset(config(root, shots=2, seed=-1)).train_x) != expected


def test_a_split_is_made_once_and_kept_in_the_cache(root, tmp_cache, caplog):
    before = snapshot(root)
    with caplog.at_level("INFO", logger="dassl"):
        first = build_dataset(config(root, seed=1))
    (kept,) = (tmp_cache / "splits").iterdir()
    assert kept.name.startswith("Caltech101-")
    assert f"No published split at {root}/caltech-101/split_zhou_Caltech101.json" in caplog.text
    assert str(kept) in caplog.text
    assert snapshot(root) == before
    assert [len(items) for items in (first.train_x, first.val, first.test)] == [15, 6, 9]

    written = kept.stat().st_mtime_ns
    again = build_dataset(config(root, seed=2))
    assert files(again.train_x) == files(first.train_x)
    assert kept.stat().st_mtime_ns == written

    (root / "caltech-101" / "101_ObjectCategories" / "ant" / "10.jpg").touch()
    build_dataset(config(root))
    assert len(list((tmp_cache / "splits").iterdir())) == 2  # another listing, another split


def test_a_root_in_the_home_folder(root, split, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(build_dataset(config(f"~/{root.name}")).test) == 3


def test_a_missing_dataset(tmp_path):
    with pytest.raises(UserError) as error:
        build_dataset(config(tmp_path))
    assert f"no folder {tmp_path}/caltech-101/101_ObjectCategories" in str(error.value)
    assert "caltech-101/{101_ObjectCategories, split_zhou_Caltech101.json}" in str(error.value)
    assert "python -m datasets prepare caltech101" in str(error.value)


def test_missing_images(root, split):
    (root / "caltech-101" / "101_ObjectCategories" / "bee" / "7.jpg").unlink()
    with pytest.raises(UserError, match="1 of the 30 images in .*json are missing, .*bee/7.jpg"):
        build_dataset(config(root))


def test_an_unknown_half(root, split):
    with pytest.raises(UserError, match="DATASET.SUBSAMPLE_CLASSES"):
        build_dataset(config(root, subsample="bass"))


def test_a_reader_is_its_places(tmp_path, root):
    class Insects(SplitDataset):
        dataset_dir = "caltech-101"
        image_dir = "101_ObjectCategories"
        split_file = "none.json"
        ignored = ("cow",)
        renamed = {"bee": "honey bee"}

    assert Insects(config(root)).classnames == ["ant", "honey bee"]


class Unlisted(SplitDataset):
    """Says itself which images there are."""

    dataset_dir = "caltech-101"
    image_dir = "101_ObjectCategories"

    def make_split(self):
        return {"train": [["ant/0.jpg", 0, "ant"]], "val": [], "test": [[f"{self.lines('list.txt')[0]}", 0, "ant"]]}


def test_a_split_that_the_dataset_comes_with(root, tmp_cache):
    path = root / "caltech-101" / "list.txt"
    with pytest.raises(UserError, match=f"cannot read {path} .No such file or directory.: Unlisted needs it$"):
        Unlisted(config(root))
    path.write_text("\nant/1.jpg\n")
    assert files(Unlisted(config(root)).test) == ["ant/1.jpg"]
    assert not list(tmp_cache.iterdir()), "nothing was drawn, so nothing is kept"
    path.write_text("\n")
    with pytest.raises(UserError, match="the lists in .*caltech-101 are not those that Unlisted comes with"):
        Unlisted(config(root))


def test_importing_the_folder_registers_its_readers():
    import datasets

    assert datasets.caltech101.Caltech101 is DATASET_REGISTRY.get("Caltech101")
