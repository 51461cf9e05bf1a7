"""Trainers join without a change to the project: a file in trainers/, a package elsewhere, the docs' example."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from yacs.config import CfgNode

import train
import trainers
from dassl.config import get_cfg_default
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError
from prompting.prompts import encode_templates
from tests.conftest import REPO, TOY_CLASSES

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
    for name in ("benchmark", "configs", "dassl", "datasets", "mocoop", "prompting", "trainers"):
        shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "train.py", folder)
    return folder


def example():
    """The first of docs/add-a-trainer.md; tests/test_plugins.py compares it with what is there."""
    return (REPO / "docs" / "examples" / "trainer.py").read_text()


@pytest.mark.parametrize("source", ["third party", "docs"])
def test_a_file_dropped_into_trainers(source, tmp_path, toy_args):
    repo = copy_of_the_project(tmp_path / "repo")
    code = THIRD_PARTY.read_text() if source == "third party" else example()
    (repo / "trainers" / "mine.py").write_text(code)
    if source == "docs":  # neither a broken file nor a release's own clip is in its way
        (repo / "trainers" / "broken.py").write_text("import nowhere_to_be_found")
        (repo / "clip").mkdir()
        (repo / "clip" / "__init__.py").write_text("raise ImportError('of another release')")
    name, key = ("Shifter", "TRAINER.SHIFTER.SCALE") if source == "third party" else ("Shift", "TRAINER.SHIFT.PREC")
    keys = (key, 2.0) if source == "third party" else (key, "fp32")
    args = as_trainer(toy_args("CoOp", tmp_path / "run"), name, *map(str, keys), "OPTIM.LR", "0.002")
    log = run(repo, args)
    losses = [float(x) for x in re.findall(r" loss ([\d.]+) ", log)]
    third = len(losses) // 3  # an epoch
    assert sum(losses[-third:]) < sum(losses[:third]) and "=> result" in log
    warned = "because it failed: trainers/broken.py (ModuleNotFoundError: No module named 'nowhere_to_be_found')"
    assert log.count(warned) == (source == "docs")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["trainer"] == name


REGISTERED = """
from dassl.engine import TRAINER_REGISTRY, TrainerX
from yacs.config import CfgNode as CN


@TRAINER_REGISTRY.register()
class {name}(TrainerX):
    pass


def extend_cfg(cfg):
    {extend}


{end}
"""


@pytest.fixture
def dropped(tmp_path, monkeypatch):
    """dropped(file, end="", name=, extend=): put a file beside our trainers, and let them be found again."""
    for attribute, value in (("_objects", dict(TRAINER_REGISTRY._objects)), ("_claimed_twice", {}), ("left_out", [])):
        monkeypatch.setattr(TRAINER_REGISTRY, attribute, value)
    monkeypatch.setattr(trainers, "__path__", [*trainers.__path__, str(tmp_path)])
    monkeypatch.setattr(trainers, "modules", list(trainers.modules))

    def drop(file, end="", name="Mine", extend="pass"):
        (tmp_path / f"{file}.py").write_text(REGISTERED.format(name=name, extend=extend, end=end))
        trainers.modules.clear()
        importlib.invalidate_caches()
        trainers._load()

    yield drop
    for path in tmp_path.iterdir():
        sys.modules.pop(f"trainers.{path.stem}", None)
        vars(trainers).pop(path.stem, None)


def config():
    cfg = get_cfg_default()
    trainers.extend_cfg(cfg)
    return cfg


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"end": "import nowhere_to_be_found"}, r"trainers/mine\.py \(ModuleNotFoundError: No module named 'nowhere"),
        ({"end": "def"}, r"trainers/mine\.py \(SyntaxError: invalid syntax"),
        ({"extend": "cfg.TRAINER.MINE.PREC = 'fp32'"}, r"extend_cfg of trainers\.mine \(AttributeError: MINE\)"),
    ],
)
def test_a_broken_file_is_told_where_it_is_asked_for(broken, message, dropped, toy_args, tmp_path):
    dropped("mine", **broken)
    assert train.setup_cfg(train.parse_args(toy_args("CoOp", tmp_path))).TRAINER.COOP.N_CTX == 16, "others work"
    asked = as_trainer(toy_args("CoOp", tmp_path), "Mine", "TRAINER.MINE.PREC", "fp16")
    with pytest.raises(UserError, match='no "Mine" .*left out because they failed: ' + message) as caught:
        train.setup_cfg(train.parse_args(asked))
    assert len(str(caught.value).splitlines()) == 1


def test_a_broken_files_keys_in_a_dataset_config_do_not_matter_to_others(dropped, toy_args, tmp_path):
    dropped("mine", "import nowhere_to_be_found")
    (tmp_path / "data.yaml").write_text("DATASET: {NAME: Caltech101}\nTRAINER: {MINE: {GROUPS: [a]}}")
    flags = ["--dataset-config-file", str(tmp_path / "data.yaml")]
    train.setup_cfg(train.parse_args(toy_args("CoOp", tmp_path, flags=flags)))


def test_a_name_that_two_files_register_is_neithers(dropped):
    dropped("mine", name="CoOp")
    config()
    with pytest.raises(UserError, match=r'two objects named "CoOp".* from trainers\.coop and trainers\.mine'):
        TRAINER_REGISTRY.get("CoOp")
    assert TRAINER_REGISTRY.get("KgCoOp") and "CoOp" not in TRAINER_REGISTRY.registered_names()


@pytest.mark.parametrize("file", ["aaa", "zzz"])
def test_another_trainers_block_declared_again(file, dropped):
    """As in KgCoOp's and ProGrad's releases; whether the file comes before ours or after it."""
    own = config().TRAINER.COOP
    dropped(file, extend="cfg.TRAINER.COOP = CN({'N_CTX': 99, 'W': 8.0, 'MORE': {'A': 1}}); cfg.TRAINER.MINE = CN()")
    assert config().TRAINER.COOP == CfgNode({**own, "W": 8.0, "MORE": {"A": 1}})
    assert config().TRAINER.MINE == {}


def test_the_docs_example_on_new_classes(dropped, toy_args, closing_logger, tmp_path):
    """As many as it was trained on: zero-shot CLIP's features; among all of them its own are shifted."""
    (tmp_path / "shift.py").write_text(example())
    sys.modules.pop("trainers.shift", None)
    dropped("other")

    def run(part, *keys, flags=()):
        half = ("DATASET.SUBSAMPLE_CLASSES", part, "DATALOADER.NUM_WORKERS", 0)
        args = as_trainer(toy_args("CoOp", tmp_path / part, *half, *keys, flags=flags), "Shift")
        return train.main(args)

    base = run("base", "OPTIM.LR", 0.05)
    shift = base.model.prompt_learner.shift
    assert shift.abs().sum(dim=1).min() > 0
    flags = ["--eval-only", "--model-dir", str(tmp_path / "base")]
    new, whole = run("new", flags=flags), run("all", flags=flags)
    features = encode_templates(new.model.text_encoder, ["a photo of a {}."], TOY_CLASSES[2:])[0]
    assert torch.equal(new.model.encode_text(), F.normalize(F.normalize(features, dim=-1), dim=-1))
    assert torch.equal(whole.model.prompt_learner.shift, torch.cat([shift, torch.zeros_like(shift)]))
    assert torch.allclose(whole.model.encode_text()[:2], base.model.encode_text(), atol=1e-6)


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
