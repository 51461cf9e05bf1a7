"""Attack the project: kill its runs, flip bits of its files, feed it what no one would write, fill its disk.

    python -m tests.attack                                  # everything, for an hour: make attack
    python -m tests.attack kills --kills 500
    python -m tests.attack fuzz --minutes 10 --only grid
    python -m tests.attack kills --only CoOp --seed 17 --tries 1    # what was found, again

Prints what falls, with the command that repeats it, and a table; exit status 1 where anything fell.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from tests.attack.harness import Attack, strike


def attacks() -> dict[str, type[Attack]]:
    """By their names."""
    from tests.attack import code, disks, flips, fuzz, grids, kills

    return {kind.name: kind for kind in (kills.Kills, grids.Grids, flips.Flips, disks.Disks, code.Code, fuzz.Fuzz)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.attack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("attack", nargs="*", help="which (default: all)")
    parser.add_argument("--kills", type=int, default=0, help="kills of single runs")
    parser.add_argument("--minutes", type=float, default=0, help="of each attack; of fuzz alone where none is named")
    parser.add_argument("--tries", type=int, default=0, help="attempts on each target")
    parser.add_argument("--seed", type=int, default=0, help="of the first attempt on each target")
    parser.add_argument("--only", default="", help="targets, such as a trainer, between commas")
    parser.add_argument("--workers", type=int, default=2, help="attempts at a time")
    args = parser.parse_args(argv)
    known = attacks()
    for name in args.attack:
        if name not in known:
            parser.error(f"no attack {name}: {', '.join(known)}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        for name in args.attack or known:
            attack, started = known[name](Path(folder, name)), time.monotonic()
            targets = attack.targets()
            if args.only:
                targets = [target for target in targets if target in args.only.split(",")]
            blows = (args.kills if name == "kills" and args.kills else attack.long) if not args.tries else 0
            minutes = args.minutes if args.attack or not attack.long else 0
            blows = 0 if args.attack and args.minutes else blows
            minutes = minutes or (0 if blows or args.tries else 10)
            tallies = strike(attack, targets, args.seed, args.tries, blows, minutes, args.workers)
            rows += [(name, target, tally.tried, tally.fell, len(tally.ways)) for target, tally in tallies.items()]
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    rows.append(("all", "", sum(row[2] for row in rows), sum(row[3] for row in rows), sum(row[4] for row in rows)))
    print(tabulate(rows, ["attack", "target", "tried", "fell", "ways"]))
    return 1 if rows[-1][3] else 0


if __name__ == "__main__":
    sys.exit(main())
