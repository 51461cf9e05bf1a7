"""The log of a run: plain lines on the console and in a file, including what other people's code prints."""

import functools
import logging
import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from dassl.layout import LOG
from dassl.utils.files import WriteError, mkdir_if_missing

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""What a terminal would obey, in names that data sets have given."""


def setup_logger(output: str | Path | None = None) -> None:
    """Send the "dassl" logger's lines, and all that is printed, to the console and to a file.

    A second call replaces the first; without `output` the file is closed and the console remains. The root
    logger is not touched.

    Args:
        output: a folder, which gets log.txt, or a file that ends in .txt or .log. If the file exists, the new
            one's name is that with the time appended (log.txt-2026-11-21-04-20-00). None: no file.
    """
    logger = logging.getLogger("dassl")
    logger.setLevel(logging.INFO)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    if isinstance(sys.stdout, Tee):
        sys.stdout.file.close()
        sys.stdout = sys.stdout.console
    logger.addHandler(ConsoleHandler())
    if output:
        file: Any = _LogFile(_free_path(os.fspath(output)))
        logger.addHandler(logging.StreamHandler(file))
        sys.stdout = Tee(sys.stdout, file)


def _free_path(output):
    path = output if output.endswith((".txt", ".log")) else os.path.join(output, LOG)
    mkdir_if_missing(os.path.dirname(path) or ".")
    return path + time.strftime("-%Y-%m-%d-%H-%M-%S") if os.path.exists(path) else path


@functools.cache
def log_once(level: int, message: str) -> None:
    """Log a message the first time that a process has it."""
    logging.getLogger("dassl").log(level, message)


class _LogFile:
    """The log file of a run that outlives it: if the disk takes no more, the rest of the log is lost, with a warning.

    Args:
        path: of the file.

    Raises:
        WriteError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:  # line-buffered: a killed run has its log
            self._file: TextIO = open(path, "a", encoding="utf-8", errors="backslashreplace", buffering=1)
        except OSError as error:
            raise WriteError(f"write {path}", error) from error

    def write(self, text: str) -> int:
        try:
            return self._file.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self._lose(error)

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()

    def _lose(self, error):
        self.close()
        self._file = open(os.devnull, "w", encoding="utf-8")
        _warn(f"{WriteError(f'write {self.path}', error)}: the run goes on, and its log ends here")


def _warn(text):
    with suppress(OSError, ValueError):  # stderr may be as full
        print(f"warning: {text}", file=sys.stderr, flush=True)


class Tee:
    """Stands in for sys.stdout: what is printed goes to the console and to the log file."""

    def __init__(self, console: Any, file: TextIO) -> None:
        self.console, self.file = console, file

    def write(self, text: str) -> int:
        self.file.write(text)
        return self.console.write(text)

    def flush(self) -> None:
        self.file.flush()
        self.console.flush()

    def __getattr__(self, name):  # isatty, encoding, fileno, ...
        return getattr(self.console, name)


class Logger(Tee):
    """Dassl's name for one on a file of its own: sys.stdout = Logger("run/printed.txt").

    Args:
        fpath: the file, started afresh; its folder is created if missing. None: the console alone.
    """

    def __init__(self, fpath: str | None = None) -> None:
        if fpath is not None:
            mkdir_if_missing(os.path.dirname(fpath) or ".")
        super().__init__(sys.stdout, open(fpath or os.devnull, "w", encoding="utf-8", buffering=1))

    def close(self) -> None:
        self.file.close()


class ConsoleHandler(logging.Handler):
    """Writes records to standard output, above a progress bar that may be on the terminal."""

    broken = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            console = sys.stdout.console if isinstance(sys.stdout, Tee) else sys.stdout
            with tqdm.external_write_mode(file=sys.stdout):
                console.write(_CONTROL.sub(lambda c: repr(c[0])[1:-1], self.format(record)) + "\n")
                console.flush()
        except OSError as error:  # logging's own rule: a broken console must not end the run
            if not self.broken:
                _warn(f"the console takes no more ({error.strerror}): the run goes on")
            self.broken = True
        except Exception:
            self.handleError(record)
