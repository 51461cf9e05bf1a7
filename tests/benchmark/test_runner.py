"""Runs in processes of their own: the same bits as train.py, one after the other where needed, kills survived."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmark import commands, runner, worker
from benchmark.place import Place, command
from benchmark.protocol import Point
from benchmark.protocols import runs_of
from dassl.utils import UserError, load_checkpoint
from tests.conftest import REPO

SMALL = ("DATALOADER.TRAIN_X.BATCH_SIZE", "4", "OPTIM.MAX_EPOCH", "3", "DATALOADER.NUM_WORKERS", "0")


@pytest.fixture
def toy(toy_root, toy_backbone, tmp_path):
    """toy(protocol, trainer, *overrides): the protocol's runs on the tiny data set; and where they take place."""

    def toy(protocol, trainer, *overrides, config="vit_b16_ep50"):
        point = Point("caltech101", 2, trainer, config, 1, toy_backbone, (*SMALL, *overrides))
        return runs_of(protocol, [point]), Place(toy_root, str(tmp_path / "output"), "cpu")

    return toy


class Record(list, runner.Watch):
    """What happened, in order."""

    def started(self, run):
        self.append(("started", run.part))

    def ended(self, run, status):
        self.append((status, run.part))


def weights(folder, epoch=3):
    return load_checkpoint(folder / "prompt_learner" / f"model.pth.tar-{epoch}")["state_dict"]["ctx"]


def test_the_bits_of_train_py(toy, tmp_path):
    runs, place = toy("base2new", "CoOp")
    record = Record()
    assert runner.execute(runs, runner.Local(place, workers=2, quiet=True), record) == {}
    assert record == [("started", "train_base"), (0, "train_base"), ("started", "test_new"), (0, "test_new")]
    plain = Place(place.root, str(tmp_path / "plain"), "cpu")
    arguments = [sys.executable, str(REPO / "train.py"), *command(runs[0], plain)]
    subprocess.run(arguments, check=True, capture_output=True)
    assert torch.equal(weights(place.folder(runs[0])), weights(plain.folder(runs[0])))
    left = {path.name for path in place.folder(runs[0]).iterdir()}
    files = {"classes.json", "config.yaml", "inputs.json", "log.txt", "metrics.json"}
    assert left == {*files, "prompt_learner", "tensorboard"}


def test_what_is_finished_is_known(toy):
    runs, place = toy("base2new", "CoOp")
    base, new = runs
    assert set(runner.survey(runs, place)[0].values()) == {"waiting"}
    runner.execute(runs, runner.Local(place, quiet=True))
    assert set(runner.survey(runs, place)[0].values()) == {"done"}
    log = place.folder(base) / "log.txt"
    before = log.stat().st_mtime_ns
    assert runner.execute(runs, runner.Local(place, quiet=True)) == {}, "done again, it says so at once"
    assert log.stat().st_mtime_ns == before and not list(log.parent.glob("log.txt-*"))

    others, _ = toy("base2new", "CoOp", "OPTIM.LR", "0.1")
    states, problems = runner.survey(others, place)
    assert set(states.values()) == {"other"} and list(problems.values()) == [others]
    assert "holds a run of another config (OPTIM.LR was 0.002, is now 0.1)" in next(iter(problems))
    os.utime(place.folder(base) / "metrics.json")  # trained once more
    assert runner.survey(runs, place)[0] == {base: "done", new: "waiting"}
    (place.folder(base) / "metrics.json").write_text("{")
    assert runner.survey(runs, place)[0][base] == "begun"


def test_a_failure_is_kept_and_stops_only_what_needs_it(toy):
    broken, place = toy("base2new", "CoOp", "TRAINER.COOP.N_CTX", "99")
    fine, _ = toy("base2new", "ZeroshotCLIP", config="vit_b16")
    record = Record()
    failed = runner.execute([*broken, *fine], runner.Local(place, quiet=True), record)
    assert failed == {broken[0]: 1} and record.count((0, "test_new")) == 1
    told = (place.folder(broken[0]) / "failed.txt").read_text()
    assert "error: " in told and "103 tokens" in told
    assert runner.survey(broken, place)[0] == {broken[0]: "failed", broken[1]: "waiting"}


def test_a_killed_run_is_a_failure_and_goes_on(toy):
    (run,), place = toy("few_shot", "CoOp", "OPTIM.MAX_EPOCH", "60")
    launcher = runner.Local(place, quiet=True)
    pointer = place.folder(run) / "prompt_learner" / "checkpoint"

    class Kill(runner.Watch):
        def tick(self):
            if launcher.processes:
                os.kill(launcher.processes[run].pid, signal.SIGKILL)

    launcher.wait = lambda seconds, wait=launcher.wait: wait(0.05)
    kill = Kill()
    kill.tick, later = lambda: pointer.exists() and later(), kill.tick
    assert runner.execute([run], launcher, kill) == {run: -signal.SIGKILL}
    assert runner.survey([run], place)[0] == {run: "begun"}
    assert runner.execute([run], runner.Local(place, quiet=True)) == {}
    assert "will resume training from epoch" in "".join(p.read_text() for p in place.folder(run).glob("log.txt-*"))


def test_runs_end_with_the_process_that_started_them(toy, toy_root, toy_backbone, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    arguments = ["few_shot", "CoOp", "caltech101", "16", "--seeds", "1", "--root", toy_root, "--device", "cpu"]
    arguments += ["--backbone", toy_backbone, "--output", str(tmp_path)]
    start = [sys.executable, "-m", "benchmark", "protocol", *arguments]
    process = subprocess.Popen(start, env=environment, stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob("caltech101/CoOp/rn50-tiny-*_16shots/seed1/prompt_learner/checkpoint")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    (run,) = runs_of("few_shot", [Point("caltech101", 16, "CoOp", "rn50", 1, toy_backbone)])
    while (state := runner.survey([run], Place(toy_root, str(tmp_path), "cpu"))[0][run]) == "running":
        time.sleep(0.01)
    assert state == "begun"


IMPORTS = """
import torch

def ask(*args):
    raise AssertionError("CUDA was touched")

torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = torch._C._cuda_getDeviceCount = ask
import learned.predict, learned.model, learned.explain, learned.export, benchmark.worker
"""


def test_no_import_touches_a_gpu():
    """Nor asks for one, which is what keeps CUDA from forked processes; on a torch without CUDA this alone tells."""
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, cwd=REPO)


def test_runs_may_use_a_gpu():
    runner.find_gpus()  # which asks, in a process of its own
    for question in ("_is_in_bad_fork", "is_initialized"):
        assert not runner.ask(eval, f"__import__('torch').cuda.{question}()")
    assert not torch.cuda.is_initialized(), "nor has this process begun"


def tell_the_gpu(run, place, quiet, environment):
    """In the place of a run: its process leaves what GPUs it may see, and ends when it is told to."""

    def perform(run, place, quiet):
        Path(place, f"{run}.new").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        os.rename(Path(place, f"{run}.new"), Path(place, run))
        while not Path(place, f"{run}.end").exists():
            time.sleep(0.005)

    worker.perform = perform
    PERFORM(run, place, quiet, environment)


PERFORM = runner._perform


def test_each_run_goes_to_the_gpu_with_the_fewest(tmp_path, monkeypatch):
    """Seven runs in four slots on two pretended GPUs, and what their processes see."""
    monkeypatch.setattr(runner, "_perform", tell_the_gpu)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")  # of this process
    told, ends = {}, {4: "bd", 6: "a", 7: "cefg"}

    class Watch(runner.Watch):
        def tick(self):
            told.update({path.name: path.read_text() for path in tmp_path.glob("?")})
            for run in ends.get(len(told), ""):
                (tmp_path / f"{run}.end").touch()

    launcher = runner.Local(str(tmp_path), workers=4, gpus=["3", "GPU-5e"])
    launcher.wait = lambda seconds, wait=launcher.wait: wait(0.01)
    assert runner.execute([Named(name) for name in "abcdefg"], launcher, Watch()) == {}
    assert [run for run in sorted(told) if told[run] == "GPU-5e"] == ["b", "d", "e", "f"]
    assert [run for run in sorted(told) if told[run] == "3"] == ["a", "c", "g"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"


class Named(str):
    """A run that needs no other."""

    needs = None


@pytest.mark.parametrize(
    ("words", "device", "here", "slots"),
    [((), "", "01", 2), ((), "", "", 1), ((), "cpu", "01", 1), (("--workers", "4"), "", "01", 4)],
)
def test_a_run_for_each_gpu_unless_told_otherwise(words, device, here, slots, monkeypatch):
    monkeypatch.setattr(runner, "find_gpus", lambda asked: list(here))
    launcher = commands._launcher(commands.Run().parse(["demo", *words], "run"), Place(device=device))
    assert (launcher.slots, launcher.gpus) == (slots, [] if device == "cpu" else list(here))
    with pytest.raises(UserError, match="--workers is 0: give a number from 1 on"):
        commands._launcher(commands.Run().parse(["demo", "--workers", "0"], "run"), Place(device=device))


def test_the_gpus_to_choose_from(monkeypatch):
    """Two GPUs; CUDA sees none from the first on that is not there."""

    def count():
        names = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
        return next((i for i, name in enumerate(names) if name not in ("0", "1", "GPU-5e")), len(names))

    monkeypatch.setattr(runner, "ask", lambda function, *args: function(*args))  # in the place of the server's process
    monkeypatch.setattr(torch.cuda, "device_count", count)
    for visible, asked, found in (
        *((None, None, ["0", "1"]), ("", None, []), ("1", None, ["1"]), ("GPU-5e,0", None, ["GPU-5e", "0"])),
        *(("1,9,0", None, ["1"]), ("1", "0, 1", ["0", "1"]), (None, "1,1", ["1"])),
    ):
        with monkeypatch.context() as patch:
            patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
            if visible is not None:
                patch.setenv("CUDA_VISIBLE_DEVICES", visible)
            assert runner.find_gpus(asked) == found
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match='no GPU "7"'):
        runner.find_gpus("0,7")
