"""The table of continual learning: per seed the accuracy on the first half of the classes before and after the second
half was learned, on the second half, and on all classes.

    python -m benchmark.incremental OUTPUT [--dataset D] [--shots N] [--methods TRAINER/CONFIG ...] [--seeds 1 2 3]

Reads the metrics.json files that the scripts' incremental runs left below OUTPUT; without options, of all of them. On
a half, its own classes alone are the choice. The standard deviations are over seeds (population, as in base2new).
"""

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

from tabulate import tabulate

LAYOUT = re.compile(
    r"(?P<part>train_base|train_new|test_base|test_all)/(?P<dataset>[^/]+)/shots_(?P<shots>\d+)/"
    r"(?P<method>[^/]+/[^/]+)/seed(?P<seed>\d+)/metrics\.json$"
)
COLUMNS = {"train_base": "first", "test_base": "after", "train_new": "second", "test_all": "all"}
"""Part of a protocol -> its column: the first half before, the first half after, the second half, all classes."""


def read_runs(output):
    """{(dataset, shots, "trainer/config"): {seed: {column: accuracy}}}."""
    runs = {}
    for path in sorted(Path(output, "incremental").rglob("metrics.json")):
        match = LAYOUT.search(path.as_posix())
        if match:
            seeds = runs.setdefault((match["dataset"], match["shots"], match["method"]), {})
            accuracy = json.loads(path.read_text())["accuracy"]
            seeds.setdefault(int(match["seed"]), {})[COLUMNS[match["part"]]] = accuracy
    return runs


def table(seeds):
    """The rows of one method's table: a row per seed, then mean and standard deviation."""
    whole = {seed: r for seed, r in sorted(seeds.items()) if len(r) == len(COLUMNS)}
    rows = [[seed, *(r[column] for column in COLUMNS.values())] for seed, r in whole.items()]
    if rows:
        _, *accuracies = zip(*rows, strict=True)
        rows.append(["mean", *map(statistics.fmean, accuracies)])
        rows.append(["std", *map(statistics.pstdev, accuracies)])
    return rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--dataset")
    parser.add_argument("--shots")
    parser.add_argument("--methods", nargs="+", metavar="TRAINER/CONFIG")
    parser.add_argument("--seeds", nargs="+", type=int)
    args = parser.parse_args(argv)
    means = []
    for (dataset, shots, method), seeds in read_runs(args.output).items():
        if args.dataset not in (None, dataset) or args.shots not in (None, shots):
            continue
        if args.methods is not None and method not in args.methods:
            continue
        seeds = {s: r for s, r in seeds.items() if args.seeds is None or s in args.seeds}
        rows = table(seeds)
        part = sorted(seed for seed, r in seeds.items() if len(r) < len(COLUMNS))
        if rows:
            trainer, config = method.split("/")
            means.append([dataset, shots, f"{trainer} ({config})", len(rows) - 2, *rows[-2][1:]])
            print(f"\n{trainer} ({config}) on {dataset}, {shots} shots, one half of the classes after the other")
            print(tabulate(rows, ["seed", *COLUMNS.values()], floatfmt=".2f", tablefmt="simple"))
            if part:
                print(f"not finished yet: seed {', '.join(map(str, part))}")
    if len(means) > 1:
        print("\nmeans: the first half before and after the second was learned, the second half, all classes")
        headers = ["dataset", "shots", "method", "seeds", *COLUMNS.values()]
        print(tabulate(sorted(means), headers, floatfmt=".2f", tablefmt="simple"))
    if not means:
        print(f"error: no finished incremental run of that kind below {args.output}/incremental", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
