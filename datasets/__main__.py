"""Look after data sets: see what is there, get what can be downloaded, look at it.

python -m datasets check [NAME]     what is there, what is missing; exit status 1 when something is off
python -m datasets prepare NAME     download, unpack and lay out; says what is to be done by hand
python -m datasets show NAME        a picture with a few images of every class

NAME is a file in configs/datasets, without .yaml.
"""

import argparse
import sys

from dassl.errors import exit_status
from datasets.tools import check, prepare, show

EXAMPLES = """\
examples:
  python -m datasets check caltech101 --root data --quick
  python -m datasets show dtd --root data --out sheet.png
"""


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m datasets",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="check | prepare | show")
    for tool in (check, prepare, show):
        name = tool.__name__.rpartition(".")[2]
        command = commands.add_parser(name, help=tool.__doc__.splitlines()[0], description=tool.__doc__)
        command.add_argument("name", metavar="NAME", nargs="?" if tool is check else None, help="such as caltech101")
        command.add_argument("--root", default="data", help="folder of the datasets (%(default)s)")
        tool.add_arguments(command)
        command.set_defaults(run=tool.run)
    args = parser.parse_args(argv)
    return exit_status(lambda: int(not args.run(args)))


if __name__ == "__main__":
    sys.exit(main())
