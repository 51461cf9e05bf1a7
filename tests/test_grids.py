"""The grids in configs/grids/ and docs/reproduce.md: what they cost and what is published beside them."""

import csv
import re

import pytest

from benchmark import cost
from benchmark.facts import CONFIGS
from benchmark.grid import read_grid
from dassl.errors import UserError

PAGE = (CONFIGS.parent / "docs/reproduce.md").read_text(encoding="utf-8")
GRIDS = sorted(path for path in CONFIGS.glob("grids/*.yaml") if path.stem not in ("demo", "icons"))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_what_a_grid_costs(path):
    """As its first lines and docs/reproduce.md say."""
    try:
        counted = str(sum(cost.of_grid(read_grid(path)).values(), cost.Cost()))
    except UserError as error:
        counted = f"not counted: {error}"
    head = re.split(r"^(?!#)", path.read_text(encoding="utf-8"), maxsplit=1, flags=re.MULTILINE)[0]
    assert f"Costs: {counted}." in re.sub(r"\n#\s*", " ", head)
    assert f"    python -m benchmark run {path.stem}\n\nCosts: {counted}.\n" in PAGE


def test_expected_figures():
    """Every row of a table in docs/reproduce.md is a row of report/published."""
    files = CONFIGS.parent.glob("report/published/*.csv")
    known = [[*row.values()] for file in files for row in csv.DictReader(file.open())]
    told = re.findall(r"^\| (?!method|average of|---)(.*) \|$", PAGE, re.MULTILINE)
    assert len(told) > 60
    for line in told:
        words = [
            word for cell in line.split(" | ") for word in (cell.split("; ") if re.search(r"\d; ", cell) else [cell])
        ]
        figures = {figure for word in words for figure in re.findall(r"(?:^|\s)(\d+\.\d+)$", word)}
        own = {figure for row in known if row.count(words[0]) for figure in row}
        assert figures and figures <= own, line
