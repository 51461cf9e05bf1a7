"""The command line: `mocoop train ...`, `mocoop predict ...`, `mocoop benchmark ...`, `mocoop datasets ...`.

`python -m mocoop` and `python PATH/TO/mocoop` are the same; from a clone so are `python train.py`, `python predict.py`,
`python -m benchmark` and `python -m datasets`.
"""

import sys
from importlib import import_module
from pathlib import Path

if not __package__:  # python PATH/TO/mocoop
    sys.path[0] = str(Path(__file__).parents[1])

import mocoop

COMMANDS = {
    "train": ("train", "run", "one run: train a method, or test it with --eval-only"),
    "predict": ("predict", "run", "classify images with a trained run"),
    "benchmark": ("benchmark.__main__", "main", "many runs: protocols, grids, tables, reports"),
    "datasets": ("datasets.__main__", "main", "check, prepare and show data sets"),
}
"""Command -> module, function that takes the arguments and returns the exit status, and what it is for."""

USAGE = "usage: mocoop COMMAND ...\n\n{}\n\nEach has its own --help; {}/README.md tells more."


def main(argv: list[str] | None = None) -> int:
    """Do the command that the arguments (default: the process's) name; the exit status."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        lines = "\n".join(f"  {name:11}{what}" for name, (_, _, what) in COMMANDS.items())
        print(USAGE.format(lines, mocoop.HOME), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] not in COMMANDS:
        print(f'error: unknown command "{words[0]}": known: {", ".join(COMMANDS)}', file=sys.stderr)
        return 2
    module, function, _ = COMMANDS[words[0]]
    try:
        mocoop.enter()
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if argv is None:  # this is the program
        from dassl import signals

        signals.end_in_one_line()
    return getattr(import_module(module), function)(words[1:])


if __name__ == "__main__":
    sys.exit(main())
