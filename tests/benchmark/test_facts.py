"""What method.yaml and the configs of data sets may say, and how they refuse the rest."""

import random

import pytest
import yaml

from benchmark import facts
from benchmark.protocols import PROTOCOLS
from dassl.errors import UserError
from tests.mutants import mutant


def test_a_methods_file_with_odd_values_is_refused_in_a_line(tmp_path, monkeypatch):
    rng, file = random.Random(0), tmp_path / "trainers" / "MoCoOp" / "method.yaml"
    whole = yaml.safe_load((facts.CONFIGS / "trainers" / "MoCoOp" / "method.yaml").read_text())
    file.parent.mkdir(parents=True)
    monkeypatch.setattr(facts, "CONFIGS", tmp_path)
    refused = 0
    for _ in range(200):
        file.write_bytes(yaml.safe_dump(mutant(whole, rng), allow_unicode=False).encode())
        facts.read_yaml.cache_clear()
        try:
            method = facts.method_of.__wrapped__("MoCoOp")
            for protocol in PROTOCOLS:
                method.recipes(protocol), method.recipe(protocol, "dtd", 4), method.need({})
        except UserError as error:
            refused += str(error).isprintable()
    facts.read_yaml.cache_clear()
    assert refused > 100


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rank: first", "rank is 'first': give a value of the type int"),
        ("configs: {few_shot: {by_shots: [1]}}", "configs.few_shot: by_shots is [1]: give a value of the type dict"),
        ("configs: {few_shot: {defualt: x}}", "configs.few_shot: unknown key defualt: did you mean default?"),
        ("figures: {usage: {title: x}}", "figures.usage: caption is missing"),
    ],
)
def test_mistakes_in_a_methods_file(text, words, tmp_path, monkeypatch):
    file = tmp_path / "trainers" / "Mine" / "method.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    monkeypatch.setattr(facts, "CONFIGS", tmp_path)
    with pytest.raises(UserError) as error:
        facts.method_of.__wrapped__("Mine")
    assert str(error.value) == f"{file}: {words}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("DATASET: 3", "DATASET is 3: give KEY: VALUE lines"),
        ("DATASET: {STYLES: [1]}", "DATASET.STYLES is [1]: give a list of names"),
        ("a: 2021-13-45", "cannot read the config file"),
    ],
)
def test_a_data_sets_config(text, words, tmp_path, monkeypatch):
    file = tmp_path / "datasets" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(text)
    monkeypatch.setattr(facts, "CONFIGS", tmp_path)
    with pytest.raises(UserError) as error:
        facts.styles.__wrapped__("mine")
    assert words in str(error.value) and str(file) in str(error.value)
