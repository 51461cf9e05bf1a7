"""The mean over the runs in a folder, from their logs: CoOp's command line, on logs of CoOp and of this project.

    python parse_test_res.py output/caltech101/CoOp/rn50_16shots              # its subfolders are seeds
    python parse_test_res.py output/evaluation/CoOp/rn50_16shots --multi-exp  # its subfolders hold such subfolders

`python -m benchmark results` and `table` show more.
"""

if __name__ == "__main__":  # Ctrl-C while the others are imported is one line, too
    from dassl import signals

    signals.end_in_one_line()

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from dassl.errors import UserError, exit_status
from report.logs import TRAINED, closing_figures, read_logs


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="folder of runs; each has a log.txt")
    parser.add_argument("--ci95", action="store_true", help="95%% confidence interval, not the standard deviation")
    parser.add_argument("--test-log", action="store_true", help="the logs are of --eval-only runs, which train nothing")
    parser.add_argument("--multi-exp", action="store_true", help="several experiments: their mean as well")
    parser.add_argument("--keyword", default="accuracy", help="the figure to look for (default: %(default)s)")
    return exit_status(parse, parser.parse_args(argv))


def parse(args: argparse.Namespace) -> None:
    """Print what the command line asks for."""
    folders = _folders(args.directory) if args.multi_exp else [args.directory]
    means = [summary(folder, args.keyword, not args.test_log, args.ci95) for folder in folders]
    if args.multi_exp:
        print(f"Average performance\n* {args.keyword}: {statistics.fmean(means):.2f}%")


def summary(directory: Path, keyword: str, trained: bool, ci95: bool = False) -> float:
    """Print the figure of each run in a directory, their mean and deviation; return the mean.

    Args:
        directory: its subfolders hold the logs of a run each. Of a run that was resumed or tried again, the newest
            that closed with the figure counts.
        keyword: the figure's name in the log.
        trained: the figure counts after the end of training alone.
        ci95: print 1.96 standard errors instead of the population's standard deviation.

    Raises:
        UserError: a log is missing, or there is no figure in any.
    """
    print(f"===\nSummary of directory: {directory}\n===")
    figures = []
    for folder in _folders(directory):
        logs = read_logs(folder)
        if not logs:
            raise UserError(f"no log at {folder / 'log.txt'}")
        for path, text in reversed(logs):
            if (figure := closing_figures(text, trained).get(keyword)) is not None:
                figures.append(figure)
                print(f"file: {path}. {keyword}: {figure:.2f}%")
                break
    if not figures:
        end = TRAINED if trained else "=> result"
        raise UserError(f'nothing like "* {keyword}: 93.5%" after "{end}" in the logs of {directory}')
    mean, deviation = statistics.fmean(figures), statistics.pstdev(figures)
    spread = 1.96 * deviation / len(figures) ** 0.5 if ci95 else deviation
    print(f"===\n* {keyword}: {mean:.2f}% +- {spread:.2f}%\n===")
    return mean


def _folders(directory):
    try:
        return sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot list the folder {directory}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
