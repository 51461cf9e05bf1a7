"""Trainers join without a change to the project: a file in trainers/, a package elsewhere, the README's example."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

THIRD_PARTY = Path(__file__).with_name("third_party.py")


def run(repo, args, *paths):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, str(repo / "train.py"), *args]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout


def as_trainer(args, name, *keys):
    """The arguments of a run of CoOp, for another trainer."""
    args = [name if arg == "CoOp" else arg for arg in args]
    return [*args, *keys]


def copy_of_the_project(folder):
    for name in ("benchmark", "configs", "dassl", "datasets", "prompting", "trainers"):
        shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "train.py", folder)
    return folder


def readme_example():
    (code,) = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(), flags=re.DOTALL)
    return code


@pytest.mark.parametrize("source", ["third party", "README"])
def test_a_file_dropped_into_trainers(source, tmp_path, toy_args):
    repo = copy_of_the_project(tmp_path / "repo")
    code = THIRD_PARTY.read_text() if source == "third party" else readme_example()
    (repo / "trainers" / "mine.py").write_text(code)
    name, key = ("Shifter", "TRAINER.SHIFTER.SCALE") if source == "third party" else ("Shift", "TRAINER.SHIFT.PREC")
    keys = (key, 2.0) if source == "third party" else (key, "fp32")
    args = as_trainer(toy_args("CoOp", tmp_path / "run"), name, *map(str, keys), "OPTIM.LR", "0.05")
    log = run(repo, args)
    losses = [float(x) for x in re.findall(r" loss ([\d.]+) ", log)]
    assert losses[-1] < losses[0] and "=> result" in log
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["trainer"] == name


def test_a_package_joins_through_an_entry_point(tmp_path, toy_args):
    """It trains, resumes at its end, and evaluates through a load_model of its own."""
    site = tmp_path / "site"
    (site / "shifter-1.0.dist-info").mkdir(parents=True)
    shutil.copy(THIRD_PARTY, site / "shifter.py")
    (site / "shifter-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: shifter\nVersion: 1.0\n")
    (site / "shifter-1.0.dist-info" / "entry_points.txt").write_text("[mocoop.trainers]\nshifter = shifter\n")
    args = as_trainer(toy_args("CoOp", tmp_path / "run"), "Shifter")
    assert "epoch [3/3]" in run(REPO, args, site)
    assert "Found checkpoint at" in run(REPO, args, site)
    assert {p.name for p in (tmp_path / "run" / "adapter").iterdir()} == {"checkpoint", "model.pth.tar-3"}
    flags = ["--eval-only", "--model-dir", str(tmp_path / "run"), "--load-epoch", "3"]
    args = as_trainer(toy_args("CoOp", tmp_path / "eval", flags=flags), "Shifter")
    assert "Loading weights to adapter (epoch = 3)" in run(REPO, args, site)
