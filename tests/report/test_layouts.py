"""Tables as text: what is bold, what stands beside it, and that LaTeX takes it."""

import csv
import io
import shutil
import subprocess

import pytest

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
    header, zero_shot, coop, mocoop = rows(text, "dtd, 16 shots")
    assert header == ["method", *(x for c in ("base", "new", "H") for x in (c, "published", "difference")), "seeds"]
    assert coop[:7] == ["CoOp", "79.50 ± 0.50", "79.44", "+0.06", "41.00 ± 1.00", "41.18", "-0.18"]
    assert mocoop[:4] == ["MoCoOp", "**81.00**", "", ""] and mocoop[-1] == "1"
    assert zero_shot[4:6] == ["**60.00**", "59.90"]
    assert "Published: CoCoOp, CVPR 2022, Table 1" in text

    header, *_ = rows(text, "icons_rare, 16 shots")
    assert header == ["method", "base", "new", "H", "seeds"], "nothing is published of it"
    _, _, coop, mocoop = rows(text, "average over 3 datasets, 16 shots")
    assert coop[1] == "**79.50** ± 0.50" and mocoop[1] == "81.00 (2 of 3)"
    assert layouts.PARTIAL in text
    assert "Not compared: ZeroshotCLIP: here for icons_rare, published for 12 others; CoOp: here for icons" in text


def test_terminal(summaries):
    assert "*81.00*" in layouts.text(summaries, ansi=False)
    assert "\033[1m81.00\033[0m" in layouts.text(summaries, ansi=True)


def test_csv_has_every_cell(summaries):
    lines = list(csv.DictReader(io.StringIO(layouts.csv(summaries))))
    assert len(lines) == 3 * (3 + 3 + 2 + 3)
    (line,) = [x for x in lines if (x["dataset"], x["method"], x["column"]) == ("dtd", "CoOp", "new")]
    assert (float(line["mean"]), float(line["std"]), line["seeds"], line["published"]) == (41, 1, "2", "41.18")


def test_latex(summaries, tmp_path):
    cells = summaries["base2new"]
    odd = cells.method.replace("MoCoOp", r"a_b & 50% #1 {x} ~^\y")
    text = layouts.latex({"base2new": cells.assign(method=odd)})
    assert text.count("\\begin{table}") == text.count("\\bottomrule") == 4
    assert r"CoOp & 79.50 $\pm$ 0.50 & 79.44 & +0.06 & 41.00 $\pm$ 1.00" in text and r"\textbf{81.00}" in text
    for body in text.split("\\midrule")[1:]:
        lines = body.split("\\bottomrule")[0].strip().splitlines()
        assert len({line.replace(r"\&", "").count("&") for line in lines}) == 1
        assert all(line.endswith(r"\\") for line in lines)
    if shutil.which("pdflatex") is None:
        return
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n%s\\end{document}\n"
    (tmp_path / "tables.tex").write_text(document % text, encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=batchmode", "tables.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert "Error" not in (tmp_path / "tables.log").read_text(errors="replace")
