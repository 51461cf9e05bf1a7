"""Look after data sets: see what is there, get what can be downloaded, look at it.

python -m datasets check [NAME]     what is there, what is missing; exit status 1 when something is off
python -m datasets prepare NAME     download, unpack and lay out; says what is to be done by hand
python -m datasets show NAME        a picture with a few images of every class

NAME is a file in configs/datasets, without .yaml.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

import datasets
from dassl.errors import exit_status

EXAMPLES = """\
examples:
  python -m datasets check caltech101 --root data --quick
  python -m datasets show dtd --root data --out sheet.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m datasets",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="check | prepare | show")
    words = sys.argv[1:] if argv is None else list(argv)
    for name in ("check", "prepare", "show"):
        command = commands.add_parser(name, formatter_class=argparse.RawDescriptionHelpFormatter)
        if words[:1] == [name]:
            _add_arguments(command, name)
    args = parser.parse_args(words)
    return exit_status(lambda: int(not args.run(args)))


def _add_arguments(command, name):
    """Those of one command; its module imports torch."""
    datasets.register()
    tool = import_module(f"datasets.tools.{name}")
    command.description = tool.__doc__
    command.add_argument("name", metavar="NAME", nargs="?" if name == "check" else None, help="such as caltech101")
    command.add_argument("--root", default="data", help="folder of the datasets (%(default)s)")
    tool.add_arguments(command)
    command.set_defaults(run=tool.run)


if __name__ == "__main__":
    sys.exit(main())
