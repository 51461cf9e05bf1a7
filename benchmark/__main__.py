"""The commands of the benchmark.

    python -m benchmark run GRID                    the runs of a grid (configs/grids/), those that are not finished
    python -m benchmark status GRID                 how they stand
    python -m benchmark protocol NAME TRAINER ...   the runs of a protocol, then its table
    python -m benchmark table OUTPUT                the tables of what is there
    python -m benchmark results OUTPUT              all runs that are there, a row each
    python -m benchmark report OUTPUT_OR_GRID       tables and figures, as files and on one page
    python -m benchmark explain RUN                 what a run has learned
    python -m benchmark export RUN --out FILE       a run's classifier, for any CLIP

Each says more with --help.
"""

import argparse
import os
import shlex
import sys
from collections import Counter, defaultdict
from importlib import import_module

from tabulate import tabulate

from benchmark import overrides
from benchmark.grid import read_grid
from benchmark.protocols import (
    PROTOCOLS,
    REPO,
    TARGETS,
    Place,
    Point,
    backbone_for,
    command,
    default_config,
    is_zero_shot,
    runs_of,
    source_of,
)
from dassl.errors import UserError, exit_status, nearest

USAGE = """\
Usage: {call} {takes} [KEY VALUE ...]

  {what}
  KEY VALUE pairs, such as OPTIM.MAX_EPOCH 2, change the config; such runs have folders and tables of their own.

Environment of the scripts (option of python -m benchmark protocol):
  DATA      folder of the datasets (--root {root})
  SEEDS     seeds, one run each (--seeds {seeds})
  CFG       trainer config in configs/trainers/{trainer}/, without .yaml (--config {config})
  BACKBONE  name or path of the backbone (--backbone {backbone})
  OUTPUT    where runs are written (--output {output})
  DEVICE    cpu or cuda (--device {device})
  BESIDE    further methods, "TRAINER/CONFIG ..." (--beside {beside})
  PYTHON    the interpreter
A run that is finished is not done again. One that was interrupted goes on where it stopped when the same command is
given again.
"""

MODULES = {
    "report": "Tables and figures, as files and on one page.",
    "explain": "What a run has learned.",
    "export": "A run's classifier, for any CLIP.",
}
"""Commands that are modules of their own, which parse their own arguments."""


def run(args):
    """The runs of a grid, those that are not finished, then their tables."""
    grid = read_grid(args.grid)
    place = _place(args, grid.output)
    if args.dry_run:
        for one in grid.runs:
            print(shlex.join(["python", str(REPO / "train.py"), *command(one, place)]))
        return 0

    from benchmark import progress, results, runner, tables

    launcher = _launcher(args, place)
    states, problems = runner.survey(grid.runs, place, thorough=not args.no_check)
    if problems and not args.no_check:
        return _refuse(problems, grid.runs, place)
    left = [one for one in grid.runs if states[one] != "done"]
    if args.launcher == "slurm":
        jobs = launcher.submit(left)
        print(f"submitted {len(jobs)} jobs; python -m benchmark status {args.grid} tells how their runs stand")
        return 0
    with progress.watch(grid.runs, left, place, grid.methods) as watch:
        failed = runner.execute(left, launcher, watch)
    for name in grid.protocols:
        print(tables.text(results.of_grid(grid, place.output), name, seeds=False))
    for one, status in failed.items():
        print(f"\nfailed with exit status {status}: {one}\n  {place.folder(one)}", file=sys.stderr)
        print(*(f"  {line}" for line in runner.last_lines(one, place)), sep="\n", file=sys.stderr)
    return 1 if failed else 0


def status(args):
    """How the runs of a grid stand."""
    from benchmark import runner

    grid = read_grid(args.grid)
    place = _place(args, grid.output)
    states, problems = runner.survey(grid.runs, place)
    counts = defaultdict(Counter)
    for one, state in states.items():
        counts[grid.methods[one.folder]][state] += 1
    rows = [[method, *(count[state] for state in runner.STATES)] for method, count in counts.items()]
    rows.append(["all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])])
    print(tabulate(rows, ["method", *runner.STATES]))
    for one, state in states.items():
        if state in ("running", "failed"):
            print(f"\n{state}: {one}\n  {place.folder(one)}")
            print(*(f"  {line}" for line in runner.last_lines(one, place, 1 if state == "running" else 5)), sep="\n")
    _tell(problems, grid.runs, place, sys.stdout)
    return 0


def results(args):
    """All finished runs below a folder, a row each; CoOp's own are read too."""
    from benchmark import results
    from dassl.utils import atomic_path, mkdir_if_missing

    runs = results.read(args.output)
    for file, write in ((args.csv, runs.to_csv), (args.parquet, runs.to_parquet)):
        if file:
            mkdir_if_missing(os.path.dirname(file) or ".")
            try:
                with atomic_path(file) as path:
                    write(path, index=False)
            except ImportError as error:
                raise UserError(f"cannot write {file}: pip install pyarrow") from error
    if not (args.csv or args.parquet):
        print(runs[[*results.IDENTITY[:-1], "accuracy", "train_seconds"]].to_string(index=False, na_rep="-"))
    return 0


def protocol(args):
    """The runs of a protocol, then its table."""
    if args.name not in PROTOCOLS:
        raise UserError(f"unknown protocol {args.name}: {nearest(args.name, PROTOCOLS)}")
    takes = dict(PROTOCOLS[args.name].takes)
    if is_zero_shot(args.trainer):
        takes.pop("SHOTS", None)
    needed = [name for name, default in takes.items() if default is None]
    if args.help or not len(needed) <= len(args.words) <= len(takes):
        print(_usage(args, takes), file=sys.stdout if args.help else sys.stderr, end="")
        return 0 if args.help else 2

    given = takes | dict(zip(takes, args.words, strict=False))
    shots = given.get("SHOTS")
    if shots is not None and not (shots.isdigit() and int(shots)):
        raise UserError(f'SHOTS is "{shots}": give the number of training images per class')
    changes = overrides.pairs(args.overrides)
    keys, label = tuple(word for pair in changes.items() for word in pair), overrides.label(changes)
    methods = [f"{args.trainer}/{args.config or default_config(args.trainer, args.name)}", *args.beside]
    points = [
        Point(given["DATASET"], shots and int(shots), *method.split("/", 1), seed, args.backbone, keys, label)
        for method in methods
        for seed in args.seeds
    ]
    return _do(args.name, runs_of(args.name, points), _place(args, "output"))


def table(args):
    """The tables of the runs below a folder."""
    from benchmark import results, tables

    runs = results.read(args.output)
    for name in ("trainer", "config", "shots"):
        if getattr(args, name) is not None:
            runs = runs[runs[name] == getattr(args, name)]
    if args.seeds:
        runs = runs[runs.seed.isin(args.seeds)]
    if args.dataset:
        trained = [source_of(*run) if run[0] in TARGETS else run[1] for run in runs[["protocol", "dataset"]].values]
        runs = runs[[args.dataset in pair for pair in zip(trained, runs.dataset, strict=True)]]
    texts = [tables.text(runs, name) for name in ([args.protocol] if args.protocol else PROTOCOLS)]
    texts += [] if args.protocol else [tables.others(runs)]
    if not any(texts):
        raise UserError(f"no finished run of that kind below {args.output}: python -m benchmark table --help")
    print("\n".join(text for text in texts if text))
    return 0


def main(argv=None):
    """Do the command that argv (default: the process's arguments) names; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def subcommand(function, **options):
        sub = commands.add_parser(function.__name__, help=function.__doc__, description=function.__doc__, **options)
        sub.set_defaults(function=function)
        return sub.add_argument

    add = subcommand(run)
    add("grid", help="a yaml file as benchmark/grid.py describes it")
    _add_place(add)
    add("--no-check", action="store_true", help="start even if data or weights are not found from here")
    add("--dry-run", action="store_true", help="print the commands and do nothing")
    add("--launcher", choices=("local", "ray", "slurm"), default="local")
    add("--workers", type=int, default=1, help="local: runs at a time (default: %(default)s)")
    add("--address", help="ray: of a cluster (default: one on this machine)")
    add("--cpus", type=float, default=1, help="ray: processors for each run (default: %(default)s)")
    add("--gpus", type=float, default=0, help="ray: GPUs for each run, 0.25 for a quarter (default: %(default)s)")
    add("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="slurm: parameters of submitit's executor")

    add = subcommand(status)
    add("grid")
    _add_place(add)

    add = subcommand(results)
    add("output")
    add("--csv", metavar="FILE")
    add("--parquet", metavar="FILE", help="needs pyarrow")

    add = subcommand(protocol, add_help=False)
    add("name", help=", ".join(PROTOCOLS))
    add("trainer")
    add("words", nargs="*", help="what the protocol takes; its --help tells")
    add("-h", "--help", action="store_true")
    add("--script", help="the script that calls, for --help")
    add("--config", default="")
    add("--seeds", nargs="+", type=int, default=[1, 2, 3])
    add("--backbone", default="")
    add("--beside", nargs="+", default=[], metavar="TRAINER/CONFIG")
    _add_place(add)

    add = subcommand(table)
    add("output")
    add("--protocol", choices=PROTOCOLS)
    add("--dataset", help="also the one that transfers were trained on")
    add("--trainer")
    add("--config")
    add("--shots", type=int)
    add("--seeds", nargs="+", type=int)

    for name, what in MODULES.items():
        commands.add_parser(name, help=what)

    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in MODULES:
        return exit_status(lambda: import_module(f"benchmark.{words[0]}").main(words[1:]))
    words, changes = overrides.split(words) if words[:1] == ["protocol"] else (words, [])
    args = parser.parse_args(words)
    args.overrides = changes
    return exit_status(args.function, args)


def _do(name, runs, place):
    """Do runs one after the other, on the console, then print their table."""
    from benchmark import results, runner, tables

    states, problems = runner.survey(runs, place, thorough=True)
    if problems:
        return _refuse(problems, runs, place)
    for run in runs:
        if states[run] == "done":
            print(f"finished already: {place.folder(run)}", flush=True)
    failed = runner.execute([run for run in runs if states[run] != "done"], runner.Local(place))
    for run, status in failed.items():
        print(f"error: {run} failed with exit status {status}; the same command tries it again", file=sys.stderr)
    found = results.read(place.output)
    print(tables.text(found[found.folder.isin([str(place.folder(run)) for run in runs])], name))
    return 1 if failed else 0


def _refuse(problems, runs, place):
    _tell(problems, runs, place, sys.stderr)
    return 1


def _tell(problems, runs, place, file):
    """Print a line for each of the problems that `runner.survey` found."""
    for line, stopped in problems.items():
        which = f"{len(stopped)} of {len(runs)} runs, the first {place.folder(stopped[0])}"
        print(f"error: {line} ({which})", file=file)


def _usage(args, takes):
    words = " ".join(name if default is None else f"[{name}]" for name, default in takes.items())
    defaults = [f"{name}: {default}." for name, default in takes.items() if default]
    what = " ".join([PROTOCOLS[args.name].what, *defaults])
    return USAGE.format(
        call=f"bash {args.script}" if args.script else f"python -m benchmark protocol {args.name} {args.trainer}",
        takes=words,
        what=what,
        root=args.root,
        seeds=" ".join(map(str, args.seeds)),
        trainer=args.trainer,
        config=args.config or default_config(args.trainer, args.name),
        backbone=args.backbone or f"as the config says; for icons_* {backbone_for('icons_', args.trainer)}",
        output=args.output or "output",
        device=args.device or "as the machine has",
        beside=" ".join(args.beside) or "-",
    )


def _add_place(add):
    add("--root", default="data", help="folder of the datasets (default: %(default)s)")
    add("--output", help="where runs are written (default: what the grid says, else output)")
    add("--device", default="", help="cpu or cuda (default: cuda where there is one)")


def _launcher(args, place):
    from benchmark import runner

    if args.launcher == "local":
        return runner.Local(place, args.workers, quiet=True)
    module = "benchmark.on_ray" if args.launcher == "ray" else "benchmark.on_slurm"
    try:
        return import_module(module).launcher(args, place)
    except ModuleNotFoundError as error:
        raise UserError(f"--launcher {args.launcher} needs {error.name}: pip install 'mocoop[cluster]'") from error


def _place(args, output):
    if args.device not in ("", "cpu", "cuda"):
        raise UserError(f'DEVICE is "{args.device}": give cpu or cuda')
    return Place(args.root, args.output or output, args.device)


if __name__ == "__main__":
    sys.exit(main())
