"""What a protocol is: one value, from which the benchmark makes runs and the report its tables and figures.

Names of data sets are those of their config files; `icons_common_pixel` stands for the images of one style of a data
set whose config names its styles, with the first of them to learn from.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from benchmark.facts import (
    backbone_label,
    config_file,
    dataset_and_style,
    method_of,
    named_in,
    styles,
    told,
    trainer_config,
)
from dassl.errors import UserError, nearest

TRANSFERS = "evaluation/{trainer}/{config}_{shots}shots/{dataset}/seed{seed}"
"""CoOp's folder of a run that tests what another data set's run has learned."""


@dataclass(frozen=True)
class Point:
    """What a protocol makes runs for.

    Attributes:
        dataset: a data set config's name; of transfers, the data set to train on.
        shots: training images per class; None: all, or none is needed.
        config: the trainer config's name.
        backbone: "" for the usual one, which the configs name; another one is part of the label.
        overrides: config keys and values, flat.
        label: what distinguishes the overrides' folder from that of the plain config; "" for none.
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
        config: with the point's label and a backbone that is not the usual one, as in the folder.
        arguments: the arguments of train.py, but for the places that `benchmark.place.command` adds.
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

    def __str__(self) -> str:
        shots = f", {self.shots} shots" if self.shots else ""
        return f"{self.protocol} {self.part}: {self.trainer} ({self.config}) on {self.dataset}{shots}, seed {self.seed}"


@dataclass(frozen=True)
class Protocol:
    """A protocol.

    Attributes:
        name: what commands, grids and tables of results call it; few_shot, say.
        title: the heading of its section in a report.
        what: one sentence for --help.
        note: one or two sentences below the heading, on what the columns are.
        caption: what stands above a table, with {method}, {dataset}, {shots} or {part} to be filled in.
        runs: Point -> its runs, each after the one that it needs.
        takes: the arguments of its scripts and their defaults, None for those that must be given.
        layout: a run's folder below the output. A part with {shots} is left out where there are none.
        parts: part of a run -> what it was tested on, in words.
        across: what makes the columns: "figures" of one run, accuracies of its "parts", or those on its "targets".
        columns: figure or part -> column; not used for targets.
        targets: data set to train on -> those to test on, of transfers.
        rows: what distinguishes tables.
        setting: what distinguishes settings within a data set: "shots", "part", or "" where shots become columns.
        configs_of: another protocol, whose configs a method takes where its method.yaml has none for this one.
        learns_in: of transfers, the protocol whose runs learn what is tested.
        derive: adds columns computed from others to a DataFrame, of seeds and of means alike; None: adds nothing.
        whole: whether a seed counts only once all of its columns are there, since they are read together.
        means: what stands above the table of means.
        decides: the column by which a report says who leads; "" for the last.
        charts: its figures beside those that every protocol has: names of functions in report/charts.py, or
            "module:function" of other code.
        rank: its place in a report, small ones first.
        published: column of report/published/<name>.csv -> the column of the tables that it is compared with.
    """

    name: str
    title: str
    what: str
    note: str
    caption: str
    runs: Callable[[Point], list[Run]]
    takes: dict[str, str | None]
    layout: str
    parts: dict[str, str]
    across: str
    columns: dict[str, str] = field(default_factory=dict)
    targets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    configs_of: str = ""
    learns_in: str = ""
    rows: tuple[str, ...] = ("dataset", "shots", "method")
    setting: str = "shots"
    derive: Callable[[Any], Any] | None = None
    whole: bool = False
    means: str = "means"
    decides: str = ""
    charts: tuple[str, ...] = ()
    rank: int = 1000
    published: dict[str, str] = field(default_factory=dict)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What a run's folder matches; CoOp's folders say more of the config between shots and seed: `variant`."""
        pattern = re.sub(r"\{(shots|seed)\}", r"(?P<\1>\\d{1,10})", self.layout)
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+?)", pattern)
        shots = r"(?P<shots>\d{1,10})"
        pattern = pattern.replace(f"shots_{shots}/", f"(shots_{shots}/)?")
        pattern = pattern.replace(f"_{shots}shots", f"(_{shots}shots(/(?P<variant>nctx[^/]+))?)?")
        return re.compile(f"^{pattern}$")

    @property
    def literal(self) -> int:
        """How many characters of the layout are no placeholder's: of two that match a folder, more say more."""
        return len(re.sub(r"\{\w+\}", "", self.layout))

    def derived(self, figures: Any) -> Any:
        """A DataFrame of the protocol's columns with those that are made of them."""
        return self.derive(figures) if self.derive and len(figures.columns) else figures

    def source_of(self, target: str) -> str:
        """The data set that was trained on where `target` is tested on."""
        found = (source for source, targets in self.targets.items() if target in targets)
        return next(found, next(iter(self.targets)))


# What the runs of protocols are made with


def run(
    protocol: str,
    layout: str,
    point: Point,
    part: str | None = None,
    dataset: str | None = None,
    flags: Sequence[str] = (),
    keys: Sequence[object] = (),
    needs: Run | None = None,
) -> Run:
    """A run of train.py for a point.

    Args:
        protocol, layout: the protocol's name and folder.
        part: of the protocol; None: "train", or "test" of methods that train nothing.
        dataset: None: the point's.
        flags: of train.py, where the method trains something; one that trains nothing is evaluated only.
        keys: config keys and values, before the point's own.
        needs: the run whose model this one tests or starts from.

    Raises:
        UserError: there is no config of the data set's or the trainer's name.
    """
    dataset = dataset or point.dataset
    facts = method_of(point.trainer)
    data, style = dataset_and_style(dataset)
    data_config = config_file("datasets", f"{data}.yaml")
    config = trainer_config(point.trainer, point.config)
    usual = facts.backbone(data_config, config, point.overrides)
    backbone = point.backbone or usual
    label = "-".join(filter(None, [point.label, backbone_label(backbone, usual or named_in(config))]))
    identity: dict[str, Any] = {
        "protocol": protocol,
        "part": part or ("train" if facts.trains else "test"),
        "dataset": dataset,
        "shots": point.shots,
        "trainer": point.trainer,
        "config": f"{point.config}-{label}" if label else point.config,
        "seed": point.seed,
    }
    arguments = [
        # first: these take all words up to the next option
        *(["--source-domains", styles(data)[0], "--target-domains", style] if style else []),
        *("--seed", point.seed, "--trainer", point.trainer),
        *("--dataset-config-file", data_config),
        *("--config-file", config),
        *(["--backbone", backbone] if backbone else []),
        *(flags if facts.trains else ["--eval-only"]),
        *(["DATASET.NUM_SHOTS", point.shots] if point.shots else []),
        *keys,
        *point.overrides,
    ]
    return Run(folder(layout, identity), **identity, arguments=tuple(map(str, arguments)), needs=needs)


def half(
    protocol: str,
    layout: str,
    point: Point,
    part: str,
    classes: str,
    flags: Sequence[str] = (),
    needs: Run | None = None,
) -> Run:
    """A run on some of the classes, "base", "new" or "all"."""
    return run(protocol, layout, point, part, flags=flags, keys=["DATASET.SUBSAMPLE_CLASSES", classes], needs=needs)


def transfer(protocol: str, targets: dict[str, tuple[str, ...]], learned: Run, point: Point) -> list[Run]:
    """The run that learned and its tests on other data sets, which leave out what trains nothing there.

    Raises:
        UserError: there are no targets for the data set that it learned from.
    """
    source = learned.dataset
    if source not in targets:
        known = {dataset_and_style(name)[0] for name in targets}
        raise UserError(f"{protocol} has no targets for {point.dataset}: {nearest(point.dataset, known)}")
    needs = learned if method_of(point.trainer).trains else None
    # what the source's config told the trainer shaped the model
    keys = told(source, point.trainer, trainer_config(point.trainer, point.config))
    return [learned] + [
        run(protocol, TRANSFERS, point, "test", target, flags=["--eval-only"], keys=keys, needs=needs)
        for target in targets[source]
    ]


def folder(layout: str, identity: dict[str, Any]) -> str:
    """A run's folder below the output."""
    if identity["shots"] is None:
        layout = layout.replace("_{shots}shots", "").replace("shots_{shots}/", "")
    return layout.format(**identity)
