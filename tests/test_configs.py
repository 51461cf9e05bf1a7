"""The yaml files in configs/: every dataset goes with every trainer, and a key that nobody knows is an error."""

import re
from pathlib import Path

import pytest
import yaml

import datasets  # noqa: F401  registers the readers
import train
from benchmark.facts import method_of
from benchmark.protocols import PROTOCOLS
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
DATASETS = sorted((CONFIGS / "datasets").glob("*.yaml"))
TRAINERS = sorted(path for path in (CONFIGS / "trainers").glob("*/*.yaml") if path.name != "method.yaml")
MOCOOP = yaml.safe_load((Path(__file__).parent / "recipes/templates.yaml").read_text())["mocoop"]


def test_the_default_config_is_coops():
    ours, coops = (CONFIGS / "trainers" / name for name in ("default.yaml", "CoOp/vit_b16_ep50.yaml"))
    assert yaml.safe_load(ours.read_text()) == yaml.safe_load(coops.read_text())


def build(dataset, trainer, *keys):
    """The frozen config of a run."""
    words = ["--dataset-config-file", dataset, "--config-file", trainer, "--trainer", trainer.parent.name, *keys]
    return train.setup_cfg(train.parse_args([str(word) for word in words]))


def groups(name):
    return yaml.safe_load((CONFIGS / f"datasets/{name}.yaml").read_text())["TRAINER"]["MOCOOP"]["GROUPS"]


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda path: path.stem)
def test_every_dataset_goes_with_every_trainer(dataset):
    for trainer in TRAINERS:
        cfg = build(dataset, trainer)
        assert cfg.is_frozen() and cfg.TRAINER.NAME == trainer.parent.name
        DATASET_REGISTRY.get(cfg.DATASET.NAME)


def test_every_reader_has_a_config():
    named = {yaml.safe_load(path.read_text())["DATASET"]["NAME"] for path in DATASETS}
    readers = {n: DATASET_REGISTRY.get(n) for n in DATASET_REGISTRY.registered_names()}
    assert named == {name for name, reader in readers.items() if reader.__module__.startswith("datasets.")}


@pytest.mark.parametrize("folder, line, message", [
    ("datasets", "DATASET:\n  NAMES: x\n", "unknown config key DATASET.NAMES in DATASET: did you mean NAME"),
    ("datasets", "TRAINER:\n  MOCOP:\n    GROUPS: auto\n", "unknown config key TRAINER.MOCOP in TRAINER: .*MOCOOP"),
    ("trainers", "OPTIM:\n  MAX_EPOCHS: 5\n", "unknown config key OPTIM.MAX_EPOCHS in OPTIM: did you mean MAX_EPOCH"),
])  # fmt: skip
def test_unknown_keys(tmp_path, folder, line, message):
    path = tmp_path / "CoOp" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(line)
    files = {"datasets": DATASETS[0], "trainers": TRAINERS[0]} | {folder: path}
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: {message}"):
        build(files["datasets"], files["trainers"])


@pytest.mark.parametrize("name", MOCOOP["groups"])
def test_mocoops_groups_are_the_releases(name):
    assert groups(name) == MOCOOP["groups"][name]
    assert [len(group) for group in groups(name)] == MOCOOP["group_sizes"][name]


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda path: path.stem)
def test_templates_have_one_place_for_the_class_name(dataset):
    options = yaml.safe_load(dataset.read_text()).get("TRAINER", {}).get("MOCOOP", {})
    templates = [template for group in options.get("GROUPS", []) for template in group]
    assert all(template.count("{}") == 1 for template in templates)
    assert len(set(templates)) == len(templates)


def shown_command(path):
    """The command in a config's first line: the words of its environment, and the others."""
    words = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").split()
    env = dict(word.split("=", 1) for word in words if re.match(r"[A-Z]+=", word))
    return env, [word for word in words if not re.match(r"[A-Z]+=", word)]


@pytest.mark.parametrize("path", TRAINERS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_trainers_config_opens_with_the_command_that_runs_it(path):
    env, (bash, script, *arguments) = shown_command(path)
    assert bash == "bash" and (CONFIGS.parent / script).is_file()
    protocol, method = PROTOCOLS[script.split("/")[-1].removesuffix(".sh")], method_of(path.parent.name)
    *_, call = (CONFIGS.parent / script).read_text().splitlines()
    assert env.get("TRAINER", method.name) == method.name and method.name in call + env.get("TRAINER", "")
    assert method.suits(protocol.name)
    given = dict(zip(protocol.takes, arguments, strict=False))
    shots = given.get("SHOTS")
    usual = method.recipe(protocol.name, given.get("DATASET"), shots and int(shots))[0]
    assert env.get("CFG") or usual == path.stem
    assert env.get("CFG", path.stem) == path.stem


def test_grids_and_datasets_open_with_the_command_that_runs_them():
    for kind, command in (("grids", "python -m benchmark run"), ("datasets", "python -m datasets check")):
        for path in (CONFIGS / kind).glob("*.yaml"):
            assert path.read_text().startswith(f"#     {command} {path.stem}\n"), path


def test_published_figures_in_the_headers():
    """As report/published has them."""
    files = (CONFIGS.parent / "report/published").glob("*.csv")
    known = " ".join(file.read_text() for file in files).replace('"', "")
    pattern = re.compile(r"^# Published[^:]*:\s(?:# )?([\d., ]+) \(([^()]+)\)\.$", re.MULTILINE)
    told = [found for path in TRAINERS for found in pattern.findall(path.read_text())]
    assert len(told) >= 7
    for figures, source in told:
        assert f"{figures.replace(' ', '')},{source}" in known, figures
