"""The command line: `mocoop train ...`, `mocoop predict ...`, `mocoop benchmark ...`, `mocoop datasets ...`.

`python -m mocoop` and `python PATH/TO/mocoop` are the same; from a clone so are `python train.py`, `python predict.py`,
`python -m benchmark` and `python -m datasets`.
"""

import sys
from pathlib import Path

if not __package__:  # python PATH/TO/mocoop
    sys.path[0] = str(Path(__file__).parents[1])

import mocoop

COMMANDS = {
    "train": ("train:Train", "one run: train a method, or test it with --eval-only"),
    "predict": ("learned.predict:Predict", "classify images with a trained run"),
    "benchmark": ("benchmark.__main__:Benchmark", "many runs: protocols, grids, tables, reports"),
    "datasets": ("datasets.__main__:Datasets", "check, prepare and show data sets"),
}


def main(argv: list[str] | None = None) -> int:
    """Do the command that the arguments (default: the process's) name; the exit status."""
    try:
        mocoop.enter()
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    from dassl import signals  # found from here on
    from mocoop.command import Commands

    class Mocoop(Commands):
        __doc__ = f"Prompt learning for CLIP; {mocoop.HOME}/README.md tells more."
        commands = COMMANDS

    if argv is None:  # this is the program
        signals.end_in_one_line()
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["--version"]:
        print(f"mocoop {mocoop.__version__}")
        return 0
    return Mocoop().main(words, "mocoop")


if __name__ == "__main__":
    sys.exit(main())
