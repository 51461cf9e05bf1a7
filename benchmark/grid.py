"""Grid files: an experiment described once, as the cross product of methods, datasets, shots and seeds.

    protocol: few_shot
    methods:
      - Mine                                        # with the config that the protocol's script takes
      - Mine/vit_b16_ep50
      - {trainer: Mine, label: top1, overrides: {TRAINER.MINE.TOP_K: 1}}
    datasets: [caltech101, dtd]                     # of transfers, those to train on
    shots: [16]                                     # not for methods that train nothing
    seeds: [1, 2, 3]
    backbone: ViT-B/32                              # default: the configs'
    overrides: {TEST.COMPUTE_CMAT: True}            # of all methods
    exclude:
      - {method: Mine, dataset: imagenet}
    output: output

Protocol, methods, datasets, seeds and, where something is trained, shots are needed. A method may say config, label (of
its overrides, for the folder), name (for tables), and shots, seeds or datasets of its own. An exclusion leaves out what
matches all of its keys. A file may hold several grids as yaml documents, one output for all of them.
"""

import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import yaml

from benchmark.facts import CONFIGS, method_name, method_of
from benchmark.protocol import Point, Run
from benchmark.protocols import protocol_named, recipe_of, runs_of
from dassl.errors import UserError, nearest

KEYS = ("protocol", "methods", "datasets", "shots", "seeds", "backbone", "overrides", "exclude", "output")
METHOD_KEYS = ("trainer", "config", "label", "name", "overrides", "datasets", "shots", "seeds")
EXCLUDE_KEYS = ("method", "trainer", "config", "dataset", "shots", "seed")


@dataclass(frozen=True)
class Grid:
    """What a grid file describes.

    Attributes:
        protocols: those it has, in the file's order.
        runs: all of them, each after the run that it needs.
        methods: folder -> what tables call the run's method.
        reasons: folder -> why the run has its config.
        output: where runs are written unless the command says otherwise.
    """

    protocols: tuple[str, ...]
    runs: tuple[Run, ...]
    methods: dict[str, str]
    reasons: dict[str, str]
    output: str = "output"


def read_grid(path: str | Path) -> Grid:
    """The Grid in a file, or of a name in configs/grids/.

    Raises:
        UserError: the file is missing or not yaml; a key is unknown or missing; the protocol does not suit a method; or
            two runs would share a folder, or a place in a table.
    """
    own = _own(path)
    try:
        with open(own if own.is_file() and not os.path.exists(path) else path, encoding="utf-8") as file:
            documents = [document for document in yaml.safe_load_all(file) if document is not None]
    except OSError as error:
        known = nearest(path, [file.stem for file in CONFIGS.glob("grids/*.yaml")])
        raise UserError(f"cannot read the grid {path}: {error.strerror}; in configs/grids/: {known}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"the grid {path} is not valid yaml: {error}") from error
    try:
        return _grid(documents)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def is_grid(name: str) -> bool:
    """Whether a name is that of a grid's file, or of a grid in configs/grids/, rather than of a folder."""
    return name.endswith((".yaml", ".yml")) or (_own(name).is_file() and not os.path.isdir(name))


def _own(name):
    return CONFIGS / "grids" / f"{name}.yaml"


def _grid(documents):
    runs, methods, reasons, cells, outputs = {}, {}, {}, {}, []
    for document in documents:
        _check_keys(document, KEYS, "grid", ("protocol", "methods", "datasets"))
        outputs += [document["output"]] if "output" in document else []
        for name, point, why in _points(document):
            for run in runs_of(document["protocol"], [point]):
                reasons.setdefault(run.folder, why)
                cell = (run.protocol, run.part, run.dataset, run.shots, run.seed, methods.setdefault(run.folder, name))
                if runs.setdefault(run.folder, run) != run or cells.setdefault(cell, run) != run:
                    raise UserError(f"two runs share a folder or a table's place ({run}): give one a label or a name")
    if not runs:
        raise UserError("the grid produces no runs")
    if len(set(outputs)) > 1:
        raise UserError(f"several outputs ({', '.join(outputs)}): give one")
    protocols = tuple(dict.fromkeys(document["protocol"] for document in documents))
    return Grid(protocols, tuple(runs.values()), methods, reasons, *outputs[:1])


def _points(document):
    """Yield (method's name, Point, why it has its config) of a grid's cross product."""
    protocol = document["protocol"]
    takes_shots = "SHOTS" in protocol_named(protocol).takes
    methods = [_method(method) for method in _list(document["methods"])]
    trainers = [method["trainer"] for method in methods]
    for exclusion in _list(document.get("exclude", [])):
        _check_keys(exclusion, EXCLUDE_KEYS, "exclusion")
    for method in methods:
        trainer, label = method["trainer"], method.get("label", "")
        plain = method_name(trainer, method.get("config", "") if trainers.count(trainer) > 1 else "", label)
        name = method.get("name", plain)
        shots = _numbers("shots", method, document) if takes_shots and method_of(trainer).trains else [None]
        overrides = {**document.get("overrides", {}), **method.get("overrides", {})}
        words = tuple(str(word) for pair in overrides.items() for word in pair)
        datasets, seeds = _list(method.get("datasets", document["datasets"])), _numbers("seeds", method, document)
        for dataset, k, seed in product(datasets, shots, seeds):
            own = method.get("config")
            config, why = (own, "named in the grid") if own else recipe_of(trainer, protocol, dataset, k)
            said = {"method": name, "trainer": trainer, "config": config, "dataset": dataset, "shots": k, "seed": seed}
            if not any(_agrees(exclusion, said) for exclusion in _list(document.get("exclude", []))):
                yield name, Point(dataset, k, trainer, config, seed, document.get("backbone", ""), words, label), why


def _method(method):
    """A method's dict, from one or from "TRAINER" or "TRAINER/CONFIG"."""
    if isinstance(method, str):
        trainer, _, config = method.partition("/")
        method = {"trainer": trainer} | ({"config": config} if config else {})
    _check_keys(method, METHOD_KEYS, "method", ["trainer"])
    trainer = method["trainer"]
    if method.get("overrides") and not method.get("label"):
        raise UserError(f"the overrides of {trainer} need a label, for a folder of their own")
    return method


def _check_keys(tree, known, what, needed=()):
    if not isinstance(tree, dict):
        raise UserError(f"a {what} must be KEY: VALUE lines, not {tree!r}")
    for key in tree:
        if key not in known:
            raise UserError(f"unknown key {key} in a {what}: {nearest(key, known)}")
    for key in needed:
        if key not in tree:
            raise UserError(f"a {what} needs {key}")


def _numbers(key, method, document):
    """The method's own shots or seeds, else the grid's."""
    numbers = _list(method.get(key, document.get(key)))
    if not all(isinstance(number, int) and number >= (key == "shots") for number in numbers):
        raise UserError(f"{key} of {method['trainer']} is {numbers}: give a list of whole numbers")
    return numbers


def _agrees(exclusion, said):
    return all(said[key] in _list(value) for key, value in exclusion.items())


def _list(value):
    return value if isinstance(value, list) else [value]
