"""What is compared: a method's runs of a protocol, in one way or another, as words for train.py."""

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmark.facts import CONFIGS, read_yaml
from benchmark.place import Place, command
from benchmark.protocol import Point
from benchmark.protocols import recipe_of, runs_of
from benchmark.speed import data
from dassl.utils import setup_logger

FILE = CONFIGS / "speed.yaml"


def listed() -> Mapping[str, Any]:
    """What configs/speed.yaml says: protocol, methods {name: {config key: value}} and growth."""
    return read_yaml(FILE)


@dataclass(frozen=True)
class Settings:
    """What a table is of.

    Attributes:
        folder: for all that is written.
        root: of the data sets.
        dataset, protocol, shots: as a Point has them.
        backbone: what --backbone takes.
        device: "cpu" or "cuda".
        epochs: OPTIM.MAX_EPOCH.
        workers: DATALOADER.NUM_WORKERS, in all ways alike.
        memory_gb: for the text activations of a plain step.
        keys: further KEY VALUE words, of all methods.
    """

    folder: Path
    root: str
    dataset: str
    protocol: str
    shots: int
    backbone: str
    device: str
    epochs: int
    workers: int
    memory_gb: float
    keys: Sequence[str] = ()

    def runs(self, method: str, seed: int, name: str, keys: Sequence[object] = ()) -> list[list[str]]:
        """Words of train.py for the protocol's runs, each after the one that it needs, in an output folder of its own.

        Args:
            method: whose runs.
            name: of the trainer in its place.
            keys: KEY VALUE words of the way in which they compute.
        """
        own = listed()["methods"].get(method, {})
        overrides = tuple(str(word) for pair in own.items() for word in pair)
        config = recipe_of(method, self.protocol, self.dataset, self.shots)[0]
        point = Point(self.dataset, self.shots, method, config, seed, self.backbone, overrides, "speed")
        place = Place(self.root, str(self.new_folder("output")), self.device)
        more = ("OPTIM.MAX_EPOCH", self.epochs, "DATALOADER.NUM_WORKERS", self.workers, *self.keys, *keys)
        found = []
        for run in runs_of(self.protocol, [point]):
            words = command(run, place)
            words[words.index("--trainer") + 1] = name
            found.append([*words, *map(str, more)])
        return found

    def new_folder(self, kind: str) -> Path:
        """A folder of its own, empty."""
        return Path(tempfile.mkdtemp(prefix=f"{kind}_", dir=self.folder))

    @contextmanager
    def store(self, folder: Path | None = None) -> Iterator[Path]:
        """In the block derived files are kept in this folder; None: in a new one."""
        before, folder = os.environ.get("MOCOOP_CACHE"), folder or self.new_folder("store")
        os.environ["MOCOOP_CACHE"] = str(folder)
        try:
            yield folder
        finally:
            os.environ.pop("MOCOOP_CACHE")
            if before is not None:
                os.environ["MOCOOP_CACHE"] = before

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """What runs print in the block goes to a file."""
        with open(self.folder / "console.txt", "a", encoding="utf-8") as file, redirect_stdout(file):
            try:
                yield
            finally:
                setup_logger()  # closes the run's log
                logging.getLogger("dassl").handlers.clear()


def settings_of(args: Any, folder: Path) -> tuple[Settings, list[str]]:
    """What the command's arguments say, data and weights made where they are not at hand, and notes on it for people.

    Args:
        args: of `command.Speed`.
        folder: for all that is written.

    Raises:
        UserError: there is no such backbone.
    """
    backbone, is_random = data.backbone_at_hand(args.backbone, folder)
    root, dataset = args.root, args.dataset
    if root is None:
        root, dataset = str(folder / "photos"), "folder"
        data.make_photos(Path(root), args.classes, args.shots, args.tests)
    protocol = args.protocol or listed()["protocol"]
    memory = data.free_memory_gb() / 2
    if args.device == "cuda":
        memory = torch.cuda.mem_get_info()[0] / 2 / 2**30
    settings = Settings(
        folder, root, dataset, protocol, args.shots, backbone, args.device, args.epochs, args.workers, memory, args.keys
    )
    made = f"{args.classes} classes of made photos, {args.tests} each to test on"
    notes = [
        f"{args.backbone}{' with random weights' if is_random else ''}; {dataset if args.root else made}; "
        f"{protocol}, {args.shots} shots, runs of {args.epochs} epochs, {args.workers} workers",
        f"medians of {args.repeats} steps and {args.run_repeats} runs, in turn; a plain step has {memory:.0f} GiB for "
        "activations before it computes some twice",
    ]
    return settings, notes + [f"keys of all methods: {' '.join(args.keys)}"] * bool(args.keys)
