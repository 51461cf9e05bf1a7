"""The commands of the benchmark; `python -m benchmark --help` lists them."""

if __name__ == "__main__":  # Ctrl-C while the others are imported is one line, too
    from dassl import signals

    signals.end_in_one_line()

import sys
from collections.abc import Sequence

from mocoop import typed
from mocoop.command import Commands

COMMANDS = {
    "run": ("report.commands:Run", "do the runs of a grid (configs/grids/) that are not finished"),
    "status": ("benchmark.commands:Status", "show the progress of a grid's runs"),
    "backbones": ("benchmark.backbones:Backbones", "list backbones, and whether their weights are at hand"),
    "cost": ("benchmark.cost:CostOf", "count what a grid costs before it runs"),
    "speed": ("report.commands:Speed", "measure how fast the methods are here, against the plain way"),
    "cache": ("benchmark.cache:Cache", "show image features and other caches in detail, and free them"),
    "clean": ("benchmark.clean:Clean", "show what caches and runs take on disk, and remove it"),
    "protocol": ("report.commands:ProtocolRuns", "do the runs of a protocol, then print its table"),
    "table": ("report.commands:Tables", "print tables of finished runs"),
    "results": ("report.commands:Results", "list finished runs, one row each"),
    "report": ("report.page:Report", "write tables and figures, as files and on one page"),
    "leaderboard": (
        "report.leaderboard:Leaderboard",
        "compare methods over many grids, on one page to sort",
    ),
    "release": ("benchmark.release:Release", "run the unedited code of a release, from its own folder"),
    "explain": ("learned.explain:Explain", "show what a run has learned"),
    "export": ("learned.export:Export", "write a run's classifier to a file, for any CLIP"),
}


class Benchmark(Commands):
    """Many runs, and their results."""

    commands = COMMANDS


def main(argv: Sequence[str] | None = None) -> int:
    """Do the command that argv (None: the process's arguments) names; the exit status."""
    return Benchmark().main(argv, typed("benchmark"))


if __name__ == "__main__":
    sys.exit(main())
