"""Converted weights are those of Tensor.to, in one file that is made once, mapped by all and safe to lose."""

import logging
import random

import pytest
import torch

from dassl.utils import cache_dir
from prompting import shared_weights
from prompting.shared_weights import converted


@pytest.fixture
def due(tmp_path, monkeypatch):
    monkeypatch.setenv("MOCOOP_CACHE", str(tmp_path))
    monkeypatch.setattr(shared_weights, "FROM", 0)
    torch.manual_seed(0)
    return {
        "a": (torch.randn(7, 5).half(), torch.float32),
        "b": (torch.randn(6, 4).t(), torch.bfloat16),
        "c": (torch.tensor(2.0).half(), torch.float32),
    }


def files():
    return sorted(cache_dir("weights").iterdir())


def check(found, due):
    assert found.keys() == due.keys()
    for name, (tensor, dtype) in due.items():
        assert found[name].dtype == dtype and torch.equal(found[name], tensor.to(dtype))


def test_they_are_converted_once(due, monkeypatch):
    check(converted(due), due)
    (path,) = files()
    before = path.read_bytes()
    monkeypatch.setattr(shared_weights, "_made", lambda due: pytest.fail("made again"))
    found = converted(due)
    check(found, due)
    found["a"].zero_()
    assert path.read_bytes() == before, "a write stays in the process"
    check(converted(due), due)


def test_other_numbers_names_or_precisions_make_another_file(due, monkeypatch):
    tensor, dtype = due["a"]
    changes = ({"a": (tensor + 1, dtype)}, {"a": (tensor, torch.float64)}, {"d": (tensor, dtype)})
    for n, change in enumerate(({}, *changes), start=1):
        check(converted(due | change), due | change)
        assert len(files()) == n
    monkeypatch.setattr(shared_weights, "LIMIT", 1000)
    converted({"a": (tensor * 3, dtype)})
    assert len(files()) == 2, "the oldest go"


def test_damage_is_repaired_and_a_folder_that_cannot_be_is_done_without(due, caplog, monkeypatch, tmp_path):
    converted(due)
    (path,) = files()
    whole = path.read_bytes()
    flipped = [bytearray(whole) for _ in range(400)]
    for bit, content in zip(random.Random(0).sample(range(8 * len(whole)), 400), flipped, strict=True):
        content[bit // 8] ^= 1 << bit % 8
    for damaged in (whole[:-100], whole + whole, whole[:-1], b"", b"nothing", *flipped):
        path.unlink()
        path.write_bytes(damaged)
        check(converted(due), due)
        assert path.read_bytes() == whole
    assert caplog.text.count("Making the damaged file") == 405
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOCOOP_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, "dassl"):
        check(converted(due), due)
    assert "not shared with other runs" in caplog.text


def test_small_weights_are_not_worth_a_file(due, monkeypatch):
    monkeypatch.setattr(shared_weights, "FROM", 10**6)
    check(converted(due), due)
    assert files() == []
