"""Every reader on a tiny copy of its official layout, with the published split and without."""

import json
import os
import pickle
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import CIFAR100
from torchvision.datasets.utils import calculate_md5

from dassl.config import get_cfg_default
from dassl.data import DataManager
from dassl.data.datasets import DATASET_REGISTRY, build_dataset
from dassl.utils import UserError
from datasets.base import SplitDataset


def touch(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()


def write(folder, file, *lines):
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text("".join(line + "\n" for line in lines))


def class_folders(images, *names, n=10):
    """n images in a folder of each name."""

    def make(root):
        touch(root / images, *(f"{name}/{i}.jpg" for name in names for i in range(n)))

    return make


def caltech101(root):
    class_folders("caltech-101/101_ObjectCategories", "BACKGROUND_Google", "Faces", "Faces_easy", "airplanes")(root)


def oxford_pets(root):
    folder, trainval, test = root / "oxford_pets", [], []
    for label, breed in enumerate(("Abyssinian", "american_bulldog"), start=1):
        touch(folder, *(f"images/{breed}_{i}.jpg" for i in range(15)))
        trainval += [f"{breed}_{i} {label} 1 1" for i in range(10)]
        test += [f"{breed}_{i} {label} 1 1" for i in range(10, 15)]
    write(folder, "annotations/trainval.txt", *trainval)
    write(folder, "annotations/test.txt", *test)


def annotations(images):
    """A struct array as in the cars' files: bounding box, class and file of every image."""
    dtype = [("bbox_x1", object), ("class", object), ("fname", object)]
    return np.array([(39, label, name) for name, label in images], dtype=dtype)


def stanford_cars(root):
    folder = root / "stanford_cars"
    train = [(f"{i:05}.jpg", i % 2 + 1) for i in range(20)]
    test = [(f"{i:05}.jpg", i % 2 + 1) for i in range(10)]
    touch(folder, *(f"cars_train/{name}" for name, _ in train), *(f"cars_test/{name}" for name, _ in test))
    (folder / "devkit").mkdir()
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], dtype=object)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": names})
    savemat(folder / "devkit/cars_train_annos.mat", {"annotations": annotations(train)})
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": annotations(test)})


def oxford_flowers(root):
    folder = root / "oxford_flowers"
    touch(folder, *(f"jpg/image_{i:05}.jpg" for i in range(1, 21)))
    savemat(folder / "imagelabels.mat", {"labels": np.array([[2] * 10 + [1] * 10], dtype=np.uint8)})
    (folder / "cat_to_name.json").write_text('{"1": "pink primrose", "2": "hard-leaved pocket orchid"}')


def fgvc_aircraft(root):
    folder = root / "fgvc_aircraft"
    write(folder, "variants.txt", "F-16A/B", "747-100")
    for k, (part, n) in enumerate({"train": 5, "val": 2, "test": 3}.items()):
        for label, name in enumerate(("747-100", "F-16A/B")):
            images = [f"{k}{label}{i}" for i in range(n)]
            touch(folder / "images", *(f"{image}.jpg" for image in images))
            with open(folder / f"images_variant_{part}.txt", "a") as file:
                file.writelines(f"{image} {name}\n" for image in images)


def sun397(root):
    folder, classes = root / "sun397", ("/a/abbey", "/a/apartment_building/outdoor")
    touch(folder / "SUN397", *(f"{name[1:]}/sun_{i}.jpg" for name in classes for i in range(15)))
    write(folder, "ClassName.txt", *classes)
    write(folder, "Training_01.txt", *(f"{name}/sun_{i}.jpg" for name in classes for i in range(10)))
    write(folder, "Testing_01.txt", *(f"{name}/sun_{i}.jpg" for name in classes for i in range(10, 15)))


def ucf101(root):
    folder, videos = root / "ucf101", {}
    for label, (action, name) in enumerate({"ApplyEyeMakeup": "Apply_Eye_Makeup", "YoYo": "Yo_Yo"}.items(), start=1):
        videos[action, label] = [f"v_{action}_g{i:02}_c01" for i in range(15)]
        touch(folder / "UCF-101-midframes" / name, *(f"{video}.jpg" for video in videos[action, label]))
    lists = {part: f"ucfTrainTestlist/{part}.txt" for part in ("classInd", "trainlist01", "testlist01")}
    write(folder, lists["classInd"], *(f"{label} {action}" for action, label in videos))
    write(folder, lists["trainlist01"], *(f"{a}/{v}.avi {n}" for (a, n), names in videos.items() for v in names[:10]))
    write(folder, lists["testlist01"], *(f"{a}/{v}.avi" for (a, _), names in videos.items() for v in names[10:]))


HALVES = {"train": 5, "val": 2, "test": 3}  # of ten images of a class
OFFICIAL = {"train": 8, "val": 2, "test": 5}  # of ten to train on and five to test on
CLASSES = {
    "Caltech101": (caltech101, ["face", "airplane"], HALVES),
    "OxfordPets": (oxford_pets, ["abyssinian", "american_bulldog"], OFFICIAL),
    "StanfordCars": (stanford_cars, ["2000 AM General Hummer SUV", "2012 Acura RL Sedan"], OFFICIAL),
    "OxfordFlowers": (oxford_flowers, ["pink primrose", "hard-leaved pocket orchid"], HALVES),
    "Food101": (class_folders("food-101/images", "apple_pie", "waffles"), ["apple_pie", "waffles"], HALVES),
    "FGVCAircraft": (fgvc_aircraft, ["F-16A/B", "747-100"], {"train": 5, "val": 2, "test": 3}),
    "SUN397": (sun397, ["abbey", "outdoor apartment_building"], OFFICIAL),
    "DescribableTextures": (class_folders("dtd/images", "banded", "zigzagged"), ["banded", "zigzagged"], HALVES),
    "EuroSAT": (class_folders("eurosat/2750", "AnnualCrop", "SeaLake"), ["Annual Crop Land", "Sea or Lake"], HALVES),
    "UCF101": (ucf101, ["Apply_Eye_Makeup", "Yo_Yo"], OFFICIAL),
}
"""Reader -> its tiny layout of two classes, the class names in the order of the labels, and images of each."""


def config(root, name, **options):
    cfg = get_cfg_default()
    cfg.SEED = 1
    cfg.DATASET.update({"ROOT": str(root), "NAME": name} | options)
    return cfg


def parts(dataset):
    return {"train": dataset.train_x, "val": dataset.val, "test": dataset.test}


def first_images(dataset):
    return {part: os.path.relpath(items[0].impath, dataset.image_dir) for part, items in parts(dataset).items()}


def snapshot(folder):
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", CLASSES)
def test_a_layout_without_a_published_split(tmp_path, name):
    make, classnames, counts = CLASSES[name]
    make(tmp_path)
    before = snapshot(tmp_path)
    dataset = build_dataset(config(tmp_path, name))
    assert dataset.classnames == classnames
    for part, items in parts(dataset).items():
        assert [sum(item.label == label for item in items) for label in (0, 1)] == [counts[part]] * 2
        assert {item.classname for item in items} == set(classnames)
    images = [item.impath for items in parts(dataset).values() for item in items]
    assert len(set(images)) == len(images) == 2 * sum(counts.values())
    assert all(os.path.isfile(path) for path in images)
    assert snapshot(tmp_path) == before, "nothing is written under the root"
    assert len(build_dataset(config(tmp_path, name, NUM_SHOTS=2)).train_x) == 4


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "FGVCAircraft"])
def test_a_layout_with_the_published_split(tmp_path, tmp_cache, name):
    make, classnames, _ = CLASSES[name]
    make(tmp_path)
    dataset = build_dataset(config(tmp_path, name))
    first = first_images(dataset)
    other = os.path.relpath(dataset.train_x[-1].impath, dataset.image_dir)
    split = {part: [[path, 0, "as published"]] for part, path in first.items()}
    split["train"].append([other, 1, "the other"])
    with open(os.path.join(dataset.dataset_dir, dataset.split_file), "w") as file:
        json.dump(split, file)
    dataset = build_dataset(config(tmp_path, name))
    assert dataset.classnames == ["as published", "the other"]
    assert first_images(dataset) == first


def test_labels_go_with_their_images(tmp_path):
    """What the lists say of single images, looked up by hand."""
    wanted = {
        "OxfordPets": (oxford_pets, "american_bulldog_12.jpg", 1),
        "StanfordCars": (stanford_cars, "cars_test/00003.jpg", 1),
        "OxfordFlowers": (oxford_flowers, "image_00001.jpg", 1),
        "FGVCAircraft": (fgvc_aircraft, "000.jpg", 1),
        "SUN397": (sun397, "a/apartment_building/outdoor/sun_3.jpg", 1),
        "UCF101": (ucf101, "Yo_Yo/v_YoYo_g03_c01.jpg", 1),
    }
    for name, (make, image, label) in wanted.items():
        make(tmp_path)
        dataset = build_dataset(config(tmp_path, name))
        items = [item for items in parts(dataset).values() for item in items]
        assert {os.path.relpath(item.impath, dataset.image_dir): item.label for item in items}[image] == label, name


def test_lists_that_are_damaged(tmp_path):
    oxford_pets(tmp_path)
    write(tmp_path / "oxford_pets", "annotations/test.txt", "Abyssinian_10 one")
    with pytest.raises(UserError, match="the lists in .*oxford_pets are not those that OxfordPets comes with .*one"):
        build_dataset(config(tmp_path, "OxfordPets"))
    stanford_cars(tmp_path)
    (tmp_path / "stanford_cars/devkit/cars_meta.mat").write_text("no MATLAB file")
    with pytest.raises(UserError, match="cannot read .*cars_meta.mat .*StanfordCars needs it, or the published split_"):
        build_dataset(config(tmp_path, "StanfordCars"))


WNIDS = {"n01440764": "tench", "n01443537": "goldfish", "n01484850": "great white shark", "n02129165": "lion"}


@pytest.fixture
def imagenet(tmp_path):
    """ImageNet of four classes, and the four data sets that test what was learned on it; A and R have two classes."""
    write(tmp_path / "imagenet", "classnames.txt", *(f"{wnid} {name}" for wnid, name in reversed(WNIDS.items())))
    for wnid in WNIDS:
        touch(tmp_path / "imagenet/images/train" / wnid, *(f"{wnid}_{i}.JPEG" for i in range(6)))
        touch(tmp_path / "imagenet/images/val" / wnid, *(f"ILSVRC2012_val_{i}.JPEG" for i in range(3)))
    for number in range(4):
        touch(tmp_path / f"imagenetv2/imagenetv2-matched-frequency-format-val/{number}", "a.jpeg", "b.jpeg")
    touch(tmp_path / "imagenet-sketch/images", *(f"{wnid}/sketch_0.JPEG" for wnid in WNIDS))
    for folder in ("imagenet-adversarial/imagenet-a", "imagenet-rendition/imagenet-r"):
        touch(tmp_path / folder, "README.txt", *(f"{wnid}/{i}.jpg" for wnid in list(WNIDS)[1::2] for i in (1, 2)))
    return tmp_path


def test_imagenet(imagenet):
    dataset = build_dataset(config(imagenet, "ImageNet"))
    assert dataset.classnames == list(WNIDS.values()) and not dataset.val
    for items, n in ((dataset.train_x, 6), (dataset.test, 3)):
        assert [item.label for item in items] == [label for label in range(4) for _ in range(n)]
        assert all(list(WNIDS)[item.label] == item.impath.split(os.sep)[-2] for item in items)
    assert [len(build_dataset(config(imagenet, "ImageNet", NUM_SHOTS=2)).train_x), len(dataset.test)] == [8, 12]
    new = build_dataset(config(imagenet, "ImageNet", SUBSAMPLE_CLASSES="new"))
    assert new.classnames == ["great white shark", "lion"] and new.all_classnames == list(WNIDS.values())


def test_no_image_of_imagenet_is_asked_for(imagenet, monkeypatch):
    """A million of them on a network's disk: their folders are listed, and once."""
    listed, listdir = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(str(path)) or listdir(path))
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **k: pytest.fail(path) if "JPEG" in str(path) else stat(path, **k))
    build_dataset(config(imagenet, "ImageNet", NUM_SHOTS=1))
    assert len(listed) == len(set(listed)) == 10


@pytest.mark.parametrize("name, classes, per_class", [
    ("ImageNetV2", list(WNIDS.values()), 2),
    ("ImageNetSketch", list(WNIDS.values()), 1),
    ("ImageNetA", ["goldfish", "lion"], 2),
    ("ImageNetR", ["goldfish", "lion"], 2),
])  # fmt: skip
def test_what_imagenet_is_tested_on(imagenet, name, classes, per_class):
    dataset = build_dataset(config(imagenet, name, NUM_SHOTS=16))
    assert dataset.classnames == dataset.all_classnames == classes and dataset.num_classes == len(classes)
    assert [(item.label, item.classname) for item in dataset.test] == [
        (label, classname) for label, classname in enumerate(classes) for _ in range(per_class)
    ]
    assert not dataset.train_x and not dataset.val
    manager = DataManager(config(imagenet, name))
    assert manager.train_loader_x is None and manager.num_classes == len(classes)


def test_class_names_of_its_own(imagenet):
    write(imagenet / "imagenet-rendition", "classnames.txt", *(f"{wnid} drawn {name}" for wnid, name in WNIDS.items()))
    assert build_dataset(config(imagenet, "ImageNetR")).classnames == ["drawn goldfish", "drawn lion"]
    touch(imagenet / "imagenet-rendition/imagenet-r", "n99999999/1.jpg")
    with pytest.raises(UserError, match="imagenet-r/n99999999 is not one of the 4 classes that have names"):
        build_dataset(config(imagenet, "ImageNetR"))
    touch(imagenet / "imagenetv2/imagenetv2-matched-frequency-format-val", "4/1.jpg")
    with pytest.raises(UserError, match="format-val/4 is not one of the 4 classes that have names"):
        build_dataset(config(imagenet, "ImageNetV2"))


def test_class_names_of_open_clip(imagenet, monkeypatch):
    (imagenet / "imagenet/classnames.txt").unlink()
    for module in ("open_clip", "timm", "timm.data"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match="imagenet/classnames.txt: put .* or pip install open_clip_torch"):
        build_dataset(config(imagenet, "ImageNetA"))
    open_clip, timm = ModuleType("open_clip"), ModuleType("timm.data")
    open_clip.IMAGENET_CLASSNAMES = [name.upper() for name in WNIDS.values()]
    timm.ImageNetInfo = lambda: type("Info", (), {"label_names": lambda self: list(WNIDS)})()
    for name, module in (("open_clip", open_clip), ("timm", ModuleType("timm")), ("timm.data", timm)):
        monkeypatch.setitem(sys.modules, name, module)
    assert build_dataset(config(imagenet, "ImageNetA")).classnames == ["GOLDFISH", "LION"]


def test_imagenet_whose_halves_differ(imagenet):
    touch(imagenet / "imagenet/images/val", "n02129165/x.JPEG")
    for path in (imagenet / "imagenet/images/train/n02129165").iterdir():
        path.unlink()
    (imagenet / "imagenet/images/train/n02129165").rmdir()
    with pytest.raises(UserError, match="train and val do not have the same class folders"):
        build_dataset(config(imagenet, "ImageNet"))


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """CIFAR-100 of two classes, ten images of each to train on and two to test on, as its published self."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)
    contents = {
        "train": {"data": pixels[:20].reshape(20, -1), "fine_labels": [0, 1] * 10},
        "test": {"data": pixels[20:].reshape(4, -1), "fine_labels": [0, 1] * 2},
        "meta": {"fine_label_names": ["apple", "aquarium_fish"]},
    }
    md5 = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        md5[name] = calculate_md5(folder / name)
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": md5["meta"]})
    return tmp_path, pixels.transpose(0, 2, 3, 1)


def test_cifar100(cifar100, tmp_cache):
    root, pixels = cifar100
    dataset = build_dataset(config(root, "CIFAR100"))
    assert dataset.classnames == ["apple", "aquarium_fish"]
    assert [len(items) for items in parts(dataset).values()] == [16, 4, 4]
    for part, items in {"train": dataset.train_x + dataset.val, "test": dataset.test}.items():
        originals = {image.tobytes(): i % 2 for i, image in enumerate(pixels[:20] if part == "train" else pixels[20:])}
        found = {np.asarray(Image.open(item.impath)).tobytes(): item.label for item in items}
        assert found == originals
    assert all(item.impath.startswith(str(tmp_cache)) for item in dataset.test)
    assert snapshot(root) == [f"{root}/cifar-100-python{end}" for end in ("", "/meta", "/test", "/train")]
    again = build_dataset(config(root, "CIFAR100"))
    assert [item.impath for item in again.val] == [item.impath for item in dataset.val]


def test_a_changed_cifar100_is_not_unpickled(cifar100, tmp_cache):
    root, _ = cifar100
    with open(root / "cifar-100-python/test", "ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match="is not the published CIFAR-100"):
        build_dataset(config(root, "CIFAR100"))
    assert not list(tmp_cache.iterdir())


def test_every_reader_is_tested_here():
    tested = {*CLASSES, "ImageNet", "ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR", "CIFAR100"}
    tested |= {"Folder", "IconsBlurred", "IconsCommon", "IconsEdges", "IconsRare"}  # in files of their own
    readers = {name: DATASET_REGISTRY.get(name) for name in DATASET_REGISTRY.registered_names()}
    ours = {name: reader for name, reader in readers.items() if reader.__module__.startswith("datasets.")}
    assert {name for name, reader in ours.items() if issubclass(reader, SplitDataset)} == tested
