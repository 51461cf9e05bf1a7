"""The command that measures: against the plain way, or how time and memory grow."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dassl.errors import UserError
from mocoop.command import Command

ALL = ("step", "epoch", "test", "run")
COUNTS = ("classes", "tests", "shots", "epochs", "repeats", "run_repeats", "layers")
QUICK = {"backbone": "icon-clip-vit", "classes": 4, "shots": 2, "tests": 2, "epochs": 1, "repeats": 1}


class Speed(Command):
    """How fast the methods are against the plain way of computing the same, and how near to what the machine can do.

    A line for each method's training step, epoch, test on what it learned from, and whole run (of the protocol's runs
    on base and new classes, unless --protocol says otherwise): in the plain way, as the papers' code computes (prompts
    of 77 tokens, text features for every test batch, images decoded and encoded each time); in ours with nothing at
    hand (cold); and in ours with image features at hand. The x behind a time is how often it goes into the plain one.
    "error" is the larger one of logits and gradients between the ways, compared before anything is timed.

    The floor is the time of the operations that must be done at the rate that a large matrix product reaches there and
    then, for cold / at hand; "of" says how much of the time that is.

    Photos and class names are made on the spot unless --root names real ones, weights are random ones of that size
    where the backbone's are not at hand. Starting Python is not counted. With --growth, time and peak memory as the
    numbers of classes, shots, context vectors, experts and pairs grow.
    """

    examples = (
        "",
        "--quick",
        "--what step --classes 100",
        "--root data --dataset caltech101 --shots 16 --grid",
        "--growth",
    )

    def add_arguments(self, add: Any) -> None:
        add("--methods", nargs="+", metavar="NAME", help="registered trainers (default: those in configs/speed.yaml)")
        add("--what", nargs="+", choices=ALL, default=list(ALL), help="which lines (default: all)")
        add("--grid", action="store_true", help="one more line: all methods with frozen image encoders x --seeds")
        add("--seeds", nargs="+", type=int, default=[1, 2, 3], help="of --grid; others take the first (default: 1 2 3)")
        add("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
        add("--backbone", default="ViT-B/32", help="default: %(default)s")
        add("--protocol", help="whose runs (default: that of configs/speed.yaml)")
        add("--root", help="folder of data sets; without it photos are made")
        add("--dataset", default="caltech101", help="in --root (default: %(default)s)")
        add("--classes", type=int, default=20, help="of made photos (default: %(default)s)")
        add("--tests", type=int, default=10, help="made photos of each class to test on (default: %(default)s)")
        add("--shots", type=int, default=4, help="training images of each class (default: %(default)s)")
        add("--epochs", type=int, default=2, help="of a run (default: %(default)s)")
        add("--repeats", type=int, default=3, help="of a step, of which the median counts (default: %(default)s)")
        add("--run-repeats", type=int, default=1, help="likewise of a run (default: %(default)s)")
        add("--workers", type=int, default=0, help="processes that load images, in all ways (default: %(default)s)")
        add("--keys", nargs="+", default=[], metavar="WORD", help="config keys and values, of all methods")
        add("--quick", action="store_true", help="to try the command: a small backbone and few images, or few points")
        add("--growth", action="store_true", help="measure how time and memory grow, and draw it")
        add("--layers", type=int, default=2, help="of --growth's text tower (default: %(default)s)")
        add("--out", default="output/speed", metavar="FOLDER", help="for tables and pictures (default: %(default)s)")

    def run(self, args: argparse.Namespace) -> int:
        import torch

        args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if args.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: there is no GPU that torch can use")
        for name in COUNTS:
            if vars(args)[name] < 1:
                raise UserError(f"--{name.replace('_', '-')} {vars(args)[name]}: give 1 or more")
        if args.quick:
            vars(args).update({} if args.growth else QUICK)
        with tempfile.TemporaryDirectory(prefix="speed_") as folder:
            (self.grow if args.growth else self.compare)(args, Path(folder))
        return 0

    def compare(self, args: argparse.Namespace, folder: Path) -> None:
        """Print and write the table."""
        from benchmark.speed import rows, table
        from benchmark.speed.measure import MatrixProduct, Took
        from benchmark.speed.settings import listed, settings_of

        settings, notes = settings_of(args, folder)
        methods = args.methods or list(listed()["methods"])
        notes.insert(0, table.machine(args.device))
        print(*notes, "", table.line(table.HEAD), sep="\n", flush=True)
        found: list[rows.Row] = []

        def tell(*more: rows.Row) -> None:
            found.extend(more)
            for row in more:
                print(table.line(table.cells(row)), flush=True)

        store, seed, frozen = settings.new_folder("store"), args.seeds[0], []
        plain: dict[tuple[str, int], Took] = {}
        for method in methods:
            row, facts = rows.step(settings, method, seed, args.repeats, store)
            if "step" in args.what:
                tell(row)
            if facts.frozen:
                frozen.append(method)
            if set(args.what) - {"step"}:
                measured, plain[method, seed] = rows.runs(settings, method, seed, args.run_repeats, facts)
                tell(*(row for row in measured if row.what in args.what))
        if args.grid:
            tell(rows.grid(settings, frozen, args.seeds, plain))
        rate = MatrixProduct(args.device, facts.dtype).rate()
        notes.append(f"A large matrix product: {rate / 1e9:.0f} GFLOP/s at the end.")
        print("", notes[-1], sep="\n")
        values = {"notes": notes, "rows": [row.figures() for row in found]}
        text = table.markdown(table.HEAD, [table.cells(row) for row in found], notes)
        table.write(Path(args.out), "speed", text, values)
        print(f"Written: speed.md and speed.json in {args.out}")

    def grow(self, args: argparse.Namespace, folder: Path) -> None:
        """Print and write the points of growth."""
        from benchmark.speed import growth, table

        note = f"{table.machine(args.device)}; {args.backbone}'s text tower with {args.layers} layers, random weights"
        print(note, "", table.line(growth.HEAD, growth.HEAD), sep="\n", flush=True)
        points = []
        for point in growth.points(folder, args.backbone, args.device, args.layers, 2 if args.quick else None):
            points.append(point)
            print(table.line(point.cells(), growth.HEAD), flush=True)
        text = table.markdown(growth.HEAD, [point.cells() for point in points], [note])
        values = {"notes": [note], "points": [vars(point) for point in points]}
        table.write(Path(args.out), "growth", text, values)
        self.draw(points, Path(args.out))
        print(f"Written: growth.* in {args.out}")

    def draw(self, points: Sequence[Any], folder: Path) -> None:
        """Draw the points, where there is something to draw with."""
