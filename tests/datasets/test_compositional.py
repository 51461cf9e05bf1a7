"""Compositional data sets: tiny folders in the layout read, and damaged ones refused in one line."""

import json
import os

import pytest
import torch

from dassl.config import get_cfg_default
from dassl.data.datasets import build_dataset
from dassl.utils import UserError
from datasets.compositional import pairs_by_name
from tests.conftest import TOY_PAIRS, write_pairs

METADATA = "metadata_compositional-split-natural.t7"


def read(root, name="CompositionalFolder", **options):
    cfg = get_cfg_default()
    cfg.SEED = 1
    cfg.DATASET.update({"ROOT": str(root), "NAME": name} | options)
    return build_dataset(cfg)


@pytest.fixture
def folder(tmp_path):
    write_pairs(tmp_path / "mine")
    return tmp_path / "mine"


def edited(folder, change):
    entries = torch.load(folder / METADATA, weights_only=True)
    change(entries)
    torch.save(entries, folder / METADATA)
    return folder


@pytest.mark.parametrize("name, place", [("MITStates", "mit-states"), ("UTZappos", "ut-zappos"), ("CGQA", "cgqa")])
def test_published_sets(tmp_path, name, place):
    write_pairs(tmp_path / place)
    dataset = read(tmp_path, name)
    assert dataset.dataset_dir == str(tmp_path / place)
    assert dataset.attributes == ["Faux Leather", "dark", "pale"]
    assert dataset.objects == ["boat", "dog", "sea shell"]
    assert dataset.spelling == {"sea shell": "sea_shell"} and not dataset.dropped
    assert dataset.num_classes == len(dataset.classnames) == len(dataset.pairs) == 9
    assert dataset.classnames[:5] == ["Faux Leather boat", "dark boat", "dark dog", "pale dog", "pale sea shell"]
    assert dataset.classnames[5:] == ["Faux Leather dog", "Faux Leather sea shell", "dark sea shell", "pale boat"]
    assert dataset.num_seen == 5 and dataset.lab2cname == dict(enumerate(dataset.classnames))
    assert dataset.phase_pairs == {"val": [0, 1, 2, 3, 4, 5, 8], "test": [0, 1, 2, 3, 4, 6, 7]}
    assert [len(part) for part in (dataset.train_x, dataset.val, dataset.test)] == [20, 12, 16]
    for item in [*dataset.train_x, *dataset.val, *dataset.test]:
        assert dataset.pairs[item.label] == (item.attribute, item.object)
        assert item.classname == f"{item.attribute_name} {item.object_name}" == dataset.classnames[item.label]
        assert dataset.attributes[item.attribute] == item.attribute_name and os.path.isfile(item.impath)


def test_own_folder_and_few_shots(folder):
    few, again = (read(folder, NUM_SHOTS=2).train_x for _ in range(2))
    assert [item.label for item in few] == [2, 2, 3, 3, 1, 1, 0, 0, 4, 4]
    assert [item.impath for item in few] == [item.impath for item in again]
    assert len(read(folder, NUM_SHOTS=2).val) == 12


def test_images_that_are_not_available_are_skipped(folder):
    def change(entries):
        entries[0]["attr"] = entries[1]["set"] = "NA"
        entries[2]["obj"] = "camel"  # of a pair that no set lists
        for entry in entries[:3]:
            entry["image"] = "nowhere.png"

    assert len(read(edited(folder, change)).train_x) == 17


def test_ut_zappos_before_its_reorganising_step(tmp_path):
    folder = tmp_path / "ut-zappos"
    write_pairs(folder)
    (folder / "images").rename(folder / "_images")

    def change(entries):
        for entry in entries:
            entry["_image"], entry["image"] = entry["image"], "elsewhere.png"

    edited(folder, change)
    assert len(read(tmp_path, "UTZappos").train_x) == 20


def put(key, value, entry=0):
    return lambda entries: entries[entry].update({key: value})


@pytest.mark.parametrize(
    "change, message",
    [
        (put("image", "../secret.png"), 'names "../secret.png", which is outside'),
        (put("image", "/secret.png"), 'names "/secret.png", which is outside'),
        (put("image", "none.png"), "1 of the 48 images in .*t7 are missing, the first one .*none.png"),
        (put("set", "trian"), 'into the set "trian": there are train, val, test and NA'),
        (put("set", "train", entry=-1), 'train image .* of "dark sea_shell", not in train_pairs.txt'),
        (lambda entries: entries[0].pop("obj"), "is not a list of {image, attr, obj, set}"),
        (lambda entries: [entry.update(set="NA") for entry in entries], "names no training image"),
    ],
)
def test_broken_metadata(folder, change, message):
    with pytest.raises(UserError, match=message):
        read(edited(folder, change))


def test_broken_folders(folder):
    pairs = folder / "compositional-split-natural" / "val_pairs.txt"
    with pytest.raises(UserError, match="DATASET.SUBSAMPLE_CLASSES is base, but CompositionalFolder has no"):
        read(folder, SUBSAMPLE_CLASSES="base")
    pairs.write_text("dark dog\npale\n")
    with pytest.raises(UserError, match='val_pairs.txt, line 2: "pale" is not "attribute object"'):
        read(folder)
    pairs.unlink()
    with pytest.raises(UserError, match="cannot read the pairs .*val_pairs.txt: No such file"):
        read(folder)
    pairs.write_text("dark dog\n")
    (folder / "compositional-split-natural" / "test_pairs.txt").write_text("")
    with pytest.raises(UserError, match="lists no pair to test on"):
        read(folder)
    with pytest.raises(UserError, match="no folder .*images: MITStates needs images/"):
        read(folder, "MITStates")


def test_metadata_that_is_no_list_or_holds_code(folder):
    write_pairs(folder / "b")
    (folder / "b" / METADATA).write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot load .*t7: damaged"):
        read(folder / "b")
    torch.save([os.getcwd], folder / "b" / METADATA)
    with pytest.raises(UserError, match="cannot load .*t7: damaged"):
        read(folder / "b")
    (folder / "b" / METADATA).unlink()
    with pytest.raises(UserError, match="cannot read .*t7: No such file"):
        read(folder / "b")


# Objects with two attributes


AAO = [
    ["dark dog/test0.png", "old", "dark", "dog"],
    ["pale dog/test1.png", "wet", "old", "sea_shell"],
    ["pale dog/test2.png", "old", "dark", "dog"],
]


def with_triples(folder, content):
    (folder / "aao.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.mark.parametrize("name, place", [("MITStatesAAO", "mit-states"), ("AAOFolder", "")])
def test_objects_with_two_attributes(tmp_path, name, place):
    folder = tmp_path / "root" / place
    write_pairs(folder, TOY_PAIRS | {"test": ["dark dog", "pale dog"]})
    with_triples(folder, AAO)
    dataset = read(tmp_path / "root", name)
    assert dataset.attributes == ["dark", "old", "wet"] and dataset.objects == ["dog", "sea shell"]
    assert dataset.classnames == ["old dark dog", "wet old sea shell"] and dataset.num_classes == 2
    assert dataset.pairs == [(1, 0, 0), (2, 1, 1)] and not dataset.train_x
    assert [item.label for item in dataset.test] == [0, 1, 0]
    assert dataset.test[0].impath == str(folder / "images" / "dark dog" / "test0.png")
    assert pairs_by_name(dataset.classnames, dataset.attributes, dataset.objects) == dataset.pairs
    assert dataset.classes()["num_seen"] == 0


@pytest.mark.parametrize(
    "content, message",
    [
        ("[", "aao.json is not valid JSON"),
        ('{"a": 1}', r"aao.json is not a list \[\[image, attribute"),
        ([["a.png", "old", "dog"]], r"aao.json is not a list \[\[image, attribute"),
        ([["a.png", "old", None, "dog"]], r"aao.json is not a list \[\[image, attribute"),
        ([], "aao.json names no image"),
        ([["../a.png", "old", "wet", "dog"]], "which is outside"),
        ([["a.png", "old", "wet", "dog"]], "1 of the 1 images in .*aao.json are missing"),
    ],
)
def test_broken_triples(folder, content, message):
    with pytest.raises(UserError, match=message):
        read(with_triples(folder, content), "AAOFolder")


LINES = """image,by,second
dark dog/test0.png,7,old
"pale_dog/test1.png",8,dark
dark dog/test1.png,,old
"""


def with_annotations(folder, text):
    (folder / "193-annot.csv").write_text(text)
    return folder


def test_csps_annotations(tmp_path):
    """The image's folder tells its own attribute, which comes first; they go before aao.json."""
    folder = tmp_path / "mit-states"
    write_pairs(folder, TOY_PAIRS | {"test": ["dark dog", "pale dog", "old sea_shell"]})
    (folder / "images" / "pale dog").rename(folder / "images" / "pale_dog")
    with_triples(with_annotations(folder, LINES), AAO)
    dataset = read(tmp_path, "MITStatesAAO")
    assert dataset.classnames == ["dark old dog", "pale dark dog"]
    assert [item.label for item in dataset.test] == [0, 1, 0]
    assert dataset.test[1].impath == str(folder / "images" / "pale_dog" / "test1.png")
    assert dataset.pairs == [(0, 1, 0), (2, 0, 0)] and dataset.attributes == ["dark", "old", "pale"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("image,attr\ndark dog/test0.png,7\n", "193-annot.csv, line 2, does not name an image in a folder attr"),
        ("image\ndark dog/test0.png,pale,Faux.Leather\n", "line 2, does not name"),
        ("image\ntest0.png,pale\n", "line 2, does not name"),
        ("image\ndark dog/test0.png,pale\nnothing\n", "line 3, does not name"),
        ("image\ndark dog/none.png,pale\n", "1 of the 1 images in .*193-annot.csv are missing"),
        ("image,attr\n", "193-annot.csv names no image"),
    ],
)
def test_broken_annotations(folder, text, message):
    with pytest.raises(UserError, match=message):
        read(with_annotations(folder, text), "AAOFolder")


def test_attributes_can_be_dropped(folder):
    dataset, whole = read(folder), read(folder)
    dataset.drop_attributes({"dark"})
    assert dataset.classnames[:3] == ["Faux Leather boat", "pale dog", "pale sea shell"] and dataset.num_seen == 3
    assert dataset.classnames[3:5] == ["dark boat", "dark dog"] and dataset.dropped == ["dark"]
    assert len(dataset.train_x) == 12 and len(dataset.test) == 16
    for part in ("val", "test"):
        candidates = {dataset.classnames[label] for label in dataset.phase_pairs[part]}
        assert candidates == {whole.classnames[label] for label in whole.phase_pairs[part]}
    with pytest.raises(UserError, match="no training image without the attributes"):
        dataset.drop_attributes(dataset.attributes)


def test_pairs_by_name():
    attributes, objects = ["old", "very old", "wet"], ["dog", "old dog"]
    pairs = pairs_by_name(["wet dog", "very_old dog", "wet old dog", "wet very old dog"], attributes, objects)
    assert pairs == [(2, 0), (1, 0), (2, 1), (2, 1, 0)], "the reading of fewest words"
    for name in ("dog", "wet", "dog wet"):
        with pytest.raises(UserError, match=f'"{name}" is not made of an attribute and an object'):
            pairs_by_name([name], attributes, objects)
