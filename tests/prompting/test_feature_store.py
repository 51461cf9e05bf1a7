"""What is kept is what was made, bit for bit, by one run for all; and nothing that fails on disk costs a run."""

import json
import logging
import multiprocessing
import os
import resource
import signal
import time
from contextlib import contextmanager

import pytest
import torch
from safetensors import safe_open

from dassl.config import get_cfg_default
from dassl.utils import cache_dir, locks
from prompting import feature_store
from prompting.feature_store import DTYPES, FeatureStore, about_of, entries, read, write

CONTEXT = multiprocessing.get_context("fork")
ABOUT = {"backbone": "mine", "images": "5"}


@pytest.fixture
def features():
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path)


class Maker:
    """Gives a tensor, and counts."""

    def __init__(self, features):
        self.features, self.times = features, 0

    def __call__(self):
        self.times += 1
        return self.features


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


# An entry


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 3), (1, 1), (0, 3)], ids=str)
def test_found_is_what_was_made(store, dtype, shape):
    make = Maker(torch.randn(shape).to(dtype))
    made, place = store.get("key", shape[0], make, ABOUT)
    found, path = store.get("key", shape[0], make, ABOUT)
    assert make.times == 1 and place is None and names(store.folder) == ["key.safetensors"] == [path.name]
    assert same_bits(made, make.features) and same_bits(found, made) and found.stride() == made.stride()
    assert about_of(path).items() >= ABOUT.items() | {("shape", " x ".join(map(str, shape)))}


def test_what_is_made_of_views_of_other_memory(store):
    make = Maker(torch.randn(3, 5).T.requires_grad_())
    (made, _), (found, _) = (store.get("key", 5, make, ABOUT) for _ in range(2))
    assert same_bits(made, found) and made.is_contiguous() and not made.requires_grad
    found.zero_()
    assert same_bits(store.get("key", 5, make, ABOUT)[0], made), "each has a copy of its own"


def test_others_can_open_it(tmp_path, features):
    write(tmp_path / "it.safetensors", features, ABOUT)
    with safe_open(tmp_path / "it.safetensors", "pt") as file:
        assert same_bits(file.get_tensor("features"), features) and file.metadata().items() >= ABOUT.items()


def is_damaged(path):
    try:
        read(path)
    except Exception:  # whatever json, torch or the digest has to say
        return True
    return False


def test_no_flipped_bit_gets_through(tmp_path, features):
    path = tmp_path / "it.safetensors"
    write(path, features, ABOUT)
    whole = path.read_bytes()
    assert same_bits(read(path), features)
    for bit in range(8 * len(whole)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        assert is_damaged(path), bit
    for content in (*(whole[:n] for n in range(len(whole))), whole + b"\0", whole * 2):
        path.write_bytes(content)
        assert is_damaged(path), len(content)
    path.write_bytes(whole)
    assert same_bits(read(path), features)


@pytest.mark.parametrize("damage", ["head", "tensor", "emptied", "rows", "not finite", "a folder"])
def test_a_damaged_entry_is_made_again(store, features, damage, caplog):
    make = Maker(features)
    store.get("key", 5, make, ABOUT)
    (entry,) = store.folder.iterdir()
    if damage == "rows":
        write(entry, torch.zeros(4, 3), ABOUT)
    elif damage == "not finite":
        write(entry, torch.full((5, 3), torch.nan), ABOUT)
    elif damage == "a folder":
        entry.unlink()
        entry.mkdir()
    else:
        content = bytearray(entry.read_bytes())
        content[20 if damage == "head" else -1] ^= 4
        entry.write_bytes(content if damage != "emptied" else b"")
    assert same_bits(store.get("key", 5, make, ABOUT)[0], features) and make.times == 2
    warnings = [record.getMessage() for record in caplog.records]
    if damage != "a folder":  # which nothing can be moved onto
        assert len(warnings) == 1 and warnings[0].startswith(f"Making the damaged cache file {entry} again (")
        assert same_bits(store.get("key", 5, make, ABOUT)[0], features) and make.times == 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_not_kept(store, features, value):
    features[2, 1] = value
    make = Maker(features)
    assert same_bits(store.get("key", 5, make, ABOUT)[0], features) and names(store.folder) == []


# The bound


def keep(store, key, used, n=256):
    """Make an entry of a kilobyte, last used so many seconds ago."""
    store.get(key, n, lambda: torch.zeros(n, 1), {})
    if used:
        touch(store.folder / f"{key}.safetensors", used)


def touch(path, used):
    os.utime(path, (time.time() - used,) * 2)


def test_what_was_used_longest_ago_goes(tmp_path):
    store = FeatureStore(tmp_path, 5 * 2**10 / 2**30)  # with their heads, four entries of a kilobyte
    for used, key in enumerate("dcba", start=1):
        keep(store, key, 100 * used)
    assert [entry.path.stem for entry in entries(tmp_path)] == list("abcd")
    assert store.get("a", 256, pytest.fail, {})[1] is not None, "from now on used last"
    keep(store, "e", 0)
    assert {entry.path.stem for entry in entries(tmp_path)} == set("acde")
    keep(store, "f", 0, n=600)
    assert {entry.path.stem for entry in entries(tmp_path)} == set("aef")
    assert sum(entry.size for entry in entries(tmp_path)) <= store.limit


def test_entries_of_earlier_versions_count(tmp_path):
    (tmp_path / "old.pt").write_bytes(bytes(4000))
    touch(tmp_path / "old.pt", 100)
    store = FeatureStore(tmp_path, 5 * 2**10 / 2**30)
    keep(store, "a", 0, n=2)
    assert names(tmp_path) == ["a.safetensors", "old.pt"]
    keep(store, "b", 0)
    assert names(tmp_path) == ["a.safetensors", "b.safetensors"]


def test_what_exceeds_the_bound_alone_is_not_kept(tmp_path):
    store = FeatureStore(tmp_path, 5 * 2**10 / 2**30)
    keep(store, "a", 100)
    keep(store, "b", 0, n=1281)
    assert names(tmp_path) == ["a.safetensors"]
    keep(store, "c", 0, n=1280)
    assert names(tmp_path) == ["c.safetensors"], "with its head it is over the limit, but it was just written"


def test_what_killed_processes_left_goes(store, monkeypatch):
    temporary, lock, held, others = f".{'0' * 32}.b.safetensors", f".{'b' * 40}.lock", f".{'c' * 40}.lock", ".lock"
    with locks.alone(store.folder / held, ""):
        for name in (temporary, lock, others, f".{'1' * 32}.d.safetensors"):
            (store.folder / name).touch()
        for folder, is_at_work in ((f".{'2' * 32}.e", False), (f".{'3' * 32}.f", True)):
            (store.folder / folder).mkdir()
            (store.folder / folder / "image.jpg").touch()
            if not is_at_work:
                touch(store.folder / folder / "image.jpg", 4000)
            touch(store.folder / folder, 4000)
        for name in (temporary, lock, held, others):
            touch(store.folder / name, 4000)
        monkeypatch.setenv("MOCOOP_CACHE", str(store.folder))
        cache_dir()
        assert names(store.folder) == [f".{'1' * 32}.d.safetensors", f".{'3' * 32}.f", held, others]


def test_the_bound_is_that_of_the_config():
    assert get_cfg_default().FEATURES_LIMIT_GB == feature_store.LIMIT_GB


# A disk that fails


@contextmanager
def no_room():
    """No file can grow beyond a kilobyte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def read_only(folder):
    folder.chmod(0o500)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("root writes everywhere")
        yield
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize("how", ["full", "read-only", "gone"])
def test_a_disk_that_takes_nothing_costs_one_line(tmp_path, how, caplog):
    folder = tmp_path / "store"
    if how != "gone":
        folder.mkdir()
    store, make = FeatureStore(folder), Maker(torch.randn(1000, 4))
    with {"full": no_room, "read-only": lambda: read_only(folder)}.get(how, lambda: caplog.at_level(0))():
        for key in "abc":
            made, path = store.get(key, 1000, make, ABOUT)
            assert path is None and same_bits(made, make.features)
    assert make.times == 3 and (how == "gone" or names(folder) == [])
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith(f"Image features are not kept: cannot write in {folder} (")


def test_a_folder_that_can_only_be_read_is_read(store, features):
    store.get("key", 5, Maker(features), ABOUT)
    with read_only(store.folder):
        assert same_bits(store.get("key", 5, pytest.fail, ABOUT)[0], features)


def test_where_files_cannot_be_locked(store, features, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)  # as on Windows
    make = Maker(features)
    assert same_bits(store.get("key", 5, make, ABOUT)[0], store.get("key", 5, make, ABOUT)[0])
    assert make.times == 1 and names(store.folder) == ["key.safetensors"]


# Several processes


class Telling(logging.Handler):
    """Says through a semaphore that a process waits."""

    def __init__(self, waiting):
        super().__init__()
        self.waiting = waiting

    def emit(self, record):
        if record.getMessage().startswith("Waiting for another run"):
            self.waiting.release()


class Race:
    """Processes that want the same entry of a store: their answers, and who made it."""

    def __init__(self, store):
        self.store, self.processes = store, []
        self.answers, self.making, self.waiting = CONTEXT.Queue(), CONTEXT.Semaphore(0), CONTEXT.Semaphore(0)

    def start(self, make):
        """A process that calls make() where it has to make the entry."""
        self.processes.append(CONTEXT.Process(target=self._run, args=(make,)))
        self.processes[-1].start()

    def _run(self, make):
        torch.set_num_threads(1)
        logger = logging.getLogger("dassl")
        logger.setLevel(logging.INFO)
        logger.addHandler(Telling(self.waiting))
        made = []

        def called():
            made.append(True)
            self.making.release()
            make()
            return torch.arange(15.0).view(5, 3)

        features, _ = self.store.get("key", 5, called, ABOUT)
        self.answers.put((bool(made), features.tolist()))

    def ends(self, n):
        """Of n processes, how many made it. All give the same."""
        answers = [self.answers.get(timeout=60) for _ in range(n)]
        assert all(answer == torch.arange(15.0).view(5, 3).tolist() for _, answer in answers)
        return sum(made for made, _ in answers)


def wait(semaphore, times=1):
    for _ in range(times):
        assert semaphore.acquire(timeout=60)


@pytest.fixture
def race(store):
    race = Race(store)
    yield race
    for process in race.processes:
        process.kill()
        process.join()


def test_one_makes_it_and_the_others_wait(race):
    go = CONTEXT.Event()
    for _ in range(5):
        race.start(lambda: go.wait(60))
    wait(race.waiting, 4)
    go.set()
    assert race.ends(5) == 1 and names(race.store.folder) == ["key.safetensors"]


def test_without_waiting_for_each_other_there_is_one_entry(race):
    for _ in range(5):
        race.start(lambda: None)
    assert race.ends(5) == 1 and names(race.store.folder) == ["key.safetensors"]


def test_one_that_is_killed_while_it_makes_it_is_replaced(race):
    go = CONTEXT.Event()
    race.start(lambda: go.wait(60))
    wait(race.making)
    for _ in range(3):
        race.start(lambda: None)
    wait(race.waiting, 3)
    os.kill(race.processes[0].pid, signal.SIGKILL)
    assert race.ends(3) == 1 and names(race.store.folder) == ["key.safetensors"]


def test_workers_that_outlive_the_making_hold_up_nobody(race):
    """As a loader's do, which were forked while the file was locked."""
    go, worker = CONTEXT.Event(), CONTEXT.Value("i", 0)

    def with_a_worker():
        worker.value = os.fork() or (signal.pause() and os._exit(0))
        go.wait(60)

    race.start(with_a_worker)
    wait(race.making)
    race.start(lambda: None)
    wait(race.waiting)
    go.set()
    assert race.ends(2) == 1
    os.kill(worker.value, signal.SIGKILL)


def test_waiting_in_vain_is_not_done_one_by_one(race):
    """Where the entry cannot be kept, those who waited make theirs at the same time."""
    race.store.limit = 1
    go, together = CONTEXT.Event(), CONTEXT.Barrier(3)
    race.start(lambda: go.wait(60))
    wait(race.making)
    for _ in range(3):
        race.start(lambda: together.wait(60))
    wait(race.waiting, 3)
    go.set()
    assert race.ends(4) == 4 and names(race.store.folder) == []


def test_the_head_says_what_it_is(store, features):
    store.get("key", 5, Maker(features), ABOUT)
    content = (store.folder / "key.safetensors").read_bytes()
    head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert head["__metadata__"].keys() == {*ABOUT, "sha256"} and head["features"]["shape"] == [5, 3]
    assert about_of(store.folder / "nothing.safetensors") == {}
