"""The list of names in docs/dassl.md, made from the code: `python -m tests.dassl.interface` writes it again."""

import inspect
from importlib import import_module
from pathlib import Path

from dassl import engine
from dassl.absent import ABSENT
from dassl.engine.saved_models import SavedModels
from dassl.utils import Registry

PAGE = Path(__file__).parents[2] / "docs" / "dassl.md"
BEGIN, END = "<!-- names: made by tests/dassl/interface.py -->\n", "<!-- end of names -->\n"

MODULES = [
    *("dassl.config", "dassl.engine", "dassl.data", "dassl.data.datasets", "dassl.data.transforms"),
    *("dassl.data.samplers", "dassl.evaluation", "dassl.loggers", "dassl.metrics", "dassl.optim", "dassl.utils"),
]
"""Those with an __all__, which is their interface."""

DEEPER = {
    **{name: import_module(name).__all__ for name in ("dassl.utils.tools", "dassl.utils.torchtools")},
    "dassl.config.defaults": ["DEFAULTS"],
    "dassl.data.data_manager": ["DataManager", "DatasetWrapper", "build_data_loader"],
    "dassl.data.datasets.base_dataset": ["DatasetBase", "Datum"],
    "dassl.data.datasets.build": ["DATASET_REGISTRY", "build_dataset"],
    "dassl.data.transforms.transforms": ["AVAI_CHOICES", "INTERPOLATION_MODES", "Cutout", "build_transform"],
    "dassl.engine.build": ["TRAINER_REGISTRY", "build_trainer"],
    "dassl.engine.trainer": ["SimpleNet", "SimpleTrainer", "SummaryWriter", "TrainerBase", "TrainerX", "TrainerXU"],
    "dassl.evaluation.build": ["EVALUATOR_REGISTRY", "build_evaluator"],
    "dassl.evaluation.evaluator": ["Classification", "EvaluatorBase"],
    "dassl.metrics.accuracy": ["compute_accuracy"],
    "dassl.metrics.distance": ["compute_distance_matrix", "cosine_distance", "euclidean_squared_distance"],
    "dassl.optim.lr_scheduler": [
        *("AVAI_SCHEDS", "ConstantWarmupScheduler", "LinearWarmupScheduler", "build_lr_scheduler"),
    ],
    "dassl.optim.optimizer": ["AVAI_OPTIMS", "build_optimizer"],
    "dassl.optim.radam": ["PlainRAdam", "RAdam"],
    "dassl.utils.logger": ["Logger", "setup_logger"],
    "dassl.utils.meters": ["AverageMeter", "MetricMeter"],
    "dassl.utils.registry": ["Registry"],
}
"""The modules that published code names as well, and what it takes from them."""

CLASSES = [SavedModels, engine.TrainerBase, engine.SimpleTrainer, engine.TrainerX, engine.TrainerXU]
"""Whose methods trainers override and call."""


def what(value: object) -> str:
    """How its docstring begins; of a plain value, the names in it."""
    if isinstance(value, list | dict):
        return ", ".join(f"`{name}`" for name in value)
    if isinstance(value, Registry):
        return f"the {value._name.lower()} registry: `@{value._name}_REGISTRY.register()`, `.get(name)`"
    if not value.__module__.startswith("dassl."):
        return f"{value.__module__.partition('.')[0]}'s"
    return (inspect.getdoc(value) or "").partition("\n")[0].replace("|", r"\|").replace("<", "&lt;")


def methods(kind: type) -> list[tuple[str, object]]:
    """(call, method) of what a class has first, in the order of its source."""
    known = {name for base in kind.__mro__[1:] for name in vars(base)}
    names = [name for name, value in vars(kind).items() if inspect.isfunction(value) and not name.startswith("_")]
    return [(name + call(vars(kind)[name]), vars(kind)[name]) for name in names if name not in known]


def call(function) -> str:
    """How a method is called: "(names=None)"."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return f"({', '.join(str(p.replace(annotation=p.empty)) for p in parameters)})"


def rows(pairs):
    return ["| name | |", "|---|---|", *(f"| `{name}` | {told} |" for name, told in pairs), ""]


def section() -> str:
    """The page's list of names."""
    lines = []
    for name in MODULES:
        module = import_module(name)
        lines += [f"### {name}", "", *rows((each, what(getattr(module, each))) for each in module.__all__)]
    lines += [
        "### The trainers' methods",
        "",
        "Those that a trainer overrides or calls, by the class that has them first.",
        "",
    ]
    for kind in CLASSES:
        if pairs := [(called, what(value)) for called, value in methods(kind)]:
            lines += [f"#### {kind.__name__}", "", *rows(pairs)]
    lines += ["### The same names by longer paths", ""]
    lines += [f"- `{name}`: {', '.join(f'`{each}`' for each in names)}" for name, names in DEEPER.items()]
    lines += ["", "### Left out", "", "Importing one of these ends in an error that says the same.", ""]
    return "\n".join([*lines, *rows(ABSENT.items())])


def page(text: str) -> str:
    """The page with its list as it has to be."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n" + section() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
