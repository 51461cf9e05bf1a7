"""The disk is full, or cannot be written, from some operation on: one line; and with room again the same result."""

import random
import shutil
from pathlib import Path
from typing import Any

from benchmark import __main__ as benchmark
from benchmark.protocol import Point
from benchmark.protocols import runs_of
from tests.attack import runs
from tests.attack.child import Outcome, call
from tests.attack.faults import Fault
from tests.attack.flips import a_run, small
from tests.attack.harness import Attack, Attempt, succeeded

GRID = """\
protocol: few_shot
methods: [ZeroshotCLIP, CoOp/vit_b16_ep50_ctxv1]
datasets: caltech101
shots: 1
seeds: 1
backbone: icon-clip-vit
overrides: {OPTIM.MAX_EPOCH: 2, DATALOADER.NUM_WORKERS: 0}
"""


def trained(place: str, data: str) -> Any:
    return runs.do(small("CoOp", data).words(f"{place}/found", keys=("TEST.COMPUTE_CMAT", "True")))


def grid(place: str, data: str) -> Any:
    words = ["--root", runs.data(data)[0], "--output", f"{place}/found", "--device", "cpu"]
    return benchmark.main(["run", f"{place}/grid.yaml", *words])


def exported(place: str, data: str) -> Any:
    return benchmark.main(["export", f"{place}/run", "--out", f"{place}/found/x.safetensors"])


def explained(place: str, data: str) -> Any:
    return benchmark.main(["explain", f"{place}/run", "--out", f"{place}/found", "--root", runs.data(data)[0]])


def listed(place: str, data: str) -> Any:
    return benchmark.main(["results", f"{place}/run", "--csv", f"{place}/found/x.csv"])


def reported(place: str, data: str) -> Any:
    return benchmark.main(["report", f"{place}/runs", "--out", f"{place}/found"])


COMMANDS = {
    "train": trained,
    "train-without-cache": trained,
    "grid": grid,
    "export": exported,
    "explain": explained,
    "results": listed,
    "report": reported,
}


class Disks(Attack):
    __doc__ = __doc__
    name, long = "disks", 200

    def targets(self) -> list[str]:
        return list(COMMANDS)

    def attempt(self, target: str, seed: int) -> Attempt:
        rng = random.Random(f"{target} {seed}")
        whole, operations = self.once(target, lambda: self.whole(target))
        place = self.copy(target)
        fault = Fault(
            rng.choice(("full", "read-only")), self.hit(target, place), rng.randint(min(1, operations), operations)
        )
        outcome = self.done(target, place, fault)
        fell = outcome.complaint()
        told = [line for line in outcome.err.splitlines() if not line.startswith("warning: ")]
        if not fell and outcome.status and len(told) > 1 and target != "grid":
            fell = f"{len(told)} lines on stderr: {told[0][:100]!r} ... {told[-1][:100]!r}"
        if not fell and target.startswith("train"):
            outcome = self.done(target, place)
            fell = outcome.complaint() or (outcome.err if outcome.status else None)
            fell = fell or runs.difference(whole, runs.result(place / "found"))
            fell = fell and f"afterwards {fell}"
        if not fell:
            shutil.rmtree(place.parent)
        return Attempt([(seed, f"{fault.kind} from operation {fault.at}: {fell}")] if fell else [])

    def whole(self, target: str) -> tuple[Any, int]:
        """What a command leaves if the disk is sound, and how many operations on files it does."""
        self.once("run", self.base)
        if target == "train":
            succeeded(self.done(target, self.copy(target)))  # it fills the cache
        place = self.copy(target)
        outcome = succeeded(self.done(target, place, Fault("", self.hit(target, place))))
        return runs.result(place / "found") if target.startswith("train") else None, outcome.operations

    def base(self) -> Path:
        place = self.folder / "base"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        a_run(self, place)
        (place / "grid.yaml").write_text(GRID)
        (one,) = runs_of("few_shot", [Point("caltech101", 2, "CoOp", "vit_b16_ep50", 1)])
        shutil.copytree(place / "run", place / "runs" / one.folder)
        return place

    def copy(self, target: str) -> Path:
        return Path(shutil.copytree(self.folder / "base", self.place(target) / "x"))

    def hit(self, target: str, place: Path) -> str:
        return str(place / "cache" if target == "train-without-cache" else place)

    def done(self, target: str, place: Path, fault: Fault | None = None) -> Outcome:
        cache = place / "cache" if target == "train-without-cache" else self.folder / "cache"
        args = str(place), str(self.folder / "data")
        return call(COMMANDS[target], *args, fault=fault, environment=runs.environment(cache))
