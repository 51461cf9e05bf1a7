"""docs/dassl.md says what there is, name by name; what is left out says what to do."""

import importlib
import subprocess
import sys

import pytest

import dassl.data.transforms
from dassl.absent import ABSENT
from tests.dassl.interface import DEEPER, PAGE, page, section


def test_the_page_lists_what_there_is():
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text), "write the list again: python -m tests.dassl.interface"


def test_every_name_is_described():
    assert [line for line in section().splitlines() if line.endswith("|  |")] == []


def test_longer_paths():
    for name, names in DEEPER.items():
        module = importlib.import_module(name)
        assert [each for each in names if not hasattr(module, each)] == []


@pytest.mark.parametrize("name", ABSENT)
def test_what_is_left_out_says_what_to_do(name):
    module, _, last = name.rpartition(".")
    ways = [f"from {module} import {last}"]
    if not last[0].isupper():  # a module
        ways += [f"import {name}", f"from {name} import anything", f"from {name}.deeper import anything"]
    for way in ways:
        with pytest.raises(ImportError) as caught:
            exec(way)
        assert str(caught.value) == f"{name} of Dassl.pytorch is left out here: {ABSENT[name]} (docs/dassl.md)"


def test_other_names_are_pythons_business():
    assert not hasattr(dassl.data.transforms.transforms, "Cutoff")
    with pytest.raises(ModuleNotFoundError, match="No module named 'dassl.modelling'"):
        importlib.import_module("dassl.modelling")


def test_importing_it_brings_neither_clip_nor_our_packages():
    code = "import sys, dassl.engine; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {"benchmark", "clip", "datasets", "learned", "mocoop", "prompting", "report", "trainers"}
    assert ours.intersection(done.stdout.split()) == set()
