"""The figures that papers printed, from report/published/; its README says where they come from."""

from functools import cache
from pathlib import Path

import pandas as pd

from benchmark.facts import method_of, methods
from benchmark.protocols import PROTOCOLS

FOLDER = Path(__file__).with_name("published")


def find(protocol: str, backbone: str, trainer: str, dataset: str, setting: str) -> tuple[dict[str, float], str]:
    """What papers printed for a method: ({column: percent}, source); ({}, "") where that is not known.

    Args:
        backbone: as in metrics.json, such as ViT-B/16.
        trainer: registry name.
        dataset: a dataset config's name, or "average", which is over `averaged(protocol, backbone)`.
        setting: "16 shots", "closed world" and the like; of zero-shot CLIP shots do not matter.
    """
    method = method_of(trainer)
    if not method.trains and setting.endswith("shots"):
        setting = ""
    return _known(protocol).get((backbone, method.published or trainer, dataset, setting), ({}, ""))


def averaged(protocol: str, backbone: str) -> set[str]:
    """The datasets that a published average is over, a set."""
    return {dataset for known, _, dataset, _ in _known(protocol) if known == backbone} - {"average"}


@cache
def _known(protocol):
    known, facts = {}, PROTOCOLS[protocol]
    untrained = {method.published or method.name for method in methods() if not method.trains}
    file = FOLDER / f"{protocol}.csv"
    for row in pd.read_csv(file).to_dict("records") if facts.published and file.is_file() else ():
        figures = {ours: row[theirs] for theirs, ours in facts.published.items() if pd.notna(row[theirs])}
        setting = facts.parts[row["world"]] if "world" in row else f"{row['shots']} shots"
        if row["method"] in untrained and setting.endswith("shots"):
            setting = ""
        known[row["backbone"], row["method"], row["dataset"], setting] = figures, row["source"]
    return known
