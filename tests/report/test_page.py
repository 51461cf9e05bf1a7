"""The report as a whole: its files, and the page that loads nothing from elsewhere."""

import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from benchmark.__main__ import main
from learned.pictures import HEADING, THUMBNAIL


class Page(HTMLParser):
    """Checks that elements close, and collects what a browser would load and the tables' words."""

    VOID = ("meta", "img", "link", "br", "wbr")

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.images, self.words, self.ids, self.uses = [], [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "iframe", "object")
        attrs = dict(attrs)
        self.loads += [attrs[name] for name in ("src", "srcset", "data", "poster") if name in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag == "img":
            self.images.append(attrs["alt"])
        if "href" in attrs:
            assert attrs["href"].startswith("#")
            self.uses.append(attrs["href"][1:])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_data(self, data):
        self.words.append(data)
        if self.open[-1:] == ["title"]:
            self.images.append(data)


@pytest.fixture
def runs(base2new, tmp_path):
    for dataset in ("dtd", "icons_rare"):
        for seed in (1, 2):
            base2new(dataset, "CoOp", 60 + seed, 40, seed=seed, backbone="ViT-B/16", train_seconds=7.0)
            base2new(dataset, "MoCoOp", 60 + 3 * seed, 40, seed=seed, expert_usage=[1, 0], train_seconds=9.0)
    return tmp_path / "runs"


def test_report(runs, capsys):
    assert main(["report", str(runs), "--compare", "MoCoOp", "CoOp", "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    folder = runs / "report"
    assert out.startswith("protocol,dataset,") and out.strip() == (folder / "tables.csv").read_text().strip()
    assert "MoCoOp against CoOp" in err and f"written: {folder / 'report.html'}" in err
    names = {str(path.relative_to(folder)) for path in folder.rglob("*.*")}
    drawn = {f"figures/{name}.{kind}" for name in ("base_new", "base2new_expert_usage") for kind in ("svg", "png")}
    assert names == {"report.html", "tables.csv", "tables.md", "tables.tex"} | drawn

    page = (folder / "report.html").read_text(encoding="utf-8")
    found = Page(page)
    assert not found.loads and not re.search(r"@import|url\((?!#)|https?:|<image", page)
    assert len(set(found.ids)) == len(found.ids) and set(found.uses) <= set(found.ids), "figures do not get mixed up"
    assert not re.search(r"#[0-9a-f]{6}\b", page.partition("</style>")[2]), "no colour but those of look.css"
    assert "Expert usage of MoCoOp: icons_rare, 16 shots" in found.images
    text = " ".join("".join(found.words).split())
    for words in ("61.50 ± 0.50 79.44 (-17.94)", "paired t", "MoCoOp against CoOp", "trainable parameters", "2 seeds."):
        assert words in text


def test_a_grid_has_its_own_runs_and_names(put, tmp_path, capsys):
    grid = tmp_path / "few.yaml"
    grid.write_text(
        "protocol: few_shot\ndatasets: caltech101\nshots: 4\nseeds: [1, 2]\n"
        "methods: [{trainer: CoOp, config: vit_b16, name: ours}]\n"
    )
    put("caltech101/CoOp/vit_b16_4shots/seed1", 71)
    put("caltech101/CoOp/vit_b16_8shots/seed1", 99)
    assert main(["report", str(grid), "--output", str(tmp_path / "runs"), "--format", "markdown"]) == 0
    assert "| ours     | 71.00 |" in re.sub(" +71", " 71", capsys.readouterr().out)
    page = (tmp_path / "runs" / "report" / "few" / "report.html").read_text(encoding="utf-8")
    assert "<dd>1 finished</dd>" in page and "99.00" not in page
    assert "<dd>1: ours 1</dd>" in page, "seed 2 is not finished"


def test_examples_of_experts(toy_run, tmp_path):
    toy_run("MoCoOp", str(tmp_path / "runs" / "caltech101/MoCoOp/vit_b16_ep50_4shots/seed1"), "OPTIM.MAX_EPOCH", 1)
    assert main(["report", str(tmp_path / "runs"), "--examples", "2"]) == 0
    folder = tmp_path / "runs" / "report"
    with Image.open(folder / "figures" / "few_shot_experts_caltech101.jpg") as picture:
        assert picture.height > 5 * HEADING + THUMBNAIL, "a row for each expert"
    found = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert "Images that each expert prefers: caltech101" in found.images
    assert sum(source.startswith("data:image/jpeg;base64,") for source in found.loads) == 1


@pytest.mark.parametrize(("other", "told"), [("CoOp", "1 of the 3"), ("KgCoOp", "0 of the 3")])
def test_a_report_without_enough_pairs(other, told, base2new, tmp_path, capsys):
    base2new("dtd", "CoOp", 60, 50)
    base2new("dtd", "MoCoOp", 61, 51)
    base2new("eurosat", "KgCoOp", 61, 51)
    assert main(["report", str(tmp_path / "runs"), "--compare", "MoCoOp", other]) == 0
    assert f"not tested: {told} pairs needed" in capsys.readouterr().out
    page = (tmp_path / "runs/report/report.html").read_text(encoding="utf-8")
    assert f"not tested: {told} pairs needed" in page and 'href="#tests"' in page
    assert "nan" not in "".join(Page(page).words)


def test_names_are_escaped(runs, tmp_path, capsys):
    odd = tmp_path / "<b>&runs"
    runs.rename(odd)
    assert main(["report", str(odd), "--out", str(tmp_path / "there")]) == 0
    assert "&lt;b&gt;&amp;runs</dd>" in (tmp_path / "there" / "report.html").read_text(encoding="utf-8")
    assert not (odd / "report").exists()
    assert "*" in capsys.readouterr().out


def test_refuses_in_a_line_and_writes_nothing(runs, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["report", str(empty)]) == 1 and not list(empty.iterdir())
    assert main(["report", str(runs), "--compare", "MoCoOp", "CoOpp"]) == 1 and not (runs / "report").exists()
    assert main(["report", str(tmp_path / "nowhere")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("error: no ") for line in lines)
