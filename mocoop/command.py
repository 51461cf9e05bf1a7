"""What all commands have in common: a class says what the command does, takes and returns; `main` does the rest.

    class Check(Command):
        \"\"\"Report what is present of a data set, and what is missing.\"\"\"

        examples = ("caltech101 --root data",)

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
        examples: lines to type, without the command itself.
    """

    examples: Sequence[str] = ()

    def add_arguments(self, add: Callable[..., argparse.Action]) -> None:
        """Declare arguments through `add`, argparse's add_argument."""

    def run(self, args: argparse.Namespace) -> int | None:
        """Do it; the exit status, None for 0. Raises UserError for a mistake of the user's."""
        raise NotImplementedError

    def parser(self, prog: str) -> argparse.ArgumentParser:
        """The parser of its arguments; prog: the command as it is typed, which usage lines and examples begin with."""
        lines = "\n".join(f"  {prog} {example}".rstrip() for example in self.examples)
        parser = argparse.ArgumentParser(
            prog=prog,
            description=inspect.getdoc(self),
            epilog=f"examples:\n{lines}" if lines else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_arguments(parser.add_argument)
        return parser

    def parse(self, argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
        """The arguments in argv; a subclass may take words away before."""
        return self.parser(prog).parse_args(argv)

    def main(self, argv: Sequence[str] | None, prog: str) -> int:
        """Do what argv (None: the process's arguments) says; the exit status."""
        return exit_status(lambda: self.run(self.parse(argv, prog)))


class Commands:
    """Commands under one name, the first word. A subclass's docstring says what they are together.

    Attributes:
        commands: name -> ("module:Class", what it does in one line), so that help imports none of them.
    """

    commands: Mapping[str, tuple[str, str]] = {}

    def main(self, argv: Sequence[str] | None, prog: str) -> int:
        """Do the one that argv (None: the process's arguments) names first; the exit status."""
        words = list(sys.argv[1:] if argv is None else argv)
        if words and words[0] in self.commands:
            return load(self.commands[words[0]][0]).main(words[1:], f"{prog} {words[0]}")
        if words and words[0] in ("-h", "--help"):
            return exit_status(lambda: print(self.usage(prog)))
        said = f'error: unknown command "{words[0]}": {nearest(words[0], self.commands)}' if words else self.usage(prog)
        print(said, file=sys.stderr)
        return 2

    def usage(self, prog: str) -> str:
        """What --help prints."""
        width = max(map(len, self.commands)) + 2
        lines = "\n".join(f"  {name:{width}}{one}" for name, (_, one) in self.commands.items())
        return f"usage: {prog} COMMAND ...\n\n{inspect.getdoc(self)}\n\n{lines}\n\nEach says more with --help."


def load(place: str) -> Any:
    """The Command at "module:Class"."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)()
