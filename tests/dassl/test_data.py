"""Loaders whose epochs depend on nothing but the generators' state, and images decoded once."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from dassl.config import get_cfg_default
from dassl.data import DataManager, DatasetWrapper, build_data_loader, decoded_images
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.data.decoded_images import DecodedImages
from dassl.data.transforms import build_transform
from dassl.utils import UserError, get_rng_state, read_image, set_random_seed, set_rng_state

GIB = 2**30


@pytest.fixture
def items(tmp_path):
    """Ten images of two classes, gray and palette ones among them, each of its own size."""
    noise = np.random.default_rng(0)
    made = []
    for i in range(10):
        image = Image.fromarray(noise.integers(0, 256, (20 + i, 30 - i, 3), dtype=np.uint8))
        image = image.convert(("RGB", "L", "P")[i % 3])
        image.save(tmp_path / f"{i}.png")
        made.append(Datum(str(tmp_path / f"{i}.png"), label=i % 2, classname="ab"[i % 2]))
    return made


def config(workers=0, shots=-1, cache_gb=4.0):
    cfg = get_cfg_default()
    cfg.DATASET.NAME = "Toy"
    cfg.DATASET.NUM_SHOTS = shots
    cfg.INPUT.SIZE = (16, 16)
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "colorjitter", "normalize")
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.DATALOADER.CACHE_GB = cache_gb
    return cfg


def train_loader(cfg, items, tfm=None, batch_size=3, **kwargs):
    tfm = tfm or build_transform(cfg)
    return build_data_loader(cfg, "RandomSampler", items, batch_size, tfm=tfm, is_train=True, **kwargs)


def evaluation_loader(cfg, items, **kwargs):
    return build_data_loader(cfg, "SequentialSampler", items, is_train=False, **kwargs)


def epoch(loader):
    """The images and indices of one epoch."""
    batches = list(loader)
    return torch.cat([b["img"] for b in batches]), torch.cat([b["index"] for b in batches])


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def any_generator(image):
    """A transform that draws from all three generators."""
    return torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)


# Items


def test_items_of_a_wrapper(items):
    cfg = config()
    tfm = build_transform(cfg, is_train=False)
    item = DatasetWrapper(cfg, items, transform=tfm)[3]
    assert set(item) == {"label", "domain", "impath", "index", "img"}
    assert (item["label"], item["domain"], item["impath"], item["index"]) == (1, 0, items[3].impath, 3)
    assert torch.equal(item["img"], tfm(read_image(items[3].impath)))
    assert DatasetWrapper(cfg, items)[3]["img"].size == (27, 23)


def test_several_transforms_and_versions(items):
    cfg = config()
    cfg.DATALOADER.K_TRANSFORMS = 2
    cfg.DATALOADER.RETURN_IMG0 = True
    tfm = build_transform(cfg)
    item = DatasetWrapper(cfg, items, transform=(tfm, any_generator, tfm), is_train=True)[0]
    assert {"img", "img2", "img3", "img0"} <= set(item)
    assert len(item["img"]) == 2 and not torch.equal(*item["img"])
    assert item["img2"][0].shape == (3,) and item["img0"].shape == (3, 16, 16)
    assert DatasetWrapper(cfg, items, transform=tfm, is_train=False)[0]["img"].shape == (3, 16, 16)
    with pytest.raises(UserError, match="K_TRANSFORMS is 2"):
        DatasetWrapper(cfg, items, is_train=True)


# Loaders


def test_batches_do_not_depend_on_the_number_of_workers(items):
    runs = []
    for workers in (0, 2):
        loader = train_loader(config(workers), items, tfm=(build_transform(config()), any_generator))
        set_random_seed(7)
        given = []
        for _ in range(2):
            batches = list(loader)
            assert len(batches) == len(loader) == 3  # the tenth image does not fill a batch
            given += [torch.cat([b[key] for b in batches]) for key in ("img", "img2", "index")]
        runs.append((given, torch.rand(1), random.random(), np.random.rand()))
    (one, *state_one), (two, *state_two) = runs
    assert same(one, two)
    assert state_one == state_two
    assert not same(one[:3], one[3:])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fresh_loader_takes_up_where_another_was(items, workers):
    cfg = config(workers, shots=5)
    set_random_seed(7)
    loader = train_loader(cfg, items)
    epoch(loader), epoch(loader)
    state = get_rng_state()
    third = epoch(loader)

    set_random_seed(8)
    fresh = train_loader(cfg, items)
    set_rng_state(state)
    assert same(epoch(fresh), third)


def test_building_and_testing_draws_nothing(items):
    set_random_seed(7)
    state = get_rng_state()
    for workers in (0, 1):
        cfg = config(workers)
        train_loader(cfg, items)
        loader = evaluation_loader(cfg, items, tfm=build_transform(cfg, is_train=False))
        assert epoch(loader)[1].tolist() == list(range(10))
    after = get_rng_state()
    assert torch.equal(state.pop("torch"), after.pop("torch"))
    assert state == after


def test_a_random_test_transform_goes_on_drawing(items):
    loader = evaluation_loader(config(), items, tfm=any_generator, batch_size=5)
    images, _ = epoch(loader)
    assert len(images.unique(dim=0)) == 10


def test_a_wrapper_class_of_ones_own(items):
    class Plain:
        """Knows nothing of seeds."""

        def __init__(self, cfg, data_source, transform=None, is_train=False):
            self.data_source = data_source

        def __len__(self):
            return len(self.data_source)

        def __getitem__(self, idx):
            return {"index": idx, "label": self.data_source[idx].label}

    class Noisy(DatasetWrapper):
        def __getitem__(self, idx):
            return super().__getitem__(idx) | {"noise": random.random()}

    batches = list(train_loader(config(), items, dataset_wrapper=Plain))
    assert all(b["index"].tolist() and ((b["index"] % 2) == b["label"]).all() for b in batches)

    class PlainNoisy(Plain):
        def __getitem__(self, idx):
            return super().__getitem__(idx) | {"noise": random.random()}

    for wrapper in (Noisy, PlainNoisy):
        noise = []
        for workers, seed in ((0, 3), (1, 3), (1, 4)):
            torch.manual_seed(seed)
            loader = train_loader(config(workers), items, dataset_wrapper=wrapper)
            noise.append([batch["noise"].tolist() for batch in loader])
        assert noise[0] == noise[1] != noise[2]


def test_loader_options(items, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    loader = train_loader(config(workers=64), items)
    assert loader.num_workers == 1 and loader.persistent_workers
    assert train_loader(config(), items[:2]).drop_last is False  # a single, smaller batch is kept
    with pytest.raises(UserError, match="Toy has no images to train on"):
        train_loader(config(), [])
    with pytest.raises(UserError, match="DATALOADER: .*num_workers"):
        train_loader(config(workers=-1), items)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("shots", [-1, 5])
def test_an_unreadable_image_is_named(items, workers, shots):
    with open(items[4].impath, "wb") as file:
        file.write(b"no image")
    with pytest.raises(UserError) as error:
        epoch(train_loader(config(workers, shots), items, batch_size=5))
    message = str(error.value)
    del error  # it holds the traceback, and that the loader: its workers end here
    assert items[4].impath in message and "\n" not in message


# Decoded once


def test_decoded_images_have_the_same_pixels(items):
    paths = [item.impath for item in items]
    images = DecodedImages(paths * 2, 1, shared=False)
    assert len(images) == 10
    for path in paths:
        kept = images.read(path)
        assert kept.mode == "RGB" and np.array_equal(kept, read_image(path))
        kept.paste(0, (0, 0, *kept.size))  # what a transform does to its image
        assert np.array_equal(images.read(path), read_image(path))


def test_decoding_stops_at_the_budget(items):
    paths = [item.impath for item in items]
    budget = 3 * (20 * 30 + 21 * 29) + 10  # bytes of the first two images, and a little
    images = DecodedImages(paths, budget / GIB, shared=True)
    assert len(images) == 2
    assert all(np.array_equal(images.read(path), read_image(path)) for path in paths)
    assert len(DecodedImages(paths, 1e-9, shared=True)) == 0


def test_without_memory_images_are_decoded_on_use(items, monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise RuntimeError("unable to allocate")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    images = DecodedImages([items[0].impath], 1, shared=True)
    assert np.array_equal(images.read(items[0].impath), read_image(items[0].impath))
    assert "Not enough memory" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_a_few_shot_set_is_decoded_once(items, workers, monkeypatch):
    loader = train_loader(config(workers, shots=5), items)
    uncached = train_loader(config(shots=5, cache_gb=0.0), items)
    state = get_rng_state()
    expected = [epoch(uncached), epoch(uncached)]
    set_rng_state(state)

    assert loader.dataset.read is read_image  # nothing before it is asked for
    decoded = []

    def counting(path):
        decoded.append(path)
        return read_image(path)

    monkeypatch.setattr(decoded_images, "read_image", counting)
    assert same(epoch(loader), expected[0])
    monkeypatch.setattr("dassl.data.data_manager.read_image", None)
    assert same(epoch(loader), expected[1])
    assert sorted(decoded) == sorted(item.impath for item in items)


def test_only_few_shot_training_sets_are_decoded(items):
    for loader in (
        train_loader(config(), items),
        train_loader(config(shots=5, cache_gb=0.0), items),
        evaluation_loader(config(shots=5), items, tfm=any_generator),
    ):
        epoch(loader)
        assert loader.dataset.read is read_image


# DataManager


@pytest.fixture
def toy(items):
    class Toy(DatasetBase):
        def __init__(self, cfg):
            super().__init__(train_x=items, val=items[:2], test=items[:7])

    return DATASET_REGISTRY.register(Toy, force=True)


def test_data_manager(toy, items, caplog):
    cfg = config(shots=5)
    cfg.DATALOADER.TEST.BATCH_SIZE = 4
    with caplog.at_level("INFO", logger="dassl"):
        dm = DataManager(cfg, custom_tfm_train=[any_generator])
    assert isinstance(dm.dataset, toy)
    assert (dm.num_classes, dm.num_source_domains, dm.lab2cname) == (2, 0, {0: "a", 1: "b"})
    assert dm.train_loader_u is None
    assert [len(batch["label"]) for batch in dm.test_loader] == [4, 3]
    assert [batch["impath"] for batch in dm.val_loader] == [[item.impath for item in items[:2]]]
    assert next(iter(dm.train_loader_x))["img"].shape == (10, 3)
    rows = [line.split() for line in caplog.text.splitlines()]
    assert [row[1:] for row in rows if row[0] == "#"] == [
        ["classes", "2"], ["train_x", "10"], ["val", "2"], ["test", "7"]
    ]  # fmt: skip


def test_a_dataset_for_testing_alone(items):
    class TestAlone(DatasetBase):
        def __init__(self, cfg):
            super().__init__(train_x=[], test=items)

    DATASET_REGISTRY.register(TestAlone, force=True)
    cfg = config()
    cfg.DATASET.NAME = "TestAlone"
    dm = DataManager(cfg)
    assert dm.train_loader_x is None and dm.lab2cname == {0: "a", 1: "b"} and dm.num_classes == 2


def test_evaluation_alone_decodes_no_training_image(toy):
    dm = DataManager(config(shots=5))
    list(dm.test_loader)
    assert dm.train_loader_x.dataset.read is read_image


def test_unlabelled_data_follows_labelled_unless_told_otherwise(items):
    class Both(DatasetBase):
        def __init__(self, cfg):
            super().__init__(train_x=items, train_u=items, test=items)

    DATASET_REGISTRY.register(Both, force=True)
    cfg = config()
    cfg.DATASET.NAME = "Both"
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 5
    cfg.DATALOADER.TRAIN_U.BATCH_SIZE = 2
    assert DataManager(cfg).train_loader_u.batch_size == 5
    cfg.DATALOADER.TRAIN_U.SAME_AS_X = False
    assert DataManager(cfg).train_loader_u.batch_size == 2


def test_an_incomplete_last_batch_may_be_kept(items):
    class Ten(DatasetBase):
        def __init__(self, cfg):
            super().__init__(train_x=items, test=items)

    DATASET_REGISTRY.register(Ten, force=True)
    cfg = config()
    cfg.DATASET.NAME, cfg.DATALOADER.TRAIN_X.BATCH_SIZE = "Ten", 4
    assert [len(batch["img"]) for batch in DataManager(cfg).train_loader_x] == [4, 4]
    cfg.DATALOADER.TRAIN_X.DROP_LAST = False
    assert [len(batch["img"]) for batch in DataManager(cfg).train_loader_x] == [4, 4, 2]
