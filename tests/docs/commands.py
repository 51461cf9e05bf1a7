"""The commands of README.md and docs/: found on their pages, checked by the parser of each, or run.

CONTRIBUTING.md says how pages mark what cannot run in a test.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import train
from benchmark import __main__ as benchmark
from benchmark.commands import ProtocolRuns
from benchmark.grid import is_grid, read_grid
from datasets import __main__ as datasets
from datasets.tools import config_names
from learned.predict import Predict
from mocoop import __main__ as mocoop
from mocoop import command
from tests.conftest import REPO

NEEDS = {"cluster", "data", "example", "gpu", "minutes", "network", "weights"}
PROGRAMS = {"bash", "cd", "docker", "export", "git", "make", "mocoop", "pip", "python", "torchrun"}
"""What the first line of an indented block of commands begins with."""

SHELLS = {"bash", "console", "sh", "shell"}
"""Languages of fenced blocks of commands."""

STAND_INS = {"GRID": "demo", "NAME": "caltech101", "Shift": "CoOp", "fruit": "caltech101", "balance": "few_shot"}
STAND_INS |= {"toy-clip": "icon-clip", "['ece']": "['accuracy']"}
"""For what a reader fills in, and for the plug-ins that pages define."""

MARK = re.compile(r"<!-- (all need|needs): ([\w, ]+) -->")
MENTION = re.compile(r"\w+|(python|mocoop)( -m)? \S+|.*\.\.\..*")
"""Of a program by its name alone, or of any command that begins so: nothing to check."""

ASSIGNMENT = re.compile(r"[A-Z_]+=")


@dataclass(frozen=True)
class Line:
    """A command on a page.

    Attributes:
        place: page and number of its line.
        environment: what stands before it.
        words: of the command, with stand-ins.
        needs: what the page says that it needs; empty: it runs.
    """

    place: str
    environment: dict[str, str]
    words: list[str]
    needs: frozenset[str]

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join(self.words)}"


def lines(page: Path) -> Iterator[Line]:
    """The commands of a page, in order; those in the last column of a table are to be checked alone."""
    place, rows = page.relative_to(REPO), page.read_text(encoding="utf-8").splitlines()
    everywhere: set[str] = set()
    needs: set[str] = set()
    i = 0
    while i < len(rows):
        row, block, first = rows[i], [], i + 1
        if mark := MARK.fullmatch(row):
            said = set(mark[2].split(", "))
            assert said <= NEEDS, f"{place}:{first}: {said - NEEDS}: known are {sorted(NEEDS)}"
            needs, everywhere = said, said if mark[1] == "all need" else everywhere
        elif fence := re.match(r" *```+", row):
            while not re.match(fence[0].rstrip("`") + r"```+\s*$", rows[i := i + 1]):
                block.append(rows[i])
            shell, first = row.strip(" `").split(" ")[0] in SHELLS, first + 1
        elif row.startswith("    ") and (i == 0 or not rows[i - 1].strip()):
            while i < len(rows) and (rows[i].startswith("    ") or not rows[i].strip()):
                block.append(rows[i])
                i += 1
            i -= 1
            word = next((w for w in row.split() if not ASSIGNMENT.match(w)), "")
            shell = word in PROGRAMS
        elif row.startswith("|"):
            for span in re.findall(r"`([^`]+)`", row.rstrip("| ").rpartition("|")[2]):
                if span.split()[0] in PROGRAMS and not MENTION.fullmatch(span):
                    yield from _commands(place, first, [span], frozenset({"data"}))
        if block and shell:
            yield from _commands(place, first, block, frozenset(needs or everywhere))
        if row.strip() and not mark:
            needs = set()
        i += 1


def _commands(place, first, block, needs):
    start, text = first, ""
    for number, row in enumerate(block, first):
        start, text = (start, text) if text else (number, "")
        text += row.removeprefix("$ ")
        if text.endswith("\\"):
            text = text[:-1]
            continue
        words, environment = shlex.split(text, comments=True), {}
        while words and ASSIGNMENT.match(words[0]):
            name, _, environment[name] = words.pop(0).partition("=")
        if words:
            words[0] = words[0].removeprefix(".venv/bin/")
            yield Line(f"{place}:{start}", environment, [STAND_INS.get(word, word) for word in words], needs)
        text = ""


def of_mocoop(line: Line) -> list[list[str]] | None:
    """What a line comes to as arguments of `mocoop`, which the scripts call; None for other programs."""
    program, *words = line.words
    if program == "bash":
        script = REPO / words[0]
        assert script.is_file(), f"no script {words[0]}"
        environment = {"PATH": os.environ["PATH"], "PYTHON": "echo", **line.environment}
        told = subprocess.run(["bash", script, *words[1:]], env=environment, capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        calls = [shlex.split(call) for call in told.stdout.splitlines()]
        return [call[1:] for call in calls if call[0].endswith("mocoop")]
    if program == "mocoop":
        return [words]
    if program == "python" and words[0] in ("train.py", "predict.py"):
        return [[words[0].removesuffix(".py"), *words[1:]]]
    if program == "python" and words[:2] in (["-m", "benchmark"], ["-m", "datasets"]):
        return [words[1:]]
    return None


def check(line: Line) -> None:
    """Raises AssertionError, UserError or SystemExit where a command's own parser would refuse it."""
    calls = of_mocoop(line)
    for name, *words in calls or ():
        if name in ("--help", "--version"):
            continue
        assert name in mocoop.COMMANDS, f"no command {name}"
        if {"-h", "--help"} & set(words):
            continue
        {"train": _train, "predict": _predict, "benchmark": _benchmark, "datasets": _datasets}[name](words)
    if calls is None:
        program, *words = line.words
        assert program in OTHERS, f"nothing is known of {program}"
        OTHERS[program](words)


def _train(words):
    args = train.parse_args(words)
    if not args.replay:
        train.setup_cfg(args)


def _predict(words):
    Predict().parse(words, "predict")


def _datasets(words):
    assert words[0] in datasets.COMMANDS, f"no command {words[0]}"
    name = command.load(datasets.COMMANDS[words[0]][0]).parse(words[1:], "").name
    assert name is None or name in config_names(), f"no data set {name}"


class Asked(ProtocolRuns):
    """The command that does a protocol's runs, but for doing them."""

    def do(self, name, runs, place, told=()):
        _train(["--root", place.root, *runs[0].arguments])
        return 0


def _benchmark(words):
    name, *words = words
    assert name in benchmark.COMMANDS, f"no command {name}"
    if name == "protocol":
        asked = Asked()
        assert asked.run(asked.parse(words, "")) == 0
        return
    args = command.load(benchmark.COMMANDS[name][0]).parse(words, "")
    if name in ("run", "status", "cost") and args.grid != "my/grid.yaml":
        assert is_grid(args.grid), f"no grid {args.grid}"
        read_grid(args.grid)


def _make(words):
    done = subprocess.run(["make", "-n", *words], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _pip(words):
    parser = argparse.ArgumentParser("pip install")
    parser.add_argument("-e", "--editable", "-r", nargs=1, action="extend", dest="what", default=[])
    parser.add_argument("--no-deps", "--no-build-isolation", "--upgrade", "--no-index", action="store_true")
    parser.add_argument("--find-links", "--constraint", "--dest")
    parser.add_argument("names", nargs="*")
    assert words[0] in ("install", "download")
    args = parser.parse_args(words[1:])
    extras = set(re.findall(r'^ {4,8}"(\w+)": ', (REPO / "setup.py").read_text(encoding="utf-8"), re.MULTILINE))
    for name in (*args.what, *args.names):
        target, _, said = name.rstrip("]").partition("[")
        assert target == "mocoop" or not re.match(r"\.|.*/", target) or "*" in target or (REPO / target).exists(), name
        assert target not in ("mocoop", ".") or set(filter(None, said.split(","))) <= extras, f"no such extra: {name}"


def _torchrun(words):
    from torch.distributed.run import get_args_parser

    args = get_args_parser().parse_args(words)
    assert args.training_script == "train.py"
    _train(args.training_script_args)


def _python(words):
    """Another program of ours: it has the options that are named."""
    words = words[1:] if words[0] == "-m" else words
    if words[0] in ("pip", "pytest", "venv"):
        return _pip(words[1:]) if words[0] == "pip" else None
    file = Path(words[0] if words[0].endswith(".py") else words[0].replace(".", "/"))
    found = [path for path in (file, file.with_suffix(".py"), file / "__main__.py") if (REPO / path).is_file()]
    assert found, f"no program {words[0]}"
    source = (REPO / found[0]).read_text(encoding="utf-8")
    unknown = [word for word in words[1:] if word.startswith("--") and f'"{word}"' not in source]
    assert not unknown, f"{found[0]} does not take {unknown}"


OTHERS = {"make": _make, "pip": _pip, "python": _python, "torchrun": _torchrun}
OTHERS |= dict.fromkeys(("cd", "docker", "export", "git"), lambda words: None)


def run(folder: Path, console: Path, environment: dict[str, str], words: list[str]) -> None:
    """Do a command of `mocoop`, in this process, which ends with its status."""
    os.environ.update(environment)
    os.chdir(folder)
    with open(console, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        sys.exit(mocoop.main(words))
    finally:
        sys.stdout.flush()
