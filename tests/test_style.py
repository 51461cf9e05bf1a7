"""What holds for every file: its size, its name, whom it knows, and what it says of its arguments."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from benchmark.facts import methods
from benchmark.protocols import PROTOCOLS
from tests.conftest import REPO

LONGEST = 400
TRAINER = "dassl/engine/trainer.py"

LAYERS = (
    ("dassl",),
    ("mocoop",),
    ("datasets", "prompting"),
    ("trainers", "embedded"),
    ("learned",),
    ("train", "predict"),
    ("benchmark",),
    ("report",),
    ("interpret_prompt", "parse_test_res"),
)
"""From the ground up: a package may import those of lower layers, and itself."""

ALLOWED = {"mocoop", "few_shot"}
"""The project's own name, and the protocol whose runs others learn from."""

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def files() -> list[str]:
    """Python files of this clone, new ones too, without tests."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout.split()
    return [name for name in listed if (REPO / name).is_file()]


FILES = files()
CODE = [name for name in FILES if Path(name).parts[0].removesuffix(".py") in LEVEL]


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((REPO / name).read_text(encoding="utf-8"))


def test_no_file_is_long():
    lengths = {name: len((REPO / name).read_text(encoding="utf-8").splitlines()) for name in FILES}
    assert {name: n for name, n in lengths.items() if n > LONGEST and name != TRAINER} == {}


def test_no_folder_is_called_utils():
    assert {str(Path(name).parent) for name in FILES if "utils" in Path(name).parts[:-1]} <= {"dassl/utils"}


def public(node):
    """(qualified name, function) of what others may call: below a module or a class whose name is public."""
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from ((f"{child.name}.{name}", function) for name, function in public(child))
        elif isinstance(child, ast.FunctionDef) and (child.name == "__init__" or not child.name.startswith("_")):
            yield child.name, child


def untyped(function, is_method):
    args = function.args
    named = [*args.posonlyargs, *args.args]
    static = any(getattr(decorator, "id", "") == "staticmethod" for decorator in function.decorator_list)
    named = named[1:] if is_method and not static else named
    named += [*args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]
    return [arg.arg for arg in named if arg.annotation is None] + ["return"] * (function.returns is None)


@pytest.mark.parametrize("package", sorted(LEVEL))
def test_public_signatures_are_whole(package):
    lacking = {}
    for name in CODE:
        if Path(name).parts[0].removesuffix(".py") == package:
            for function, node in public(tree(name)):
                if missing := untyped(node, "." in function):
                    lacking[f"{name}: {function}"] = ", ".join(missing)
    assert lacking == {}


def test_no_method_or_protocol_is_named_in_the_benchmarks_code():
    """But for papers and releases ("as in CoOp's paper"), and matplotlib's axes.plot."""
    names = {method.name for method in methods()}
    names |= {name.lower() for name in names} | set(PROTOCOLS)
    word = re.compile(rf"(?<!\w)(?<!axes\.)({'|'.join(map(re.escape, sorted(names)))})(?!\w|'s)")
    found = []
    for name in CODE:
        if name.startswith(("benchmark/", "report/")):
            own = Path(name).stem if name.startswith("benchmark/protocols/") else None
            for number, line in enumerate((REPO / name).read_text(encoding="utf-8").splitlines(), start=1):
                found += [(f"{name}:{number}", said) for said in word.findall(line) if said not in {own, *ALLOWED}]
    assert found == []


def imported(name):
    """Modules that a file imports, in functions too."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if file_of(whole) else node.module


@cache
def file_of(module: str) -> str | None:
    path = module.replace(".", "/")
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if (REPO / name).is_file()), None)


def test_imports_run_downwards():
    upwards = set()
    for name in CODE:
        own = Path(name).parts[0].removesuffix(".py")
        for module in imported(name):
            package = module.partition(".")[0]
            if package != own and LEVEL.get(package, -1) >= LEVEL[own]:
                upwards.add(f"{name} imports {module}")
    assert upwards == set()


def test_no_circle_between_files():
    needs = {name: {f for m in imported(name) if (f := file_of(m)) and f != name} for name in CODE}
    left = dict(needs)
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    while lost := [name for name in left if not any(name in others for others in left.values())]:
        for name in lost:  # what only needs a circle is in none
            del left[name]
    assert {name: sorted(needs[name] & left.keys()) for name in left} == {}
