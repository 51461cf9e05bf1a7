"""Cached image features equal computed ones, and nothing but the same question gets the same answer."""

import multiprocessing

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from prompting.backbones import Backbone, Family
from prompting.image_features import cached_image_features

TRANSFORM = v2.Compose([v2.Resize((8, 8)), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])


@pytest.fixture
def paths(tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    for i, path in enumerate(paths):
        Image.new("RGB", (10, 10), (50 * i, 10, 200)).save(path)
    return paths


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return torch.nn.Linear(3 * 8 * 8, 4)


class Images(list):
    def __getitem__(self, i):
        with Image.open(list.__getitem__(self, i)) as image:
            return {"img": TRANSFORM(image)}


def features(encoder, paths, calls=None, transform=TRANSFORM, precision="fp32", enabled=True, batch_size=2):
    def encode(images):
        if calls is not None:
            calls.append(len(images))
        return encoder(images.flatten(1))

    loader = DataLoader(Images(paths), batch_size=batch_size)
    return cached_image_features(encode, encoder, loader, paths, transform, precision, enabled)


def test_computed_once(encoder, paths, tmp_cache):
    calls = []
    first = features(encoder, paths, calls)
    assert calls == [2, 2, 1] and first.shape == (5, 4)
    again = features(encoder, paths, calls)
    assert calls == [2, 2, 1] and torch.equal(first, again)
    plain = torch.stack([encoder(item["img"].flatten()) for item in (Images(paths)[i] for i in range(5))])
    assert torch.allclose(first, plain, atol=1e-6)
    assert len(list((tmp_cache / "image_features").iterdir())) == 1


def test_whatever_decides_the_numbers_makes_another_entry(encoder, paths):
    features(encoder, paths)

    def computes(*args, **kwargs):
        calls = []
        features(*args, calls=calls, **kwargs)
        return bool(calls)

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
    features(encoder, paths, calls, transform=v2.Compose([v2.RandomHorizontalFlip(), TRANSFORM]))
    features(encoder, paths, calls, transform=v2.Compose([v2.Compose([v2.RandomHorizontalFlip()]), TRANSFORM]))
    assert calls == [2, 2, 1] * 3 and not list(tmp_cache.iterdir())


def test_a_cache_that_cannot_be_written_costs_no_run(encoder, paths, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MOCOOP_CACHE", str(tmp_path / "file" / "cache"))
    assert features(encoder, paths).shape == (5, 4) and "without the cache" in caplog.text


@pytest.mark.parametrize("damage", ["emptied", "cut", "other"])
def test_a_damaged_entry_is_made_again(encoder, paths, tmp_cache, damage, caplog):
    first = features(encoder, paths)
    (entry,) = (tmp_cache / "image_features").iterdir()
    content = entry.read_bytes()
    if damage == "other":
        torch.save(torch.zeros(3, 4), entry)
    else:
        entry.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    assert torch.equal(features(encoder, paths), first)
    assert torch.equal(torch.load(entry, weights_only=True), first)


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
