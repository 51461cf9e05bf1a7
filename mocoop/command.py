"""What all commands have in common: a class says what the command does, takes and returns; `main` does the rest.

    class Check(Command):
        \"\"\"Report what is present of a data set, and what is missing.\"\"\"

        examples = ("check caltech101 --root data",)

        def add_arguments(self, add):
            add("name", help="such as caltech101")

        def run(self, args):
            return 0

A mistake of the user's ends in one line on stderr and exit status 1, wherever it is raised.
"""

import argparse
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dassl.errors import exit_status, nearest


class Command:
    """A command. The first line of a subclass's docstring is its one-line help, and --help begins with all of it.

    Attributes:
        examples: lines to type, without the program's name.
    """

    examples: Sequence[str] = ()

    def add_arguments(self, add: Callable[..., argparse.Action]) -> None:
        """Declare arguments through `add`, argparse's add_argument."""

    def run(self, args: argparse.Namespace) -> int | None:
        """Do it; the exit status, None for 0. Raises UserError for a mistake of the user's."""
        raise NotImplementedError

    def parser(self, prog: str, caller: str | None = None) -> argparse.ArgumentParser:
        """The parser of its arguments.

        Args:
            prog: what usage lines begin with.
            caller: what examples begin with; None: prog.
        """
        lines = "\n".join(f"  {caller or prog} {example}" for example in self.examples)
        parser = argparse.ArgumentParser(
            prog=prog,
            description=inspect.getdoc(self),
            epilog=f"examples:\n{lines}" if lines else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_arguments(parser.add_argument)
        return parser

    def parse(self, argv: Sequence[str] | None, prog: str, caller: str | None = None) -> argparse.Namespace:
        """The arguments in argv; a subclass may take words away before."""
        return self.parser(prog, caller).parse_args(argv)

    def main(self, argv: Sequence[str] | None, prog: str, caller: str | None = None) -> int:
        """Do what argv (None: the process's arguments) says; the exit status."""
        return exit_status(lambda: self.run(self.parse(argv, prog, caller)))


def main(commands: Mapping[str, tuple[str, str]], argv: Sequence[str] | None, prog: str, what: str) -> int:
    """Do the one of several commands that argv (None: the process's arguments) names first; the exit status.

    Args:
        commands: name -> ("module:Class", what it does in one line), so that help imports none of them.
        prog: what usage lines begin with.
        what: what they are together.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, commands)) + 2
        lines = "\n".join(f"  {name:{width}}{one}" for name, (_, one) in commands.items())
        print(
            f"usage: {prog} COMMAND ...\n\n{what}\n\n{lines}\n\nEach has its own --help.",
            file=sys.stdout if words else sys.stderr,
        )
        return 0 if words else 2
    if words[0] not in commands:
        print(f'error: unknown command "{words[0]}": {nearest(words[0], commands)}', file=sys.stderr)
        return 2
    return load(commands[words[0]][0]).main(words[1:], f"{prog} {words[0]}", prog)


def load(place: str) -> Any:
    """The Command at "module:Class"."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)()
