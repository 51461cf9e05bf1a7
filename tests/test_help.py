"""What the commands say of themselves: at once, under the name that they are called by, with examples that are right."""

import os
import shlex
import subprocess
import sys

import pytest

import predict
import train
from datasets import __main__ as datasets_command
from datasets.tools import check, config_names, prepare, show
from tests.conftest import REPO

HELP = """
import runpy, sys
try:
    runpy.{how}({what!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code
print([name for name in ("torch", "torchvision") if name in sys.modules])
"""


def text_and_imports(how, what, *words):
    """What --help prints, and which of the heavy packages it imports."""
    code = f"import sys; sys.argv = {[what, *words, '--help']!r}{HELP.format(how=how, what=what)}"
    environment = os.environ | {"PYTHONPATH": str(REPO), "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *lines, imported = done.stdout.splitlines()
    return lines, imported


@pytest.mark.parametrize(
    ("how", "what", "words", "name"),
    [
        ("run_path", "train.py", (), "train.py"),
        ("run_path", "predict.py", (), "predict.py"),
        ("run_path", "parse_test_res.py", (), "parse_test_res.py"),
        ("run_module", "benchmark", (), "python -m benchmark"),
        ("run_module", "benchmark", ("run",), "python -m benchmark run"),
        ("run_module", "benchmark", ("table",), "python -m benchmark table"),
    ],
)
def test_help_does_without_torch(how, what, words, name):
    lines, imported = text_and_imports(how, what, *words)
    assert lines[0].startswith(f"usage: {name} [-h]") and imported == "[]"


@pytest.mark.parametrize("command", ["report", "explain", "export"])
def test_usage_names_the_command(command):
    lines, _ = text_and_imports("run_module", "benchmark", command)
    assert lines[0].startswith(f"usage: python -m benchmark {command} [-h]")


def commands(examples):
    """The words of each command in the examples of a help text."""
    first, _, rest = examples.partition("\n")
    assert first == "examples:"
    return [shlex.split(line) for line in rest.replace("\\\n", " ").splitlines()]


def test_examples_of_train():
    for program, script, *words in commands(train.EXAMPLES):
        assert (program, script) == ("python", "train.py")
        cfg = train.setup_cfg(train.parse_args(words))
        assert cfg.TRAINER.NAME == "CoOp" and cfg.OUTPUT_DIR and (REPO / train.parse_args(words).config_file).is_file()


def test_examples_of_predict():
    for program, script, *words in commands(predict.EXAMPLES):
        assert (program, script) == ("python", "predict.py") and predict.parse_args(words).images


def test_examples_of_datasets(monkeypatch):
    for tool in (check, prepare, show):
        monkeypatch.setattr(tool, "run", lambda args: args.name in config_names())
    for words in commands(datasets_command.EXAMPLES):
        assert words[:3] == ["python", "-m", "datasets"] and datasets_command.main(words[3:]) == 0


def test_without_a_trainer_they_are_listed(capsys):
    assert train.run([]) == 1
    first, *trainers, error = capsys.readouterr().err.splitlines()
    assert first == "trainers:" and error == "error: no trainer is named: give one of them by --trainer"
    assert ["CoOp", "Context", "Optimization:"] in [line.split()[:3] for line in trainers]
    assert [line.split()[0] for line in trainers] == sorted((line.split()[0] for line in trainers), key=str.lower)
