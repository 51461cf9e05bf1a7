"""python -m benchmark COMMAND ...: export, explain."""

import sys
from importlib import import_module

from dassl.utils import UserError

COMMANDS = ("explain", "export")


def run(argv=None):
    """The command's main(), with a user's mistakes as one line on stderr and exit status 1."""
    command, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    try:
        if command not in COMMANDS:
            raise UserError(f'unknown command "{command}": {", ".join(COMMANDS)}')
        return import_module(f"benchmark.{command}").main(rest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(run())
