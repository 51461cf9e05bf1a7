"""What the commands say of themselves: at once, under the name they are called by, with examples that are right."""

import os
import shlex
import subprocess
import sys

import pytest

import predict
import train
from datasets import __main__ as datasets_command
from datasets.tools import config_names
from learned.predict import Predict
from mocoop import command
from tests.conftest import REPO

REPORTING = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))"


@pytest.fixture
def usage(tmp_path):
    """usage(*command): the first line that --help prints, and whether torch was imported for it."""

    def usage(*command):
        (tmp_path / "sitecustomize.py").write_text(REPORTING)  # Python runs it at its start
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPO)]), "COLUMNS": "100"}
        command = [sys.executable, *command, "--help"]
        done = subprocess.run(command, env=environment, cwd=REPO, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        first, *_, torch = done.stdout.splitlines()
        return first, {"True": True, "False": False}[torch]

    return usage


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *((f"{name}.py", f"{name}.py") for name in ("train", "predict", "parse_test_res")),
        *(
            (words, f"python {words}")
            for words in ("-m benchmark", "-m benchmark run", "-m benchmark table", "-m benchmark cache")
        ),
        ("-m datasets", "python -m datasets"),
    ],
)
def test_help_does_without_torch(command, name, usage):
    first, torch = usage(*command.split())
    assert first.startswith(f"usage: {name} ") and not torch


@pytest.mark.parametrize("command", ["benchmark report", "benchmark explain", "benchmark export", "datasets check"])
def test_usage_names_the_command(command, usage):
    assert usage("-m", *command.split())[0].startswith(f"usage: python -m {command} [-h]")


def commands(examples):
    """The words of each command in the examples of a help text."""
    first, _, rest = examples.partition("\n")
    assert first == "examples:"
    return [shlex.split(line) for line in rest.replace("\\\n", " ").splitlines()]


def test_examples_of_train():
    for example in train.Train.examples:
        words = shlex.split(example.replace("\\\n", " "))
        if words[0] == "--replay":  # its config is that of the run
            assert train.parse_args(words).replay == "output/coop"
            continue
        if words[0] == "--keys":
            assert train.parse_args(words).keys == "CoOp"
            continue
        cfg = train.setup_cfg(train.parse_args(words))
        assert cfg.TRAINER.NAME == "CoOp" and cfg.OUTPUT_DIR and (REPO / train.parse_args(words).config_file).is_file()


def test_examples_of_predict():
    for example in Predict.examples:
        assert Predict().parse(shlex.split(example), *predict.PROGRAM).images


def test_examples_of_datasets():
    for name, (place, _) in datasets_command.COMMANDS.items():
        tool = command.load(place)
        for example in tool.examples:
            first, *words = shlex.split(example)
            assert first == name and tool.parse(words, "").name in config_names()


def test_without_a_trainer_they_are_listed(capsys):
    assert train.run([]) == 1
    first, *trainers, error = capsys.readouterr().err.splitlines()
    assert first == "trainers:" and error == "error: no trainer is named: give one of them with --trainer"
    assert ["CoOp", "Context", "Optimization:"] in [line.split()[:3] for line in trainers]
    assert [line.split()[0] for line in trainers] == sorted((line.split()[0] for line in trainers), key=str.lower)
