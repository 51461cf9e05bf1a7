"""Runs and grids that are interrupted or told to end go on with the same command; nothing outlives its grid."""

import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from benchmark import progress, runner
from benchmark.__main__ import main
from benchmark.place import Place
from benchmark.protocol import Point
from benchmark.protocols import runs_of
from dassl.errors import GO_ON_LATER, Stopped
from dassl.utils import load_checkpoint
from tests.conftest import REPO
from tests.in_a_process import CONTEXT

KEYS = {"DATALOADER.TRAIN_X.BATCH_SIZE": 4, "OPTIM.MAX_EPOCH": 40, "DATALOADER.NUM_WORKERS": 0}


@pytest.fixture
def toy(toy_root, toy_backbone, tmp_path):
    """The two runs of a protocol, of which one needs the other, and where they take place."""
    keys = tuple(str(word) for pair in KEYS.items() for word in pair)
    runs = runs_of("base2new", [Point("caltech101", 2, "CoOp", "vit_b16_ep50", 1, toy_backbone, keys)])
    return runs, Place(toy_root, str(tmp_path / "output"), "cpu")


@pytest.fixture
def words(toy_root, toy_backbone, tmp_path):
    """The command of the same runs as a grid."""
    grid = {"protocol": "base2new", "methods": ["CoOp/vit_b16_ep50"], "datasets": "caltech101", "shots": 2, "seeds": 1}
    (tmp_path / "grid.yaml").write_text(yaml.dump(grid | {"overrides": KEYS, "backbone": toy_backbone}))
    return [
        *("run", str(tmp_path / "grid.yaml"), "--root", toy_root),
        *("--output", str(tmp_path / "output"), "--device", "cpu"),
    ]


class Do(runner.Watch):
    """Does something once, when a run has a checkpoint."""

    def __init__(self, folder, do):
        self.folder, self.do = folder, do

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def tick(self):
        if self.do and list(Path(self.folder).glob("**/prompt_learner/checkpoint")):
            do, self.do = self.do, None
            do()


def often(launcher):
    launcher.wait = lambda seconds=None, wait=launcher.wait: wait(0.02)
    return launcher


def test_a_run_that_was_told_to_end_is_not_failed(toy):
    (base, new), place = toy
    launcher = often(runner.Local(place, quiet=True))
    told = Do(place.output, lambda: os.kill(launcher.processes[base].pid, signal.SIGTERM))
    assert runner.execute([base, new], launcher, told) == {base: GO_ON_LATER}
    assert runner.survey([base, new], place)[0] == {base: "begun", new: "waiting"}
    left = {path.name for path in place.folder(base).iterdir()}
    assert not left & {"failed.txt", "console.txt", ".lock", "metrics.json"}
    assert runner.execute([base, new], runner.Local(place, quiet=True)) == {}
    logs = "".join(path.read_text() for path in place.folder(base).glob("log.txt*"))
    assert "stopped by SIGTERM" in logs and "will resume training from epoch" in logs


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, GO_ON_LATER), (signal.SIGINT, 130)])
def test_a_grid_that_is_stopped_goes_on(number, status, words, toy, tmp_path, monkeypatch, capfd):
    (base, new), place = toy
    stop = Do(place.output, lambda: os.kill(os.getpid(), number))
    local = runner.Local
    with monkeypatch.context() as patch:
        patch.setattr(progress, "watch", lambda *args: stop)
        patch.setattr(runner, "Local", lambda *args, **options: often(local(*args, **options)))
        assert main(words) == status
    said = capfd.readouterr().err.splitlines()
    assert f"unfinished: 2 of 2 runs, the first {place.folder(base)}; the same command goes on" in said
    assert len(said) == 2 and all("the same command" in line for line in said)
    assert runner.survey([base, new], place)[0] == {base: "begun", new: "waiting"}
    assert not list(tmp_path.rglob("failed.txt")) and not list(tmp_path.rglob("console.txt"))
    assert main(words) == 0
    assert "will resume training" in "".join(path.read_text() for path in place.folder(base).glob("log.txt*"))

    whole = Place(place.root, str(tmp_path / "whole"), "cpu")
    assert runner.execute([base], runner.Local(whole, quiet=True)) == {}
    one, other = (
        load_checkpoint(at.folder(base) / "prompt_learner" / "model.pth.tar-40")["state_dict"] for at in (place, whole)
    )
    assert torch.equal(one["ctx"], other["ctx"])


def stay(file):
    Path(file).write_text(str(os.getpid()))
    time.sleep(60)


def ask(file):
    runner.ask(stay, file)


def there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def until(so):
    end = time.monotonic() + 60
    while not so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_who_was_asked_ends_with_who_asked(tmp_path):
    file = tmp_path / "pid"
    process = CONTEXT.Process(target=ask, args=(str(file),))
    process.start()
    until(lambda: file.exists() and file.read_text())
    process.kill()
    process.join()
    until(lambda: not there(file.read_text()))


def fails():
    raise KeyError("told")


def test_what_an_answer_may_be():
    assert runner.ask(max, 1, 2) == 2
    with pytest.raises(KeyError, match="told"):
        runner.ask(fails)
    with pytest.raises(runner.UserError, match="ended with status 3"):
        runner.ask(os._exit, 3)


SERVER = """
import subprocess, sys, time
code = "import benchmark.server, os, time; print(os.getpid(), flush=True); time.sleep(60)"
print(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True).stdout.readline())
"""


def test_the_server_ends_while_it_imports():
    """Its parent ends before the server looks after it in the way that it has."""
    pid = int(subprocess.run([sys.executable, "-c", SERVER], cwd=REPO, capture_output=True, check=True).stdout)
    until(lambda: not there(pid))


def marked(mark):
    """Processes that have a variable in their environment."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes() and there(path.name):
                found.add(path.name)
        except OSError:
            pass
    return found


def test_nothing_is_left_of_a_grid_that_is_killed(words, tmp_path):
    """While it reads the states of its runs, by three processes."""
    mark = f"MARK={tmp_path}".encode()
    environment = os.environ | {"MARK": str(tmp_path), "PYTHONPATH": str(REPO)}
    process = subprocess.Popen([sys.executable, "-m", "benchmark", *words], env=environment, stdout=subprocess.DEVNULL)
    until(lambda: len(marked(mark)) > 2)
    process.kill()
    process.wait()
    until(lambda: not marked(mark))


class Named(str):
    @property
    def folder(self):
        return str(self)


def test_a_job_says_that_it_is_to_go_on(monkeypatch):
    """To Slurm by the status, which sacct shows; a failure is an error, as ever."""
    monkeypatch.setitem(sys.modules, "submitit", ModuleType("submitit"))
    monkeypatch.delitem(sys.modules, "benchmark.on_slurm", raising=False)
    on_slurm = import_module("benchmark.on_slurm")
    cases = (([GO_ON_LATER, GO_ON_LATER], Stopped), ([GO_ON_LATER, 1], RuntimeError))
    for ended, error in cases:
        monkeypatch.setattr(
            on_slurm, "execute", lambda runs, launcher, ended=ended: dict(zip(runs, ended, strict=True))
        )
        with pytest.raises(error):
            on_slurm.Chain(Place())([Named("a"), Named("b")])
    monkeypatch.delitem(sys.modules, "benchmark.on_slurm")
