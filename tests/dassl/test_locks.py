"""The lock of a run's folder: who has it is told, what a kill left is free, other machines' are obeyed for a while."""

import os
import re
import signal
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from dassl.engine import run_folder
from dassl.utils import UserError, locks
from tests.in_a_process import CONTEXT


def hold(folder, forks, wait):
    """Have the lock until a file says so; a forked process lives longer."""
    with run_folder.alone_in(folder, wait):
        if forks and os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        Path(folder, "held").touch()
        while not Path(folder, "end").exists():
            time.sleep(0.01)
    Path(folder, "left").touch()
    time.sleep(30)


@pytest.fixture
def holding(tmp_path):
    """holding(forks=False, wait=False): the process of a `hold`, when it has the lock unless it is to wait for it."""
    started = []

    def start(forks=False, wait=False):
        process = CONTEXT.Process(target=hold, args=(str(tmp_path), forks, wait))
        process.start()
        started.append(process)
        until((tmp_path / "held").exists if not wait else lambda: True)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def until(so):
    end = time.monotonic() + 60
    while not so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_second_run_in_a_folder_is_refused(holding, tmp_path, toy_run):
    process = holding()
    named = re.escape(f"process {process.pid} on {socket.gethostname()}")
    with pytest.raises(UserError, match=f"^{named} is working on the run in {re.escape(str(tmp_path))}: wait until"):
        toy_run("ZeroshotCLIP", tmp_path, config="vit_b16")
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "held"}, "nothing was touched"
    assert locks.owner(tmp_path / ".lock") == f"process {process.pid} on {socket.gethostname()}"
    (tmp_path / "end").touch()
    until((tmp_path / "left").exists)
    assert not (tmp_path / ".lock").exists() and locks.owner(tmp_path / ".lock") is None
    with run_folder.alone_in(tmp_path), run_folder.alone_in(tmp_path):  # as a grid's run and train.py in it
        assert (tmp_path / ".lock").read_text() == f"{socket.gethostname()} {os.getpid()}\n"
    assert not (tmp_path / ".lock").exists()


def test_what_a_kill_left_is_free_at_once(holding, tmp_path):
    """Also while a process lives that the killed one forked."""
    process = holding(forks=True)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert str(process.pid) in (tmp_path / ".lock").read_text() and locks.owner(tmp_path / ".lock") is None
    with run_folder.alone_in(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{socket.gethostname()} {os.getpid()}\n"


def test_waiting(holding, tmp_path):
    with run_folder.alone_in(tmp_path):
        holding(wait=True)
        time.sleep(0.3)
        assert not (tmp_path / "held").exists()
    until((tmp_path / "held").exists)


def test_the_lock_of_another_machine(tmp_path, monkeypatch, caplog):
    """Which its file system may not tell of: that it is touched does."""
    lock = tmp_path / ".lock"
    lock.write_text("elsewhere 7\n")
    named = f"process 7 on elsewhere (remove {lock} if it has ended)"
    slept = []

    def alive(seconds):
        slept.append(seconds)
        os.utime(lock, (0, time.time() - 3 + len(slept)))

    monkeypatch.setattr(locks, "time", SimpleNamespace(time=time.time, monotonic=lambda: sum(slept), sleep=alive))
    with pytest.raises(UserError, match=f"^{re.escape(named)} is working on the run in"):
        run_folder.alone_in(tmp_path).__enter__()
    assert lock.read_text() == "elsewhere 7\n" and locks.owner(lock) == named
    assert caplog.messages == [f"Waiting 20 s at most for a sign of life of {named}"]

    def lost(seconds):
        slept.append(seconds)
        monkeypatch.setattr(locks, "_time_on_disk", lambda folder: lock.stat().st_mtime + sum(slept))

    slept.clear()
    monkeypatch.setattr(locks.time, "sleep", lost)
    with run_folder.alone_in(tmp_path):
        assert "elsewhere" not in lock.read_text() and 20 < sum(slept) < 21
    monkeypatch.undo()
    for seconds in (-21, 3600):
        lock.write_text("elsewhere 7\n")
        os.utime(lock, (0, time.time() + seconds))
        assert locks.owner(lock) is None


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"elsewhere", b"elsewhere seven"])
def test_a_file_that_names_nobody(content, tmp_path):
    (tmp_path / ".lock").write_bytes(content)
    with run_folder.alone_in(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_it_is_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.01)
    with run_folder.alone_in(tmp_path):
        os.utime(tmp_path / ".lock", (0, 0))
        until(lambda: (tmp_path / ".lock").stat().st_mtime > 0)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*\.lock: Is a directory"):
        run_folder.alone_in(tmp_path).__enter__()


def test_a_folder_is_held_although_another_process_looked_at_it(tmp_path):
    """As `clean` does, which then leaves it."""
    with locks.unheld(tmp_path) as free:
        thread = threading.Thread(target=locks.hold, args=(tmp_path,))
        thread.start()
        thread.join(0.3)
        assert free
    thread.join()
    with locks.unheld(tmp_path) as free:
        assert not free


def test_a_folder_that_is_gone_is_held_when_it_is_made_again(tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    with locks.unheld(folder):
        thread = threading.Thread(target=locks.hold, args=(folder,))
        thread.start()
        thread.join(0.3)
        folder.rename(tmp_path / "gone")
    thread.join()
    assert os.path.realpath(folder) not in locks._held, "what is gone needs no descriptor"
    folder.mkdir()
    locks.hold(folder)
    for place, free in ((folder, False), (tmp_path / "gone", True)):
        with locks.unheld(place) as found:
            assert found == free
