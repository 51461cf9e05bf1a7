"""Every key has a meaning and a reader, in docs/ and on the terminal; those of plug-ins, too."""

import importlib
import re

import pytest
from yacs.config import CfgNode

import train
import trainers
from dassl.config import meanings
from dassl.config.readers import names, readers
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError
from tests.docs.reference import DOCS, PAGE, filled, pages
from trainers import keys

REFERENCE = keys.reference()


def test_every_key_of_ours_has_a_meaning_and_is_read():
    assert [key.name for key in REFERENCE if not key.unread and not key.meaning] == []
    assert [key.name for key in REFERENCE if not key.unread and not key.readers] == []


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(DOCS).as_posix())
def test_the_tables_in_docs_are_those_of_the_code(path):
    text = path.read_text(encoding="utf-8")
    assert text == filled(text, REFERENCE), "write them again: python -m tests.docs.reference"
    assert path != PAGE or "| `LR` | `0.0003` | learning rate" in text


def test_a_stale_table_is_found():
    assert filled("<!-- keys CSP -->\nold\n<!-- /keys -->\n", REFERENCE).startswith(
        "<!-- keys CSP -->\n| key | default"
    )
    with pytest.raises(KeyError, match="NONE"):
        filled("<!-- keys NONE -->\n<!-- /keys -->\n", REFERENCE)


def test_who_reads_what():
    read = {key.name: key.readers for key in REFERENCE}
    assert read["OPTIM.GAMMA"] == ["dassl/optim/lr_scheduler.py"]
    assert read["OPTIM.NAME"][0] == "dassl/optim/optimizer.py"  # others have a NAME, too
    assert read["TRAINER.KGCOOP.W"] == ["trainers/kgcoop.py"]
    assert read["TRAINER.CSP.OPEN_WORLD"] == ["trainers/pairs.py"]


def test_an_end_that_several_keys_have_is_theirs_whose_block_is_named():
    text = '"""OPTIM.GAMMA in words."""\nimport os\na = optim_cfg.NAME, os.GAMMA  # of OPTIM\nLISTED = {"B.NAME"}\n'
    assert names(text) == {"NAME"}
    assert readers(["OPTIM.NAME", "OPTIM.GAMMA", "A.NAME"], {"text": text}) == {
        "OPTIM.NAME": ["text"],
        "OPTIM.GAMMA": [],
        "A.NAME": [],
    }


DECLARED = """
from yacs.config import CfgNode as CN

def shared(scale):
    keys = CN()
    keys.SCALE = scale  # of what is learned
    return keys

def more(node):
    node.DEEP = 1  # layers

def extend_cfg(cfg):
    cfg.TRAINER.MINE = shared(2)
    mine = cfg.TRAINER.MINE
    # two lines
    # above
    mine.RATE = 0.1
    cfg.TRAINER.MINE.NAMES = (  # a list
        "a",
        "b",
    )
    more(cfg.TRAINER.MINE)
    cfg.TRAINER.MINE.SUB = CN({"A": 1, "B": {"C": 2}})  # ours: a block
    cfg.TRAINER.MINE.SILENT = 3
"""


def test_meanings_of_a_plug_in(tmp_path, monkeypatch):
    (tmp_path / "mine_with_keys.py").write_text(DECLARED)
    monkeypatch.syspath_prepend(tmp_path)
    declared = importlib.import_module("mine_with_keys")
    said = meanings.of_function(declared.extend_cfg)
    assert {key.removeprefix("TRAINER.MINE."): text for key, text in said.items()} == {
        **{"SCALE": "of what is learned", "RATE": "two lines above", "NAMES": "a list", "DEEP": "layers"},
        **{"SUB": "ours: a block", "SUB.A": "ours: a block", "SUB.B.C": "ours: a block"},
    }
    assert meanings.of_function(lambda cfg: None) == meanings.of_function(CfgNode.clone) == {}
    monkeypatch.setattr(trainers, "modules", [*trainers.modules, declared])
    told = {key.name: key.meaning for key in keys.reference()}
    assert told["TRAINER.MINE.SCALE"] == "of what is learned" and told["TRAINER.MINE.SILENT"] == ""


def even(node):
    node.EVEN = 1  # of two that call each other
    odd(node)


def odd(node):
    node.ODD = 1  # likewise
    even(node)


def test_functions_that_call_each_other():
    assert meanings.of_function(even) == {"EVEN": "of two that call each other", "ODD": "likewise"}


def test_a_class_of_a_module_that_is_not_there():
    """As those made by a factory may be; its bases' modules count."""
    made = type("Made", (TRAINER_REGISTRY.get("CoOp"),), {"__module__": "nowhere"})
    assert {"nowhere", "trainers.coop"} <= set(keys._modules(made))


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_table_fits_the_terminal(width):
    lines = keys.table(keys.of("LAMM", REFERENCE), width).splitlines()
    assert max(map(len, lines)) <= width
    named = [line.split()[0] for line in lines if re.match(r"[A-Z]", line)]
    assert "TRAINER.LAMM.WC_WEIGHT" in named and "TRAINER.MAPLE.N_CTX" in named  # with BASE maple it reads that
    assert "OPTIM.LR" in named and not any(name.startswith(("TRAINER.COOP", "TRAINER.MCD")) for name in named)
    every = [key.name for key in REFERENCE]
    assert named == [name for name in every if name in named]


def test_the_command(capsys, monkeypatch):
    assert train.run(["--keys", "KgCoOp"]) == 0
    assert "TRAINER.KGCOOP.W " in capsys.readouterr().out
    assert train.run(["--keys"]) == 0
    assert "TRAINER.MCD.N_STEP_F" in capsys.readouterr().out
    assert train.run(["--keys", "kgcoop"]) == 1
    assert 'no "kgcoop" in the TRAINER registry' in capsys.readouterr().err
    with pytest.raises(UserError):
        keys.of("Nobody", REFERENCE)
