"""Lists of images that are damaged or made up: read, or refused in a line; no path leads out of the data set."""

import json
import os
import random
import shutil

import pytest

from dassl.data.datasets import build_dataset
from dassl.utils import UserError
from tests.conftest import write_pairs
from tests.datasets.test_layouts import CLASSES, WNIDS, config, parts, touch, write

ATTACKS = 40  # on each layout
LISTS = (".txt", ".csv", ".json", ".mat", ".t7")
ODD = [
    b"", b"null", b"[]", b"NaN", b"[[1]]", b'{"train": 1}', b'{"train": [[1, 2]], "val": [], "test": []}',
    b'{"train": [["../../etc/passwd", 0, "x"]], "val": [], "test": [["../../etc/passwd", 0, "x"]]}',
    b'{"train": [["/etc/passwd", 0, "x"]], "val": [], "test": [["/etc/passwd", 0, "x"]]}',
    b'{"train": [["a\\u0000b", -1, {}]], "val": [], "test": [["a", 1e400, null]]}', b"[" * 100_000,
    b"../../etc/passwd 1", b"/etc/passwd,a", b"a/../../../x.avi 1", b"1 2 3 4 5 6", b"\xef\xbb\xbf", b"\xff\xfe\0",
    b"\0" * 99,
]  # fmt: skip


def imagenet(root):
    write(root / "imagenet", "classnames.txt", *(f"{wnid} {name}" for wnid, name in WNIDS.items()))
    touch(root / "imagenet/images", *(f"{part}/{wnid}/a.JPEG" for part in ("train", "val") for wnid in WNIDS))


def folder(root):
    files = [f"{name}/{i}.jpg" for name in "ab" for i in range(5)]
    touch(root, *files)
    write(root, "labels.csv", "path,label", *(f"{file},{file[0]}" for file in files))


def pairs(root):
    write_pairs(root / "mit-states", images=2)


def annotated(root):
    pairs(root)
    write(root / "mit-states", "193-annot.csv", "image,other", "dark dog/train0.png,pale")


def listed(root):
    touch(root / "mit-states/images", "wet dog/1.jpg")
    write(root / "mit-states", "aao.json", '[["wet dog/1.jpg", "wet", "old", "dog"]]')


def published(root):
    CLASSES["EuroSAT"][0](root)
    dataset = build_dataset(config(root, "EuroSAT"))
    split = {
        part: [[os.path.relpath(item.impath, dataset.image_dir), item.label, item.classname] for item in items]
        for part, items in parts(dataset).items()
    }
    write(root / "eurosat", dataset.split_file, json.dumps(split))


LAYOUTS = {name: (name, make) for name, (make, *_) in CLASSES.items()} | {
    "published": ("EuroSAT", published),
    "ImageNet": ("ImageNet", imagenet),
    "Folder": ("Folder", folder),
    "MITStates": ("MITStates", pairs),
    "annotations": ("MITStatesAAO", annotated),
    "aao": ("MITStatesAAO", listed),
}


def damaged(content, rng):
    """The content of a list with a bit flipped, cut, some bytes of noise, a line or a word of another kind, or odd."""
    content, at = bytearray(content), rng.randrange(max(1, len(content)))
    kind = rng.choice(["bit", "cut", "noise", "line", "word", "odd"])
    if kind == "bit" and content:
        content[at] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[at:]
    elif kind == "noise":
        content[at : at + 8] = rng.randbytes(8)
    elif kind == "odd":
        return rng.choice(ODD)
    else:
        separator = b"\n" if kind == "line" else b" "
        pieces = content.split(separator)
        pieces[rng.randrange(len(pieces))] = rng.choice(ODD)[:300]
        content = separator.join(pieces)
    return bytes(content)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_lists_are_refused_in_a_line(layout, tmp_path):
    reader, make = LAYOUTS[layout]
    make(tmp_path / "whole")
    lists = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.suffix in LISTS)
    rng = random.Random(layout)
    for number in range(ATTACKS if lists else 0):
        root = shutil.copytree(tmp_path / "whole", tmp_path / str(number))
        path = root / rng.choice(lists)
        path.write_bytes(damaged(path.read_bytes(), rng))
        try:
            dataset = build_dataset(config(root, reader))
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 5000
            continue
        for item in (item for items in parts(dataset).values() for item in items or ()):
            assert os.path.realpath(item.impath).startswith(f"{os.path.realpath(root)}{os.sep}")
            assert isinstance(item.label, int) and isinstance(item.classname, str)
        shutil.rmtree(root)


def test_class_names_and_json_that_fell(tmp_path):
    imagenet(tmp_path)
    (tmp_path / "imagenet/classnames.txt").write_bytes(b"n01440764 \xa0tench\n")
    with pytest.raises(UserError, match="cannot read .*classnames.txt .*utf-8"):
        build_dataset(config(tmp_path, "ImageNet"))
    listed(tmp_path)
    (tmp_path / "mit-states/aao.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="aao.json is not valid JSON"):
        build_dataset(config(tmp_path, "MITStatesAAO"))
