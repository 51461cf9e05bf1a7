"""The tables of compositional zero-shot learning: per seed the figures of the seen-unseen curve, closed world and open.

    python -m benchmark.czsl OUTPUT [--dataset D] [--trainer T] [--config C] [--seeds 1 2 3]

Reads the metrics.json files that the scripts' czsl runs left below OUTPUT; without options, of all of them. S and U are
best seen and best unseen accuracy, H the best harmonic mean; those with 20 are of the curve that published tables use.
Standard deviations are over seeds (population).
"""

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

from tabulate import tabulate

LAYOUT = re.compile(
    r"(?P<world>closed|open)/(?P<dataset>[^/]+)/(?P<trainer>[^/]+)/(?P<config>[^/]+)/seed(?P<seed>\d+)/metrics\.json$"
)
COLUMNS = {
    "S": "best_seen",
    "U": "best_unseen",
    "H": "best_harmonic",
    "AUC": "auc",
    "H 20": "best_harmonic_20",
    "AUC 20": "auc_20",
    "attribute": "attribute_accuracy",
    "object": "object_accuracy",
}


def read_runs(output):
    """{(dataset, trainer, config, world): {seed: the figures in the order of COLUMNS}}."""
    runs = {}
    for path in sorted(Path(output, "czsl").rglob("metrics.json")):
        match = LAYOUT.search(path.as_posix())
        if match:
            metrics = json.loads(path.read_text())
            group = (match["dataset"], match["trainer"], match["config"], match["world"])
            runs.setdefault(group, {})[int(match["seed"])] = [metrics[key] for key in COLUMNS.values()]
    return runs


def table(seeds):
    """The rows of one table: a row per seed, then mean and standard deviation."""
    rows = [[seed, *figures] for seed, figures in sorted(seeds.items())]
    columns = list(zip(*seeds.values(), strict=True))
    return [*rows, ["mean", *map(statistics.fmean, columns)], ["std", *map(statistics.pstdev, columns)]]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    for name in ("dataset", "trainer", "config"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--seeds", nargs="+", type=int)
    args = parser.parse_args(argv)
    shown = 0
    for (dataset, trainer, config, world), seeds in sorted(read_runs(args.output).items()):
        ours = {"dataset": dataset, "trainer": trainer, "config": config}
        seeds = {s: r for s, r in seeds.items() if args.seeds is None or s in args.seeds}
        if not seeds or any(getattr(args, key) not in (None, value) for key, value in ours.items()):
            continue
        shown += 1
        print(f"\n{trainer} ({config}) on {dataset}, {world} world")
        print(tabulate(table(seeds), ["seed", *COLUMNS], floatfmt=".2f", tablefmt="simple"))
    if not shown:
        print(f"error: no finished run of that kind below {args.output}/czsl", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
