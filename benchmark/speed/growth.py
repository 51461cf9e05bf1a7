"""How time and memory grow with what a run is made of, each point in a process of its own.

The text tower is that of the backbone with few layers, unless they are asked for: time, and what waits for the backward
pass, are proportional to their number. The image tower is a tiny one, since its features are at hand.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmark.facts import config_file, trainer_config
from benchmark.speed import data, ways
from benchmark.speed.measure import Steps
from benchmark.speed.settings import Settings, listed
from mocoop import HOME

GIB = 2**30
SHARE = 0.8
"""Of the free memory, what a point may take; one that needs more is told so and leaves the machine alone."""

ENOUGH = 2.0
"""Seconds from which on once is enough."""

HEAD = ("axis", "of", "number", "layers", "seconds", "peak GiB", "before")

LONGEST = 1800  # seconds that a point may take


@dataclass(frozen=True)
class Point:
    """A point of a curve.

    Attributes:
        axis, trainer, what, value, layers: as configs/speed.yaml has them.
        seconds: median of a few, or of one where that takes long; None where there was too little memory.
        peak_gb: the process's peak memory in GiB, on a GPU the tensors' there; before_gb: likewise, once all was built.
        why: "", or what went wrong.
    """

    axis: str
    trainer: str
    what: str
    value: int
    layers: int
    seconds: float | None = None
    peak_gb: float | None = None
    before_gb: float | None = None
    why: str = ""

    def cells(self) -> list[str]:
        """In the columns of HEAD."""
        found = [self.axis, self.what, f"{self.value:,}", f"{self.layers}"]
        if self.seconds is None:
            return [*found, self.why, "", ""]
        return [*found, f"{self.seconds:.3f}", f"{self.peak_gb:.2f}", f"{self.before_gb:.2f}"]


def points(folder: Path, backbone: str, device: str, layers: int, most: int | None = None) -> Iterator[Point]:
    """All points, as they are measured.

    Args:
        folder: for data, weights and output.
        backbone: one of benchmark.cost.ARCHITECTURES.
        layers: of the text tower, but for points that say theirs.
        most: of each axis only the first so many.
    """
    settings = Settings(folder, "", "", "", 1, "", device, 1, 0, 2.0)
    for axis in listed()["growth"]:
        depth = axis.get("layers", layers)
        weights = folder / f"tower-{depth}.pt"
        if not weights.is_file():
            data.text_tower(backbone, depth, weights)
        for value in axis["values"][:most]:
            point = Point(axis["axis"], axis["trainer"], axis["what"], value, depth)
            words = _words(axis, value, settings, weights)
            found = _in_a_process({"words": words, "what": axis["what"]}, settings)
            yield Point(**(asdict(point) | found))


def _words(axis: Mapping[str, Any], value: int, settings: Settings, weights: Path) -> list[str]:
    """Words of train.py for a point, whose data are made."""
    size, keys, root = axis["size"], dict(axis.get("keys", {})), settings.new_folder("data") / "set"
    sizes = {"classes": 10, "shots": 1} | axis.get("data", {})
    if size == "pairs":
        data.make_pairs(root, value)
        dataset = "compositional_folder"
    else:
        if size in sizes:
            sizes[size] = value
        else:
            keys[size] = [axis["repeat"]] * value if "repeat" in axis else value
        data.make_table(root, sizes["classes"], sizes["shots"])
        dataset = "folder"
        keys["DATASET.NUM_SHOTS"] = sizes["shots"]
    keys |= {"DATALOADER.NUM_WORKERS": 0, "USE_CUDA": settings.device == "cuda"}
    options = {
        "--root": root,
        "--seed": 1,
        "--trainer": axis["trainer"],
        "--dataset-config-file": config_file("datasets", f"{dataset}.yaml"),
        "--config-file": trainer_config(axis["trainer"], axis["config"]),
        "--backbone": weights,
        "--output-dir": settings.new_folder("output"),
    }
    return [str(word) for pairs in (options, keys) for pair in pairs.items() for word in pair]


def _in_a_process(task: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """What `measure` finds in a fresh process."""
    environment = os.environ | {"PYTHONPATH": str(HOME), "MOCOOP_CACHE": str(settings.new_folder("store"))}
    command = [sys.executable, "-m", __name__, json.dumps(task)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return {"why": f"more than {LONGEST} s"}
    if done.returncode:
        return {"why": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def measure(words: list[str], what: str) -> dict[str, Any]:
    """Seconds and memory of a training step, an epoch or a test, image features at hand, as `Point` has them."""
    steps = Steps(words)
    trainer = steps.trainer
    if what == "test":
        trainer.image_features(trainer.test_loader)
    runs = {"step": steps, "epoch": trainer.run_epoch, "test": lambda: trainer.test("test")}
    before = _memory_gb()
    taken = [ways.seconds(runs[what])[0]]
    while taken[0] < ENOUGH and len(taken) < 5:
        taken.append(ways.seconds(runs[what])[0])
    # the first has to warm up
    return {"seconds": statistics.median(taken[1:] or taken), "before_gb": before, "peak_gb": _memory_gb()}


def _memory_gb():
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB  # KiB on Linux


def main() -> int:
    """Measure the point whose description is the only argument, and print what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", type=json.loads)
    task = parser.parse_args().task
    limit = SHARE * data.free_memory_gb()
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit * GIB), resource.RLIM_INFINITY))
    try:
        found = measure(task["words"], task["what"])
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        found = {"why": f"needs more than {limit:.0f} GiB"}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
