"""Files of a run that load and are wrong: a folder of such files is unfinished, in conflict, or refused in a line."""

import json
import random

import pytest
import yaml

from dassl.engine import run_folder
from dassl.errors import UserError
from dassl.layout import CLASSES, CONFIG, METRICS, read_metrics
from tests.mutants import mutant


@pytest.fixture
def cfg(cfg, tmp_path):
    cfg.OUTPUT_DIR, cfg.MODEL.INIT_WEIGHTS = str(tmp_path), str(tmp_path / "base" / "model.pth.tar-1")
    return cfg


def test_odd_values(cfg, tmp_path):
    rng, tree, refused = random.Random(0), run_folder._tree(cfg), 0
    few = {"MODEL": {"INIT_WEIGHTS": "x"}, "OUTPUT_DIR": "y", "SEED": 1}
    for i in range(300):
        config = few if i % 10 else tree
        metrics = {"accuracy": 90.0, "trainer": "CoOp", "config": config}
        (tmp_path / METRICS).write_text(json.dumps(mutant(metrics, rng), default=str, skipkeys=True))
        (tmp_path / CONFIG).write_bytes(yaml.safe_dump(mutant(config, rng), allow_unicode=False).encode())
        (tmp_path / CLASSES).write_text(json.dumps(mutant({"classnames": ["a", "b"]}, rng), default=str))
        assert run_folder.is_finished(cfg) in (True, False)
        assert isinstance(read_metrics(tmp_path), dict | None)
        for read in (lambda: run_folder.conflict(cfg), lambda: run_folder.read_classes(tmp_path)):
            try:
                read()
            except UserError as error:
                refused += str(error).isprintable()
    assert refused > 100


@pytest.mark.parametrize("classes", ["[]", "3", '{"classnames": "cat"}', '{"classnames": [1]}', "{}"])
def test_classes_that_are_none(classes, tmp_path):
    (tmp_path / CLASSES).write_text(classes)
    with pytest.raises(UserError, match="classes.json is damaged"):
        run_folder.read_classes(tmp_path)


def test_nothing_is_too_deep(cfg, tmp_path):
    (tmp_path / METRICS).write_text("[" * 100_000)
    assert not run_folder.is_finished(cfg) and read_metrics(tmp_path) is None


def test_a_damaged_config_is_replaced_when_asked(cfg, tmp_path):
    (tmp_path / METRICS).write_text("{}")
    (tmp_path / CONFIG).write_text("a: [")
    with pytest.raises(UserError, match="config.yaml is damaged"):
        run_folder.claim(cfg)
    run_folder.claim(cfg, overwrite=True)
    assert run_folder.read_config(tmp_path)["OUTPUT_DIR"] == str(tmp_path) and not (tmp_path / METRICS).exists()
