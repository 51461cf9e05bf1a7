"""What others add, each as one file: the examples in docs/examples, in a folder of ours or in a package elsewhere."""

import csv
import io
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dassl.metrics import METRIC_REGISTRY
from tests.conftest import REPO

EXAMPLES = REPO / "docs" / "examples"
PLACES = {
    "trainer": "trainers/shift.py",
    "dataset": "datasets/fruit.py",
    "protocol": "benchmark/protocols/balance.py",
    "backbone": "prompting/backbones/toy.py",
    "metric": "dassl/metrics/calibration.py",
}
PAGES = {name: REPO / "docs" / f"add-a-{name.replace('dataset', 'data-set')}.md" for name in PLACES}
PACKAGES = ("benchmark", "configs", "dassl", "datasets", "learned", "mocoop", "prompting", "report", "trainers")


def python(*words, cwd=REPO, path=(REPO,)):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout


@pytest.fixture
def fruit_root(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("apple", "passion", "plum"):
        folder = tmp_path / "data" / "fruit" / "images" / name
        folder.mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "data"


def test_a_file_each(tmp_path, fruit_root):
    """All five at once: a protocol for an old and a new method, on a new data set and backbone, with a new metric."""
    repo = tmp_path / "repo"
    for name in filter(lambda name: (REPO / name).is_dir(), PACKAGES):
        shutil.copytree(REPO / name, repo / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "train.py", repo)
    for name, place in PLACES.items():
        shutil.copy(EXAMPLES / f"{name}.py", repo / place)
    shutil.copy(EXAMPLES / "trainer_inside.py", repo / "trainers" / "frame.py")
    (repo / "configs/datasets/fruit.yaml").write_text('DATASET:\n  NAME: "Fruit"\nTEST:\n  METRICS: ["ece"]\n')

    words = ["protocol", "balance", "CoOp", "fruit", "2", "--beside", "Shift/default", "Frame/default", "--seeds", "1"]
    keys = ["--device", "cpu", "OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0"]
    where = {"cwd": repo, "path": [repo]}
    log = python("-m", "benchmark", *words, "--root", fruit_root, "--backbone", "toy-clip", *keys, **where)
    assert log.count("=> result") == len(re.findall(r"^\* ece: \d+\.\d%$", log, re.MULTILINE)) == 3
    means, head, _, coop, *others = log.rstrip().splitlines()[-6:]
    assert means == "means" and head.split()[-4:] == ["accuracy", "per", "class", "gap"]
    assert coop.split()[2] == "CoOp" and {line.split()[2] for line in others} == {"Shift", "Frame"}

    script = "from report import results; print(results.read('output').to_csv(index=False))"
    runs = list(csv.DictReader(io.StringIO(python("-c", script, **where))))
    assert sorted(run["trainer"] for run in runs) == ["CoOp", "Frame", "Shift"]
    for run in runs:
        assert (run["protocol"], run["dataset"], run["backbone"]) == ("balance", "fruit", "toy-clip")
        assert 0 < float(run["ece"]) < 100


def entry_points(site, modules):
    """A package in `site` that offers modules: {the group's last word: the module's text}."""
    folder = site / "offers-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: offers\nVersion: 1.0\n")
    lines = [f"[mocoop.{group}]\nmine = offered_{group}" for group in modules]
    (folder / "entry_points.txt").write_text("\n".join(lines))
    for group, text in modules.items():
        (site / f"offered_{group}.py").write_text(text)
    return [REPO, site]


ASK = """
import datasets, trainers
from benchmark.protocols import protocol_named
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from dassl.errors import UserError
from dassl.evaluation import EVALUATOR_REGISTRY
from dassl.metrics import METRIC_REGISTRY
from prompting.backbone import find, load_backbone
from prompting.templates import custom_template

def ask(what, name):
    try:
        print(what(name) and "found")
    except UserError as error:
        print(error)

for what, name in (
    (TRAINER_REGISTRY.get, "Shift"), (custom_template, "Fruit"), (protocol_named, "balance"), (find, "toy-clip"),
    (METRIC_REGISTRY.get, "ece"), (EVALUATOR_REGISTRY.get, "Mine"), (TRAINER_REGISTRY.get, "CoOp"),
    (load_backbone, "icon-clip"), (protocol_named, "few_shot"), (METRIC_REGISTRY.get, "nothing"),
):
    ask(what, name)
"""
EVALUATOR = """
from dassl.evaluation import EVALUATOR_REGISTRY, Classification

@EVALUATOR_REGISTRY.register()
class Mine(Classification):
    pass
"""


def test_packages_join_through_entry_points(tmp_path):
    texts = {f"{name}s": (EXAMPLES / f"{name}.py").read_text() for name in PLACES} | {"evaluators": EVALUATOR}
    *found, nothing = python("-c", ASK, path=entry_points(tmp_path, texts)).splitlines()
    assert found == ["found"] * 9
    assert nothing.endswith('no "nothing" in the METRIC registry: known: ece')


def test_what_fails_is_left_out_and_told_of_where_it_is_asked_for(tmp_path):
    groups = ("trainers", "datasets", "protocols", "backbones", "metrics", "evaluators")
    lines = python("-c", ASK, path=entry_points(tmp_path, dict.fromkeys(groups, "import nowhere"))).splitlines()
    for group, line in zip(groups, lines, strict=False):
        failed = f"the entry point mine = offered_{group} (ModuleNotFoundError: No module named 'nowhere')"
        assert line.endswith(f"; left out because they failed: {failed}"), "each says what failed, and no more"
    assert lines[6:9] == ["found"] * 3, "the others work"


def test_a_name_that_two_protocols_have_is_neithers(tmp_path):
    text = (EXAMPLES / "protocol.py").read_text().replace('NAME, LAYOUT = "balance"', 'NAME, LAYOUT = "few_shot"')
    told = python("-c", ASK, path=entry_points(tmp_path, {"protocols": text})).splitlines()[8]
    assert "unknown protocol few_shot: " in told
    assert 'two named "few_shot", in benchmark.protocols.few_shot and offered_protocols (rename one)' in told


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_show_the_tested_files(name):
    page = PAGES[name].read_text()
    assert (EXAMPLES / f"{name}.py").read_text() in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert PLACES[name] in page and f"mocoop.{name}s" in page


def test_the_page_of_trainers_shows_one_that_learns_inside_the_image_encoder():
    assert (EXAMPLES / "trainer_inside.py").read_text() in PAGES["trainer"].read_text()


def test_the_first_page_links_to_all_of_them():
    first = (REPO / "docs" / "index.md").read_text()
    assert all(f"]({page.name})" in first for page in PAGES.values())


def test_the_example_metric_against_loops(monkeypatch):
    monkeypatch.setattr(METRIC_REGISTRY, "_objects", {})
    namespace = {}
    exec((EXAMPLES / "metric.py").read_text(), namespace)
    rng = np.random.default_rng(0)
    scores, labels = 2 * rng.normal(size=(200, 5)), rng.integers(0, 5, 200)
    gaps = 0.0
    for k in range(15):
        confidences, hits = [], []
        for row, label in zip(scores, labels, strict=True):
            p = np.exp(row) / np.exp(row).sum()
            if k / 15 < p.max() <= (k + 1) / 15:
                confidences.append(p.max())
                hits.append(p.argmax() == label)
        gaps += abs(sum(confidences) - sum(hits))
    got = namespace["ece"](torch.from_numpy(scores), torch.from_numpy(labels))
    assert got == pytest.approx(100 * gaps / 200) and got > 1
