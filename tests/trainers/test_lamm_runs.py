"""LAMM's runs: vectors saved by name, evaluated on other classes, learned one after the other, merged; its mistakes."""

import textwrap

import clip
import pytest
import torch
import torch.nn.functional as F
import yaml

from dassl.utils import UserError, load_checkpoint
from learned.model import load_run
from prompting.backbone import load_backbone
from tests.conftest import TOY_CLASSES
from tests.reference import encode_image_in_full, openai_weights, relative_error, tiny_clip
from trainers import lamm
from trainers.lamm import BASES, FORMS


def folder_of(tmp_path, name):
    return str(tmp_path / name)


def weights(tmp_path, name, epoch=3):
    return str(tmp_path / name / "prompt_learner" / f"model.pth.tar-{epoch}")


@pytest.fixture
def run(tmp_path, toy_run):
    """run(name, classes, *keys, model=None, earlier=None): a run on all, base or new classes in a folder of its own."""

    def run(name, classes, *keys, model=None, earlier=None, **options):
        options["flags"] = [*options.get("flags", ())]
        if model is not None:
            options["flags"] += ["--eval-only", "--model-dir", folder_of(tmp_path, model)]
        init = [] if earlier is None else ["MODEL.INIT_WEIGHTS", weights(tmp_path, earlier)]
        keys = ("DATASET.SUBSAMPLE_CLASSES", classes, "OPTIM.LR", 0.1, *init, *keys)
        return toy_run("LAMM", folder_of(tmp_path, name), *keys, **options)

    return run


@torch.no_grad()
def text_features(trainer):
    return trainer.model.encode_text()


@pytest.mark.parametrize("base", BASES)
def test_a_run_is_saved_by_name_and_loads_to_the_same_outputs(base, tmp_path, run):
    keys = ("TRAINER.LAMM.BASE", base)
    trained = run("a", "all", *keys)
    state = load_checkpoint(weights(tmp_path, "a"))["state_dict"]
    vectors = {key for key in state if key.startswith("vectors.")}
    assert vectors == {"vectors.ant", "vectors.bee", "vectors.crab claw", "vectors.dog"}
    assert all(state[key].shape == (1, 64) for key in vectors)
    couplings = {
        f"{layer}.{kind}" for layer in ("proj", "compound_prompt_projections.0") for kind in ("weight", "bias")
    }
    maple = {f"maple.{name}" for name in ("ctx", "compound_prompts_text.0", *couplings)}
    assert set(state) - vectors == {"clip": set(), "coop": {"ctx"}, "maple": maple}[base]
    alone = run("b", "all", *keys, model="a")
    batch = next(iter(alone.test_loader))["img"]
    with torch.no_grad():
        assert torch.equal(trained.model(batch), alone.model(batch))
    assert trained.test() == alone.test()


def test_images_are_seen_with_maples_prompts(run):
    trainer = run("a", "base", "TRAINER.LAMM.BASE", "maple")
    maple, images = trainer.model.prompt_learner.maple, next(iter(trainer.test_loader))["img"]
    with torch.no_grad():
        prompts = [maple.proj(maple.ctx), maple.compound_prompt_projections[0](maple.compound_prompts_text[0])]
        seen = F.normalize(encode_image_in_full(trainer.model.image_encoder, images, prompts), dim=-1)
        expected = 1 / 0.07 * seen @ text_features(trainer).t()
        evaluated = torch.cat([output for output, _ in trainer.predict(trainer.test_loader)])
    assert relative_error(trainer.model(images), expected) < 1e-5
    assert relative_error(evaluated, expected) < 1e-5


def test_new_classes_go_by_their_names(run, toy_backbone):
    trained = run("a", "base")
    new = run("b", "new", model="a")
    prompts = clip.tokenize([f"a photo of a {name.replace('_', ' ')}." for name in TOY_CLASSES[2:]])
    plain = F.normalize(load_backbone(toy_backbone, "fp32", "cpu").encode_text(prompts), dim=-1).detach()
    assert relative_error(text_features(new), plain) < 1e-5
    both = text_features(run("c", "all", model="a"))
    assert relative_error(both[:2], text_features(trained)) < 1e-5
    assert relative_error(both[2:], plain) < 1e-5


@pytest.mark.parametrize("base", BASES)
def test_learning_more_classes_forgets_nothing(base, tmp_path, run):
    keys = ("TRAINER.LAMM.BASE", base)
    first = run("a", "base", *keys)
    second = run("b", "new", *keys, earlier="a")
    learner = second.model.prompt_learner
    assert learner.vectors.names == ["crab claw", "dog", "ant", "bee"]
    assert [n for n, p in learner.named_parameters() if p.requires_grad] == ["vectors.learned"]
    assert not torch.equal(learner.vectors.learned, learner.initial)
    assert torch.equal(text_features(run("c", "base", *keys, model="b")), text_features(first))
    assert torch.equal(text_features(run("d", "new", *keys, model="b")), text_features(second))
    states = [load_checkpoint(weights(tmp_path, name))["state_dict"] for name in ("a", "b")]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    images = next(iter(first.test_loader))["img"]
    with torch.no_grad():
        assert torch.equal(first.model.encode_image(images), second.model.encode_image(images))
    both = text_features(run("e", "all", *keys, model="b"))
    assert relative_error(both, torch.cat([text_features(first), text_features(second)])) < 1e-5


def test_runs_trained_apart_merge(tmp_path, run, monkeypatch):
    """By the lines that the module's docstring gives."""
    parts = [run("base", "base"), run("new", "new")]
    *_, text = lamm.__doc__.partition("merge as dicts do")
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent("\n".join(lines)).replace("tar-50", "tar-3"), {"torch": torch})
    alone = run("both", "all", "MODEL.INIT_WEIGHTS", "both.pth.tar", flags=["--eval-only"])
    assert alone.model.prompt_learner.vectors.names == ["ant", "bee", "crab claw", "dog"]
    both = torch.cat([text_features(part) for part in parts])
    assert relative_error(text_features(alone), both) < 1e-5
    assert relative_error(both, alone.zero_shot_features(alone.options.TEMPLATE)) > 1e-4


def test_earlier_vectors_may_be_trained_on(tmp_path, run):
    first = run("a", "base")
    second = run("b", "all", "TRAINER.LAMM.FREEZE_EARLIER", False, flags=["--no-train"], earlier="a")
    vectors = second.model.prompt_learner.vectors
    assert vectors.learned.shape == (4, 64) and vectors.kept.shape == (0, 64)
    assert torch.equal(vectors.learned[:2], first.model.prompt_learner.vectors.learned), "they start as they were"


def test_weights_and_runs_of_before_there_were_forms(tmp_path, run):
    """Vectors of whole names, (64,): with FORM paper, which runs have whose config does not know it."""
    paper = ("TRAINER.LAMM.FORM", "paper")
    trained = run("a", "base", *paper)
    state = load_checkpoint(weights(tmp_path, "a"))["state_dict"]
    assert {key: value.shape for key, value in state.items()} == {"vectors.ant": (64,), "vectors.bee": (64,)}
    assert relative_error(text_features(run("b", "all", *paper, model="a"))[:2], text_features(trained)) < 1e-5
    second, alone = run("c", "new", *paper, earlier="a"), run("d", "new", *paper)
    assert relative_error(text_features(second), text_features(alone)) < 1e-4
    file = tmp_path / "a" / "config.yaml"
    saved = yaml.safe_load(file.read_text())
    for key in ("FORM", *FORMS["paper"]):
        del saved["TRAINER"]["LAMM"][key]
    saved["TRAINER"]["LAMM"]["TEMPLATE"] = "a photo of {}."
    file.write_text(yaml.safe_dump(saved))
    assert torch.equal(load_run(tmp_path / "a").text_features, text_features(trained))


def test_an_interrupted_run_of_more_classes_resumes(tmp_path, run):
    run("a", "base")
    whole = run("b", "new", earlier="a")
    run("c", "new", "OPTIM.MAX_EPOCH", 3, "TRAIN.CHECKPOINT_FREQ", 1, earlier="a")
    for epoch in (2, 3):
        (tmp_path / "c" / "prompt_learner" / f"model.pth.tar-{epoch}").unlink()
    resumed = run("c", "new", "OPTIM.MAX_EPOCH", 3, "TRAIN.CHECKPOINT_FREQ", 1, earlier="a")
    assert resumed.start_epoch == 1
    for key, value in whole.model.prompt_learner.state_dict().items():
        assert torch.equal(value, resumed.model.prompt_learner.state_dict()[key])


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"BASE": "maple", "TRAINER.MAPLE.N_CTX": 5}, "has 4 tokens, but N_CTX is 5"),
        ({"BASE": "coops"}, "did you mean coop"),
        ({"FORM": "releases"}, "TRAINER.LAMM.FORM.*did you mean released"),
        ({"NAME": "firsts"}, "TRAINER.LAMM.NAME.*did you mean first"),
        ({"COS": "images"}, "TRAINER.LAMM.COS.*batch, classes"),
        ({"TEMPLATE": "a photo"}, "one {}"),
        ({"BASE": "coop", "CTX_INIT": " "}, "no word"),
        ({"BASE": "coop", "CTX_INIT": "", "N_CTX": 0}, "N_CTX is 0: give 1 or more"),
        ({"KD_WEIGHT": -1.0}, "0 or more"),
        ({"KD_TEMPERATURE": 0.0}, "above 0"),
        ({"PREC": "fp8"}, "fp16"),
    ],
)
def test_mistakes_in_the_config(options, message, tmp_path, toy_run):
    options = {key if "." in key else f"TRAINER.LAMM.{key}": value for key, value in options.items()}
    keys = [x for key, value in options.items() for x in (key, f'"{value}"' if value == " " else value)]
    with pytest.raises(UserError, match=message):
        toy_run("LAMM", tmp_path, *keys)


def test_mistakes_with_weights(tmp_path, run, toy_run):
    base = ("DATASET.SUBSAMPLE_CLASSES", "base")
    coop, maple = (("TRAINER.LAMM.BASE", name) for name in ("coop", "maple"))
    run("a", "base")
    run("coop", "base", *coop)
    run("maple", "base", *maple)
    toy_run("CoOp", tmp_path / "other", *base)
    with pytest.raises(UserError, match="no class vectors"):
        run("b", "base", model="other")
    with pytest.raises(UserError, match="do not fit.*ctx"):
        run("b", "base", *coop, model="a")
    with pytest.raises(UserError, match="BASE clip, but here it is coop"):
        run("b", "new", *coop, earlier="a")
    with pytest.raises(UserError, match="BASE coop, but here it is clip"):
        run("b", "new", earlier="coop")
    with pytest.raises(UserError, match="BASE maple, but here it is coop"):
        run("b", "new", *coop, earlier="maple")
    with pytest.raises(UserError, match="prompts of 2 layers, but here they have 1"):
        run("b", "new", *maple, "TRAINER.MAPLE.PROMPT_DEPTH", 1, earlier="maple")
    with pytest.raises(UserError, match=r"ctx of size \(4, 64\), but here it is \(2, 64\)"):
        run("b", "new", *coop, "TRAINER.LAMM.CTX_INIT", "a photo", earlier="coop")
    with pytest.raises(UserError, match="FREEZE_EARLIER False"):
        run("b", "base", earlier="a")
    run("whole", "base", "TRAINER.LAMM.FORM", "paper")
    with pytest.raises(
        UserError, match='"ant" stands for its whole name, .* is first here: set TRAINER.LAMM.FORM paper'
    ):
        run("b", "new", earlier="whole")
    with pytest.raises(UserError, match='"ant" stands for its whole name'):
        run("b", "base", model="whole")
    with pytest.raises(UserError, match='"ant" stands for its name\'s first tokens, .* set TRAINER.LAMM.FORM released'):
        run("b", "base", "TRAINER.LAMM.FORM", "paper", model="a")
    wide = tmp_path / "wide.pt"
    torch.save(openai_weights(tiny_clip(width=128)), wide)
    with pytest.raises(UserError, match=r"vectors.ant of size \(1, 64\), but here it is \(1, 128\)"):
        run("b", "base", "MODEL.BACKBONE.NAME", wide, earlier="a")
    with pytest.raises(UserError, match="was trained on other classes than this run"):
        run("b", "new", "RESUME", folder_of(tmp_path, "a"))
