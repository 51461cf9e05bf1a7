"""python -m datasets check, on a whole tiny copy and on broken ones."""

import json

import pytest
from PIL import Image

import datasets.__main__ as command
from datasets.caltech101 import Caltech101
from datasets.tools.check import SHOWN, find_unreadable


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Caltech101 of two classes with the published split, whole."""
    split = {"train": [], "val": [], "test": []}
    for label, name in enumerate(("ant", "bee")):
        folder = tmp_path / "caltech-101" / "101_ObjectCategories" / name
        folder.mkdir(parents=True)
        for i in range(10):
            Image.effect_noise((64, 48), 90).save(folder / f"{i}.jpg")
            split["train" if i < 5 else "val" if i < 7 else "test"].append([f"{name}/{i}.jpg", label, name])
    (tmp_path / "caltech-101" / Caltech101.split_file).write_text(json.dumps(split))
    monkeypatch.setattr(Caltech101, "counts", (2, 10, 4, 6))
    return tmp_path


@pytest.fixture
def images(root):
    return root / "caltech-101" / "101_ObjectCategories"


def check(capsys, root, *arguments):
    """(exit status, lines as lists of words) of the command."""
    status = command.main(["check", *arguments, "--root", str(root)])
    return status, [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("names", [["caltech101"], []])
def test_a_whole_copy(root, capsys, names):
    status, lines = check(capsys, root, *names)
    assert status == 0 and "caltech101: all is well".split() in lines
    for row in ("train 2 10 10 0 0", "val 2 4 4 0 0", "test 2 6 6 0 0"):
        assert row.split() in lines
    assert ("1 bee 5 2 3".split() in lines) == bool(names), "the classes' counts where one data set was asked for"


def test_a_broken_copy(root, images, capsys):
    (images / "ant" / "0.jpg").unlink()
    (images / "bee" / "9.jpg").unlink()
    whole = (images / "bee" / "6.jpg").read_bytes()
    (images / "bee" / "6.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "bee" / "7.jpg").write_bytes(b"")
    status, lines = check(capsys, root, "caltech101")
    assert status == 1
    for row in ("train 2 10 10 1 0", "val 2 4 4 0 1", "test 2 6 6 1 1"):
        assert row.split() in lines
    told = [words[:2] for words in lines if words and words[0].endswith(":")]
    assert told[1:] == [
        ["missing:", str(images / "ant" / "0.jpg")],
        ["missing:", str(images / "bee" / "9.jpg")],
        ["unreadable:", str(images / "bee" / "6.jpg")],
        ["unreadable:", str(images / "bee" / "7.jpg")],
    ]
    assert check(capsys, root, "caltech101", "--quick")[1].count(["val", "2", "4", "4", "0", "0"]) == 1


def test_not_as_published(root, images, capsys, monkeypatch):
    monkeypatch.setattr(Caltech101, "counts", (3, 10, 4, 7))
    status, lines = check(capsys, root, "caltech101")
    assert status == 1 and "2 classes: 3 were published".split() in lines
    assert "test: 6 images, 7 were published".split() in lines
    (root / "caltech-101" / Caltech101.split_file).unlink()
    status, lines = check(capsys, root, "caltech101")
    assert status == 1 and "in all: 20 images, 21 were published".split() in lines
    monkeypatch.setattr(Caltech101, "counts", (2, 11, 3, 6))
    status, lines = check(capsys, root, "caltech101")
    assert status == 0, "a split made here has other numbers, but as many images in all"
    assert any(words[:5] == f"{Caltech101.split_file} is not there; made".split() for words in lines)


def test_long_lists_are_cut(root, images, capsys):
    for name in ("ant", "bee"):
        for i in range(7):
            (images / name / f"{i}.jpg").unlink()
    _, lines = check(capsys, root, "caltech101")
    assert sum(words[:1] == ["missing:"] for words in lines) == SHOWN
    assert f"... and {14 - SHOWN} more missing".split() in lines


def test_what_cannot_be_read_at_all(root, images, capsys, tmp_path_factory):
    (root / "caltech-101" / Caltech101.split_file).write_text("{")
    status, lines = check(capsys, root, "caltech101")
    assert status == 1 and ["not", "valid", "JSON:"] == lines[0][3:6]
    assert check(capsys, root, "mit_states")[0] == 1
    assert command.main(["check", "caltech11"]) == 1
    assert "did you mean caltech101?" in capsys.readouterr().err
    assert command.main(["check", "--root", str(tmp_path_factory.mktemp("empty"))]) == 1
    assert "no data set in" in capsys.readouterr().err


def test_pairs(toy_pairs_root, capsys):
    status, lines = check(capsys, toy_pairs_root)
    assert status == 0 and "mit_states: all is well".split() in lines


def test_images_of_every_kind_are_read_to_their_end(tmp_path):
    noise = Image.effect_noise((80, 80), 90)
    kinds = {"1.jpg": "RGB", "2.jpg": "L", "3.jpg": "CMYK", "4.png": "RGBA", "5.gif": "P", "6.webp": "RGB"}
    for file, mode in kinds.items():
        noise.convert(mode).save(tmp_path / file)
    paths = [str(tmp_path / file) for file in kinds]
    assert find_unreadable(paths) == {}
    for path in paths:
        with open(path, "rb+") as file:
            file.truncate(file.seek(0, 2) * 2 // 3)
    assert sorted(find_unreadable(paths)) == paths
