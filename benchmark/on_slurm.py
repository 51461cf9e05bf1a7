"""Runs as array jobs of a Slurm cluster, submitted through submitit. A job does a run and those that need it."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

import submitit
import yaml

from benchmark.place import Place
from benchmark.protocol import Run
from benchmark.runner import Local, execute
from dassl.errors import GO_ON_LATER, Stopped, UserError
from mocoop import HOME


def launcher(args: argparse.Namespace, place: Place) -> "OnSlurm":
    return OnSlurm(place, args.slurm)


class OnSlurm:
    """Submits runs; they continue without this process.

    Args:
        place: the runs' Place; job files and logs go to its folder slurm/.
        parameters: KEY=VALUE strings for submitit's AutoExecutor, such as timeout_min=240, slurm_partition=gpu.
        cluster: as submitit names it; "local" does the jobs on this machine.
    """

    def __init__(self, place: Place, parameters: Sequence[str] = (), cluster: str | None = "slurm") -> None:
        self.place = place.absolute()
        paths = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # sbatch takes the environment along
        try:
            self.executor = submitit.AutoExecutor(folder=os.path.join(self.place.output, "slurm"), cluster=cluster)
            self.executor.update_parameters(name="mocoop", **_parse(parameters))
        except (RuntimeError, NameError) as error:
            raise UserError(f"submitit: {error}") from error

    def submit(self, runs: Sequence[Run]) -> list[Any]:
        """The submitted jobs, one for each run that needs none and those that need it."""
        chains: dict[Run, list[Run]] = {}
        there = set(runs)
        for run in runs:
            first = run
            while first.needs in there:
                first = first.needs
            chains.setdefault(first, []).append(run)
        return self.executor.map_array(Chain(self.place), chains.values())


class Chain:
    """What a job does: runs one after the other. It fails if one of them fails.

    Where SIGTERM stopped one its exit status is GO_ON_LATER, which a cluster may have in its RequeueExit.
    """

    def __init__(self, place: Place) -> None:
        self.place = place

    def __call__(self, runs):
        failed = execute(runs, Local(self.place, quiet=True))
        if failed and set(failed.values()) == {GO_ON_LATER}:
            raise Stopped
        if failed:
            raise RuntimeError(f"failed: {', '.join(run.folder for run in failed)}")

    def checkpoint(self, runs: Sequence[Run]) -> Any:
        """What is queued again where a job ran out of time or was preempted: runs go on by themselves."""
        return submitit.helpers.DelayedSubmission(self, runs)


def _parse(parameters):
    words = [parameter.partition("=") for parameter in parameters]
    for key, sign, _ in words:
        if not (key and sign):
            raise UserError(f'--slurm takes KEY=VALUE, not "{key}"')
    return {key: yaml.safe_load(value) for key, _, value in words}
