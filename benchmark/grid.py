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
        UserError: the file is missing or not yaml; it is not of the schema in benchmark/schemas.py; the protocol does
            not suit a method; or two runs would share a folder, or a place in a table.
    """
    try:
        own = _own(path)
        with open(own if own.is_file() and not os.path.isfile(path) else path, encoding="utf-8") as file:
            documents = [document for document in yaml.safe_load_all(file) if document is not None]
    except OSError as error:
        known = nearest(path, [file.stem for file in CONFIGS.glob("grids/*.yaml")])
        raise UserError(f"cannot read the grid {path}: {error.strerror}; in configs/grids/: {known}") from error
    except Exception as error:  # yaml's constructors raise almost anything
        raise UserError(f"the grid {path} is not valid yaml: {error}") from error
    from benchmark.schemas import GridDocument, check  # here: --help does without

    try:
        places = [f"document {i}" if len(documents) > 1 else "" for i in range(1, len(documents) + 1)]
        return _grid([check(GridDocument, *pair) for pair in zip(documents, places, strict=True)])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def is_grid(name: str) -> bool:
    """Whether a name is that of a grid's file, or of a grid in configs/grids/, rather than of a folder."""
    return name.endswith((".yaml", ".yml")) or (_own(name).is_file() and not os.path.isdir(name))


def _own(name):
    return CONFIGS / "grids" / f"{name}.yaml"


def _grid(documents):
    runs, methods, reasons, cells = {}, {}, {}, {}
    for document in documents:
        for name, point, why in _points(document):
            for run in runs_of(document.protocol, [point]):
                reasons.setdefault(run.folder, why)
                cell = (run.protocol, run.part, run.dataset, run.shots, run.seed, methods.setdefault(run.folder, name))
                if runs.setdefault(run.folder, run) != run or cells.setdefault(cell, run) != run:
                    raise UserError(f"two runs share a folder or a table's place ({run}): give one a label or a name")
    if not runs:
        raise UserError("the grid produces no runs")
    outputs = list(dict.fromkeys(document.output for document in documents if document.output is not None))
    if len(outputs) > 1:
        raise UserError(f"several outputs ({', '.join(outputs)}): give one")
    protocols = tuple(dict.fromkeys(document.protocol for document in documents))
    return Grid(protocols, tuple(runs.values()), methods, reasons, *outputs)


def _points(document):
    """Yield (method's name, Point, why it has its config) of a grid's cross product."""
    protocol = document.protocol
    takes_shots = "SHOTS" in protocol_named(protocol).takes
    trainers = [method.trainer for method in document.methods]
    for method in document.methods:
        trainer, label, own = method.trainer, method.label or "", method.config
        if method.overrides and not label:
            raise UserError(f"the overrides of {trainer} need a label, for a folder of their own")
        name = method.name or method_name(trainer, (own or "") if trainers.count(trainer) > 1 else "", label)
        shots = _numbers("shots", method, document) if takes_shots and method_of(trainer).trains else [None]
        words = tuple(word for pair in {**document.overrides, **method.overrides}.items() for word in pair)
        datasets, seeds = method.datasets or document.datasets, _numbers("seeds", method, document)
        for dataset, k, seed in product(datasets, shots, seeds):
            config, why = (own, "named in the grid") if own else recipe_of(trainer, protocol, dataset, k)
            said = {"method": name, "trainer": trainer, "config": config, "dataset": dataset, "shots": k, "seed": seed}
            if not any(_agrees(exclusion, said) for exclusion in document.exclude):
                yield name, Point(dataset, k, trainer, config, seed, document.backbone, words, label), why


def _numbers(key, method, document):
    """The method's own shots or seeds, else the grid's."""
    numbers = getattr(method, key)
    numbers = getattr(document, key) if numbers is None else numbers
    if numbers is None:
        raise UserError(f"{key} of {method.trainer} are not given: give a list of whole numbers")
    return numbers


def _agrees(exclusion, said):
    return all(said[key] in getattr(exclusion, key) for key in exclusion.model_fields_set)
