"""Runs on a Ray cluster whose machines share the folders of data, results and this code, under the same paths."""

import argparse
import os
import signal
from typing import Any

import ray

from benchmark.place import Place
from benchmark.protocol import Run
from benchmark.runner import Local, execute
from dassl.errors import UserError
from mocoop import HOME

RETRIES = 3
"""How often a run is begun again, from its last checkpoint, where its process or machine died."""


CARRIED = ("MOCOOP_CACHE", "MOCOOP_GRACE", "XDG_CACHE_HOME")
"""Variables of this process's environment that runs get."""


def launcher(args: argparse.Namespace, place: Place) -> "OnRay":
    try:
        gpus = float(args.gpus or 0)
    except ValueError as error:
        raise UserError(f'--gpus is "{args.gpus}": ray takes a number for each run, 0.25 for a quarter') from error
    return OnRay(place, args.address, args.cpus, gpus)


class OnRay:
    """Does runs on a cluster; a launcher like runner.Local.

    Args:
        place: the runs' Place.
        address: of the cluster; None: one on this machine, for as long as this process.
        cpus, gpus: what each run takes of a machine, fractions too.
        options: more of ray.init's.
    """

    def __init__(
        self,
        place: Place,
        address: str | None = None,
        cpus: float = 1,
        gpus: float = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        paths = os.pathsep.join([str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {"PYTHONPATH": paths} | {name: os.environ[name] for name in CARRIED if name in os.environ}
        said: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"} | (options or {})
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report itself to its makers
        heeded = signal.getsignal(signal.SIGTERM)
        ray.init(address, runtime_env={"env_vars": environment}, **said)
        signal.signal(signal.SIGTERM, heeded)  # ray has its own
        self.place, self.needs = place.absolute(), {"CPU": cpus, "GPU": gpus}
        self.task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_do)
        self.runs: dict[Any, Run] = {}

    @property
    def slots(self) -> int:
        """How many runs the cluster holds at a time, as it is now; at least one, for a cluster that grows on demand."""
        there = ray.cluster_resources()
        return max(1, int(min(there.get(name, 0) / need for name, need in self.needs.items() if need)))

    def start(self, run: Run) -> None:
        self.runs[self.task.remote(run, self.place)] = run

    def wait(self, seconds: float | None = None) -> dict[Run, int]:
        statuses = {}
        for task in ray.wait(list(self.runs), timeout=seconds)[0]:
            try:
                status = ray.get(task)
            except ray.exceptions.RayError:
                status = 1
            statuses[self.runs.pop(task)] = status
        return statuses

    def stop(self, number: int = signal.SIGINT) -> dict[Run, int]:
        """Interrupt the current runs, whatever the signal, and wait until they end: {run: exit status}."""
        for task in self.runs:
            ray.cancel(task)
        statuses: dict[Run, int] = {}
        while self.runs:
            statuses |= self.wait()
        return statuses


def _do(run, place):
    """A run's exit status, on the machine that does it."""
    return execute([run], Local(place, quiet=True)).get(run, 0)
