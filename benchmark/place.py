"""Where runs find their data, leave their results and compute, hence train.py's arguments; the state of runs there."""

import os
from dataclasses import dataclass
from pathlib import Path

from benchmark.protocol import Run
from dassl.layout import BEST, PROMPT_LEARNER, checkpoint, epochs_in

CONSOLE, FAILED = "console.txt", "failed.txt"
"""Files in a run's folder: what a quiet run prints, while it runs and if it failed."""

STATES = ("done", "running", "failed", "begun", "other", "waiting")
"""A run's state: "begun" ones continue from a checkpoint; the folder of "other" ones holds a run of another config."""


@dataclass(frozen=True)
class Place:
    """A place for runs.

    Attributes:
        root: folder of the data sets.
        output: folder below which runs are written.
        device: "cpu", "cuda" or, as the config says, "".
    """

    root: str = "data"
    output: str = "output"
    device: str = ""

    def folder(self, run: Run) -> Path:
        return Path(self.output, run.folder)

    def absolute(self) -> "Place":
        """The same for processes that work elsewhere."""
        return Place(os.path.abspath(os.path.expanduser(self.root)), os.path.abspath(self.output), self.device)


def command(run: Run, place: Place) -> list[str]:
    """The arguments of train.py."""
    words = ["--root", place.root, "--output-dir", str(place.folder(run))]
    end = {"": [], "cpu": ["USE_CUDA", "False"], "cuda": ["USE_CUDA", "True"]}[place.device]
    if run.needs and "--eval-only" in run.arguments:
        words += ["--model-dir", str(place.folder(run.needs))]
    elif run.needs:
        end = ["MODEL.INIT_WEIGHTS", str(last_weights(place.folder(run.needs))), *end]
    return [*words, *run.arguments, *end]


def last_weights(folder: Path) -> Path:
    """The checkpoint that a run ended with: the best on val where it chose that. Its folder while there is none."""
    folder = folder / PROMPT_LEARNER
    if (folder / BEST).is_file():
        return folder / BEST
    epochs = epochs_in(folder)
    return folder / checkpoint(max(epochs)) if epochs else folder
