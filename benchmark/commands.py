"""The commands that do the runs of a grid or protocol and show their progress. report/commands.py adds the results."""

import argparse
import os
import shlex
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, TextIO

from tabulate import tabulate

from benchmark import overrides
from benchmark.facts import method_of, methods
from benchmark.grid import Grid, read_grid
from benchmark.place import STATES, Place, command
from benchmark.protocol import Point
from benchmark.protocol import Run as OneRun
from benchmark.protocols import LEFT_OUT, PROTOCOLS, protocol_named, recipe_of, recipes_of, runs_of
from dassl.errors import GO_ON_LATER, UserError
from dassl.signals import heeding
from mocoop import HOME, typed
from mocoop.command import Command

MIB = 2**20
LAUNCHERS = {"ray": "benchmark.on_ray", "slurm": "benchmark.on_slurm"}

PROTOCOL_HELP = """\
Usage: {call} {takes} [KEY VALUE ...]

  {what}
  KEY VALUE pairs, such as OPTIM.MAX_EPOCH 2, change the config; such runs have folders and tables of their own.

Environment of the scripts (option of this command):
  DATA      folder of the datasets (--root {root})
  SEEDS     seeds, one run each (--seeds {seeds})
  CFG       trainer config in configs/trainers/{trainer}/, without .yaml (--config {config})
  BACKBONE  name or path of the backbone (--backbone {backbone})
  OUTPUT    where runs are written (--output {output})
  DEVICE    cpu or cuda (--device {device})
  BESIDE    further methods, "TRAINER/CONFIG ..." (--beside {beside})
  PYTHON    the interpreter
A finished run is not repeated. An interrupted one continues where it stopped when the same command is given again.
"""


class Run(Command):
    """The runs of a grid that are not finished, then their tables.

    GRID is a yaml file as benchmark/grid.py describes it, or the name of one in configs/grids/.
    """

    examples = (
        "demo --workers 2",
        "demo --dry-run",
        "my/grid.yaml --root /my/data --workers 4 --gpus 0,1",
        "my/grid.yaml --launcher slurm --slurm timeout_min=240 slurm_partition=gpu",
    )

    def add_arguments(self, add: Any) -> None:
        add("grid", metavar="GRID")
        add_place(add)
        add("--no-check", action="store_true", help="start even if data or weights are not found from here")
        add("--dry-run", action="store_true", help="print the commands, and why each has its config; do nothing")
        add("--launcher", choices=("local", *LAUNCHERS), default="local")
        add("--workers", type=int, help="local: runs at a time (default: as many as there are GPUs, else 1)")
        add("--address", help="ray: address of a cluster (default: one on this machine)")
        add("--cpus", type=float, default=1, help="ray: processors for each run (default: %(default)s)")
        add(
            "--gpus",
            help="local: which, as in 0,1 (default: all); ray: how many for each run, 0.25 for a quarter (default: 0)",
        )
        add("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="slurm: parameters of submitit's executor")

    def run(self, args: argparse.Namespace) -> int:
        with heeding():
            return self.do(args)

    def do(self, args: argparse.Namespace) -> int:
        """Do it; the exit status."""
        grid = read_grid(args.grid)
        place = place_of(args, grid.output)
        if args.dry_run:
            for one in grid.runs:
                print(f"# {one}; its config: {grid.reasons[one.folder]}")
                print(shlex.join(["python", str(HOME / "train.py"), *command(one, place)]))
            return 0

        from benchmark import progress, runner

        launcher = _launcher(args, place)
        states, problems = runner.survey(grid.runs, place, thorough=not args.no_check)
        if problems and not args.no_check:
            return _refuse(problems, grid.runs, place)
        left = [one for one in grid.runs if states[one] != "done"]
        if args.launcher == "slurm":
            jobs = launcher.submit(left)
            print(f"submitted {len(jobs)} jobs; {typed('benchmark status')} {args.grid} shows their progress")
            return 0
        with progress.watch(grid.runs, left, place, grid.methods) as watch:
            failed = runner.execute(left, launcher, watch)
        self.tell(grid, place)
        failed, status = _judge(failed, left, place)
        for one, code in failed.items():
            print(f"\nfailed with exit status {code}: {one}\n  {place.folder(one)}", file=sys.stderr)
            print(*(f"  {line}" for line in runner.last_lines(one, place)), sep="\n", file=sys.stderr)
        full = os.path.isdir(place.output) and shutil.disk_usage(place.output).free < MIB
        if failed and full:  # where the runs could not say so either
            print(f"\nthe disk of {place.output} is full", file=sys.stderr)
        return status

    def tell(self, grid: Grid, place: Place) -> None:
        """Called when the runs have ended, to say what they found."""


class Status(Command):
    """The progress of a grid's runs."""

    examples = ("demo",)

    def add_arguments(self, add: Any) -> None:
        add("grid", metavar="GRID")
        add_place(add)

    def run(self, args: argparse.Namespace) -> int:
        from benchmark import runner

        grid = read_grid(args.grid)
        place = place_of(args, grid.output)
        states, problems = runner.survey(grid.runs, place)
        counts: dict[str, Counter] = defaultdict(Counter)
        for one, state in states.items():
            counts[grid.methods[one.folder]][state] += 1
        rows = [[method, *(count[state] for state in STATES)] for method, count in counts.items()]
        rows.append(["all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])])
        print(tabulate(rows, ["method", *STATES]))
        for one, state in states.items():
            if state in ("running", "failed"):
                print(f"\n{state}: {one}\n  {place.folder(one)}")
                print(
                    *(f"  {line}" for line in runner.last_lines(one, place, 1 if state == "running" else 5)), sep="\n"
                )
        _tell(problems, grid.runs, place, sys.stdout)
        return 0


class ProtocolRuns(Command):
    """The runs of a protocol, one after the other, then its table."""

    def add_arguments(self, add: Any) -> None:
        add("name", help=", ".join(PROTOCOLS))
        add("trainer")
        add("words", nargs="*", help="what the protocol takes; see its --help")
        add("-h", "--help", action="store_true")
        add("--script", help="the script that calls, for --help")
        add("--config", default="")
        add("--seeds", nargs="+", type=int, default=[1, 2, 3])
        add("--backbone", default="")
        add("--beside", nargs="+", default=[], metavar="TRAINER/CONFIG")
        add_place(add)

    def parser(self, prog: str) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(prog=prog, description=type(self).__doc__, add_help=False)
        self.add_arguments(parser.add_argument)
        return parser

    def parse(self, argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
        words, changes = overrides.split(argv or [])
        if not [word for word in words if not word.startswith("-")]:
            print(f"usage: {prog} NAME TRAINER ... [KEY VALUE ...]\n\n{type(self).__doc__}\n")
            print("\n".join(f"  {name:24}{protocol.what}" for name, protocol in PROTOCOLS.items()))
            print(*(f"\nLeft out, because it failed: {why}" for why in LEFT_OUT), sep="", end="\n" * bool(LEFT_OUT))
            some = f"{prog} {next(iter(PROTOCOLS))} {max(methods(), key=lambda method: len(method.configs)).name}"
            print(f"\nexamples:\n  {some} caltech101 16 OPTIM.MAX_EPOCH 2\n  {some} --help")
            raise SystemExit(0 if {"-h", "--help"}.intersection(words) else 2)
        args = super().parse(words, prog)
        args.overrides = changes
        return args

    def run(self, args: argparse.Namespace) -> int:
        takes, facts = dict(protocol_named(args.name).takes), method_of(args.trainer)
        if not facts.trains:
            takes.pop("SHOTS", None)
        needed = [name for name, default in takes.items() if default is None]
        if args.help or not len(needed) <= len(args.words) <= len(takes):
            print(_usage(args, takes), file=sys.stdout if args.help else sys.stderr, end="")
            return 0 if args.help else 2

        given = takes | dict(zip(takes, args.words, strict=False))
        dataset, shots = given["DATASET"], given.get("SHOTS")
        if shots is not None and not (shots.isdigit() and int(shots)):
            raise UserError(f'SHOTS is "{shots}": give the number of training images per class')
        k = None if shots is None else int(shots)
        changes = overrides.pairs(args.overrides)
        keys, label = tuple(word for pair in changes.items() for word in pair), overrides.label(changes)
        points, told = [], []
        for trainer, config in [(args.trainer, args.config), *(method.partition("/")[::2] for method in args.beside)]:
            if not config:
                config, why = recipe_of(trainer, args.name, dataset, k)
                told.append(f"{trainer} takes the config {config} ({why})")
            points += [Point(dataset, k, trainer, config, seed, args.backbone, keys, label) for seed in args.seeds]
        with heeding():
            return self.do(args.name, runs_of(args.name, points), place_of(args, "output"), told)

    def do(self, name: str, runs: Sequence[OneRun], place: Place, told: Sequence[str] = ()) -> int:
        """Do runs one after the other, on the console, after some lines, and say what they found; the exit status."""
        from benchmark import runner

        states, problems = runner.survey(runs, place, thorough=True)
        if problems:
            return _refuse(problems, runs, place)
        print("\n".join(told), end="\n" * bool(told), flush=True)
        for run in runs:
            if states[run] == "done":
                print(f"finished already: {place.folder(run)}", flush=True)
        left = [run for run in runs if states[run] != "done"]
        failed, status = _judge(runner.execute(left, runner.Local(place)), left, place)
        for run, code in failed.items():
            print(f"error: {run} failed with exit status {code}; the same command tries it again", file=sys.stderr)
        self.tell(name, runs, place)
        return status

    def tell(self, name: str, runs: Sequence[OneRun], place: Place) -> None:
        """Called when the runs of a protocol have ended, to say what they found."""


def add_place(add: Any) -> None:
    """The options of where to find data, leave results and compute."""
    add("--root", default="data", help="folder of the datasets (default: %(default)s)")
    add("--output", help="where runs are written (default: what the grid says, else output)")
    add("--device", default="", help="cpu or cuda (default: cuda where there is one)")


def place_of(args: argparse.Namespace, output: str) -> Place:
    """The Place of these options; output: where runs are written unless they say otherwise."""
    if args.device not in ("", "cpu", "cuda"):
        raise UserError(f'DEVICE is "{args.device}": give cpu or cuda')
    return Place(args.root, args.output or output, args.device)


def _judge(failed: dict[OneRun, int], runs: Sequence[OneRun], place: Place) -> tuple[dict[OneRun, int], int]:
    """Those of the runs that `runner.execute` says are not done that failed, and the exit status of all together.

    Those that were stopped to go on later are told.
    """
    from benchmark import runner

    later = [run for run, status in failed.items() if status == GO_ON_LATER]
    runner.tell_unfinished(later + [run for run in runs if run.needs in later], len(runs), place)
    failed = {run: status for run, status in failed.items() if status != GO_ON_LATER}
    return failed, 1 if failed else GO_ON_LATER * bool(later)


def _refuse(problems: Mapping[str, list[OneRun]], runs: Sequence[OneRun], place: Place) -> int:
    _tell(problems, runs, place, sys.stderr)
    return 1


def _tell(problems: Mapping[str, list[OneRun]], runs: Sequence[OneRun], place: Place, file: TextIO) -> None:
    """Print a line for each of the problems that `runner.survey` found."""
    for line, stopped in problems.items():
        which = f"{len(stopped)} of {len(runs)} runs, the first {place.folder(stopped[0])}"
        print(f"error: {line} ({which})", file=file)


def _usage(args: argparse.Namespace, takes: Mapping[str, str | None]) -> str:
    words = " ".join(name if default is None else f"[{name}]" for name, default in takes.items())
    defaults = [f"{name}: {default}." for name, default in takes.items() if default]
    return PROTOCOL_HELP.format(
        call=f"bash {args.script}" if args.script else typed(f"benchmark protocol {args.name} {args.trainer}"),
        takes=words,
        what=" ".join([PROTOCOLS[args.name].what, *defaults]),
        root=args.root,
        seeds=" ".join(map(str, args.seeds)),
        trainer=args.trainer,
        config=args.config or ", ".join(recipes_of(args.trainer, args.name)),
        backbone=args.backbone or "as the data set's config says, else the trainer's",
        output=args.output or "output",
        device=args.device or "cuda if the machine has it",
        beside=" ".join(args.beside) or "-",
    )


def _launcher(args: argparse.Namespace, place: Place) -> Any:
    from benchmark import runner

    if args.launcher == "local":
        if args.workers is not None and args.workers < 1:
            raise UserError(f"--workers is {args.workers}: give a number from 1 on")
        gpus = [] if place.device == "cpu" else runner.find_gpus(args.gpus)
        return runner.Local(place, args.workers or max(1, len(gpus)), quiet=True, gpus=gpus)
    try:
        return import_module(LAUNCHERS[args.launcher]).launcher(args, place)
    except ModuleNotFoundError as error:
        raise UserError(f"--launcher {args.launcher} needs {error.name}: pip install 'mocoop[cluster]'") from error
