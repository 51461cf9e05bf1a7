"""How a user's mistake is reported: one line that says what is wrong, where, and what to do."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """A user's mistake. Its text is always one line."""

    def __init__(self, message: object) -> None:
        super().__init__(printable(" ".join(_original(str(message)).splitlines())))


def printable(text: object) -> str:
    """Text for a terminal: what is not printable in it, such as the start of an ANSI sequence, is spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def _original(message):
    """The message itself, where a DataLoader worker's traceback was wrapped around it."""
    if message.startswith("Caught ") and "\nOriginal " in message:
        return message.rstrip().splitlines()[-1].partition(": ")[2]
    return message


def exit_status(main: Callable[..., int | None], *args: object) -> int:
    """What main(*args) returns, 0 for None; 1 after a user's mistake, which is reported in one line on stderr."""
    try:
        return main(*args) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # python flushes once more
        return 1


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
