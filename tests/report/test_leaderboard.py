"""The leaderboard: what is ranked and what is not, as plain tables and, where a browser is at hand, as shown there."""

import datetime
import re
import shutil
import subprocess
from html.parser import HTMLParser
from urllib.parse import urlencode

import pytest

from benchmark.__main__ import main
from report import leaderboard
from tests.report.test_escaping import CONTROL, TOGETHER


class Tables(HTMLParser):
    """The rows that are shown of the sections that are shown: {caption: [cells' words]}."""

    def __init__(self, text):
        super().__init__()
        self.found, self.caption, self.row, self.words, self.bold = {}, None, None, [], []
        self.section = self.hidden = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        if tag == "section":
            self.section = "hidden" not in names
        if tag in ("caption", "td", "th", "tr", "b"):
            self.words = self.words if tag == "b" else []
            self.hidden = "hidden" in names if tag != "b" else self.hidden
        if tag == "tr" and self.section and "hidden" not in names:
            self.row = []
        self.bold = [*self.bold, tag] if tag == "b" else self.bold

    def handle_data(self, data):
        self.words.append(f"*{data}*" if self.bold else data)

    def handle_endtag(self, tag):
        text = " ".join("".join(self.words).split())
        if tag == "b":
            self.bold.pop()
        elif tag == "caption" and self.section:
            self.caption, self.found[text] = text, []
        elif tag in ("td", "th") and self.row is not None and not self.hidden:
            self.row.append(text)
        elif tag == "tr" and self.row is not None:
            self.found[self.caption].append(self.row)
            self.row = None


@pytest.fixture
def runs(base2new, tmp_path):
    """CoOp and KgCoOp on two data sets and two seeds, MoCoOp on one; dtd has published figures of CoOp's."""
    for dataset in ("dtd", "icons_rare"):
        for seed in (1, 2):
            base2new(dataset, "CoOp", 79 + seed, 40, seed=seed, backbone="ViT-B/16")
            base2new(dataset, "KgCoOp", 70 + seed, 60, seed=seed, backbone="ViT-B/16")
    base2new("dtd", "MoCoOp", 99, 99, backbone="ViT-B/16")
    base2new("dtd", "CoOp", 50, 30, seed=3, backbone="RN50")
    return tmp_path / "runs"


def test_plain_tables(runs, tmp_path, capsys):
    out = tmp_path / "there" / "board.html"
    assert main(["leaderboard", str(runs), str(runs / "base2new"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"written: {out}, 3 tables\n"
    page = out.read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)=|@import|url\(|https?://""", page), "loads nothing"
    found = Tables(page).found
    assert list(found) == ["16 shots, H", "16 shots, base", "16 shots, new"], "what decides is the first"
    assert found["16 shots, base"] == [
        ["rank", "method", "backbone", "average", "dtd", "icons_rare", "seeds"],
        ["1", "CoOp", "ViT-B/16", "*80.50* ± 0.50", "80.50 ± 0.50 79.44 (+1.06)", "*80.50* ± 0.50", "2"],
        ["2", "KgCoOp", "ViT-B/16", "71.50 ± 0.50", "71.50 ± 0.50", "71.50 ± 0.50", "2"],
        ["-", "CoOp", "RN50", "-", "50.00", "-", "1"],
        ["-", "MoCoOp", "ViT-B/16", "99.00 (1 of 2)", "*99.00*", "-", "1"],
    ]


def test_zero_shot_stands_beside_every_number_of_shots(put, tmp_path):
    put("dtd/ZeroshotCLIP/c/seed1", 40)
    put("dtd/CoOp/c_1shots/seed1", 30)
    put("dtd/CoOp/c_16shots/seed1", 60)
    found = leaderboard.boards(leaderboard.gather([str(tmp_path / "runs")]))
    assert [(board.setting, board.main) for board in found] == [("16 shots", True), ("1 shot", False)]
    assert [[line.method for line in board.lines] for board in found] == [
        ["CoOp", "ZeroshotCLIP"],
        ["ZeroshotCLIP", "CoOp"],
    ]


def test_transfers_and_the_same_run_in_two_places(put, tmp_path):
    """Two outputs that each trained CoOp: both are there, by the names of their folders."""
    for place in ("mine", "yours"):
        put(f"{place}/imagenet/CoOp/c_16shots/seed1", 70)
        for target in ("imagenetv2", "imagenet_a", "imagenet_r", "imagenet_sketch"):
            put(f"{place}/evaluation/CoOp/c_16shots/{target}/seed1", 60)
    folders = [str(tmp_path / "runs" / place) for place in ("mine", "yours")]
    (shots, *others) = leaderboard.boards(leaderboard.gather([*folders, folders[0]]))
    for board in (shots, *others):
        assert [line.method for line in board.lines] == [f"CoOp (c) [{folder}]" for folder in folders]
        assert {line.rank for line in board.lines} == {1}, "they tie"
    assert others[0].columns[:2] == ["average", "imagenet"] and others[0].setting == "16 shots of imagenet"


def test_places_of_one_name(put, tmp_path):
    """Grids of the same file name, each with its own runs, one of them given twice."""
    places = []
    for place, accuracy in (("a", 60), ("b", 70)):
        put(f"{place}/caltech101/CoOp/vit_b16_4shots/seed1", accuracy)
        (tmp_path / place).mkdir()
        grid = tmp_path / place / "main.yaml"
        grid.write_text(
            f"protocol: few_shot\noutput: {tmp_path / 'runs' / place}\ndatasets: caltech101\nshots: 4\nseeds: 1\n"
            "methods: [{trainer: CoOp, config: vit_b16, name: ours}]\n"
        )
        places.append(str(grid))
    (board,) = leaderboard.boards(leaderboard.gather([*places, places[0]]))
    assert [line.method for line in board.lines] == [f"ours [{places[1]}]", f"ours [{places[0]}]"]


def test_data_sets_that_no_protocol_names_are_in_order(base2new, tmp_path):
    names = ["zebras", "yaks", "dtd", "mice", "ants", "voles"]
    for name in names:
        base2new(name, "CoOp", 60, 60)
    board, *_ = leaderboard.boards(leaderboard.gather([str(tmp_path / "runs")]))
    assert board.columns == ["average", "dtd", "ants", "mice", "voles", "yaks", "zebras"]


def test_what_the_page_says_of_its_runs(base2new, tmp_path, capsys):
    for i in range(11):
        base2new("dtd", "CoOp", 60, 60, backbone=f"net{i}", seed=i + 1, inputs={"code": {"commit": "c" * 40}})
    out = tmp_path / "board.html"
    assert main(["leaderboard", str(tmp_path / "runs"), "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    assert "1 method, 1 data set, 11 backbones, 22 finished runs in" in page
    assert f"Written: {datetime.date.today()}. Code: commit {'c' * 12}." in " ".join(page.split())


def test_one_table(put, tmp_path, capsys):
    put("dtd/CoOp/c_16shots/seed1", 60)
    out = tmp_path / "board.html"
    assert main(["leaderboard", str(tmp_path / "runs"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"written: {out}, 1 table\n"
    assert "1 method, 1 data set, backbone icon-clip, 1 finished run in" in out.read_text(encoding="utf-8")


def test_names_may_be_anything(base2new, tmp_path):
    for name in [*TOGETHER, "</script><script>alert(1)</script>"]:
        for trainer in ("CoOp", "MoCoOp"):
            base2new(name.replace("/", "\u2215"), trainer, 60, 40, backbone="</script>")
    assert main(["leaderboard", str(tmp_path / "runs"), "--out", str(tmp_path / "board.html")]) == 0
    page = (tmp_path / "board.html").read_text(encoding="utf-8")
    assert page.count("<script") == page.count("</script") == 1 and not CONTROL.search(page)


def test_nothing_to_show(tmp_path, capsys):
    assert main(["leaderboard", str(tmp_path), "--out", str(tmp_path / "board.html")]) == 1
    assert main(["leaderboard", str(tmp_path / "nowhere")]) == 1
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["error", "error"]
    assert not list(tmp_path.iterdir())


def shown(page, tmp_path, **state):
    """The tables as a browser shows them."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
    command += [f"--user-data-dir={tmp_path / 'browser'}", f"file://{page}#{urlencode(state)}"]
    return Tables(subprocess.run(command, capture_output=True, text=True, timeout=60).stdout).found


def test_in_a_browser(runs, tmp_path):
    if not shutil.which("chromium"):
        pytest.skip("chromium is not at hand")
    page = tmp_path / "board.html"
    assert main(["leaderboard", str(runs), "--out", str(page)]) == 0
    (begins,) = shown(page, tmp_path)
    assert begins == "16 shots, H"
    found = shown(page, tmp_path, protocol="base2new", setting="16 shots", figure="base", sort="dtd", order="down")
    assert [row[4].split()[0] for row in found["16 shots, base"][1:]] == ["*99.00*", "80.50", "71.50", "50.00"]
    found = shown(page, tmp_path, protocol="base2new", figure="base", method="kgc")
    assert [row[:2] for row in found["16 shots, base"][1:]] == [["1", "KgCoOp"]]
    found = shown(page, tmp_path, figure="", data="icons_rare", backbone="ViT-B/16", sort="icons_rare", order="up")
    assert list(found) == ["16 shots, H", "16 shots, base", "16 shots, new"]
    assert found["16 shots, base"] == [
        ["rank", "method", "backbone", "icons_rare", "seeds"],
        ["2", "KgCoOp", "ViT-B/16", "71.50 ± 0.50", "2"],
        ["1", "CoOp", "ViT-B/16", "*80.50* ± 0.50", "2"],
    ]


def test_names_that_begin_with_a_number_are_sorted_as_names(tmp_path, put):
    if not shutil.which("chromium"):
        pytest.skip("chromium is not at hand")
    grid, names = tmp_path / "few.yaml", ["10-stage", "2-stage", "whole"]
    methods = []
    for config, name in zip(("rn50", "rn101", "vit_b16"), names, strict=True):
        put(f"caltech101/CoOp/{config}_4shots/seed1", 60)
        methods.append(f"{{trainer: CoOp, config: {config}, name: {name}}}")
    grid.write_text(
        f"protocol: few_shot\noutput: {tmp_path / 'runs'}\ndatasets: caltech101\nshots: 4\nseeds: 1\n"
        f"methods: [{', '.join(methods)}]\n"
    )
    page = tmp_path / "board.html"
    assert main(["leaderboard", str(grid), "--out", str(page)]) == 0
    for order, expected in (("up", names), ("down", names[::-1])):
        (found,) = shown(page, tmp_path, sort="method", order=order).values()
        assert [row[1] for row in found[1:]] == expected
