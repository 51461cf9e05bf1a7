"""How a user's mistake is reported: one line that says what is wrong, where, and what to do."""

import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

OF_THE_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.ESTALE),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
}
"""Errors that no code makes or mends: full and read-only disks, someone else's files, limits, names too long."""

LONG = 4000  # characters

GO_ON_LATER = 75
"""The exit status of what was stopped by SIGTERM: the same command goes on. It is sysexits.h's EX_TEMPFAIL."""

INTERRUPTED = "interrupted; the same command continues where it stopped"


class Stopped(SystemExit):
    """SIGTERM came, and was told. Where nobody catches it, the program ends with status GO_ON_LATER."""

    def __init__(self) -> None:
        super().__init__(GO_ON_LATER)

    def __str__(self) -> str:
        return "stopped by SIGTERM; the same command continues where it stopped"


class UserError(Exception):
    """A user's mistake. Its text is always one line, without the middle of what is LONG, as a damaged file's may be."""

    def __init__(self, message: object) -> None:
        line = printable(" ".join(_original(str(message)).splitlines()))
        super().__init__(line if len(line) <= LONG else f"{line[: LONG // 2]} ... {line[-LONG // 2 :]}")


def printable(text: object) -> str:
    """Text for a terminal: what is not printable in it, such as the start of an ANSI sequence, is spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def _original(message):
    """The message itself, where a DataLoader worker's traceback was wrapped around it."""
    if message.startswith("Caught ") and "\nOriginal " in message:
        return message.rstrip().splitlines()[-1].partition(": ")[2]
    return message


def exit_status(main: Callable[..., int | None], *args: object) -> int:
    """What main(*args) returns, 0 for None; 1 after a user's mistake, which is reported in one line on stderr.

    A disk that is full, read-only or someone else's, and the system's limits, are reported like it.
    130 after Ctrl-C, GO_ON_LATER after SIGTERM where it is heeded (dassl.signals).
    """
    try:
        status = main(*args) or 0
        if sys.stdout is not None:
            sys.stdout.flush()  # what does not reach the file that it is sent to is missing
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Stopped:
        return GO_ON_LATER
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads has seen enough, as `head` does
        _give_up_stdout()
        return 1
    except (OSError, RuntimeError) as error:
        if (why := machines_fault(error)) is None:
            raise
        _give_up_stdout()
        with suppress(OSError):
            print(f"error: {why}", file=sys.stderr)
        return 1


def machines_fault(error: BaseException | None) -> str | None:
    """What the machine has refused, in words, where that is behind an error; else None.

    torch's RuntimeError of a file that cannot be written has the OSError as its context.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
            where = error.filename or "of the output, the cache, the temporary files or the console"
            return printable(f"{error.strerror}: {where}")
        if isinstance(error, RuntimeError) and "unable to resize file </torch_" in str(error):
            return (
                "no room in shared memory (/dev/shm) for batches of images: give DATALOADER.NUM_WORKERS 0, or more room"
            )
        error = error.__cause__ or error.__context__
    return None


def _give_up_stdout():
    """Send what is left for a standard output that takes no more nowhere: python flushes it once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValueError:  # it is closed
        pass


def nearest(name: object, known: Iterable[object]) -> str:
    """What to offer where `name` is not known: "did you mean A, B?", or "known: A, B, C" if none comes close.

    Args:
        name: what was asked for.
        known: the names there are; case does not matter in comparing.
    """
    names = sorted(map(str, known), key=str.lower)
    close = difflib.get_close_matches(str(name).lower(), dict.fromkeys(k.lower() for k in names))
    if close:
        return f"did you mean {', '.join(k for c in close for k in names if k.lower() == c)}?"
    return f"known: {', '.join(names) or 'none'}"
