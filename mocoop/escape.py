"""Text from data and configs, which may be anything, as a part of a document that keeps its meaning.

HTML is jinja's business, which escapes by itself, and SVG matplotlib's, told to parse no mathematics.
"""

import re
from collections.abc import Iterable
from typing import Any

from dassl.errors import printable

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
_LATEX |= {"[": "{[}", "*": "{*}"}  # behind the end of a row they are its arguments
_LATEX_TABLE = str.maketrans(_LATEX | {c: f"\\{c}" for c in "&%$#_{}"})

FORMULA = tuple("=+-@＝＋－＠")
"""What a cell begins with that spreadsheets compute."""


def latex(text: object) -> str:
    """Text for LaTeX, outside mathematics."""
    return printable(text).translate(_LATEX_TABLE)


def markdown(text: object) -> str:
    """Text for a heading, a line or a table's cell in Markdown, which may have HTML in it."""
    text = re.sub(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", printable(text))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def csv(value: Any) -> Any:
    """A cell of a CSV file: text that a spreadsheet would take for a formula begins with an apostrophe."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) and not _is_number(text) else text


def csv_rows(rows: Iterable[Iterable[Any]]) -> list[list[Any]]:
    """Rows of such cells."""
    return [[csv(value) for value in row] for row in rows]


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
