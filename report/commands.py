"""The commands that show results: rows, tables, and the results of the commands that do runs."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark import commands
from benchmark.grid import Grid
from benchmark.place import Place
from benchmark.protocol import Run as OneRun
from benchmark.protocols import PROTOCOLS
from benchmark.speed import command as speed
from dassl.errors import UserError
from mocoop import escape
from mocoop.command import Command


class Run(commands.Run):
    __doc__ = commands.Run.__doc__

    def tell(self, grid: Grid, place: Place) -> None:
        from report import results, tables

        for name in grid.protocols:
            print(tables.text(results.of_grid(grid, place.output), name, seeds=False))


class ProtocolRuns(commands.ProtocolRuns):
    __doc__ = commands.ProtocolRuns.__doc__

    def tell(self, name: str, runs: Sequence[OneRun], place: Place) -> None:
        from report import results, tables

        found = results.read(place.output)
        print(tables.text(found[found.folder.isin([str(place.folder(run)) for run in runs])], name))


class Speed(speed.Speed):
    __doc__ = speed.Speed.__doc__

    def draw(self, points: Sequence[Any], folder: Path) -> None:
        from report import growth

        growth.chart(points).save(folder)


class Results(Command):
    """All finished runs below a folder, one row each; CoOp's own are read too."""

    examples = ("results output", "results output --csv runs.csv")

    def add_arguments(self, add: Any) -> None:
        add("output", metavar="OUTPUT", help="folder that runs were written to")
        add("--csv", metavar="FILE", help="write all columns to this file")
        add("--parquet", metavar="FILE", help="the same as Parquet (needs pyarrow)")

    def run(self, args: argparse.Namespace) -> int:
        from dassl.utils import atomic_path, mkdir_if_missing
        from report import results

        runs = results.read(args.output)
        safe = runs.rename(columns=escape.csv).apply(lambda column: column.map(escape.csv))
        for file, write in ((args.csv, safe.to_csv), (args.parquet, runs.to_parquet)):
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


class Tables(Command):
    """The tables of the runs below a folder."""

    examples = ("table output", "table output --dataset caltech101 --shots 16")

    def add_arguments(self, add: Any) -> None:
        add("output", metavar="OUTPUT", help="folder that runs were written to")
        add("--protocol", choices=list(PROTOCOLS), help="tables of this protocol (default: of all)")
        add("--dataset", help="tables of this data set, also where transfers were trained on it")
        add("--trainer", help="rows of this trainer")
        add("--config", help="rows of this config, a file in configs/trainers/<trainer> without .yaml")
        add("--shots", type=int, help="runs with this number of training images per class")
        add("--seeds", nargs="+", type=int, help="runs with these seeds")

    def run(self, args: argparse.Namespace) -> int:
        from report import results, tables

        runs = results.read(args.output)
        for name in ("trainer", "config", "shots"):
            if getattr(args, name) is not None:
                runs = runs[runs[name] == getattr(args, name)]
        if args.seeds:
            runs = runs[runs.seed.isin(args.seeds)]
        if args.dataset:
            trained = [
                PROTOCOLS[name].source_of(dataset) if name in PROTOCOLS and PROTOCOLS[name].targets else dataset
                for name, dataset in runs[["protocol", "dataset"]].values
            ]
            runs = runs[[args.dataset in pair for pair in zip(trained, runs.dataset, strict=True)]]
        texts = [tables.text(runs, name) for name in ([args.protocol] if args.protocol else PROTOCOLS)]
        texts += [] if args.protocol else [tables.others(runs)]
        if not any(texts):
            raise UserError(f"no finished run of that kind below {args.output}: python -m benchmark table --help")
        print("\n".join(text for text in texts if text))
        return 0
