"""The commands of data sets; `python -m datasets --help` lists them."""

if __name__ == "__main__":  # Ctrl-C while the others are imported is one line, too
    from dassl import signals

    signals.end_in_one_line()

import sys
from collections.abc import Sequence

from mocoop import typed
from mocoop.command import Commands

COMMANDS = {
    "check": ("datasets.tools.check:Check", "what is present of a data set, or of all, and what is missing"),
    "prepare": ("datasets.tools.prepare:Prepare", "download a data set, unpack it and arrange its files"),
    "show": ("datasets.tools.show:Show", "a picture with a few images of every class"),
}


class Datasets(Commands):
    """Look after data sets: check what is there, download what can be downloaded, look at the images."""

    commands = COMMANDS


def main(argv: Sequence[str] | None = None) -> int:
    """Do the command that argv (None: the process's arguments) names; the exit status."""
    return Datasets().main(argv, typed("datasets"))


if __name__ == "__main__":
    sys.exit(main())
