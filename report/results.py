"""What runs found, as one tidy table: `read` gives a pandas DataFrame with a row for each finished run.

Columns, in this order:

    protocol    its name, as in benchmark/protocols/; "" for a run whose folder is none of theirs, as seen from the
                folder that is read
    part        which run of the protocol: train or test (of zero-shot methods and transfers), train_base, test_base,
                test_new, train_new, test_all, closed, open
    dataset     a dataset config's name (of a run in another folder, the dataset's registry name); icons_common_pixel
                and the like are the icons of one style; "average (data set)" is one named average
    shots       training images per class, <NA> where all were taken or none
    trainer     registry name
    config      the trainer config's name, with the label of a grid's overrides
    seed        <NA> where none was set
    method      what tables call it: "trainer (config)", the trainer alone with its recipe's config; "[name]" follows
                where a release's code wrote the run, and one that ran on several backbones in a protocol has theirs
                behind it; grids give names of their own
    accuracy    percent, as all that follow up to auc_20
    macro_f1, error_rate, best_seen, best_unseen, best_harmonic, auc, attribute_accuracy, object_accuracy,
    best_harmonic_20, auc_20
                <NA> where the evaluator does not give it
    total, correct              test images
    trainable_parameters
    processes                   that the run was trained by, under torchrun
    train_seconds, test_seconds
    peak_memory_mb              of the process, on a GPU of its allocator
    backbone, release, device, python, torch, torchvision
    commit      of the clone whose code ran, "-dirty" behind it where files were changed
    split       test or val
    folder      the run's, as a string
    source      metrics.json, or log.txt where CoOp's own code wrote the run

More numbers that a trainer put into metrics.json are further columns. Lists and the whole config stay in the file:
`read_metrics` gives them.
"""

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmark.facts import method_name
from benchmark.grid import Grid
from benchmark.protocols import identify, named
from dassl.errors import UserError, printable
from dassl.layout import CONFIG, LOG, METRICS
from report import logs
from report.metrics import COSTS, COUNTS, FIGURES, VERSIONS, is_result, read_metrics, row
from report.published import AVERAGE

pd.set_option("mode.string_storage", "python")  # pyarrow's strings refuse names that a file system may have

IDENTITY = ["protocol", "part", "dataset", "shots", "trainer", "config", "seed", "method"]
FACTS = ["backbone", "release", "device", *VERSIONS, "commit", "split", "folder", "source"]
ON = " on "
"""What stands between a method and its backbone, where the method ran on several."""

COLUMNS = [*IDENTITY, *FIGURES, *COUNTS, *COSTS, *FACTS]


def read(output: str | Path) -> pd.DataFrame:
    """The table of all finished runs in a folder and those below it, ordered by folder.

    Damaged and foreign files are passed over, each with a warning.

    Raises:
        UserError: there is no such folder.
    """
    output = Path(output)
    if not output.is_dir():
        raise UserError(f"no folder {output}: give the one that runs were written to")
    folders = sorted({path.parent for name in (METRICS, f"{LOG}*") for path in output.rglob(name)})
    return _frame(row for folder in folders if (row := read_run(folder, output)))


def of_grid(grid: Grid, output: str | Path | None = None) -> pd.DataFrame:
    """The table of a grid's finished runs, in its order and with its names of methods.

    Args:
        grid: as `grid.read_grid` gives it.
        output: where they were written; None: where the grid says.
    """
    output = Path(output or grid.output)
    rows = ((run, read_run(output / run.folder, output)) for run in grid.runs)
    return _frame(row | {"method": grid.methods[run.folder]} for run, row in rows if row)


def unfinished(output: str | Path) -> Counter[str]:
    """Method -> how many runs in a folder and those below it have begun and have no result."""
    found: Counter[str] = Counter()
    for place, below, files in os.walk(output):
        finished = METRICS in files
        if CONFIG not in files or not (finished or _is_ours(Path(place, CONFIG))):
            continue
        below.clear()  # loggers keep files of that name in the folder of a run
        if not finished:
            identity = identify(Path(place).relative_to(output).as_posix())
            found[named(identity) if identity else "others"] += 1
    return found


def _is_ours(config):
    """Whether a run was begun with it; W&B's have a mapping for each value."""
    try:
        cfg = yaml.safe_load(config.read_text(encoding="utf-8"))
        return isinstance(cfg["TRAINER"], dict) and isinstance(cfg["OUTPUT_DIR"], str)
    except Exception:  # yaml's constructors raise almost anything
        return False


def read_run(folder: str | Path, output: str | Path) -> dict[str, Any] | None:
    """The row of a run's folder below the output, as a dict, or None where it holds no result."""
    folder = Path(folder)
    metrics, source = read_metrics(folder), METRICS
    if metrics is None and not (folder / CONFIG).is_file():  # ours has one, and is unfinished
        metrics, source = read_log(folder), LOG
        metrics = metrics if metrics and is_result(folder / LOG, metrics) else None
    if metrics is None:
        return None
    found: dict[str, Any] = row(metrics) | {"protocol": "", "part": "", "config": ""}
    found |= {key: None for key, least in (("shots", 1), ("seed", 0)) if found[key] is not None and found[key] < least}
    identity = identify(folder.relative_to(output).as_posix())
    if identity and identity["trainer"] == found["trainer"]:  # else a folder that happens to be named like one
        found |= identity | {name: printable(identity[name]) for name in ("dataset", "config")}
        found["dataset"] += " (data set)" * (found["dataset"] == AVERAGE)
    found["method"] = named(found) if found["config"] else method_name(found["trainer"])
    found["method"] += f" [{found['release']}]" if found.get("release") else ""
    return found | {"folder": str(folder), "source": source}


def read_log(folder: str | Path) -> dict[str, Any] | None:
    """What the newest log that Dassl closed with a result tells, under metrics.json's names; None where none did."""
    for _, text in reversed(logs.read_logs(folder)):
        config = re.search(r"^\*\* Config \*\*\n\*+\n(.*?)^Collecting env info", text, re.DOTALL | re.MULTILINE)
        figures = logs.closing_figures(text, trained=bool(re.search(r"^epoch \[", text, re.MULTILINE)))
        if not config or "accuracy" not in figures:
            continue
        try:
            cfg = yaml.safe_load(config[1])
            found: dict[str, Any] = {
                **figures,
                "trainer": cfg["TRAINER"]["NAME"],
                "dataset": cfg["DATASET"]["NAME"],
                "shots": cfg["DATASET"]["NUM_SHOTS"],
                "seed": cfg["SEED"],
                "backbone": cfg["MODEL"]["BACKBONE"]["NAME"],
                "split": cfg["TEST"]["SPLIT"],
            }
            found |= {name: int(found[name]) for name in COUNTS if name in found}
        except Exception:  # yaml's constructors raise almost anything
            continue
        if found.get("total") and "correct" in found:  # the log rounds accuracy to a tenth
            found["accuracy"] = 100 * found["correct"] / found["total"]
        found["error_rate"] = found.pop("error", None)
        if elapsed := re.search(r"^Elapsed: (?:(\d{1,9}) days?, )?(\d{1,9}):(\d\d):(\d\d)$", text, re.MULTILINE):
            days, hours, minutes, seconds = (int(part or 0) for part in elapsed.groups())
            found["train_seconds"] = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        return found
    return None


def _frame(rows):
    rows = list(rows)
    frame = pd.DataFrame(rows, columns=list(dict.fromkeys([*COLUMNS, *(key for row in rows for key in row)])))
    for name in frame.columns.difference([*IDENTITY, *FACTS]).union(["shots", "seed"]):
        numbers = pd.to_numeric(frame[name], errors="coerce")
        frame[name] = numbers.astype("Int64" if name in {"shots", "seed", *COUNTS} else float)
    text = frame.columns.intersection([*IDENTITY, *FACTS]).difference(["shots", "seed"])
    return _apart(frame.astype(dict.fromkeys(text, "string")))


def _apart(frame):
    """The frame with methods named so that none has runs of several backbones in a protocol."""
    several = frame.groupby(["protocol", "method"]).backbone.transform("nunique") > 1
    names = frame.method + ON + frame.backbone
    return frame.assign(method=frame.method.mask(several & frame.backbone.notna(), names))
