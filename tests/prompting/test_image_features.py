"""Cached image features equal computed ones, and nothing but the same question gets the same answer."""

import inspect
import logging
import multiprocessing
import os

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from dassl.config import get_cfg_default
from dassl.data.seeding import seeded
from dassl.data.transforms import AVAI_CHOICES, Cutout, build_transform
from dassl.utils import UserError, digests
from prompting import image_features
from prompting.backbones import Backbone, Family
from prompting.feature_store import about_of, write
from prompting.image_features import cached_image_features, is_deterministic, settings

TRANSFORM = v2.Compose([v2.Resize((8, 8)), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])


@pytest.fixture
def paths(tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    for i, path in enumerate(paths):
        image = Image.new("RGB", (10, 10), (50 * i, 10, 200))
        image.putpixel((i, 3), (255, 255, 255))
        image.save(path)
    return paths


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return torch.nn.Linear(3 * 8 * 8, 4)


class Images(Dataset):
    """Image files, transformed; under views (seed, epoch), each on a seed made from these and its index."""

    def __init__(self, paths, transform=TRANSFORM, views=None):
        self.paths, self.transform, self.views = paths, transform, views

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        with Image.open(self.paths[i]) as image:
            if self.views is None:
                return {"img": self.transform(image)}
            with seeded(hash((*self.views, i)) % 2**32):
                return {"img": self.transform(image)}


def features(encoder, images, calls=None, transform=TRANSFORM, precision="fp32", batch_size=2, views=None, **options):
    """Features of images, a list of paths or a dataset; `calls` gets the number of images of every batch encoded."""

    def encode(batch):
        if calls is not None:
            calls.append(len(batch))
        return encoder(batch.flatten(1))

    if isinstance(images, list):
        images = Images(images, TRANSFORM if views is None else transform, views)
    loader = DataLoader(images, batch_size=batch_size)
    paths = images.paths
    return cached_image_features(encode, encoder, loader, paths, transform, precision, views=views, **options)


def computes(*args, **kwargs):
    """Whether the features are not found."""
    calls = []
    features(*args, calls=calls, **kwargs)
    return bool(calls)


def test_computed_once(encoder, paths, tmp_cache):
    calls = []
    first = features(encoder, paths, calls)
    assert calls == [2, 2, 1] and first.shape == (5, 4)
    again = features(encoder, paths, calls)
    assert calls == [2, 2, 1] and torch.equal(first, again)
    plain = torch.stack([encoder(item["img"].flatten()) for item in (Images(paths)[i] for i in range(5))])
    assert torch.allclose(first, plain, atol=1e-6)
    (entry,) = (tmp_cache / "image_features").iterdir()
    about = about_of(entry)
    assert about.items() >= {"images": "5", "precision": "fp32", "shape": "5 x 4", "dtype": "F32"}.items()
    assert "seed" not in about


def test_whatever_decides_the_numbers_makes_another_entry(encoder, paths):
    features(encoder, paths)
    assert not computes(encoder, paths)
    assert computes(encoder, paths[::-1]) and computes(encoder, paths[:4])
    assert computes(encoder, paths, precision="bf16") and computes(encoder, paths, batch_size=3)
    assert computes(encoder, paths, transform=v2.Compose([v2.Resize((8, 9)), *TRANSFORM.transforms[1:]]))
    assert computes(
        encoder, paths, transform=v2.Compose([*TRANSFORM.transforms[:2], v2.ToDtype(torch.double, scale=True)])
    )
    Image.new("RGB", (10, 10), (1, 1, 1)).save(paths[2])
    assert computes(encoder, paths), "another image under the same name"
    with torch.no_grad():
        encoder.weight[0, 0] += 1e-6
    assert computes(encoder, paths), "other weights"


def test_other_flags_or_another_processor_make_another_entry(encoder, paths, monkeypatch):
    torch_flags = (
        (torch.backends.cudnn, "allow_tf32", not torch.backends.cudnn.allow_tf32),
        (torch, "get_float32_matmul_precision", lambda: "medium"),
        (torch, "are_deterministic_algorithms_enabled", lambda: True),
        (torch.backends.cpu, "get_cpu_capability", lambda: "another"),
        (image_features, "_cpu", lambda: "another"),
        (torch, "get_num_threads", lambda: 64),
    )
    features(encoder, paths)
    for module, flag, value in torch_flags:
        with monkeypatch.context() as patch:
            patch.setattr(module, flag, value)
            calls = []
            features(encoder, paths, calls)
            assert calls, flag


def test_switched_off_or_random_nothing_is_kept(encoder, paths, tmp_cache):
    calls = []
    features(encoder, paths, calls, enabled=False)
    features(encoder, paths, calls, limit_gb=0)
    features(encoder, paths, calls, transform=v2.Compose([v2.RandomHorizontalFlip(), TRANSFORM]))
    features(encoder, paths, calls, transform=v2.Compose([v2.Compose([v2.RandomHorizontalFlip()]), TRANSFORM]))
    features(encoder, paths, calls, views=(1, 2), transform=v2.Compose([v2.Lambda(lambda image: image), TRANSFORM]))
    assert calls == [2, 2, 1] * 5 and not list(tmp_cache.iterdir())


RANDOM = v2.Compose([v2.RandomCrop(6), v2.RandomHorizontalFlip(), *TRANSFORM.transforms])


def test_views_are_kept_by_seed_and_epoch(encoder, paths, tmp_cache):
    asked = [(seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    first = [features(encoder, paths, transform=RANDOM, views=views) for views in asked]
    assert not any(computes(encoder, paths, transform=RANDOM, views=views) for views in asked)
    for views, made in zip(asked, first, strict=True):
        assert torch.equal(features(encoder, paths, transform=RANDOM, views=views), made)
        plain = features(encoder, paths, transform=RANDOM, views=views, enabled=False)
        assert torch.equal(made, plain), "as those of who keeps none"
    assert len({tuple(made.flatten().tolist()) for made in first}) == 4
    abouts = [about_of(entry) for entry in (tmp_cache / "image_features").iterdir()]
    assert sorted((int(about["seed"]), int(about["epoch"])) for about in abouts) == asked


def test_views_of_no_random_transform_are_one(encoder, paths):
    features(encoder, paths, views=(1, 0))
    assert not computes(encoder, paths, views=(2, 7)) and not computes(encoder, paths)


def test_a_pipe_among_the_images_is_refused(encoder, paths):
    os.remove(paths[2])
    os.mkfifo(paths[2])
    with pytest.raises(UserError, match="2.png .it is no regular file"):
        features(encoder, paths)


@pytest.mark.parametrize("changed, plain_too", [("seeding", False), ("transforms", False), ("images", True)])
def test_what_reads_images_and_makes_views_is_in_the_key(encoder, paths, changed, plain_too, monkeypatch):
    features(encoder, paths)
    features(encoder, paths, transform=RANDOM, views=(1, 0))
    source, module = inspect.getsource, getattr(image_features, changed)
    monkeypatch.setattr(inspect, "getsource", lambda it: "another" if it is module else source(it))
    assert computes(encoder, paths, transform=RANDOM, views=(1, 0)) and computes(encoder, paths) == plain_too


@pytest.mark.parametrize("choice", [choice for choice in AVAI_CHOICES if choice != "center_crop"])
def test_every_transform_of_a_config_is_told(choice):
    cfg = get_cfg_default()
    transforms = [build_transform(cfg, choices=choices) for choices in ([], [choice])]
    assert None not in map(settings, transforms) and len(set(map(settings, transforms))) == 2
    assert settings(transforms[1]) == settings(build_transform(cfg, choices=[choice])), "whichever object it is"
    assert " at 0x" not in settings(transforms[1])


FLIP, GREY = v2.RandomHorizontalFlip(), v2.RandomGrayscale()


@pytest.mark.parametrize(("one", "other"), [
    (v2.RandomHorizontalFlip(0.5), v2.RandomHorizontalFlip(0.4)),
    (v2.Compose([v2.RandomApply([FLIP, GREY])]), v2.Compose([v2.RandomApply([FLIP]), GREY])),
    (v2.RandomApply(torch.nn.ModuleList([FLIP])), v2.RandomApply(torch.nn.ModuleList([GREY]))),
    (v2.RandomChoice([FLIP, GREY]), v2.RandomChoice([FLIP, GREY], p=[0.1, 0.9])),
    (v2.RandomChoice([FLIP, GREY]), v2.RandomOrder([FLIP, GREY])),
    (v2.AutoAugment(v2.AutoAugmentPolicy.SVHN), v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)),
    (v2.ToDtype({torch.Tensor: torch.half}), v2.ToDtype({torch.Tensor: torch.float})),
    (Cutout(1, 16), Cutout(2, 16)),
    (torch.nn.InstanceNorm2d(3, eps=1e-8), torch.nn.InstanceNorm2d(3)),
])  # fmt: skip
def test_settings_tell_transforms_apart(one, other):
    assert None not in (settings(one), settings(other)) and settings(one) != settings(other)


class Resize(v2.Resize):
    """Somebody's own."""


@pytest.mark.parametrize("transform", [
    None,
    abs,
    Resize(8),
    v2.Compose([FLIP, Resize(8)]),
    v2.Lambda(abs),
    v2.LinearTransformation(torch.eye(3), torch.zeros(3)),
    torch.nn.InstanceNorm2d(3, affine=True),
    torch.nn.BatchNorm2d(3, affine=False),
    v2.RandomApply([lambda image: image]),
])  # fmt: skip
def test_what_settings_do_not_describe(transform):
    assert transform is None or settings(transform) is None
    assert not is_deterministic(transform)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_on_disk_as_the_encoder_gives_it(encoder, paths, dtype):
    def encode(images):
        return encoder(images.flatten(1)).to(dtype)

    def ask():
        loader = DataLoader(Images(paths), batch_size=2)
        return cached_image_features(encode, encoder, loader, paths, TRANSFORM, str(dtype))

    first, again = ask(), ask()
    assert first.dtype == again.dtype == dtype and torch.equal(first, again)


def test_fifty_epochs_digest_weights_and_files_once(encoder, paths, monkeypatch):
    times = dict.fromkeys(("of_tensors", "_of_contents"), 0)
    for name in times:
        digest = getattr(digests, name)
        count = lambda what, name=name, digest=digest: (times.update({name: times[name] + 1}), digest(what))[1]  # noqa: E731
        monkeypatch.setattr(digests, name, count)
    images = Images(paths, RANDOM)
    for epoch in range(5):
        images.views = (1, epoch)
        features(encoder, images, transform=RANDOM, views=images.views)
    assert times == {"of_tensors": 1, "_of_contents": 1}
    with torch.no_grad():
        encoder.weight[0, 0] += 1e-6
    assert computes(encoder, images, transform=RANDOM, views=images.views)
    encoder.load_state_dict(torch.nn.Linear(3 * 8 * 8, 4).state_dict())
    assert computes(encoder, images, transform=RANDOM, views=images.views)
    encoder.weight = torch.nn.Parameter(encoder.weight + 1)
    assert computes(encoder, images, transform=RANDOM, views=images.views)
    assert times == {"of_tensors": 4, "_of_contents": 1}


def test_the_log_says_what_was_found_but_not_every_epoch(encoder, paths, caplog):
    caplog.set_level(logging.INFO, logger="dassl.prompting")
    for _ in range(2):
        features(encoder, paths)
        features(encoder, paths, transform=RANDOM, views=(1, 0))
    (line,) = caplog.messages
    assert line.startswith("Image features of 5 images from ")


def test_a_cache_that_cannot_be_written_costs_no_run(encoder, paths, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MOCOOP_CACHE", str(tmp_path / "file" / "cache"))
    assert all(features(encoder, paths).shape == (5, 4) for _ in range(2))
    (line,) = caplog.messages
    assert line.startswith("Image features are not kept: ") and str(tmp_path / "file") in line


@pytest.mark.parametrize("damage", ["emptied", "cut", "other"])
def test_a_damaged_entry_is_made_again(encoder, paths, tmp_cache, damage, caplog):
    first = features(encoder, paths)
    (entry,) = (tmp_cache / "image_features").iterdir()
    content = entry.read_bytes()
    if damage == "other":
        write(entry, torch.zeros(3, 4), {})
    else:
        entry.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    assert torch.equal(features(encoder, paths), first) and "Making the damaged cache file" in caplog.text
    assert not computes(encoder, paths) and torch.equal(features(encoder, paths), first)


def _in_another_process(encoder, paths, queue):
    torch.set_num_threads(1)
    queue.put(features(encoder, paths).tolist())


def test_concurrent_runs_share_the_folder(encoder, paths, tmp_cache):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_in_another_process, args=(encoder, paths, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert all(answer == answers[0] for answer in answers)
    assert len(list((tmp_cache / "image_features").iterdir())) == 1, "no temporary file is left"


def test_the_same_weights_of_another_family_make_another_entry(encoder, paths):
    calls = []
    for activation in ("QuickGELU", "GELU", "GELU"):
        family = Family(activation, activation, 64, (0, 0, 0), (1, 1, 1))
        encoder.backbone = Backbone("mine", family, 8, "other", load=lambda: None)
        features(encoder, paths, calls)
    assert calls == [2, 2, 1] * 2
