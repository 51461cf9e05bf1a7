"""Names may be anything: in no document do they become a part of it, and no terminal or spreadsheet obeys them."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmark.__main__ import main
from benchmark.speed import table as speed
from dassl.errors import printable
from learned import explain
from learned.predict import as_csv, as_json, as_table
from mocoop import escape
from report import layouts, results, summary
from tests.report.test_layouts import compiled

HOSTILE = [
    *("<script>alert(1)<", "a|b`c", "$x$ 50% & #1_{2}~^", "=1+1", "+x", "-x", "@x", "[x](y) *z* _w_", "{}"),
    *("\x1b[31mred", "a\nb", "\t=1", "a\rb", "\u202egnp", "\udcff", 'a"b', "a'b,c;d", "font: 1px z"),
]
TOGETHER = [
    "=1+1 <script>alert(1)< a|b`c",
    "[x](y) *z* _w_ $x$ 50% & #1_{2}~^{}",
    '@x\x1b[31m a\nb\tc\rd \u202e\udcff" font: 1px z #1439b6 id="a" xlink:href',
]
"""All of it in the names of three data sets: figures take their time."""

CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]")


@pytest.fixture(params=HOSTILE, ids=ascii)
def name(request):
    return request.param


@pytest.fixture
def folder(base2new, tmp_path):
    """Runs of two methods on data sets of those names."""
    for name in TOGETHER:
        for i, trainer in enumerate(("CoOp", "MoCoOp")):
            more = {"expert_usage": [1.0, 0.0], "expert_names": [name, name], name: 0.5}
            base2new(name, trainer, 60 + i, 40, **more)
    return tmp_path / "runs"


class Words(HTMLParser):
    """The elements, the figures and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = set(), ""
        self.svgs = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def test_a_report(folder, capsys):
    assert main(["report", str(folder), "--compare", "MoCoOp", "CoOp"]) == 0
    assert not CONTROL.search(capsys.readouterr().out)
    out = folder / "report"
    text = {path.name: path.read_text(encoding="utf-8") for path in out.glob("*.*")}
    assert len(text) == 4 and not any(CONTROL.search(each) for each in text.values())

    page = Words(text["report.html"])
    assert all(printable(name) in page.text for name in TOGETHER) and not {"script", "image"} & page.tags
    labels = {text.text for svg in page.svgs for text in ElementTree.fromstring(svg).iter("text")}
    assert all(any(printable(name) in label for label in labels) for name in TOGETHER)
    drawn = (out / "figures" / "base_new.svg").read_text(encoding="utf-8")
    words = "".join(ElementTree.fromstring(drawn).itertext())
    assert all(printable(name) in words for name in TOGETHER), "as they are, and not as mathematics"

    rows = list(csv.reader(io.StringIO(text["tables.csv"])))
    column = {row[rows[0].index("dataset")] for row in rows[1:]}
    assert column == {"average", *map(escape.csv, TOGETHER)} and not any(x.startswith(escape.FORMULA) for x in column)
    assert all(float(row[rows[0].index("mean")]) > 0 for row in rows[1:])

    lines = text["tables.md"].splitlines()
    assert "<" not in text["tables.md"] and sum(line.startswith("#") for line in lines) == 2 + len(TOGETHER)
    table = [re.findall(r"(?<!\\)\|", line) for line in lines if line.startswith("|")]
    assert len({len(bars) for bars in table}) == 1
    assert latex_is_sound(text["tables.tex"])


def latex_is_sound(text):
    """Braces match, and of the special characters only those stand alone that we write; compiled too, if it can be."""
    text = text.removeprefix(layouts.LATEX_HEAD)
    bare = re.sub(r"\\[\\&%$#_{}]|\$(\\pm|-)\$|^% .*$", "", text, flags=re.MULTILINE)
    assert not re.search(r"[#%$_^~|<>]", bare)
    depth = 0
    for c in re.sub(r"\\[{}]", "", text):
        depth += (c == "{") - (c == "}")
        assert depth >= 0
    return depth == 0 and not re.search(r"\\\\\s*[\[*]", text)


def test_results_on_the_console_and_in_a_file(folder, tmp_path, capsys):
    assert main(["results", str(folder)]) == 0
    assert main(["table", str(folder)]) == 0
    assert not CONTROL.search(capsys.readouterr().out)
    assert main(["results", str(folder), "--csv", str(tmp_path / "runs.csv")]) == 0
    with open(tmp_path / "runs.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for found in ({row["dataset"] for row in rows}, set(rows[0])):
        assert found.issuperset(map(escape.csv, TOGETHER)) and not any(x.startswith(escape.FORMULA) for x in found)
    assert {row["accuracy"] for row in rows} == {"60.0", "61.0", "40.0"}


def test_methods_by_that_name(base2new, tmp_path, name):
    base2new("dtd", "CoOp", 60, 40)
    runs = results.read(tmp_path / "runs")
    summaries = summary.summaries(runs.assign(method=printable(name)))
    for table in (layouts.text(summaries), layouts.markdown(summaries)):
        assert not CONTROL.search(table) and "<script" not in layouts.markdown(summaries)
    assert latex_is_sound(layouts.latex(summaries))


def test_what_a_run_has_learned(name, tmp_path, capsys):
    labels = np.array([0, 0, 1])
    found = explain.classes(labels, labels[::-1], labels, [name, "dog"])
    found.show(tmp_path)
    assert not CONTROL.search(capsys.readouterr().out)
    rows = list(csv.reader((tmp_path / "classes.csv").open(encoding="utf-8", newline="")))
    assert [escape.csv(name)] in [row[:1] for row in rows] and {row[-1] for row in rows[1:]} == {"-50.0", "-100.0"}


def test_predictions(name, capsys):
    predictions = [(name, [(name, 0.75), ("dog", 0.25)])]
    as_table(predictions, 8)
    as_csv(predictions, 8)
    as_json(predictions, 8)
    out = capsys.readouterr().out
    assert not CONTROL.search(out)
    assert json.loads(out[out.index("[\n{") :])[0]["image"] == name
    assert f"{escape.csv(name)}" in next(csv.reader(io.StringIO(out.split("probability\n")[1])))


def test_the_table_of_speed(name):
    text = speed.markdown(["method", "what"], [[name, "step"]], [f"made of {name}"])
    assert "<script" not in text and not CONTROL.search(text) and len(text.splitlines()) == 5


def test_numbers_stay_numbers():
    assert [escape.csv(x) for x in (-1.5, "-1.5", "+2", None, "a=b", "-")] == [-1.5, "-1.5", "+2", None, "a=b", "'-"]


def test_latex_compiles(base2new, tmp_path):
    for i, name in enumerate(HOSTILE):
        base2new(name, "CoOp", 60 + i, 40)
    compiled(layouts.latex(summary.summaries(results.read(tmp_path / "runs"))), tmp_path)
