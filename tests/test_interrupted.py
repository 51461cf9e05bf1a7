"""Ctrl-C while a program imports is one line and status 130, whatever it imports."""

import subprocess
import sys

import pytest

from tests.conftest import REPO

DRIVER = """
import os, runpy, signal, sys

class Interrupt:
    \"\"\"Sends it when the import of a module begins.\"\"\"

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(Interrupt)
            os.kill(os.getpid(), signal.SIGINT)

_, module, what, *sys.argv[1:] = sys.argv
sys.path.insert(0, os.getcwd())
sys.meta_path.insert(0, Interrupt)
if what.endswith(".py"):
    runpy.run_path(what, run_name="__main__")
else:
    runpy.run_module(what, run_name="__main__", alter_sys=True)
"""
CASES = [
    *(("argparse", "train.py"), ("numpy.lib.mixins", "train.py", "--trainer", "CoOp")),
    *(("learned.predict", "predict.py"), ("torch", "predict.py", "--model-dir", "none", "none.png")),
    *(("mocoop.command", "benchmark", "table", "none"), ("pandas", "benchmark", "table", "none")),
    *(("report.commands", "mocoop", "benchmark", "table", "none"), ("report.logs", "parse_test_res.py", "none")),
]


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_one_line(words):
    done = subprocess.run([sys.executable, "-c", DRIVER, *words], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert not done.stdout and done.stderr == "interrupted; the same command continues where it stopped\n"
