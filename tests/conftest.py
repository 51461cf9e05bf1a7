"""What all tests share: real data where it is at hand, a tiny data set and backbone, a cache folder of their own."""

import json
import logging
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train
from dassl.utils import setup_logger
from tests.reference import openai_weights, tiny_clip

# On models this small threads cost more than they give; processes that tests start must compute alike.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job that a script runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPO = Path(__file__).parents[1]
SHARED = REPO.parent / "shared"
TOY_CLASSES = ("ant", "bee", "crab_claw", "dog")
TOY_PAIRS = {
    "train": ["dark dog", "pale dog", "dark boat", "Faux.Leather boat", "pale sea_shell"],
    "val": ["dark dog", "Faux.Leather dog", "pale boat"],
    "test": ["pale dog", "dark boat", "Faux.Leather sea_shell", "dark sea_shell"],
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--trainer", default="", help="test_contract.py: of this trainer alone")
    parser.addoption("--keys", default="", help="test_contract.py: KEY VALUE ... for its runs")


@pytest.fixture
def caltech_root():
    """DATASET.ROOT with the real Caltech101."""
    if not (SHARED / "data" / "caltech-101").is_dir():
        pytest.skip("the real Caltech101 is not at ../shared/data")
    return str(SHARED / "data")


@pytest.fixture
def icon_clip():
    """The path of a small CLIP trained on icons and photos."""
    path = SHARED / "models" / "icon-clip.pt"
    if not path.is_file():
        pytest.skip("the small CLIP is not at ../shared/models/icon-clip.pt")
    return str(path)


def write_toy(root):
    """Four classes in Caltech101's layout in `root`: 6, 2 and 3 noisy images each, of the class's colour."""
    images = root / "caltech-101" / "101_ObjectCategories"
    rng = np.random.default_rng(0)
    split = {"train": [], "val": [], "test": []}
    for label, name in enumerate(TOY_CLASSES):
        (images / name).mkdir(parents=True)
        colour = rng.uniform(0, 255, 3)
        for i, part in enumerate(["train"] * 6 + ["val"] * 2 + ["test"] * 3):
            pixels = np.clip(colour + rng.normal(0, 40, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(images / name / f"{i}.png")
            split[part].append([f"{name}/{i}.png", label, name])
    (root / "caltech-101" / "split_zhou_Caltech101.json").write_text(json.dumps(split))


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory):
    """DATASET.ROOT with what `write_toy` writes."""
    root = tmp_path_factory.mktemp("toy")
    write_toy(root)
    return str(root)


def write_pairs(folder, pairs=None, images=4):
    """A compositional data set in `folder`: of every pair of a set, some images of the pair's colour."""
    pairs = pairs or TOY_PAIRS
    (folder / "images").mkdir(parents=True)
    (folder / "compositional-split-natural").mkdir()
    rng, colours, entries = np.random.default_rng(0), {}, []
    for part, names in pairs.items():
        lines = "".join(name + "\n" for name in names)
        (folder / "compositional-split-natural" / f"{part}_pairs.txt").write_text(lines)
        for name in names:
            (folder / "images" / name).mkdir(exist_ok=True)
            attr, obj = name.split()
            colour = sum(colours.setdefault(word, rng.uniform(0, 128, 3)) for word in (attr, obj))
            for i in range(images):
                pixels = np.clip(colour + rng.normal(0, 20, (40, 48, 3)), 0, 255).astype(np.uint8)
                image = f"{name}/{part}{i}.png"
                Image.fromarray(pixels).save(folder / "images" / image)
                entries.append({"image": image, "attr": attr, "obj": obj, "set": part})
    torch.save(entries, folder / "metadata_compositional-split-natural.t7")
    return entries


@pytest.fixture(scope="session")
def toy_pairs_root(tmp_path_factory):
    """DATASET.ROOT with MIT-States of three attributes, three objects, five seen and four unseen pairs."""
    root = tmp_path_factory.mktemp("toy-pairs")
    write_pairs(root / "mit-states")
    return str(root)


@pytest.fixture(scope="session")
def toy_backbone(tmp_path_factory):
    """The path of a random CLIP's state dict: ViT, 32 x 32 pixels."""
    path = tmp_path_factory.mktemp("backbone") / "tiny.pt"
    torch.save(openai_weights(tiny_clip()), path)
    return str(path)


@pytest.fixture(autouse=True)
def tmp_cache(tmp_path_factory, monkeypatch):
    """The cache folder, empty."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MOCOOP_CACHE", str(path))
    return path


@pytest.fixture
def closing_logger():
    """A logger below "dassl"; afterwards sys.stdout and the handlers are as before."""
    yield logging.getLogger("dassl.test")
    setup_logger()
    logging.getLogger("dassl").handlers.clear()


@pytest.fixture
def toy_args(toy_root, toy_backbone):
    """toy_args(trainer, output_dir, *keys, flags=()): train.py's arguments for three epochs on the tiny data set."""

    def args(trainer, output, *keys, flags=(), config="vit_b16_ep50"):
        options = {
            "--root": toy_root,
            "--backbone": toy_backbone,
            "--seed": 1,
            "--trainer": trainer,
            "--dataset-config-file": REPO / "configs/datasets/caltech101.yaml",
            "--config-file": REPO / f"configs/trainers/{trainer}/{config}.yaml",
            "--output-dir": output,
        }
        small = ("DATASET.NUM_SHOTS", 4, "DATALOADER.TRAIN_X.BATCH_SIZE", 4, "OPTIM.MAX_EPOCH", 3)
        return [str(a) for a in (*(x for pair in options.items() for x in pair), *flags, *small, *keys)]

    return args


@pytest.fixture
def toy_run(toy_args, closing_logger):
    """toy_run(trainer, output_dir, *keys, flags=()): run train.py in this process; the trainer."""
    return lambda *args, **options: train.main(toy_args(*args, **options))


@pytest.fixture
def toy_pairs_run(toy_run, toy_pairs_root):
    """toy_pairs_run(trainer, output_dir, *keys, flags=(), config="vit_l14"): train.py on the tiny pairs."""
    pairs = ["--root", toy_pairs_root, "--dataset-config-file", str(REPO / "configs/datasets/mit_states.yaml")]

    def run(trainer, output, *keys, flags=(), config="vit_l14"):
        return toy_run(trainer, output, *keys, flags=[*pairs, *flags], config=config)

    return run
