"""What all trainers have in common: whom they may import, and that no loss knows unseen pairs."""

import ast

import pytest

from tests.conftest import REPO


@pytest.mark.parametrize("path", sorted((REPO / "trainers").glob("*.py")), ids=lambda path: path.stem)
def test_a_trainer_imports_no_other(path):
    """What two methods share belongs below both."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [f"trainers.{alias.name}" for alias in node.names]
            found |= set(names if node.module == "trainers" else [node.module])
    assert {name for name in found if name.startswith("trainers.")} <= {"trainers.base"}
