"""What the commands say of themselves: at once, under the name they are called by, with examples that are right."""

import json
import os
import shlex
import subprocess
import sys

import pytest

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
        ("parse_test_res.py", "parse_test_res.py"),
        *((words, f"python {words}") for words in ("train.py", "predict.py", "-m benchmark run", "-m datasets")),
        *((words, words.removeprefix("-m ")) for words in ("-m mocoop train", "-m mocoop benchmark table")),
        ("-m benchmark export", "python -m benchmark export"),
    ],
)
def test_help_does_without_torch(command, name, usage):
    first, torch = usage(*command.split())
    assert first.startswith(f"usage: {name} ") and not torch


ALL_HELP = """
import contextlib, io, json, sys
from mocoop import command, __main__
mocoop, told = __main__.main, {}
def tell(commands, *words):
    for name, (place, _) in commands.items():
        one = command.load(place)
        if isinstance(one, command.Commands):
            tell(one.commands, *words, name)
            continue
        with contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                mocoop([*words, name, "--help"])
            except SystemExit as end:
                assert not end.code, name
        told[" ".join(["mocoop", *words, name])] = out.getvalue()
tell(__main__.COMMANDS)
print(json.dumps(told))
"""


def test_all_commands_have_examples_under_the_name_they_are_called_by():
    done = subprocess.run([sys.executable, "-c", ALL_HELP], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told) > 15
    for typed, text in told.items():
        first, *examples = text.partition("\nexamples:\n")[2].splitlines()
        assert text.startswith(f"usage: {typed} "), text
        assert f"{first} ".startswith(f"  {typed} ") and f" {typed} {typed.split()[-1]} " not in text, text
        assert "python -m" not in text, text


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
        assert Predict().parse(shlex.split(example), "").images


def test_examples_of_datasets():
    for name, (place, _) in datasets_command.COMMANDS.items():
        tool = command.load(place)
        for example in tool.examples:
            assert tool.parse(shlex.split(example), name).name in config_names()


def test_without_a_trainer_they_are_listed(capsys):
    assert train.run([]) == 1
    first, *trainers, error = capsys.readouterr().err.splitlines()
    assert first == "trainers:" and error == "error: no trainer is named: give one of them with --trainer"
    assert ["CoOp", "Context", "Optimization:"] in [line.split()[:3] for line in trainers]
    assert [line.split()[0] for line in trainers] == sorted((line.split()[0] for line in trainers), key=str.lower)
