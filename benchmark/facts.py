"""What configs/ says about data sets and methods that the benchmark has to know before a run.

A method's facts are in configs/trainers/<Trainer>/method.yaml:

    rank: 10                        # its place in tables, small ones first
    trains: False                   # it learns nothing, so it is only evaluated and takes no shots (default: True)
    needs:                          # of the image encoder, always or where a config key has a value
      vit: {TRAINER.MINE.BASE: deep}
    configs:                        # protocol -> config, without .yaml; the method does not support other protocols
      few_shot: vit_b16_ep50        # one for all data sets, which nobody has published
      another:                      # by shots and data set where they differ; the later of these lines wins
        source: "Mine: scripts"     # where the choice was read; without it, it is ours
        default: vit_b16            # without one, data sets that are not named are refused
        by_shots: {1: vit_b16_ep50}
        by_dataset:
          imagenet: vit_b16_ep50
          dtd: {config: vit_b16_ep25, why: "inferred from dtd's log"}
          eurosat: {shots: {8: vit_b16_ep10}}
    keys:                           # part of a protocol that not all methods have -> the config keys that it takes,
      open: {TRAINER.MINE.OPEN_WORLD: True, where: {TRAINER.MINE.PAIRS: True}}  # always or where another has a value
    cost:                           # where training images go through the image encoder more or less than each epoch
      frozen_passes: 1              # further passes through the frozen encoder
      epochs: 1                     # instead of OPTIM.MAX_EPOCH, and no steps of an optimiser
    figures:                        # more figures that it writes to metrics.json, and how to draw them
      expert_usage: {title: ..., caption: ..., label: ..., names: expert_names}
    look: 3                         # its colour and marker in figures, a place in report/looks.py's list; without it
                                    # they follow from its name
    published: CLIP                 # what papers call it, where that is not the trainer's name

A data set's config may say `DATASET.STYLES`, styles of its images, and `DATASET.BACKBONES`, the backbones that go with
it: {any: icon-clip, vit: icon-clip-vit}, `vit` for methods that need one.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from dassl.errors import UserError, nearest
from dassl.layout import flat
from mocoop import HOME

CONFIGS = HOME / "configs"
KINDS = {"rank": int, "trains": bool, "needs": dict, "configs": dict, "keys": dict, "cost": dict, "figures": dict}
KINDS |= {"published": str, "look": int}
CHOICES = {"source": str, "default": str | dict, "by_shots": dict, "by_dataset": dict}
ENTRIES = {"config": str, "why": str, "shots": dict}
FIGURE = dict.fromkeys(("title", "caption", "label", "names"), str)

DEFAULT = "default"
"""The config of a trainer without a method.yaml: its own of that name or, without one, the one for all."""


@dataclass(frozen=True)
class Method:
    """A method's facts; for a trainer without a method.yaml, facts that suit any.

    Attributes:
        name: the trainer's.
        known: whether it has a method.yaml. A method without one may try every protocol.
        rank, trains, needs, configs, keys, cost, figures, look, published: as the module's docstring says.
    """

    name: str
    known: bool = False
    rank: int = 1000
    trains: bool = True
    needs: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    configs: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    cost: dict[str, int] = field(default_factory=dict)
    figures: dict[str, dict[str, str]] = field(default_factory=dict)
    look: int | None = None
    published: str = ""

    def suits(self, protocol: str) -> bool:
        return not self.known or protocol in self.configs

    def recipe(self, protocol: str, dataset: str | None = None, shots: int | None = None) -> tuple[str, str]:
        """(config, why it serves): what a protocol takes for a data set and shots unless another config is named.

        Raises:
            UserError: the method has recipes for other data sets, and none for all.
        """
        choice = self.configs.get(protocol, DEFAULT)
        ours = f"ours: no recipe of {self.name} for {protocol} is published"
        if not isinstance(choice, dict):
            return choice, ours
        data = dataset and dataset_and_style(dataset)[0]
        of_shots, of_data = choice.get("by_shots", {}), choice.get("by_dataset", {})
        entry = of_data.get(data, {})
        lines = [
            ("default", choice.get("default")),
            (f"{shots} shots", of_shots.get(shots)),
            (f"{data}", entry),
            (f"{data}, {shots} shots", entry.get("shots", {}).get(shots) if isinstance(entry, dict) else None),
        ]
        found = [(line, config, why) for line, said in lines for config, why in [_entry(said)] if config]
        if not found:
            raise UserError(
                f"{self.name} has no recipe for {protocol} on {data}: there are those of "
                f"{', '.join([*of_data, *(f'{k} shots' for k in of_shots)])}; name a config (CFG=, --config)"
            )
        line, config, why = found[-1]
        return config, f"{line}: {why or choice.get('source', ours)}"

    def recipes(self, protocol: str) -> list[str]:
        """All configs that a protocol takes unless another is named, the most usual first."""
        choice = self.configs.get(protocol, DEFAULT)
        if not isinstance(choice, dict):
            return [choice]
        of_data = choice.get("by_dataset", {}).values()
        more = [entry["shots"].values() for entry in of_data if isinstance(entry, dict) and "shots" in entry]
        said = [choice.get("default"), *choice.get("by_shots", {}).values(), *of_data, *(x for xs in more for x in xs)]
        return list(dict.fromkeys(config for entry in said for config, _ in [_entry(entry)] if config))

    def part_keys(self, part: str, config: Path, overrides: Sequence[str]) -> list[object] | None:
        """The KEY VALUE words of a part of a protocol; None where the method, or its config, does not have it."""
        if part not in self.keys:
            return None
        keys = dict(self.keys[part])
        if not _holds(keys.pop("where", None), _said([config], overrides)):
            return None
        return [word for pair in keys.items() for word in pair]

    def need(self, said: Mapping[str, object]) -> str:
        """Which of `needs` a run has whose config keys have these values; "" for none."""
        return next((need for need, where in self.needs.items() if _holds(where, said)), "")

    def backbone(self, dataset_config: Path, config: Path, overrides: Sequence[str]) -> str:
        """The backbone that a data set's config names for what this method needs; "": the trainer's config names it."""
        backbones = section(dataset_config, "DATASET", "BACKBONES")
        need = self.need(_said([dataset_config, config], overrides))
        return str(backbones.get(need) or backbones.get("any", ""))


@cache
def method_of(trainer: str) -> Method:
    """A trainer's facts.

    Raises:
        UserError: its method.yaml is damaged, or has a key that is unknown.
    """
    file = CONFIGS / "trainers" / trainer / "method.yaml"
    if not file.is_file():
        return Method(trainer)
    facts = read_yaml(file)
    _check(file, "", facts, KINDS)
    choices = facts.get("configs", {})
    _check(file, "configs", choices, dict.fromkeys(choices, str | dict))
    for name, choice in choices.items():
        if isinstance(choice, dict):
            _check(file, f"configs.{name}", choice, CHOICES)
            entries = {"default": choice.get("default"), **choice.get("by_shots", {}), **choice.get("by_dataset", {})}
            for key, entry in entries.items():
                _check(file, f"configs.{name}", {key: entry}, {key: str | dict | None})
                if isinstance(entry, dict):
                    _check(file, f"configs.{name}.{key}", entry, ENTRIES)
                    _check(file, f"configs.{name}.{key}.shots", of := entry.get("shots", {}), dict.fromkeys(of, str))
    for key, kind in (("needs", dict | None), ("keys", dict), ("cost", int), ("figures", dict)):
        _check(file, key, part := facts.get(key, {}), dict.fromkeys(part, kind))
    for key, part in facts.get("keys", {}).items():
        _check(file, f"keys.{key}", {"where": part.get("where")}, {"where": dict | None})
    for key, figure in facts.get("figures", {}).items():
        _check(file, f"figures.{key}", figure, FIGURE, ("title", "caption", "label"))
    return Method(trainer, known=True, **facts)


def _check(file, where, tree, kinds, needed=()):
    """Raises UserError unless a tree has these keys alone, and values of these kinds. pydantic is slow for --help."""
    told = f"{file}: {where + ': ' if where else ''}"
    for key, value in tree.items():
        if key not in kinds:
            raise UserError(f"{told}unknown key {key}: {nearest(key, kinds)}")
        if not isinstance(value, kinds[key]):
            kind = getattr(kinds[key], "__name__", kinds[key])
            raise UserError(f"{told}{key} is {value!r}: give a value of the type {kind}")
    for key in needed:
        if key not in tree:
            raise UserError(f"{told}{key} is missing")


def _entry(said):
    """(config, why) of what method.yaml says in one place: a config's name, or KEY: VALUE lines; (None, None)."""
    if isinstance(said, dict):
        return said.get("config"), said.get("why")
    return said, None


def _said(files, overrides):
    """{key: value} of config files and of KEY VALUE words after them; the last word wins."""
    said = dict(zip(overrides[::2], overrides[1::2], strict=True))
    for file in reversed(files):
        said = flat(read_yaml(file)) | said
    return said


def _holds(where, said):
    """Whether config keys have these values; without any, they do."""
    return all(str(said.get(key)) == str(value) for key, value in (where or {}).items())


def methods() -> list[Method]:
    """Those that have a method.yaml, by rank."""
    found = [method_of(file.parent.name) for file in CONFIGS.glob("trainers/*/method.yaml")]
    return sorted(found, key=lambda facts: (facts.rank, facts.name))


def trainer_config(trainer: str, config: str) -> Path:
    """A trainer's config file. Raises UserError, with the nearest names, where there is none."""
    own = CONFIGS.joinpath("trainers", trainer, f"{config}.yaml")
    if config == DEFAULT and not own.is_file():
        return config_file("trainers", f"{DEFAULT}.yaml")
    if not own.is_file():
        raise UserError(f"no config file {own}: {nearest(config, {DEFAULT, *config_names(trainer)})}")
    return own


def config_file(*path: str) -> Path:
    """A file in configs/. Raises UserError, with the nearest of its folder, where there is none."""
    file = CONFIGS.joinpath(*path)
    if not file.is_file():
        known = [other.stem for other in file.parent.glob("*.yaml")]
        raise UserError(f"no config file {file}: {nearest(file.stem, known)}")
    return file


@cache
def read_yaml(file: Path) -> dict[str, Any]:
    """What a config file says. Raises UserError where it cannot be read."""
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except Exception as error:  # yaml's constructors raise almost anything
        raise UserError(f"cannot read the config file {file}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"the config file {file} must hold KEY: VALUE lines, not a {type(tree).__name__}")
    return tree


def section(file: Path, *keys: str) -> dict[str, Any]:
    """What a config file says below some keys, {} where nothing. Raises UserError where that is no KEY: VALUE lines."""
    tree = read_yaml(file)
    for i, key in enumerate(keys, start=1):
        tree = tree.get(key) or {}
        if not isinstance(tree, dict):
            raise UserError(f"{file}: {'.'.join(keys[:i])} is {tree!r}: give KEY: VALUE lines")
    return tree


@cache
def styles(dataset: str) -> tuple[str, ...]:
    """The styles of a data set's images as its config names them; most have none."""
    file = CONFIGS / "datasets" / f"{dataset}.yaml"
    found = section(file, "DATASET").get("STYLES", []) if file.is_file() else []
    if not isinstance(found, list) or not all(isinstance(style, str) for style in found):
        raise UserError(f"{file}: DATASET.STYLES is {found!r}: give a list of names")
    return tuple(found)


@cache
def styled() -> tuple[str, ...]:
    """The names of the data sets that have styles."""
    return tuple(sorted(file.stem for file in CONFIGS.glob("datasets/*.yaml") if styles(file.stem)))


def dataset_and_style(name: str) -> tuple[str, str | None]:
    """The name of a data set's config and, of `icons_common_pixel` and the like, the style; else None."""
    for dataset in styled():
        if name.startswith(f"{dataset}_") and name.removeprefix(f"{dataset}_") in styles(dataset):
            return dataset, name.removeprefix(f"{dataset}_")
    return name, None


def told(dataset: str, trainer: str, config: Path) -> list[object]:
    """What a data set's config tells a trainer and the trainer's own, which wins, does not: KEY VALUE words."""
    file, own = config_file("datasets", f"{dataset_and_style(dataset)[0]}.yaml"), flat(read_yaml(config))
    said = section(file, "TRAINER", trainer.upper())
    words = {f"TRAINER.{trainer.upper()}.{key}": value for key, value in said.items()}
    return [word for key, value in words.items() if key not in own for word in (key, value)]


def named_in(config: Path) -> str:
    """The backbone that a trainer's config names; "" for none."""
    return str(section(config, "MODEL", "BACKBONE").get("NAME", ""))


def backbone_label(backbone: str, usual: str) -> str:
    """What tells a backbone's runs from those of the usual one, in folders and tables; "" for the usual one.

    A name as it is, with "_" for what folders cannot have; of a path its last part and a digest of all of it.
    """
    if backbone.removeprefix("openai:") in ("", usual):
        return ""
    head, path = re.fullmatch(r"(\w+:(?:[^/,]*,)?)?(.*)", backbone).groups("")  # type: ignore[union-attr]
    if Path(path).expanduser().is_absolute():
        path = f"{Path(path).stem}-{hashlib.sha256(backbone.encode()).hexdigest()[:8]}"
    return re.sub(r"[^A-Za-z0-9.@_-]+", "_", head + path)


def label_in(trainer: str, config: str) -> str:
    """The label in what a run's folder calls its config: what follows the name of a config file; "" for none."""
    names = sorted(config_names(trainer), key=len, reverse=True)
    if config in names:
        return ""
    known = next((name for name in names if config.startswith(f"{name}-")), config.partition("-")[0])
    return config[len(known) + 1 :]


def config_names(trainer: str) -> list[str]:
    """The configs that a trainer has in configs/trainers/."""
    return [file.stem for file in CONFIGS.joinpath("trainers", trainer).glob("*.yaml") if file.name != "method.yaml"]


def method_name(trainer: str, *details: str) -> str:
    """What tables call a method: the trainer, "Trainer (details)"."""
    told = "-".join(filter(None, details))
    return f"{trainer} ({told})" if told else trainer
