"""The protocols: the runs that each consists of, what train.py is told in a run, and the folder that the run keeps.

Folders are CoOp's. A run that needs another one first either tests that run's model (--eval-only) or starts from its
weights (MODEL.INIT_WEIGHTS). Names of datasets are those of their config files; `icons_common_pixel` stands for the
icons of one style, learned from outlines.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from dassl.errors import UserError, nearest

REPO = Path(__file__).parents[1]
CONFIGS = REPO / "configs"

LAYOUTS = {
    "few_shot": "{dataset}/{trainer}/{config}_{shots}shots/seed{seed}",
    "base2new": "base2new/{part}/{dataset}/shots_{shots}/{trainer}/{config}/seed{seed}",
    "incremental": "incremental/{part}/{dataset}/shots_{shots}/{trainer}/{config}/seed{seed}",
    "czsl": "czsl/{part}/{dataset}/{trainer}/{config}/seed{seed}",
    "transfer": "evaluation/{trainer}/{config}_{shots}shots/{dataset}/seed{seed}",
}
"""A run's folder below the output. What holds the shots falls away where there are none."""

ICONS = ("icons_common", "icons_rare")
SOURCE_STYLE, *STYLES = ("outline", "filled", "duotone", "pixel", "hand-drawn", "colour")

TARGETS = {
    "cross_dataset": {
        "imagenet": (
            "caltech101",
            "oxford_pets",
            "stanford_cars",
            "oxford_flowers",
            "food101",
            "fgvc_aircraft",
            "sun397",
            "dtd",
            "eurosat",
            "ucf101",
        ),
        "icons_common": ("icons_rare",),
    },
    "domain_generalization": {
        "imagenet": ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"),
        **{f"{icons}_{SOURCE_STYLE}": tuple(f"{icons}_{style}" for style in STYLES) for icons in ICONS},
    },
}
"""Protocol -> the dataset to train on -> the datasets to test on."""

TRAINED = ("few_shot", "base2new", "cross_dataset", "domain_generalization")
METHODS = {
    "ZeroshotCLIP": dict.fromkeys([*TRAINED, "czsl"], "vit_b16"),
    "ZeroshotCLIP2": dict.fromkeys([*TRAINED, "czsl"], "vit_b16"),
    "LinearProbe": {"few_shot": "vit_b16"},  # it knows the training classes only
    "CoOp": dict.fromkeys(["few_shot", "czsl"], "vit_b16_ep50")
    | dict.fromkeys([*TRAINED[1:], "incremental"], "vit_b16_ep50_ctxv1"),
    "CoCoOp": dict.fromkeys(TRAINED, "vit_b16_c4_ep10_batch1_ctxv1"),
    "MoCoOp": dict.fromkeys(TRAINED, "vit_b16_ep50"),
    "LAMM": dict.fromkeys(["few_shot", "base2new", "domain_generalization", "incremental"], "vit_b16_ep50"),
    "MaPLe": dict.fromkeys(["few_shot", "base2new"], "vit_b16_c2_ep5_batch4_2ctx")
    | dict.fromkeys(TARGETS, "vit_b16_c2_ep5_batch4_2ctx_cross_datasets"),
    "PromptSRC": dict.fromkeys(TRAINED, "vit_b16_c2_ep20_batch4_4+4ctx"),
    "KgCoOp": dict.fromkeys(TRAINED, "vit_b16_ep100_ctxv1"),
    "ProGrad": dict.fromkeys(TRAINED, "vit_b16_ep50_ctxv1"),
    "LASP": dict.fromkeys(TRAINED, "vit_b16_ep50"),
    "PLOT": dict.fromkeys(TRAINED, "vit_b16_ep50"),
    "CSP": {"czsl": "vit_l14"},
}
"""Trainer -> the protocols that suit it -> the config that is taken unless another one is named."""

DEFAULT = "default"
"""The config of trainers that METHODS does not know: their own of that name or, without one, the one for all."""

SET_BY_PROTOCOL = {
    *("OUTPUT_DIR", "RESUME", "SEED", "TRAINER.NAME"),
    *("DATASET.NAME", "DATASET.ROOT", "DATASET.NUM_SHOTS", "DATASET.SUBSAMPLE_CLASSES"),
}
"""Config keys that overrides leave alone: with another value a run would not be what its folder says."""

NEED_VIT = ("MaPLe", "PromptSRC")
"""Trainers with prompts between the image encoder's layers."""


def backbone_for(dataset, trainer):
    """The backbone to take unless one is named; "" leaves it to the trainer's config."""
    if not dataset.startswith("icons_"):
        return ""
    return "icon-clip-vit" if trainer in NEED_VIT else "icon-clip"


def default_config(trainer, protocol):
    """The config to take unless one is named."""
    return METHODS.get(trainer, {}).get(protocol, DEFAULT)


def dataset_and_style(name):
    """The name of a dataset's config and, of `icons_common_pixel` and the like, the style; else None."""
    icons = next((icons for icons in ICONS if name.startswith(f"{icons}_")), None)
    return (icons, name.removeprefix(f"{icons}_")) if icons else (name, None)


def is_zero_shot(trainer):
    return trainer.startswith("Zeroshot")


@dataclass(frozen=True)
class Point:
    """What a protocol makes runs for.

    Attributes:
        dataset: a dataset config's name; of transfers, the dataset to train on.
        shots: training images per class; None: all, or none is needed.
        config: the trainer config's name.
        backbone: "" for the usual one.
        overrides: config keys and values, flat.
        label: what tells the overrides' folder from that of the plain config; "" for none.
    """

    dataset: str
    shots: int | None
    trainer: str
    config: str
    seed: int
    backbone: str = ""
    overrides: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Run:
    """One run of train.py.

    Attributes:
        folder: below the output.
        config: with the point's label, as in the folder.
        arguments: what train.py is told, but for the places that `command` adds.
        needs: the run whose model this one tests or starts from, or None.
    """

    folder: str
    protocol: str
    part: str
    dataset: str
    shots: int | None
    trainer: str
    config: str
    seed: int
    arguments: tuple[str, ...]
    needs: "Run | None" = None

    def __str__(self):
        shots = f", {self.shots} shots" if self.shots else ""
        return f"{self.protocol} {self.part}: {self.trainer} ({self.config}) on {self.dataset}{shots}, seed {self.seed}"


@dataclass(frozen=True)
class Place:
    """Where runs find their data, leave their results, and compute: "cpu", "cuda" or, as the config says, ""."""

    root: str = "data"
    output: str = "output"
    device: str = ""

    def folder(self, run):
        return Path(self.output, run.folder)

    def absolute(self):
        """The same for processes that work elsewhere."""
        return Place(os.path.abspath(os.path.expanduser(self.root)), os.path.abspath(self.output), self.device)


def command(run, place):
    """The arguments of train.py, a list of strings."""
    words = ["--root", place.root, "--output-dir", str(place.folder(run))]
    end = {"": [], "cpu": ["USE_CUDA", "False"], "cuda": ["USE_CUDA", "True"]}[place.device]
    if run.needs and "--eval-only" in run.arguments:
        words += ["--model-dir", str(place.folder(run.needs))]
    elif run.needs:
        end = ["MODEL.INIT_WEIGHTS", str(last_weights(place.folder(run.needs))), *end]
    return [*words, *run.arguments, *end]


def last_weights(folder):
    """The checkpoint that a run ended with: the best on val where it chose that. Its folder while there is none."""
    folder = folder / "prompt_learner"
    if (folder / "model-best.pth.tar").is_file():
        return folder / "model-best.pth.tar"
    pointer = folder / "checkpoint"
    return folder / pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else folder


def few_shot(point):
    """All classes, so many training images of each."""
    return [_run("few_shot", point)]


def base2new(point):
    """Train on the first half of the classes, test on both halves."""
    if is_zero_shot(point.trainer):
        return [_half("base2new", f"test_{half}", point, half) for half in ("base", "new")]
    base = _half("base2new", "train_base", point, "base")
    return [base, _half("base2new", "test_new", point, "new", flags=["--eval-only"], needs=base)]


def incremental(point):
    """Train on the first half of the classes, go on with the second half alone, then test on either half and on all."""
    base = _half("incremental", "train_base", point, "base")
    new = _half("incremental", "train_new", point, "new", needs=base)
    tests = [_half("incremental", f"test_{on}", point, on, flags=["--eval-only"], needs=new) for on in ("base", "all")]
    return [base, new, *tests]


def czsl(point):
    """Train on seen attribute-object pairs, test on seen and unseen ones, CSP in the open world too."""
    runs = [_run("czsl", point, "closed")]
    if point.trainer == "CSP":
        keys = ["TRAINER.CSP.OPEN_WORLD", "True"]
        runs.append(_run("czsl", point, "open", flags=["--eval-only"], keys=keys, needs=runs[0]))
    return runs


def cross_dataset(point):
    """Train on one dataset, test on others."""
    return _transfer("cross_dataset", point, point.dataset)


def domain_generalization(point):
    """Train on one dataset, test on others of the same classes."""
    source = f"{point.dataset}_{SOURCE_STYLE}" if point.dataset in ICONS else point.dataset
    return _transfer("domain_generalization", point, source)


@dataclass(frozen=True)
class Protocol:
    """A protocol: `runs` makes those of a Point, `takes` are its script's arguments and their defaults (None: none)."""

    runs: Callable
    takes: dict[str, str | None]

    @property
    def what(self):
        return self.runs.__doc__


PROTOCOLS = {
    "few_shot": Protocol(few_shot, {"DATASET": None, "SHOTS": None}),
    "base2new": Protocol(base2new, {"DATASET": None, "SHOTS": None}),
    "cross_dataset": Protocol(cross_dataset, {"DATASET": "imagenet", "SHOTS": "16"}),
    "domain_generalization": Protocol(domain_generalization, {"DATASET": "imagenet", "SHOTS": "16"}),
    "incremental": Protocol(incremental, {"DATASET": None, "SHOTS": None}),
    "czsl": Protocol(czsl, {"DATASET": None}),
}


def runs_of(protocol, points):
    """The runs of several points in an order that serves needs first; what points share comes once.

    Raises:
        UserError: a config file is missing, the protocol does not suit a trainer or a dataset, an override is the
            protocol's to set, or two different runs would share a folder.
    """
    runs = {}
    for point in points:
        if protocol not in METHODS.get(point.trainer, PROTOCOLS):  # a trainer of the user's own may try all
            known = ", ".join(METHODS[point.trainer])
            raise UserError(f"the protocol {protocol} does not suit {point.trainer}: it has {known}")
        for key in SET_BY_PROTOCOL.intersection(point.overrides[::2]):
            raise UserError(f"{key} cannot be overridden: the protocol sets it, by dataset, shots, seed and folder")
        _trainer_config(point.trainer, point.config)
        for run in PROTOCOLS[protocol].runs(point):
            if runs.setdefault(run.folder, run) != run:
                raise UserError(f"two different runs would share the folder {run.folder}: give one of them a label")
    return list(runs.values())


def identify(folder):
    """What a run's folder below the output tells: {protocol, part, dataset, shots, trainer, config, seed}, or None.

    CoOp's own folders are understood too; what stands between shots and seed there joins the config's name.
    """
    path = Path(folder).as_posix()
    layout, match = next(((name, m) for name, pattern in _PATTERNS if (m := pattern.search(path))), (None, None))
    if match is None:
        return None
    found = {"part": None, "shots": None, "variant": None} | match.groupdict()
    config, variant = found["config"], found.pop("variant")
    return found | {
        "protocol": _transfer_to(found["dataset"]) if layout == "transfer" else layout,
        "part": found["part"] or ("test" if layout == "transfer" or is_zero_shot(found["trainer"]) else "train"),
        "shots": found["shots"] and int(found["shots"]),
        "config": f"{config}-{variant}" if variant else config,
        "seed": int(found["seed"]),
    }


def label_in(trainer, config):
    """The label in what a run's folder calls its config: what follows the name of a config file; "" for none."""
    names = sorted((file.stem for file in _own_configs(trainer)), key=len, reverse=True)
    if config in names:
        return ""
    known = next((name for name in names if config.startswith(f"{name}-")), config.partition("-")[0])
    return config[len(known) + 1 :]


def method_name(trainer, *details):
    """What tables call a method: "CoOp", "CoOp (csc)"."""
    told = "-".join(filter(None, details))
    return f"{trainer} ({told})" if told else trainer


def source_of(protocol, target):
    """The dataset that was trained on where `target` is tested on."""
    sources = TARGETS[protocol]
    return next((source for source, targets in sources.items() if target in targets), next(iter(sources)))


def _transfer(protocol, point, source):
    targets = TARGETS[protocol]
    if source not in targets:
        known = [name.removesuffix(f"_{SOURCE_STYLE}") for name in targets]
        raise UserError(f"{protocol} has no targets for {point.dataset}: {nearest(point.dataset, known)}")
    learned = _run("few_shot", point, dataset=source)
    needs = None if is_zero_shot(point.trainer) else learned
    # what the source's config told the trainer shaped the model
    keys = _told(source, point.trainer)
    return [learned] + [
        _run(protocol, point, dataset=target, layout="transfer", flags=["--eval-only"], keys=keys, needs=needs)
        for target in targets[source]
    ]


def _half(protocol, part, point, half, flags=(), needs=None):
    return _run(protocol, point, part, flags=flags, keys=["DATASET.SUBSAMPLE_CLASSES", half], needs=needs)


def _run(protocol, point, part=None, dataset=None, layout=None, flags=(), keys=(), needs=None):
    dataset = dataset or point.dataset
    zero_shot = is_zero_shot(point.trainer)
    identity = {
        "protocol": protocol,
        "part": part or ("test" if zero_shot or layout else "train"),
        "dataset": dataset,
        "shots": point.shots,
        "trainer": point.trainer,
        "config": f"{point.config}-{point.label}" if point.label else point.config,
        "seed": point.seed,
    }
    data, style = dataset_and_style(dataset)
    backbone = point.backbone or backbone_for(dataset, point.trainer)
    arguments = [
        # first: these take all words up to the next option
        *(["--source-domains", SOURCE_STYLE, "--target-domains", style] if style else []),
        *("--seed", point.seed, "--trainer", point.trainer),
        *("--dataset-config-file", _config_file("datasets", f"{data}.yaml")),
        *("--config-file", _trainer_config(point.trainer, point.config)),
        *(["--backbone", backbone] if backbone else []),
        *(["--eval-only"] if zero_shot else flags),
        *(["DATASET.NUM_SHOTS", point.shots] if point.shots else []),
        *keys,
        *point.overrides,
    ]
    return Run(_folder(layout or protocol, identity), **identity, arguments=tuple(map(str, arguments)), needs=needs)


def _config_file(*path):
    file = CONFIGS.joinpath(*path)
    if not file.is_file():
        known = [other.stem for other in file.parent.glob("*.yaml")]
        raise UserError(f"no config file {file}: {nearest(file.stem, known)}")
    return file


def _trainer_config(trainer, config):
    own = CONFIGS.joinpath("trainers", trainer, f"{config}.yaml")
    if config == DEFAULT and not own.is_file():
        return _config_file("trainers", f"{DEFAULT}.yaml")
    if not own.is_file():
        known = {DEFAULT, *(file.stem for file in _own_configs(trainer))}
        raise UserError(f"no config file {own}: {nearest(config, known)}")
    return own


def _own_configs(trainer):
    return CONFIGS.joinpath("trainers", trainer).glob("*.yaml")


def _told(dataset, trainer):
    """What a dataset's config tells a trainer, as KEY VALUE words."""
    with open(_config_file("datasets", f"{dataset_and_style(dataset)[0]}.yaml"), encoding="utf-8") as file:
        section = yaml.safe_load(file).get("TRAINER", {}).get(trainer.upper(), {})
    return [word for key, value in section.items() for word in (f"TRAINER.{trainer.upper()}.{key}", value)]


def _folder(layout, identity):
    template = LAYOUTS[layout]
    if identity["shots"] is None:
        template = template.replace("_{shots}shots", "").replace("shots_{shots}/", "")
    return template.format(**identity)


def _transfer_to(dataset):
    return next((name for name, sources in TARGETS.items() if dataset in sum(sources.values(), ())), "cross_dataset")


def _pattern(template):
    pattern = re.sub(r"\{(shots|seed)\}", r"(?P<\1>\\d+)", template)
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+?)", pattern)
    pattern = pattern.replace(r"shots_(?P<shots>\d+)/", r"(shots_(?P<shots>\d+)/)?")
    pattern = pattern.replace(r"_(?P<shots>\d+)shots", r"(_(?P<shots>\d+)shots(/(?P<variant>nctx[^/]+))?)?")
    return re.compile(f"^{pattern}$")


_PATTERNS = [(name, _pattern(LAYOUTS[name])) for name in ("base2new", "incremental", "czsl", "transfer", "few_shot")]
