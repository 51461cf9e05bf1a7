"""Tables as text: what is bold, what stands beside it, and that LaTeX takes it."""

import csv
import io
import re
import shutil
import subprocess

import pytest

from benchmark.protocols import PROTOCOLS
from report import layouts, results, summary


@pytest.fixture
def summaries(base2new, tmp_path):
    """Base-to-new of three methods, one of them on two datasets only; dtd beside published figures."""
    backbone = "ViT-B/16"
    for dataset in ("dtd", "icons_rare", "eurosat"):
        base2new(dataset, "CoOp", 79, 40, seed=1, backbone=backbone)
        base2new(dataset, "CoOp", 80, 42, seed=2, backbone=backbone)
        base2new(dataset, "ZeroshotCLIP", 50, 60, backbone=backbone)
        if dataset != "eurosat":
            base2new(dataset, "MoCoOp", 81, 50, backbone=backbone)
    return summary.summaries(results.read(tmp_path / "runs"))


def rows(text, title):
    """The cells of the Markdown table below a title."""
    lines = text.split(f"### {title}\n\n")[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|:")]


def test_markdown(summaries):
    text = layouts.markdown(summaries)
    assert text.startswith("## Base-to-new generalisation\n")
    header, zero_shot, of_clip, coop, of_coop, mocoop = rows(text, "dtd, 16 shots")
    assert header == ["method", "base", "new", "H"] and layouts.SEEDS.format(2) in text
    assert coop[:3] == ["CoOp", "79.50 ± 0.50", "41.00 ± 1.00"]
    assert of_coop[:3] == ["published", "79.44 (+0.06)", "41.18 (-0.18)"]
    assert mocoop[:2] == ["MoCoOp", "**81.00**"]
    assert zero_shot[2] == "**60.00**" and of_clip[2] == "59.90 (+0.10)"
    assert "Published, and in brackets how far ours are above: CoCoOp, CVPR 2022, Table 1" in text

    header, *lines = rows(text, "icons_rare, 16 shots")
    assert header == ["method", "base", "new", "H"] and len(lines) == 3, "nothing is published of it"
    _, _, coop, mocoop = rows(text, "average over 3 datasets, 16 shots")
    assert coop[1] == "**79.50** ± 0.50" and mocoop[1] == "81.00 (2 of 3)"
    assert layouts.PARTIAL in text
    assert "Not compared: ZeroshotCLIP, CoOp: here for icons_rare, published for 12 others" in text


def test_one_seed_and_what_was_not_run(put, tmp_path):
    """No column of seeds, no deviation, and a dash where there is no figure."""
    put("caltech101/CoOp/c_1shots/seed1", 40)
    put("caltech101/CoOp/c_16shots/seed1", 60)
    put("caltech101/KgCoOp/c_16shots/seed1", 70)
    one_seed = summary.summaries(results.read(tmp_path / "runs"))
    for text in (layouts.markdown(one_seed), layouts.text(one_seed), layouts.latex(one_seed)):
        assert layouts.ONE_SEED in text and "seeds" not in text and "±" not in text and "pm$" not in text
    assert rows(layouts.markdown(one_seed), "caltech101") == [
        ["method", "1-shot", "16-shot"],
        ["CoOp", "40.00", "60.00"],
        ["KgCoOp", "-", "**70.00**"],
    ]


def test_different_numbers_of_seeds(put, tmp_path):
    for trainer, seeds in (("CoOp", 2), ("KgCoOp", 3), ("MoCoOp", 1)):
        for seed in range(seeds):
            put(f"caltech101/{trainer}/c_16shots/seed{seed}", 40 + seed)
            put(f"dtd/{trainer}/c_16shots/seed{seed}", 40 + seed) if trainer == "CoOp" else None
    text = layouts.markdown(summary.summaries(results.read(tmp_path / "runs")))
    assert [row[-1] for row in rows(text, "caltech101")] == ["seeds", "2", "1", "3"] and layouts.UNITS in text
    assert [row[-1] for row in rows(text, "dtd")] == ["16-shot", "40.50 ± 0.50"] and "Over 2 seeds." in text


def test_terminal(summaries):
    assert "*81.00*" in layouts.text(summaries, ansi=False)
    assert "\033[1m81.00\033[0m" in layouts.text(summaries, ansi=True)


def test_csv_has_every_cell(summaries):
    lines = list(csv.DictReader(io.StringIO(layouts.csv(summaries))))
    assert len(lines) == 3 * (3 + 3 + 2 + 3)
    (line,) = [x for x in lines if (x["dataset"], x["method"], x["column"]) == ("dtd", "CoOp", "new")]
    assert (float(line["mean"]), float(line["std"]), line["seeds"], line["published"]) == (41, 1, "2", "41.18")


def test_latex(summaries):
    text = layouts.latex(summaries)
    assert text.count("\\begin{table}") == 4
    assert r"CoOp & 79.50 $\pm$ 0.50 & 41.00 $\pm$ 1.00" in text and r"\textbf{81.00}" in text
    assert r"published & 79.44 (+0.06) & 41.18 ($-$0.18)" in text
    labels = re.findall(r"\\label\{tab:(.*)\}", text)
    assert len(set(labels)) == 4 and "base2new-dtd-16-shots" in labels


def test_wide_tables_are_split_in_latex(put, tmp_path):
    """Transfers to ten data sets: three tabulars below each other, each with its methods, that compile."""
    for seed in (1, 2):
        for trainer in ("CoOp", "KgCoOp"):
            put(f"imagenet/{trainer}/c_16shots/seed{seed}", 70 + seed)
            for target in PROTOCOLS["cross_dataset"].targets["imagenet"]:
                put(f"evaluation/{trainer}/c_16shots/{target}/seed{seed}", 60 + seed)
    found = summary.summaries(results.read(tmp_path / "runs"))
    text = layouts.latex({"cross_dataset": found["cross_dataset"]})
    parts = re.findall(r"begin\{tabular\}\{(l[lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert [len(columns) for columns, _ in parts] == [5, 5, 5] and text.count("\\label") == 1
    for _, body in parts:
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert all(line.count(" & ") == 4 for line in lines)
        assert [line.split()[0] for line in lines if "pm" in line] == ["CoOp", "KgCoOp"]
    assert set(re.findall(r"Overfull \\hbox.*", compiled(text, tmp_path))) == set()


def compiled(text, folder):
    """The log of a two-column paper with those tables."""
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is not at hand: apt-get install texlive-latex-recommended")
    packages = "\\documentclass[twocolumn]{article}\\usepackage{booktabs,graphicx}"
    document = packages + "\\begin{document}\n%s\\end{document}\n"
    (folder / "tables.tex").write_text(document % text, encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "tables.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout
