"""Classify images with a trained run; learned/predict.py does it."""

if __name__ == "__main__":  # Ctrl-C while the others are imported is one line, too
    from dassl import signals

    signals.end_in_one_line()

import sys
from collections.abc import Sequence

from learned.predict import Predict
from mocoop import typed


def main(argv: Sequence[str] | None = None) -> int:
    """Do what argv (None: the process's arguments) says; the exit status. Raises UserError for a user's mistake."""
    command = Predict()
    return command.run(command.parse(argv, typed("predict")))


def run(argv: Sequence[str] | None = None) -> int:
    """main(), with a user's mistakes as one line on stderr; exit status 1 where there was any."""
    return Predict().main(argv, typed("predict"))


if __name__ == "__main__":
    sys.exit(run())
