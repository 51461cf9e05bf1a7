"""`python -m benchmark run` and `status` on tiny data: whole, with failures, killed and run again, on a cluster."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from benchmark import runner
from benchmark.__main__ import main
from benchmark.grid import read_grid
from benchmark.place import STATES, Place
from dassl.errors import GO_ON_LATER, Stopped
from dassl.signals import heeding
from report import results
from tests.conftest import REPO

GRID = {
    "protocol": "base2new",
    "methods": ["ZeroshotCLIP", "CoOp/vit_b16_ep50"],
    "datasets": "caltech101",
    "shots": 4,
    "seeds": [1, 2],
    "overrides": {"DATALOADER.NUM_WORKERS": 0, "DATALOADER.TRAIN_X.BATCH_SIZE": 4, "OPTIM.MAX_EPOCH": 40},
}


@pytest.fixture(scope="session")
def grid_file(toy_backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("grid") / "grid.yaml"
    path.write_text(yaml.dump(GRID | {"backbone": toy_backbone}))
    return str(path)


def arguments(command, grid_file, toy_root, output):
    return [command, grid_file, "--root", toy_root, "--output", str(output), "--device", "cpu"]


@pytest.fixture(scope="session")
def undisturbed(grid_file, toy_root, tmp_path_factory):
    """The output of the grid, run in one go."""
    output = tmp_path_factory.mktemp("undisturbed")
    assert main([*arguments("run", grid_file, toy_root, output), "--workers", "2"]) == 0
    return output


def found(grid_file, output):
    """What the runs found, without what it cost."""
    runs = results.of_grid(read_grid(grid_file), output)
    return runs[[*results.IDENTITY, *results.FIGURES, "total", "correct"]]


def test_run_status_and_run_again(undisturbed, grid_file, toy_root, capsys):
    assert len(found(grid_file, undisturbed)) == 8
    assert main(arguments("status", grid_file, toy_root, undisturbed)) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["method", *STATES]
    assert [row.split() for row in rows] == [
        [name, *counts] for name, counts in (("ZeroshotCLIP", "400000"), ("CoOp", "400000"), ("all", "800000"))
    ]
    assert main(arguments("run", grid_file, toy_root, undisturbed)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("[") for line in lines), "nothing was left to do"
    assert [line.split()[:3] for line in lines[-2:]] == [
        ["caltech101", "-", "ZeroshotCLIP"],
        ["caltech101", "4", "CoOp"],
    ]


def test_a_failure_does_not_stop_the_rest(toy_root, toy_backbone, tmp_path, capsys):
    broken = {"trainer": "CoOp", "config": "vit_b16_ep50", "label": "long", "overrides": {"TRAINER.COOP.N_CTX": 99}}
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.dump(GRID | {"backbone": toy_backbone, "methods": [broken, "ZeroshotCLIP"], "seeds": 1}))
    assert main(arguments("run", str(path), toy_root, tmp_path)) == 1
    told = capsys.readouterr()
    assert sum("failed with exit status 1" in line for line in told.out.splitlines()) == 1
    assert "103 tokens" in told.err and "vit_b16_ep50-long" in told.err
    assert results.of_grid(read_grid(path), tmp_path).trainer.tolist() == ["ZeroshotCLIP"] * 2
    main(arguments("status", str(path), toy_root, tmp_path))
    told = capsys.readouterr().out
    assert "failed: base2new train_base: CoOp" in told and "103 tokens" in told


def test_what_is_missing_is_told_before_the_first_run(undisturbed, grid_file, toy_root, tmp_path, capsys):
    path = tmp_path / "grid.yaml"
    grid = yaml.safe_load(Path(grid_file).read_text())
    path.write_text(yaml.dump(grid | {"datasets": ["caltech101", "dtd", "food101"]}))
    words = arguments("run", str(path), toy_root, tmp_path / "runs")
    assert main(words) == 1 and not (tmp_path / "runs").exists()
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert not told.out and [line.split(" needs ")[0].split(": ")[-1] for line in lines] == [
        "DescribableTextures",
        "Food101",
    ]
    assert all("(8 of 24 runs, the first " in line for line in lines)
    assert main([*words, "--no-check", "--workers", "2"]) == 1, "done as far as it goes"
    assert len(results.of_grid(read_grid(path), tmp_path / "runs")) == 8


def test_a_run_of_another_config_is_none_of_the_grids(undisturbed, grid_file, toy_root, tmp_path, capsys):
    path, grid = tmp_path / "grid.yaml", yaml.safe_load(Path(grid_file).read_text())
    path.write_text(yaml.dump(grid | {"overrides": grid["overrides"] | {"DATALOADER.TEST.BATCH_SIZE": 7}}))
    assert main(arguments("status", str(path), toy_root, undisturbed)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[4].split() == ["all", *(("8" if state == "other" else "0") for state in STATES)]
    assert "another config (DATALOADER.TEST.BATCH_SIZE was " in lines[5] and "is now 7" in lines[5]
    assert "(8 of 8 runs, the first " in lines[5] and len(lines) == 6
    assert main(arguments("run", str(path), toy_root, undisturbed)) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_runs_of_another_backbone_have_folders_of_their_own(undisturbed, grid_file, toy_root, tmp_path, capsys):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.dump(yaml.safe_load(Path(grid_file).read_text()) | {"backbone": "icon-clip"}))
    assert main(arguments("status", str(path), toy_root, undisturbed)) == 0
    row = capsys.readouterr().out.splitlines()[4].split()
    assert row == ["all", *(("8" if state == "waiting" else "0") for state in STATES)]


def test_dry_run(grid_file, toy_root, tmp_path, capsys):
    assert main([*arguments("run", grid_file, toy_root, tmp_path), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 16 and all(line.startswith(f"python {REPO}/train.py --root ") for line in lines[1::2])
    assert lines[2].startswith("# base2new ") and lines[2].endswith("config: default: CoOp: trainers/zsclip.py")
    assert lines[-2].endswith("; its config: named in the grid") and not list(tmp_path.iterdir())


def test_gpus_that_are_not_there(grid_file, toy_root, tmp_path, capsys):
    words = [*arguments("run", grid_file, toy_root, tmp_path)[:-1], "cuda"]
    assert main([*words, "--workers", "2", "--gpus", "0,99"]) == 1
    assert capsys.readouterr().err.startswith("error: --gpus: this machine has no GPU")
    assert not list(tmp_path.iterdir())


def test_killed_and_run_again(undisturbed, grid_file, toy_root, tmp_path):
    words = [*arguments("run", grid_file, toy_root, tmp_path), "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    process = subprocess.Popen([sys.executable, "-m", "benchmark", *words], env=environment, stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob("base2new/train_base/*/*/*/*/*/prompt_learner/checkpoint")):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert len(found(grid_file, tmp_path)) < 8
    assert main(words) == 0
    pd.testing.assert_frame_equal(found(grid_file, tmp_path), found(grid_file, undisturbed))


def worker_of(folder):
    """The process that started the server that the run in a folder was forked from; None where it ended."""
    locks = [path for path in Path("/proc").glob("[0-9]*/fd/*") if _target(path) == str(folder / ".lock")]
    if not locks:
        return None
    pid = locks[0].parts[2]
    for _ in range(2):
        pid = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1]
    return int(pid)


def _target(link):
    try:
        return os.readlink(link)
    except OSError:
        return None


def few(grid_file, undisturbed, *parts):
    """The runs of some parts, of seed 1, and what they found where nothing disturbed them."""
    wanted = found(grid_file, undisturbed)
    wanted = wanted[[row.seed == 1 and f"{row.trainer} {row.part}" in parts for row in wanted.itertuples()]]
    runs = [run for run in read_grid(grid_file).runs if run.seed == 1 and f"{run.trainer} {run.part}" in parts]
    assert len(runs) == len(wanted) == len(parts)
    return runs, wanted.reset_index(drop=True)


def processes_with(mark):
    """Processes that have a variable in their environment, and have not ended."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            ended = (path / "stat").read_text().rpartition(") ")[2][0] == "Z"
            if not ended and mark in (path / "environ").read_bytes():
                found.add(path.name)
        except OSError:
            pass
    return found


def test_on_ray(undisturbed, grid_file, toy_root, tmp_path, monkeypatch):
    """Stopped by SIGTERM; then again, and a worker is killed; nothing is left of the cluster."""
    ray = pytest.importorskip("ray")
    from benchmark.on_ray import OnRay

    runs, wanted = few(grid_file, undisturbed, "CoOp train_base", "CoOp test_new")
    place, done = Place(toy_root, str(tmp_path), "cpu"), []
    monkeypatch.setenv("MARK", str(tmp_path))  # what ray starts has it

    class Once(runner.Watch):
        def __init__(self, do):
            self.do = do

        def tick(self):
            """Do it when a run is under way."""
            logs = [place.folder(run) / "log.txt" for run in launcher.runs.values()]
            worker = next((worker_of(log.parent) for log in logs if log.is_file()), None)
            if worker and self.do not in done:
                done.append(self.do)
                self.do(worker)

    def terminate(worker):
        os.kill(os.getpid(), signal.SIGTERM)

    def kill(worker):
        os.kill(worker, signal.SIGKILL)

    small = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20}
    launcher = OnRay(place, options=small)
    launcher.wait = lambda seconds=None, wait=launcher.wait: wait(0.05)  # to tick often
    try:
        with heeding(), pytest.raises(Stopped):
            runner.execute(runs, launcher, Once(terminate))
        assert not launcher.runs and Stopped().code == GO_ON_LATER and not list(tmp_path.rglob("failed.txt"))
        assert runner.execute(runs, launcher, Once(kill)) == {} and done == [terminate, kill]
    finally:
        ray.shutdown()
    assert list(tmp_path.rglob("log.txt-*")), "the run was begun again"
    pd.testing.assert_frame_equal(found(grid_file, tmp_path), wanted)
    end = time.monotonic() + 60
    while left := processes_with(f"MARK={tmp_path}".encode()) - {str(os.getpid())}:
        assert time.monotonic() < end, left
        time.sleep(0.05)


def test_on_slurm(undisturbed, grid_file, toy_root, tmp_path, monkeypatch):
    """submitit's executor for this machine does what a cluster's would."""
    pytest.importorskip("submitit")
    from benchmark.on_slurm import OnSlurm

    runs, wanted = few(grid_file, undisturbed, "CoOp train_base", "CoOp test_new")
    monkeypatch.setenv("PYTHONPATH", "")
    (job,) = OnSlurm(Place(toy_root, str(tmp_path), "cpu"), cluster="local").submit(runs)  # of the two runs of a chain
    job.result()
    pd.testing.assert_frame_equal(found(grid_file, tmp_path), wanted)


def test_an_array_job_is_submitted(grid_file, toy_root, tmp_path, monkeypatch, capsys):
    """To a cluster that takes down what it is given."""
    pytest.importorskip("submitit")
    (tmp_path / "bin").mkdir()
    for command, answer in (("sbatch", "Submitted batch job 7"), ("srun", ""), ("sacct", "")):
        (tmp_path / "bin" / command).write_text(f'#!/bin/sh\ncat "$@" >>{tmp_path}/{command}.txt\necho "{answer}"\n')
        (tmp_path / "bin" / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    words = [*arguments("run", grid_file, toy_root, tmp_path), "--launcher", "slurm"]
    assert main([*words, "--slurm", "timeout_min=90", "slurm_partition=gpu"]) == 0
    assert capsys.readouterr().out.startswith("submitted 6 jobs")
    script = (tmp_path / "sbatch.txt").read_text()
    assert all(word in script for word in ("--array=0-5", "--time=90", "--partition=gpu"))
    assert main([*words, "--slurm", "timeout"]) == 1 and "KEY=VALUE" in capsys.readouterr().err
    assert main([*words, "--slurm", "timeout_mins=9"]) == 1 and "timeout_mins" in capsys.readouterr().err
