"""Splits: the published format read and refused, splits made of folders, base and new classes."""

import json

import pytest

from dassl.data.datasets import Datum
from dassl.utils import UserError
from datasets.split import check_files, read_split, split_class_folders, split_training, subsample_classes

GOOD = {
    "train": [["cat/1.jpg", 0, "cat"], ["dog/1.jpg", 1, "dog"]],
    "val": [],
    "test": [["dog/2.jpg", 1, "dog"]],
}


def written(tmp_path, split):
    path = tmp_path / "split.json"
    path.write_text(split if isinstance(split, str) else json.dumps(split))
    return str(path)


def make_images(root, **counts):
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            (root / folder / f"{i:02}.jpg").touch()


def test_read_split(tmp_path):
    train, val, test = read_split(written(tmp_path, GOOD), "/images")
    assert [(item.impath, item.label, item.domain, item.classname) for item in train] == [
        ("/images/cat/1.jpg", 0, 0, "cat"),
        ("/images/dog/1.jpg", 1, 0, "dog"),
    ]
    assert val == [] and [item.impath for item in test] == ["/images/dog/2.jpg"]


@pytest.mark.parametrize(
    "file", ["/etc/passwd", "../other/1.jpg", "cat/../../1.jpg", "..", "./../images2/1.jpg", "//x/1.jpg"]
)
def test_files_outside_of_the_folder_are_refused(tmp_path, file):
    split = GOOD | {"val": [[file, 0, "cat"]]}
    with pytest.raises(UserError, match="split.json names .* outside /images"):
        read_split(written(tmp_path, split), "/images")


def test_odd_paths_that_stay_inside_are_read(tmp_path):
    split = GOOD | {"val": [["cat/../dog/..1.jpg", 1, "dog"]]}
    assert read_split(written(tmp_path, split), "/images")[1][0].impath == "/images/dog/..1.jpg"


@pytest.mark.parametrize(
    "split, message",
    [
        ("{", "not valid JSON"),
        ("[]", "not a split"),
        ({"train": [], "test": []}, "not a split"),
        (GOOD | {"val": [["cat/1.jpg", 0]]}, "not a split"),
        (GOOD | {"val": [["cat/1.jpg", "0", "cat"]]}, "not a split"),
        (GOOD | {"val": [["cat/1.jpg", 0.5, "cat"]]}, "not a split"),
        (GOOD | {"val": {"cat": 0}}, "not a split"),
        (GOOD | {"val": [["cat/1.jpg", 0, "dog"]]}, 'label 0 two class names, "cat" and "dog"'),
        (GOOD | {"val": [["cow/1.jpg", 2, "cow"]]}, 'no training image of class "cow"'),
        (GOOD | {"train": [["cow/1.jpg", 2, "cow"], *GOOD["test"]]}, "from 0 without gaps"),
        (GOOD | {"train": [["cow/1.jpg", -1, "cow"], *GOOD["train"]]}, "from 0 without gaps"),
        ({"train": [], "val": [], "test": []}, "training images"),
    ],
)
def test_what_is_no_split(tmp_path, split, message):
    path = written(tmp_path, split)
    with pytest.raises(UserError, match=message) as error:
        read_split(path, "/images")
    assert path in str(error.value)


def test_missing_files_are_counted(tmp_path):
    make_images(tmp_path, cat=2)
    items = [Datum(str(tmp_path / file)) for file in ("cat/00.jpg", "cat/02.jpg", "dog/1.jpg", "d\0g/1.jpg")]
    check_files(items[:1], "S")
    with pytest.raises(UserError, match="3 of the 4 images in S are missing, the first one .*cat/02.jpg"):
        check_files(items, "S")


def test_a_split_of_class_folders(tmp_path):
    make_images(tmp_path, dog=10, cat=4, cow=1, junk=3)
    (tmp_path / "dog" / "notes.txt").touch()
    (tmp_path / "dog" / ".hidden.jpg").touch()
    (tmp_path / "list.txt").touch()
    split = split_class_folders(tmp_path, ignored=["junk"], renamed={"cat": "tabby"})

    def count(part):
        return [sum(label == wanted for _, label, _ in split[part]) for wanted in range(3)]

    assert [count(part) for part in ("train", "val", "test")] == [[2, 1, 5], [1, 0, 2], [1, 0, 3]]
    entries = [entry for part in split.values() for entry in part]
    assert {tuple(entry[1:]) for entry in entries} == {(0, "tabby"), (1, "cow"), (2, "dog")}
    assert sorted(file for file, _, _ in entries) == sorted(
        [f"cat/{i:02}.jpg" for i in range(4)] + ["cow/00.jpg"] + [f"dog/{i:02}.jpg" for i in range(10)]
    )
    dogs = [file for file, label, _ in split["train"] if label == 2]
    assert dogs != sorted(dogs)  # shuffled


def test_a_split_of_training_images_alone():
    entries = [[f"{label}/{i}.jpg", label, str(label)] for label, n in enumerate([10, 1, 4]) for i in range(n)]
    test = [["x.jpg", 2, "2"]]
    split = split_training(entries, iter(test))
    count = [[sum(label == wanted for _, label, _ in split[part]) for wanted in range(3)] for part in ("train", "val")]
    assert count == [[8, 1, 3], [2, 0, 1]]
    assert sorted(split["train"] + split["val"]) == sorted(entries) and split["test"] == test


def test_folders_that_make_no_split(tmp_path):
    with pytest.raises(UserError, match="no class folder in"):
        split_class_folders(tmp_path)
    make_images(tmp_path, cat=2, dog=0)
    with pytest.raises(UserError, match="no image in .*dog"):
        split_class_folders(tmp_path)


class Captioned(Datum):
    def __init__(self, caption, **kwargs):
        super().__init__(**kwargs)
        self.caption = caption


def test_base_and_new_classes():
    train = [Captioned(f"c{label}", impath=str(i), label=label) for i, label in enumerate([4, 0, 2, 1, 3, 4])]
    test = [Datum(label=label) for label in (1, 3, 9)]

    def labels(subsample):
        return [[item.label for item in part] for part in subsample_classes(train, test, subsample=subsample)]

    assert labels("all") == [[4, 0, 2, 1, 3, 4], [1, 3, 9]]
    assert labels("base") == [[0, 2, 1], [1]]
    assert labels("new") == [[1, 0, 1], [0]]
    new, _ = subsample_classes(train, test, subsample="new")
    assert [(item.impath, item.caption) for item in new] == [("0", "c4"), ("4", "c3"), ("5", "c4")]
    assert [item.label for item in train] == [4, 0, 2, 1, 3, 4]  # left as they were

    assert subsample_classes([], test, subsample="base")[1][1].label == 1  # test alone
    with pytest.raises(UserError, match='"bass": choose all, base or new'):
        subsample_classes(train, subsample="bass")
    with pytest.raises(UserError, match="there is only one class, which is not new"):
        subsample_classes(train[:1], subsample="new")
