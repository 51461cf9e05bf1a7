"""A grid is killed, its parent alone, with SIGKILL, SIGTERM or SIGINT: nothing stays behind, the same command goes on.

Ten seconds later no process of it is left; after the same command its table is that of a grid left alone, and each run
has the same bits.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmark import __main__ as benchmark
from tests.attack import runs
from tests.attack.child import TRACES, call, left_behind
from tests.attack.flips import printed
from tests.attack.harness import Attack, Attempt

REPO = Path(__file__).parents[2]

GRID = """\
protocol: base2new
methods: [ZeroshotCLIP, CoOp/vit_b16_ep50_ctxv1, KgCoOp]
datasets: caltech101
shots: 2
seeds: 1
backbone: icon-clip-vit
overrides: {OPTIM.MAX_EPOCH: 3, DATALOADER.NUM_WORKERS: 1}
"""

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


class Grids(Attack):
    __doc__ = __doc__
    name, long = "grids", 30

    def targets(self) -> list[str]:
        return ["grid"]

    def attempt(self, target: str, seed: int) -> Attempt:
        rng = random.Random(seed)
        table, results, seconds = self.once("whole", self.whole)
        place, told, kills, fell = self.place("grid"), [], 0, None
        for _ in range(rng.choice((1, 1, 2))):
            which, moment = rng.choice(SIGNALS), rng.uniform(0, seconds)
            process = self.start(place)
            time.sleep(moment)
            process.send_signal(which)
            kills += 1
            told.append(f"{which.name} after {moment:.1f} s")
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                fell = "it does not end"
            printed = (place / "console.txt").read_text()
            if left := left_behind(str(place)):
                fell = f"left behind: {left}"
                for line in left:
                    os.kill(int(line.split()[0]), signal.SIGKILL)
            elif any(mark in printed for mark in TRACES):
                fell = f"a traceback: {printed.splitlines()[-1][:150]!r}"
            if fell:
                return Attempt([(seed, f"{', '.join(told)}: {fell}")], kills)
        found = self.finish(place)
        fell = "another table" if found[0] != table else None
        for name, result in results.items():
            fell = fell or runs.difference(result, found[1][name]) if name in found[1] else f"{name} is missing"
        if not fell:
            shutil.rmtree(place)
        return Attempt([(seed, f"{', '.join(told)}: {fell}")] if fell else [], kills)

    def whole(self) -> tuple[str, dict[str, Any], float]:
        """Of a grid left alone: its table, its runs' results, and its seconds."""
        started = time.monotonic()
        found = self.finish(self.place("whole"))
        return *found, time.monotonic() - started

    def start(self, place: Path) -> subprocess.Popen[bytes]:
        (place / "grid.yaml").write_text(GRID)
        root = runs.data(str(self.folder / "data"))[0]
        words = ["--root", root, "--output", str(place / "output"), "--device", "cpu", "--workers", "2"]
        with open(place / "console.txt", "w") as console:
            return subprocess.Popen(
                [sys.executable, "-m", "benchmark", "run", str(place / "grid.yaml"), *words],
                env={**os.environ, **runs.environment(self.folder / "cache"), "ATTACKED": str(place)},
                cwd=REPO,
                stdout=console,
                stderr=console,
            )

    def finish(self, place: Path) -> tuple[str, dict[str, Any]]:
        status, out = self.start(place).wait(600), (place / "console.txt").read_text()
        if status:
            raise RuntimeError(f"the grid ended with status {status}: {out[-300:]}")
        folders = [path.parent for path in sorted((place / "output").rglob("metrics.json"))]
        table = call(printed, benchmark.main, ["table", str(place / "output")]).value
        return table, {str(f.relative_to(place)): runs.result(f, place) for f in folders}
