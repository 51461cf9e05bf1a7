"""Images of the user's own: class folders, train/val/test folders, and CSV files."""

import os
from pathlib import Path

import pytest

import datasets  # noqa: F401  registers the reader
import train
from dassl.config import get_cfg_default
from dassl.data.datasets import build_dataset
from dassl.utils import UserError, read_json

CONFIGS = Path(__file__).parents[2] / "configs"


def read(root, **options):
    cfg = get_cfg_default()
    cfg.SEED = 1
    cfg.DATASET.update({"ROOT": str(root), "NAME": "Folder"} | options)
    return build_dataset(cfg)


def touch(root, *files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def listed(root, items):
    return sorted((os.path.relpath(item.impath, root), item.label, item.classname) for item in items or [])


def counts(dataset):
    return [len(items or []) for items in (dataset.train_x, dataset.val, dataset.test)]


def test_class_folders(tmp_path, tmp_cache):
    touch(tmp_path, *(f"{name}/{i}.jpg" for name in ("my dog", "a cat") for i in range(10)))
    touch(tmp_path, "notes.txt", ".hidden/1.jpg")
    dataset = read(tmp_path)
    assert dataset.classnames == ["a cat", "my dog"] and counts(dataset) == [10, 4, 6]
    assert {item.impath.split(os.sep)[-2]: item.label for item in dataset.test} == {"a cat": 0, "my dog": 1}
    assert counts(read(tmp_path, NUM_SHOTS=2)) == [4, 4, 6]
    assert listed(tmp_path, read(tmp_path).val) == listed(tmp_path, dataset.val)


def test_folders_for_training_and_testing(tmp_path):
    touch(tmp_path, "train/cat/1.jpg", "train/dog/2.png", "test/dog/3.jpg", "val/cat/4.jpg", "other/5.jpg")
    dataset = read(tmp_path)
    assert listed(tmp_path, dataset.train_x) == [("train/cat/1.jpg", 0, "cat"), ("train/dog/2.png", 1, "dog")]
    assert listed(tmp_path, dataset.val) == [("val/cat/4.jpg", 0, "cat")]
    assert listed(tmp_path, dataset.test) == [("test/dog/3.jpg", 1, "dog")]
    os.rename(tmp_path / "test", tmp_path / "no test")
    dataset = read(tmp_path)
    assert not dataset.val and listed(tmp_path, dataset.test) == [("val/cat/4.jpg", 0, "cat")]
    touch(tmp_path, "val/cow/6.jpg")
    with pytest.raises(UserError, match=f'{tmp_path} has no training image of class "cow"'):
        read(tmp_path)


def test_photos_of_trains(tmp_path):
    touch(tmp_path, "train/1.jpg", "bus/2.jpg")
    assert read(tmp_path).classnames == ["bus", "train"]


@pytest.mark.parametrize("header", ["", "path,label,split\n", "\ufeffPath, Label, Split\r\n"])
def test_a_table_with_a_split(tmp_path, header):
    touch(tmp_path, "a/1.jpg", "b/2.jpg", "3.jpg")
    table = tmp_path / "labels.csv"
    table.write_text(f'{header}a/1.jpg,"tabby, striped",train\n\n3.jpg,dog,train\n b/2.jpg , dog , test\n')
    dataset = read(tmp_path)
    assert dataset.classnames == ["dog", "tabby, striped"]
    assert listed(tmp_path, dataset.train_x) == [("3.jpg", 0, "dog"), ("a/1.jpg", 1, "tabby, striped")]
    assert listed(tmp_path, dataset.test) == [("b/2.jpg", 0, "dog")] and not dataset.val
    os.rename(table, tmp_path / "mine.csv")
    assert listed(tmp_path, read(tmp_path / "mine.csv").test) == [("b/2.jpg", 0, "dog")]


def test_a_table_without_a_split(tmp_path):
    files = [f"{i}.jpg" for i in range(20)]
    touch(tmp_path, *files)
    (tmp_path / "labels.csv").write_text("".join(f"{file},{i % 2}\n" for i, file in enumerate(files)))
    dataset = read(tmp_path)
    assert dataset.classnames == ["0", "1"] and counts(dataset) == [10, 4, 6]
    images = [item for items in (dataset.train_x, dataset.val, dataset.test) for item in items]
    assert {Path(item.impath).name: item.label for item in images} == {file: i % 2 for i, file in enumerate(files)}


@pytest.mark.parametrize(("files", "told"), [
    (["1.jpg", "2.PNG", "notes.txt"], r" holds 2 images and no folder: give, as --root, a folder of class folders"),
    (["1.jpg", "mine.csv"], r" holds 1 image and no folder: .* \(is mine.csv one\? Then give its path\)$"),
    (["notes.txt"], r" holds no image and no folder: .* train, val and test folders .* a CSV file of path,label"),
    (["train/1.jpg", "val/2.jpg"], r"/train holds 1 image and no folder: "),
])  # fmt: skip
def test_loose_images(tmp_path, files, told):
    touch(tmp_path, *files)
    with pytest.raises(UserError, match=told):
        read(tmp_path)


@pytest.mark.parametrize("rows, message", [
    ("1.jpg,cat\n1.jpg,dog,test\n", 'line 2: "1.jpg,dog,test" is not path,label or'),
    ("path,label\n1.jpg\n", 'line 2: "1.jpg" is not path,label or'),
    ("1.jpg;cat\n", 'line 1: "1.jpg;cat" is not path,label or'),
    ("1.jpg,,train\n", "line 1"),
    ("1.jpg,cat,training\n", "line 1"),
    ("path,label\n", "has no row path,label"),
    ("1.jpg,cat,train\n2.jpg,cat,test\n", "1 of the 2 images in .*labels.csv are missing, the first one .*2.jpg"),
    ("../1.jpg,cat\n", 'labels.csv names "../1.jpg", which is outside'),
    ("/etc/1.jpg,cat\n", "labels.csv names"),
    ("1.jpg,cat,train\n1.jpg,dog,test\n", 'labels.csv has no training image of class "dog"'),
    (b"\xff\xfe1", "labels.csv .* must be a CSV file in UTF-8"),
])  # fmt: skip
def test_tables_amiss(tmp_path, rows, message):
    touch(tmp_path, "1.jpg")
    (tmp_path / "labels.csv").write_bytes(rows if isinstance(rows, bytes) else rows.encode())
    with pytest.raises(UserError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("root", ["", "/no/such/folder"])
def test_no_folder(root):
    with pytest.raises(
        UserError, match=f'no folder "{root}": give a folder of class folders, or a CSV file, as --root'
    ):
        read(root)


def test_photos_to_a_trained_coop_in_one_command(toy_root, toy_backbone, tmp_path, closing_logger):
    photos = Path(toy_root, "caltech-101", "101_ObjectCategories")
    arguments = {
        "--root": photos,
        "--dataset-config-file": CONFIGS / "datasets/folder.yaml",
        "--trainer": "CoOp",
        "--config-file": CONFIGS / "trainers/CoOp/vit_b16_ep50.yaml",
        "--backbone": toy_backbone,
        "--output-dir": tmp_path,
    }
    assert train.run([str(word) for pair in arguments.items() for word in pair] + ["OPTIM.MAX_EPOCH", "1"]) == 0
    metrics = read_json(tmp_path / "metrics.json")
    assert metrics["dataset"] == "Folder" and metrics["total"] == 4 * (11 - 6 - 2)
    arguments["--root"] = tmp_path  # other photos, another run
    with pytest.raises(UserError, match="holds a finished run of another config .DATASET.ROOT was"):
        train.main([str(word) for pair in arguments.items() for word in pair] + ["OPTIM.MAX_EPOCH", "1"])
