"""The attacks, shortly; and that each finds a fault that is planted. `make attack` runs the long versions."""

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dassl.engine.trainer import TrainerBase
from prompting import feature_store
from tests.attack import code, disks, flips, fuzz, fuzz_readers, kills, mutate, runs
from tests.attack.child import call
from tests.attack.faults import Fault


@pytest.fixture(scope="module")
def attack(tmp_path_factory):
    """attack(kind): an attack; what it computes once serves all tests."""
    folder, known = tmp_path_factory.mktemp("attack"), {}
    return lambda kind: known.setdefault(kind, kind(folder / kind.name))


def fell(attack, target, *seeds):
    """What attempts came to."""
    return [what for seed in seeds for _, what in attack.attempts(target, seed, 1).fell]


# Kills


def test_a_killed_run_comes_to_the_same_bits(attack):
    """By a power cut, then by a kill."""
    assert fell(attack(kills.Kills), "CoOp", 16, 37) == []


def forgets_where_it_was(words):
    """A run that, resumed, begins with other weights than it had."""
    TrainerBase.load_weights = lambda *args: None
    return runs.do(words)


def test_a_run_that_forgets_is_found(attack, monkeypatch):
    monkeypatch.setattr(kills.Kills, "do", staticmethod(forgets_where_it_was))
    assert any("weights: " in what for what in fell(attack(kills.Kills), "CoOp", 48))


def writes(folder):
    """Four operations: two files, one of them forced to the disk, and its name."""
    for name in ("a", "b"):
        with open(Path(folder, name), "w") as file:
            file.write("x" * 1000)
            file.flush()
            if name == "a":
                os.fsync(file.fileno())
    Path(folder, "a").rename(Path(folder, "c"))


@pytest.mark.parametrize(
    ("kind", "at", "left"),
    [
        ("kill", 1, {}),
        ("kill", 3, {"a": 1000}),
        ("kill", 4, {"a": 1000, "b": 1000}),
        ("power", 4, {"a": 1000, "b": None}),
        ("full", 3, {"a": 1000, "b": 0}),
        ("read-only", 3, {"a": 1000}),
        ("", 0, {"c": 1000, "b": 1000}),
    ],
)
def test_faults_are_those_that_they_say(kind, at, left, tmp_path):
    outcome = call(writes, str(tmp_path), fault=Fault(kind, str(tmp_path), at))
    assert (outcome.status == 0) == (kind == "") and (outcome.status == -9) == (kind in ("kill", "power"))
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes.keys() == left.keys()
    for name, size in left.items():
        assert sizes[name] < 1000 if size is None else sizes[name] == size
    assert kind or outcome.operations == 4
    if kind in ("full", "read-only"):
        assert outcome.complaint().startswith("a traceback: OSError: [Errno ")


# Flipped bits


@pytest.mark.parametrize("target", ["features", "killed-run", "converted", "classes"])
def test_a_flipped_bit_is_no_wrong_number(target, attack):
    assert fell(attack(flips.Flips), target, 0) == []


def believes_what_it_reads(place, data):
    """An evaluation that does not compare digests of features."""
    feature_store.read = unverified
    return flips.zero_shot(place, data)


def unverified(path):
    with open(path, "rb") as file:
        _, _, place = feature_store._head(file)
        return torch.frombuffer(bytearray(file.read()), dtype=torch.float32).reshape(place["shape"])


def test_a_cache_that_is_believed_is_found(attack, monkeypatch):
    victim = flips.VICTIMS["features"]
    monkeypatch.setitem(flips.VICTIMS, "believed", replace(victim, look=believes_what_it_reads))
    (what,) = fell(attack(flips.Flips), "believed", 1)
    assert "silently" in what


# Fuzz


@pytest.mark.parametrize("target", fuzz_readers.TARGETS)
def test_readers_take_what_no_one_would_write(target, attack):
    assert attack(fuzz.Fuzz).attempts(target, 0, 5 if target == "metrics" else 40).fell == []


@pytest.mark.parametrize("target", ["evaluated", "resumed", "backbone", "run", "words"])
def test_commands_take_what_no_one_would_write(target, attack):
    assert attack(fuzz.Fuzz).attempts(target, 0, 1).fell == []


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError(), MemoryError(), SystemExit(3)])
def test_another_error_is_found(error, tmp_path, monkeypatch):
    def reader(rng, attack):
        raise error

    monkeypatch.setitem(fuzz_readers.TARGETS, "grid", lambda start: reader)
    assert [seed for seed, _ in fuzz.read("grid", 7, 2, str(tmp_path), {})] == [7, 8]


# Full disks


def test_a_full_disk_is_one_line(attack):
    assert fell(attack(disks.Disks), "train", 0) == []


# Code


@pytest.mark.parametrize("target", ["checkpoint", "backbone", "foreign-run", "metadata", "yaml", "archives"])
def test_nothing_that_a_file_holds_is_run(target, attack):
    """TorchScript in the place of weights, or what the target itself makes."""
    seed = list(code.FILES).index("script")
    assert fell(attack(code.Code), target, seed) == []


def trusts(target, kind, place, data):
    """Unpickles whatever it gets."""
    real = torch.load
    torch.load = lambda *args, **options: real(*args, **{**options, "weights_only": False})
    return code.PLACES[target](code.FILES[kind], Path(place), data)


@pytest.mark.parametrize("kind", ["pickle", "zip", "old"])
def test_what_would_be_run_is_found(kind, attack, monkeypatch):
    monkeypatch.setattr(code, "put", trusts)
    seed = list(code.FILES).index(kind)
    assert fell(attack(code.Code), "checkpoint", seed) == [f"{kind}: executed"]


def test_attacks_repeat():
    """The same seed gives the same attempt."""
    first, again = ([mutated(seed) for seed in range(20)] for _ in range(2))
    assert first == again and len(set(first)) > 15


def mutated(seed):
    rng = random.Random(seed)
    return repr((mutate.tree({"a": [1, {"b": "c"}]}, rng), mutate.data(b"abcdef", rng), mutate.image(rng)))
