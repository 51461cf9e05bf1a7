"""The figures that papers printed, from benchmark/published/; its README tells where they come from."""

from functools import cache
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).with_name("published")
NAMES = {"ZeroshotCLIP": "CLIP"}
"""Trainer -> the papers' name of the method, where it is another."""
COLUMNS = {
    "base2new": {"base": "base", "new": "new", "H": "H"},
    # S and U are the ends of the curve, which its twenty points miss by a hair at most
    "czsl": {"seen": "S", "unseen": "U", "H": "H 20", "AUC": "AUC 20"},
}
"""Protocol -> a column of its file -> the column of benchmark/tables.py that it is compared with."""


def find(protocol, backbone, trainer, dataset, setting):
    """What papers printed for a method: ({column: percent}, source); ({}, "") where that is not known.

    Args:
        backbone: as in metrics.json, such as ViT-B/16.
        trainer: registry name.
        dataset: a dataset config's name, or "average", which is over `averaged(protocol, backbone)`.
        setting: "16 shots", "closed world" and the like; of zero-shot CLIP shots do not matter.
    """
    method = NAMES.get(trainer, trainer)
    if method == "CLIP" and setting.endswith("shots"):
        setting = ""
    return _known(protocol).get((backbone, method, dataset, setting), ({}, ""))


def averaged(protocol, backbone):
    """The datasets that a published average is over, a set."""
    return {dataset for known, _, dataset, _ in _known(protocol) if known == backbone} - {"average"}


@cache
def _known(protocol):
    known = {}
    for row in pd.read_csv(FOLDER / f"{protocol}.csv").to_dict("records") if protocol in COLUMNS else ():
        figures = {ours: row[theirs] for theirs, ours in COLUMNS[protocol].items() if pd.notna(row[theirs])}
        setting = f"{row['world']} world" if "world" in row else f"{row['shots']} shots"
        if row["method"] == "CLIP" and setting.endswith("shots"):
            setting = ""
        known[row["backbone"], row["method"], row["dataset"], setting] = figures, row["source"]
    return known
