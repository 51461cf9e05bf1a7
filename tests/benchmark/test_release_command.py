"""`python -m benchmark release`: three releases in this family's style run unedited, beside ours, without a GPU."""

import json
import re
import runpy
import shutil
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import clip
import pytest
import torch

from benchmark import inside_release
from benchmark.__main__ import main
from benchmark.release import from_here, weights_file
from dassl.config import get_cfg_default
from dassl.utils import UserError
from prompting import backbone
from tests.conftest import REPO

RELEASES = REPO / "tests" / "releases"


@pytest.fixture
def data(toy_root, tmp_path):
    """A copy of the tiny data set: releases leave few-shot pickles in it."""
    return shutil.copytree(toy_root, tmp_path / "data")


def arguments(trainer, data, output, *more):
    words = ["--root", data, "--seed", 1, "--trainer", trainer, "--output-dir", output]
    words += ["--dataset-config-file", "configs/datasets/caltech101.yaml"]
    words += ["--config-file", f"configs/trainers/{trainer}/vit_b16.yaml", *more]
    return [*words, "DATASET.NUM_SHOTS", 4, "DATALOADER.NUM_WORKERS", 0, "TRAIN.CHECKPOINT_FREQ", 1]


def release(folder, *options, arguments=()):
    return main(["release", str(folder), *map(str, options), "--", *map(str, arguments)])


@pytest.mark.parametrize(
    ("name", "trainer", "model", "learned"),
    [
        ("words", "Words", "prompt_learner", 4 * 64),
        ("per_image", "PerImage", "prompt_learner", 4 * 64 + 8 * 33 + 64 * 9),
        ("towers", "Towers", "TowersLearner", 2 * 2 * (64 + 64)),
    ],
)
def test_a_release_trains_resumes_and_evaluates_beside_ours(
    name, trainer, model, learned, data, toy_backbone, toy_run, tmp_path, capfd
):
    def run(output, *more):
        assert (
            release(RELEASES / name, "--weights", toy_backbone, arguments=arguments(trainer, data, output, *more)) == 0
        )
        return capfd.readouterr().out, json.loads((output / "metrics.json").read_text())

    output = tmp_path / "output" / "caltech101" / trainer / "vit_b16_4shots" / "seed1"
    log, metrics = run(output)
    assert f"Weights: {toy_backbone} instead of ViT-B-16.pt" in log and "epoch [3/3] batch [4/4]" in log
    assert (metrics["release"], metrics["backbone"], metrics["shots"]) == (name, toy_backbone, 4)
    assert metrics["trainable_parameters"] == learned and metrics["total"] == 12
    assert (data / "caltech-101" / "split_fewshot" / "shot_4-seed_1.pkl").is_file()

    weights = output / model / "model.pth.tar-3"
    whole = torch.load(weights)["state_dict"]
    assert all(value.dtype in (torch.float32, torch.int64) for value in whole.values()), "half precision stayed away"
    weights.unlink()  # as a kill in the last epoch leaves it
    (output / "metrics.json").unlink()
    weights.with_name("checkpoint").write_text("model.pth.tar-2\n")
    log, resumed = run(output)
    assert "will resume training from epoch 3" in log and resumed["accuracy"] == metrics["accuracy"]
    assert all(torch.equal(value, whole[key]) for key, value in torch.load(weights)["state_dict"].items())

    if name == "per_image":  # to new classes, among its own
        new = ("DATASET.SUBSAMPLE_CLASSES", "new", "TEST.PER_CLASS_RESULT", True)
        log, tested = run(tmp_path / "new", "--eval-only", "--model-dir", output, "--load-epoch", 3, *new)
        assert "Loading weights to prompt_learner (epoch = 3)" in log and "* class: 1 (dog)" in log
        assert (tested["total"], tested["subsample_classes"]) == (6, "new")

    toy_run("CoOp", str(tmp_path / "output/caltech101/CoOp/vit_b16_ep50_4shots/seed1"))
    assert main(["table", str(tmp_path / "output")]) == 0
    table = capfd.readouterr().out
    assert f"{trainer} (vit_b16) [{name}]" in table and "CoOp (vit_b16_ep50)" in table


def test_none_of_our_packages_but_dassl_is_found(tmp_path, capfd):
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "mine.py").write_text("import torch\nimport prompting")
    (tmp_path / "train.py").write_text("import dassl.engine\nimport trainers.mine")
    assert release(tmp_path, arguments=["--output-dir", "x"]) == 1
    told = "the release needs the package prompting, which is not installed (trainers/mine.py, line 2): pip install it"
    assert capfd.readouterr().err.splitlines()[-1] == f"error: {told}"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import nowhere.at.all",
            r"the release needs the package nowhere, which is not installed \(train.py, line 2\)",
        ),
        ("import dassl.modeling", "dassl.modeling of Dassl.pytorch is left out here: build networks with"),
        ("open('/to/be/found')", r"no file /to/be/found, which the release reads \(train.py, line 2\)"),
        (
            "import dassl.config as c; c.get_cfg_default().merge_from_list(['A', 1])",
            "the release's config: Non-existent",
        ),
    ],
)
def test_what_a_release_lacks_is_told_in_one_line(code, message, tmp_path):
    (tmp_path / "train.py").write_text(f"import dassl\n{code}")
    with pytest.raises(Exception) as caught:
        runpy.run_path(str(tmp_path / "train.py"))
    mistake = inside_release._mistake(caught.value, str(tmp_path))
    assert isinstance(mistake, UserError) and re.match(message, str(mistake))


def test_its_own_mistakes_keep_their_traceback(tmp_path):
    assert inside_release._mistake(ZeroDivisionError("division by zero"), str(tmp_path)) is None


def test_weights_that_are_not_at_hand():
    def download(url):
        raise URLError("no network")

    module = SimpleNamespace(_download=download)
    inside_release.Weights("", "", "").lead(module)
    with pytest.raises(UserError, match=r"asks for RN50.pt, which is not at hand .*no network.* with --weights"):
        module._download("https://weights.invalid/RN50.pt")
    inside_release.Weights("", "icon-clip", "/there.pt").lead(module)
    assert module._download("https://weights.invalid/RN50.pt", "root") == "/there.pt"


def test_a_folder_that_holds_a_run_of_ours(tmp_path):
    """Of the same trainer, data and config: still another's."""
    import_module("datasets.caltech101")
    cfg = get_cfg_default()
    cfg.OUTPUT_DIR, cfg.DATASET.NAME = str(tmp_path), "Caltech101"
    (tmp_path / "config.yaml").write_text(cfg.dump())
    (tmp_path / "metrics.json").write_text(json.dumps({"config": cfg}))
    cfg.RELEASE.NAME = "theirs"
    told = r"holds a finished run .*RELEASE.NAME was '', is now 'theirs'.* --overwrite"
    with ExitStack() as ends, pytest.raises(UserError, match=told):
        inside_release.build_trainer(cfg, False, None, ends)


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        ("nowhere", (), "no folder nowhere: give the one that a release was cloned to"),
        ("tests", (), "tests does not have the layout of CoOp's release: it lacks train.py"),
        ("tests/releases/words/trainers", (), "it lacks train.py and trainers"),
        ("tests/releases/words", (), "its arguments need --output-dir"),
        ("tests/releases/words", ("--weights", "ViT-B/61"), 'unknown backbone "ViT-B/61" '),
        ("tests/releases/words", ("--weights", "nowhere.pt"), "backbone file nowhere.pt not found"),
    ],
)
def test_mistakes_that_need_no_process(folder, options, message, monkeypatch, capsys):
    monkeypatch.chdir(REPO)
    assert release(folder, *options, arguments=["--output-dir", "x"] if options else []) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_places_are_the_users_and_files_the_releases(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").touch()
    words = ["--root=data", "--output-dir", "out", "--config-file", "mine.yaml", "--dataset-config-file=configs/x.yaml"]
    assert from_here([*words, "A.B", "c"], RELEASES / "words") == [
        *("--root", f"{tmp_path}/data", "--output-dir", f"{tmp_path}/out", "--config-file", f"{tmp_path}/mine.yaml"),
        *("--dataset-config-file", "configs/x.yaml", "A.B", "c"),
    ]


@pytest.mark.parametrize("name", ["icon-clip", "icon-clip-vit"])
def test_weights_by_our_names_load_in_a_releases_clip(name, tmp_path):
    file, size = weights_file(name, tmp_path)
    model = clip.clip.build_model(torch.load(file)).float()
    images = torch.rand(1, 3, size, size)
    ours = backbone.load_backbone(name)
    assert torch.allclose(model.encode_image(images), ours.encode_image(images), atol=1e-2)  # it rounds them to half
    with pytest.raises(UserError, match="unknown backbone"):
        weights_file("icon-clap", tmp_path)
