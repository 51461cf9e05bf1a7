"""The base-to-new table: per seed the accuracy on base and new classes and their harmonic mean H.

    python -m benchmark.base2new OUTPUT [--dataset D] [--trainer T] [--config C] [--shots N] [--seeds 1 2 3]

Reads the metrics.json files that the scripts' base2new runs left below OUTPUT; without options, of all of them. As in
the papers, the H of the row "mean" is that of the mean accuracies; the standard deviations are over seeds (population,
as CoOp's parse_test_res.py computes them).
"""

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

from tabulate import tabulate

LAYOUT = re.compile(
    r"(?P<part>train_base|test_base|test_new)/(?P<dataset>[^/]+)/(shots_(?P<shots>\d+)/)?"
    r"(?P<trainer>[^/]+)/(?P<config>[^/]+)/seed(?P<seed>\d+)/metrics\.json$"
)


def harmonic_mean(base, new):
    """2 base new / (base + new), in the unit of its arguments; 0 where both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0


def read_runs(output):
    """{(dataset, shots, trainer, config): {seed: {"base": accuracy, "new": accuracy}}}; shots is None for zero-shot."""
    runs = {}
    for path in sorted(Path(output, "base2new").rglob("metrics.json")):
        match = LAYOUT.search(path.as_posix())
        if match:
            group = (match["dataset"], match["shots"], match["trainer"], match["config"])
            seeds = runs.setdefault(group, {})
            half = "new" if match["part"] == "test_new" else "base"
            seeds.setdefault(int(match["seed"]), {})[half] = json.loads(path.read_text())["accuracy"]
    return runs


def table(seeds):
    """The rows of one method's table: a row per seed, then mean and standard deviation."""
    whole = {seed: r for seed, r in sorted(seeds.items()) if len(r) == 2}
    rows = [[seed, r["base"], r["new"], harmonic_mean(r["base"], r["new"])] for seed, r in whole.items()]
    if rows:
        _, base, new, h = zip(*rows, strict=True)
        means = statistics.fmean(base), statistics.fmean(new)
        rows.append(["mean", *means, harmonic_mean(*means)])
        rows.append(["std", *map(statistics.pstdev, (base, new, h))])
    return rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    for name in ("dataset", "trainer", "config", "shots"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--seeds", nargs="+", type=int)
    args = parser.parse_args(argv)
    means = []
    for (dataset, shots, trainer, config), seeds in read_runs(args.output).items():
        ours = {"dataset": dataset, "shots": shots, "trainer": trainer, "config": config}
        if any(getattr(args, key) not in (None, value) for key, value in ours.items()):
            continue
        seeds = {s: r for s, r in seeds.items() if args.seeds is None or s in args.seeds}
        rows = table(seeds)
        half = sorted(seed for seed, r in seeds.items() if len(r) < 2)
        if rows:
            means.append([dataset, shots or "-", f"{trainer} ({config})", len(rows) - 2, *rows[-2][1:]])
            print(f"\n{trainer} ({config}) on {dataset}, " + (f"{shots} shots" if shots else "zero-shot"))
            print(tabulate(rows, ["seed", "base", "new", "H"], floatfmt=".2f", tablefmt="simple"))
            if half:
                print(f"not finished yet: seed {', '.join(map(str, half))}")
    if len(means) > 1:
        print("\nmeans")
        print(tabulate(sorted(means), ["dataset", "shots", "method", "seeds", "base", "new", "H"], floatfmt=".2f"))
    if not means:
        print(f"error: no finished base-to-new run of that kind below {args.output}/base2new", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
