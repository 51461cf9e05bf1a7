"""The figures that papers printed, from report/published/; its README says where they come from."""

from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from benchmark.facts import method_of, methods
from benchmark.protocols import PROTOCOLS

FOLDER = Path(__file__).with_name("published")
AVERAGE = "average"


class Found(NamedTuple):
    """What papers printed for a method in one row of a table.

    Attributes:
        figures: {column: (percent, source)}.
        why_not: why there are none, or none of the average over targets, in words; "" where there are, or where nothing
            of the protocol is published.
    """

    figures: dict[str, tuple[float, str]]
    why_not: str = ""


class Row(NamedTuple):
    """A row of a published table: of which method, on what."""

    method: str
    backbone: str
    setting: str
    dataset: str


def find(
    protocol: str, backbones: Collection[str], trainer: str, dataset: str, setting: str, datasets: Collection[str] = ()
) -> Found:
    """What papers printed for a method.

    Args:
        backbones: those that it ran on, as in metrics.json, such as ViT-B/16.
        trainer: registry name.
        dataset: a dataset config's name, of transfers the one trained on; or "average".
        setting: "16 shots", "closed world" and the like; of zero-shot CLIP shots do not matter.
        datasets: those that the average is over, of transfers those tested on.
    """
    table, method = _table(protocol), method_of(trainer)
    if not table:
        return Found({})
    if len(backbones) != 1:
        return Found({}, f"{trainer} ran on several backbones")
    (backbone,) = backbones
    setting = "" if not method.trains and setting.endswith("shots") else setting
    row = Row(method.published or trainer, backbone, setting, dataset)
    rows = [known for known in table if known.method == row.method]
    if not rows:
        return Found({}, f"{trainer}: no figure is known")
    for field, what in (("backbone", "on"), ("setting", "with"), ("dataset", "for")):
        others = sorted({getattr(known, field) or "no shots" for known in rows})
        rows = [known for known in rows if getattr(known, field) == getattr(row, field)]
        if not rows:
            told = ", ".join(others) if len(others) < 4 else f"{len(others)} others"
            return Found({}, f"{trainer}: here {what} {getattr(row, field) or 'all images'}, published {what} {told}")
    if dataset == AVERAGE and (eleven := averaged(protocol, backbone)) and set(datasets) != eleven:
        return Found({}, _over(len(set(datasets)), len(eleven)))
    targets, figures = PROTOCOLS[protocol].targets.get(dataset, ()), dict(table[row])
    if AVERAGE in figures and (tested := set(targets).intersection(datasets)) != set(targets):
        del figures[AVERAGE]
        return Found(figures, _over(len(tested), len(targets)))
    return Found(figures)


def _over(here, there):
    return f"averages here are over {here} data sets, published over {there}"


def averaged(protocol: str, backbone: str) -> set[str]:
    """The datasets that a published average is over, a set."""
    return {row.dataset for row in _table(protocol) if row.backbone == backbone} - {AVERAGE}


@cache
def _table(protocol):
    """{Row: {column: (percent, source)}}."""
    known: dict[Row, dict[str, tuple[float, str]]] = {}
    facts = PROTOCOLS[protocol]
    untrained = {method.published or method.name for method in methods() if not method.trains}
    for file in sorted(FOLDER.glob("*.csv")):
        rows = pd.read_csv(file)
        for said in rows[rows.protocol == protocol].to_dict("records"):
            setting = facts.parts[said["world"]] if "world" in said else f"{said['shots']} shots"
            if said["method"] in untrained and setting.endswith("shots"):
                setting = ""
            columns = {"accuracy": said["dataset"]} if facts.targets else facts.published
            row = Row(said["method"], said["backbone"], setting, said.get("source_dataset", said["dataset"]))
            figures = known.setdefault(row, {})
            figures |= {ours: (said[c], said["source"]) for c, ours in columns.items() if pd.notna(said[c])}
    return known
