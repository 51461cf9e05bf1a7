"""Runs built again from their folders: the same logits, other classes by name, and mistakes."""

import json
import os
import shutil

import pytest
import torch
import yaml

from dassl.config import get_cfg_default
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError, numerics, set_numerics
from learned.model import load_run, parse_classnames, read_cfg
from prompting.forms import with_form
from tests.conftest import REPO
from trainers.coop import CoOp

BASE, NEW = ("DATASET.SUBSAMPLE_CLASSES", "base"), ("DATASET.SUBSAMPLE_CLASSES", "new")
SHORT = ("OPTIM.MAX_EPOCH", 1, "DATALOADER.NUM_WORKERS", 0)


def logits_of(trainer):
    """A run's own logits of its test images, and the images."""
    trainer.set_model_mode("eval")
    logits = torch.cat([output for output, _ in trainer.predict(trainer.test_loader)])
    return logits, torch.cat([batch["img"] for batch in trainer.test_loader])


@pytest.fixture
def run(tmp_path, toy_run, toy_pairs_root):
    """run(trainer, name, *keys, model=name): train, or evaluate another run's model."""

    def one(trainer, name, *keys, model=None, **options):
        flags = ["--eval-only", "--model-dir", str(tmp_path / model)] if model else []
        if trainer == "CSP":
            flags += ["--root", toy_pairs_root, "--dataset-config-file", str(REPO / "configs/datasets/mit_states.yaml")]
            options["config"] = "vit_l14"
        return toy_run(trainer, tmp_path / name, *SHORT, *keys, flags=flags, **options)

    return one


@pytest.mark.parametrize("trainer", ["CoOp", "MoCoOp", "LAMM"])
def test_new_classes_by_name_are_those_of_base_to_new(trainer, tmp_path, run):
    """They are as many as the run's own. The folder of the evaluation does as well."""
    run(trainer, "base", *BASE)
    expected, images = logits_of(run(trainer, "new", *NEW, model="base"))
    by_name = load_run(tmp_path / "base", ["crab_claw", "dog"])
    assert torch.allclose(by_name.logits(images), expected, atol=1e-4)
    assert torch.allclose(load_run(tmp_path / "new").logits(images), expected, atol=1e-4)


def test_learned_classes_are_known_among_others(tmp_path, run):
    """LAMM: a vector where there is one, the name elsewhere."""
    expected, images = logits_of(run("LAMM", "base", *BASE))
    more = load_run(tmp_path / "base", ["emu", "bee", "ant"]).logits(images)
    assert torch.allclose(more[:, [2, 1]], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("trainer", "key"), [("CoOp", ("TRAINER.COOP.CSC", True)), ("LinearProbe", ("TRAINER.LINEARPROBE.STEPS", 0))]
)
def test_weights_of_every_class_serve_those_classes_alone(trainer, key, tmp_path, run):
    config = {"LinearProbe": "vit_b16"}.get(trainer, "vit_b16_ep50")
    expected, images = logits_of(run(trainer, "run", *key, config=config))
    for names in (["ant", "bee", "crab_claw", "emu"], ["emu", "bee"]):
        with pytest.raises(UserError, match='each of its 4 classes .* none for 1 of .*"emu"'):
            load_run(tmp_path / "run", names)
    for order in ([0, 1, 2, 3], [2, 0, 3, 1], [3, 1]):
        some = load_run(tmp_path / "run", [("ant", "bee", "crab_claw", "dog")[i] for i in order])
        assert torch.allclose(some.logits(images), expected[:, order], atol=1e-4)


def test_pairs_by_name(tmp_path, run):
    """CSP: the dataset's own and one that it lacks, which costs the others nothing."""
    expected, images = logits_of(run("CSP", "run"))
    names = json.loads((tmp_path / "run" / "classes.json").read_text())["classnames"]
    some = load_run(tmp_path / "run", ["pale sea shell", "dark_dog", "Faux Leather dog", "dark sea_shell"])
    columns = [names.index(name) for name in ("pale sea shell", "dark dog", "Faux Leather dog", "dark sea shell")]
    assert torch.allclose(some.logits(images), expected[:, columns], atol=1e-4)
    assert load_run(tmp_path / "run", ["Faux Leather boat"]).logits(images).shape == (len(images), 1)
    with pytest.raises(UserError, match='"wet dog" is not made of an attribute and an object'):
        load_run(tmp_path / "run", ["wet dog"])


def test_inference_of_its_own_is_used(tmp_path, run, monkeypatch):
    class Own(CoOp):
        def model_inference(self, images):
            return -self.model(images)

    expected, images = logits_of(run("CoOp", "run"))
    monkeypatch.setitem(TRAINER_REGISTRY._objects, "CoOp", Own)
    model = load_run(tmp_path / "run")
    assert torch.allclose(model.logits(images), -expected, atol=1e-4)
    with pytest.raises(UserError, match="not score images by one text feature per class"):
        model.classifier()


def test_epochs_and_old_runs(tmp_path, run):
    trainer = run("CoOp", "run", "OPTIM.MAX_EPOCH", 2, "TRAIN.CHECKPOINT_FREQ", 1)
    expected, images = logits_of(trainer)
    assert not torch.allclose(load_run(tmp_path / "run", epoch=1).logits(images), expected, atol=1e-3)
    (tmp_path / "run" / "classes.json").unlink()
    with pytest.raises(UserError, match="does not list its classes.*--classnames"):
        load_run(tmp_path / "run")
    given = load_run(tmp_path / "run", ["ant", "bee", "crab_claw", "dog"])
    assert torch.allclose(given.logits(images), expected, atol=1e-4)
    run("CoOp", "run", "OPTIM.MAX_EPOCH", 2, "TRAIN.CHECKPOINT_FREQ", 1)
    assert torch.allclose(load_run(tmp_path / "run").logits(images), expected, atol=1e-4)


def test_a_run_of_before_there_were_forms_has_the_one_it_had(tmp_path):
    """PLOT's plans ended where no log v moved, at a threshold that the config holds."""
    (tmp_path / "config.yaml").write_text("TRAINER: {NAME: PLOT, PLOT: {MAX_ITER: 1000, THRESH: 1.0e-05}}")
    cfg, method = read_cfg(tmp_path), TRAINER_REGISTRY.get("PLOT")
    options = with_form(cfg, method.section, method.forms)
    assert (options.STOP, options.MAX_ITER, options.THRESH) == ("log_v", 1000, 1e-5)


def test_blocks_of_trainers_that_are_gone(tmp_path, run):
    run("CoOp", "run")
    path = tmp_path / "run" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["TRAINER"]["SHIFT"] = {"PREC": "fp32"}
    path.write_text(yaml.safe_dump(config))
    load_run(tmp_path / "run")
    config["OPTIM"]["LRR"] = 1
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"config.yaml: unknown config key OPTIM.LRR"):
        load_run(tmp_path / "run")


def test_mistakes(tmp_path, run):
    with pytest.raises(UserError, match="no run in .*nothing"):
        load_run(tmp_path / "nothing")
    run("CoOp", "run")
    with pytest.raises(UserError, match="model.pth.tar-7.*found there: .*model.pth.tar-1"):
        load_run(tmp_path / "run", ["emu"], epoch=7)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU"):
            load_run(tmp_path / "run", device="cuda")
    shutil.rmtree(tmp_path / "run" / "prompt_learner")
    with pytest.raises(UserError, match="no weights in .*run"):
        load_run(tmp_path / "run")
    (tmp_path / "run" / "classes.json").write_text("[]")
    with pytest.raises(UserError, match="classes.json is damaged"):
        load_run(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text("[")
    with pytest.raises(UserError, match="config.yaml is damaged"):
        load_run(tmp_path / "run")


def test_class_names_as_an_argument(tmp_path):
    (tmp_path / "names.txt").write_text("cat\n\n wild cat \n")
    assert parse_classnames(str(tmp_path / "names.txt")) == ["cat", "wild cat"] == parse_classnames("cat, wild cat")
    for text, words in (("names.txt", "no file names.txt"), (" ,", "no class name"), ("a,b,a", '"a" twice')):
        with pytest.raises(UserError, match=words):
            parse_classnames(text)


def test_zero_shot_runs_have_no_weights(tmp_path, toy_run):
    trainer = toy_run("ZeroshotCLIP", tmp_path, config="vit_b16", flags=["--eval-only"])
    expected, images = logits_of(trainer)
    assert torch.allclose(load_run(tmp_path).logits(images), expected, atol=1e-4)
    assert load_run(tmp_path, ["emu"]).probabilities(images[:2]).tolist() == [[1.0], [1.0]]


def test_groups_found_by_themselves_are_found_again(tmp_path, run):
    """MoCoOp's GROUPS auto looks at the names of all classes, those of the other half too."""
    keys = ("TRAINER.MOCOOP.GROUPS", "auto", "TRAINER.MOCOOP.N_GROUPS", 2)
    templates = ("TRAINER.MOCOOP.TEMPLATES", "['a {}.', 'the {}.', 'my {}.', 'a bad {}.', 'art of a {}.']")
    trainer = run("MoCoOp", "run", *BASE, *keys, *templates)
    assert load_run(tmp_path / "run").trainer.groups == trainer.groups
    classes = json.loads((tmp_path / "run" / "classes.json").read_text())
    assert classes == {"classnames": ["ant", "bee"], "all_classnames": ["ant", "bee", "crab_claw", "dog"]}


def test_a_run_and_its_model_compute_with_the_same_flags(tmp_path, run, monkeypatch):
    """float32 is float32 but for TF32; DETERMINISTIC turns on what torch and cuBLAS have."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is as before in the end
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")

    def loosen():
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = True, False
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(False)

    def flags():
        return numerics() | {"cuDNN": torch.backends.cudnn.deterministic}

    exact = {"convolutions": "fp32", "matrix products": "fp32", "deterministic": False, "cuDNN": True}
    try:
        tf32 = {"convolutions": "tf32", "matrix products": "tf32"}
        for name, keys, others in (
            ("plain", (), {}),
            ("fast", ("TF32", True), tf32),
            ("same", ("DETERMINISTIC", True), {"deterministic": True}),
        ):
            expected = exact | others
            loosen()
            run("ZeroshotCLIP", name, *keys, config="vit_b16")
            assert flags() == expected
            assert json.loads((tmp_path / name / "metrics.json").read_text())["numerics"] == numerics()
            loosen()
            load_run(tmp_path / name)
            assert flags() == expected
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        loosen()
        set_numerics(get_cfg_default())
