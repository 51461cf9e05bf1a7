"""Weights of other classes or of another backbone are never evaluated without anybody knowing, wherever they lie."""

import json
import shutil

import pytest
import torch

import train
from dassl.engine import made_with
from dassl.utils import UserError, load_checkpoint
from learned.model import load_run
from tests.conftest import TOY_CLASSES
from tests.reference import openai_weights, tiny_clip
from tests.trainers.test_class_axes import BASE, CSC, NEW, SHORT, ctx, forget

LAST = "prompt_learner/model.pth.tar-1"


@pytest.fixture
def run(tmp_path, toy_run):
    """run(name, *keys, model=name): train CoOp, or evaluate another run's model."""

    def one(name, *keys, model=None):
        flags = ["--eval-only", "--model-dir", str(tmp_path / model)] if model else []
        return toy_run("CoOp", tmp_path / name, *SHORT, *keys, flags=flags)

    return one


@pytest.fixture
def other_backbone(tmp_path):
    """The path of another random CLIP of the same shape."""
    path = tmp_path / "other.pt"
    torch.manual_seed(7)
    torch.save(openai_weights(tiny_clip()), path)
    return str(path)


def moved(tmp_path, name, to):
    """A run's checkpoint alone in another folder, without anything beside it."""
    (tmp_path / to / "prompt_learner").mkdir(parents=True)
    shutil.copy(tmp_path / name / LAST, tmp_path / to / LAST)
    (tmp_path / to / "prompt_learner" / "checkpoint").write_text("model.pth.tar-1\n")
    return tmp_path / to


def test_a_moved_checkpoint_knows_its_classes(run, tmp_path):
    whole = run("all", *CSC)
    moved(tmp_path, "all", "alone")
    assert torch.equal(ctx(run("new", *NEW, *CSC, model="alone")), ctx(whole)[2:])
    moved(tmp_path, "all", "misled")
    (tmp_path / "misled" / "classes.json").write_text(json.dumps({"classnames": TOY_CLASSES[::-1]}))
    assert torch.equal(ctx(run("own", *NEW, *CSC, model="misled")), ctx(whole)[2:]), "the file beside it is another's"


@pytest.mark.parametrize(
    "theirs",
    [["emu", "gnu", "yak", "cod"], ["ant", "bee", "cod", "emu"], ["dog", "ant", "bee"]],
    ids=["no class in common", "some in common", "too few"],
)
def test_a_linear_probe_of_other_classes_is_refused(theirs, tmp_path, toy_args, closing_logger, capsys):
    probe = ("LinearProbe", tmp_path / "probe", "DATALOADER.NUM_WORKERS", 0)
    train.main(toy_args(*probe, config="vit_b16"))
    path = tmp_path / "probe" / LAST
    checkpoint = load_checkpoint(path)
    checkpoint["made_with"]["classnames"] = theirs
    torch.save(checkpoint, path)
    flags = ["--eval-only", "--model-dir", str(tmp_path / "probe")]
    assert train.run(toy_args("LinearProbe", tmp_path / "eval", *probe[2:], flags=flags, config="vit_b16")) == 1
    assert f"each of its {len(theirs)} classes (weight and bias)" in capsys.readouterr().err
    assert not (tmp_path / "eval" / "metrics.json").exists()


def test_a_linear_probe_of_the_same_classes_in_another_order(tmp_path, toy_args, closing_logger):
    keys = ("DATALOADER.NUM_WORKERS", 0)
    one = train.main(toy_args("LinearProbe", tmp_path / "probe", *keys, config="vit_b16"))
    path, turned = tmp_path / "probe" / LAST, [3, 1, 0, 2]
    checkpoint = load_checkpoint(path)
    checkpoint["made_with"]["classnames"] = [TOY_CLASSES[i] for i in turned]
    checkpoint["state_dict"] |= {key: checkpoint["state_dict"][key][turned] for key in ("weight", "bias")}
    torch.save(checkpoint, path)
    flags = ["--eval-only", "--model-dir", str(tmp_path / "probe")]
    two = train.main(toy_args("LinearProbe", tmp_path / "eval", *keys, flags=flags, config="vit_b16"))
    for key in ("weight", "bias"):
        assert torch.equal(*(getattr(t.model.prompt_learner, key) for t in (one, two)))


def test_another_backbone_of_the_same_shape_is_refused_on_every_load(
    run, tmp_path, toy_args, toy_backbone, other_backbone, caplog
):
    run("a")
    message = rf"model\.pth\.tar-1 was trained with the backbone {toy_backbone} \(SHA-256 \w{{12}}\), but this run has "
    other = ("MODEL.BACKBONE.NAME", other_backbone)
    with pytest.raises(UserError, match=message):
        run("eval", *other, model="a")
    moved(tmp_path, "a", "alone")
    with pytest.raises(UserError, match=message):
        run("eval", *other, model="alone")
    with pytest.raises(UserError, match=message):
        run("start", *other, "MODEL.INIT_WEIGHTS", tmp_path / "a" / LAST)
    with pytest.raises(UserError, match=message):
        train.main(toy_args("CoOp", tmp_path / "b", *SHORT, *other, flags=["--resume", str(tmp_path / "a")]))
    run("eval", *other, "MODEL.BACKBONE.ALLOW_OTHER", True, model="a")
    assert f"{toy_backbone} (SHA-256" in caplog.text and f"this run has {other_backbone}" in caplog.text


def test_a_backbone_that_was_replaced_is_noticed_and_one_that_was_moved_is_not(
    run, tmp_path, toy_backbone, other_backbone
):
    mine = tmp_path / "mine.pt"
    shutil.copy(toy_backbone, mine)
    run("a", "MODEL.BACKBONE.NAME", mine)
    run("eval", model="a")
    load_run(tmp_path / "a")
    shutil.copy(other_backbone, mine)
    with pytest.raises(UserError, match="was trained with the backbone"):
        load_run(tmp_path / "a")
    with pytest.raises(UserError, match="was trained with the backbone"):
        run("a", "MODEL.BACKBONE.NAME", mine)


def test_training_goes_on_only_on_the_same_classes(run, tmp_path, toy_args):
    run("base", *BASE)
    flags = ["--resume", str(tmp_path / "base")]
    with pytest.raises(UserError, match=r'number 1 is "ant" there, "crab_claw" here'):
        train.main(toy_args("CoOp", tmp_path / "new", *NEW, "OPTIM.MAX_EPOCH", 2, flags=flags))


def test_also_in_its_own_folder_where_classes_json_alone_says_them(run, tmp_path):
    run("a")
    forget(tmp_path / "a" / LAST)
    (tmp_path / "a" / "inputs.json").unlink()
    classes = tmp_path / "a" / "classes.json"
    theirs = json.dumps({"classnames": TOY_CLASSES[::-1]})
    for _ in range(2):
        classes.write_text(theirs)
        with pytest.raises(UserError, match=r"model\.pth\.tar-1 was trained on other classes"):
            run("a")
        assert classes.read_text() == theirs
    classes.write_text("[]")
    run("a")


def test_released_weights_load_with_a_word(run, tmp_path, caplog):
    run("a")
    path = moved(tmp_path, "a", "released") / LAST
    forget(path)
    run("eval", *NEW, model="released")
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "released" in r.getMessage()]
    assert line == f"{path} does not say its classes and backbone: not compared with this run's"


@pytest.mark.parametrize(
    "told",
    [
        "x",
        {"classnames": 3},
        {"classnames": [1, None]},
        {"classnames": ["a"], "digest": 3},
        {"classnames": TOY_CLASSES},
    ],
)
def test_nonsense_in_its_place_is_no_traceback(told, run, tmp_path):
    run("a", *CSC)
    path = tmp_path / "a" / LAST
    torch.save({**load_checkpoint(path), "made_with": told}, path)
    assert "None" not in made_with.read(path)
    try:
        run("eval", *CSC, model="a")
    except UserError as error:
        assert str(path) in str(error)
