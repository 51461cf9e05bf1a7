"""What every trainer learns for each class is what it says it does, and goes to the classes that it is of."""

import json
import re

import pytest
import torch

from dassl.config import get_cfg_default, merge_from_list
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError, load_checkpoint
from learned.model import build_for, load_run
from tests.conftest import TOY_CLASSES
from trainers import extend_cfg
from trainers.coop import CoOp

OURS = [n for n in TRAINER_REGISTRY.registered_names() if TRAINER_REGISTRY.get(n).__module__.startswith("trainers.")]
BASE, NEW = ("DATASET.SUBSAMPLE_CLASSES", "base"), ("DATASET.SUBSAMPLE_CLASSES", "new")
SHORT = ("OPTIM.MAX_EPOCH", 1, "DATALOADER.NUM_WORKERS", 0)
CSC = ("TRAINER.COOP.CSC", True)


@pytest.mark.parametrize(
    ("name", "keys"),
    [(name, ()) for name in OURS]
    + [(name, (f"TRAINER.{name.upper()}.CSC", True)) for name in ("CoOp", "KgCoOp", "ProGrad", "PLOT")]
    + [("LAMM", ("TRAINER.LAMM.BASE", "coop")), ("MoCoOp", ("TRAINER.MOCOOP.TEXT_OFFSET", True))],
)
def test_class_axes_are_those_that_grow_with_the_classes(name, keys, toy_backbone):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    words = ("TRAINER.NAME", name, "MODEL.BACKBONE.NAME", toy_backbone, "DATASET.NAME", "Caltech101", "USE_CUDA", False)
    merge_from_list(cfg, [*words, *keys])
    shapes, axes = [], []
    for classes in (["dark dog", "pale dog", "dark boat"], ["dark dog", "pale dog", "dark boat", "pale boat"]):
        pairs = {"attributes": ["dark", "pale"], "objects": ["dog", "boat"], "num_seen": 2} if name == "CSP" else {}
        trainer = build_for(cfg, {"classnames": classes} | pairs)
        shapes.append({k: v.shape for m in trainer._models.values() for k, v in m.state_dict().items()})
        axes.append(trainer.class_axes)
    few, many = shapes
    if name == "LAMM":  # an entry for each class, under its name
        assert many.keys() - few.keys() == {"vectors.pale boat"}
        many = {key: many[key] for key in few}
    assert few.keys() == many.keys()
    grown = {k: [i for i, (a, b) in enumerate(zip(few[k], many[k], strict=True)) if a != b] for k in few}
    assert axes[0] == axes[1] == {k: axis for k, (axis,) in ((k, v) for k, v in grown.items() if v)}


@pytest.fixture
def run(tmp_path, toy_run):
    """run(name, *keys, model=name, evaluate=): train CoOp, evaluate another run's model, or what it starts from."""

    def one(name, *keys, model=None, evaluate=False):
        flags = ["--eval-only"] * evaluate + (["--eval-only", "--model-dir", str(tmp_path / model)] if model else [])
        return toy_run("CoOp", tmp_path / name, *SHORT, *keys, flags=flags)

    return one


def forget(path):
    """Take out of a checkpoint what it was made with, as if an earlier version had written it."""
    checkpoint = load_checkpoint(path)
    del checkpoint["made_with"]
    torch.save(checkpoint, path)


def ctx(trainer):
    return trainer.model.prompt_learner.ctx.detach()


def test_class_specific_context_finds_its_classes(run, tmp_path):
    """Of half of the classes, as many as the others; on those it is refused, by evaluation and as a start."""
    whole, base = run("all", *CSC), run("base", *BASE, *CSC)
    assert torch.equal(ctx(run("of all", *NEW, *CSC, model="all")), ctx(whole)[2:])
    assert torch.equal(ctx(run("same", *BASE, *CSC, model="base")), ctx(base))
    with pytest.raises(UserError, match=r'each of its 2 classes \(ctx\) and none for 2 of the 2 .*"crab claw"'):
        run("new", *NEW, *CSC, model="base")
    file = tmp_path / "all" / "prompt_learner" / "model.pth.tar-1"
    assert torch.equal(load_run(tmp_path / "all", ["dog", "ant"]).trainer.model.prompt_learner.ctx, ctx(whole)[[3, 0]])
    started = run("started", *NEW, *CSC, "MODEL.INIT_WEIGHTS", file, evaluate=True)
    assert torch.equal(ctx(started), ctx(whole)[2:])
    with pytest.raises(UserError, match="and none for 2 of the 2"):
        file = tmp_path / "base" / "prompt_learner" / "model.pth.tar-1"
        run("never", *NEW, *CSC, "MODEL.INIT_WEIGHTS", file)


def test_without_classes_json_shared_context_loads_and_class_specific_does_not(run, tmp_path):
    for name, keys in (("shared", ()), ("csc", CSC)):
        run(name, *keys)
        for file in ("classes.json", "inputs.json"):  # as runs of earlier versions
            (tmp_path / name / file).unlink()
        forget(tmp_path / name / "prompt_learner" / "model.pth.tar-1")
    run("eval", *NEW, model="shared")
    with pytest.raises(UserError, match=r"no classes\.json beside it names the classes"):
        run("eval csc", *CSC, model="csc")
    (tmp_path / "csc" / "classes.json").write_text(json.dumps({"classnames": TOY_CLASSES}))
    run("eval csc", *CSC, model="csc")


def test_a_trainer_that_does_not_say(run, tmp_path, monkeypatch):
    """Refused where a parameter is as long as both lists of classes; context of another length is not in doubt."""
    monkeypatch.setattr(CoOp, "class_axes", None)
    run("base", *BASE, *CSC)
    message = r"CoOp does not say whether its parameter ctx .* \(2, 16, 64\) suggests: set the trainer's class_axes"
    with pytest.raises(UserError, match=message):
        run("new", *NEW, *CSC, model="base")
    with pytest.raises(UserError, match=message):
        load_run(tmp_path / "base", ["emu", "gnu"])
    with pytest.raises(UserError, match=message):
        run("start", *NEW, *CSC, "MODEL.INIT_WEIGHTS", tmp_path / "base" / "prompt_learner" / "model.pth.tar-1")
    monkeypatch.setattr(CoOp, "load_model", lambda self, directory, epoch=None: None)
    with pytest.raises(UserError, match=message):  # nor by a load_model of its own
        run("own", *NEW, *CSC, model="base")
    monkeypatch.undo()
    monkeypatch.setattr(CoOp, "class_axes", None)
    run("shared base", *BASE)
    run("shared new", *NEW, model="shared base")
    two = ("TRAINER.COOP.N_CTX", 2)
    run("two base", *BASE, *two)
    with pytest.raises(UserError, match=re.escape("(2, 64)")):
        run("two new", *NEW, *two, model="two base")
    monkeypatch.undo()
    run("two new", *NEW, *two, model="two base")
