"""The docs as a site: nothing broken, nothing from a network, equations without a script."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPO

for package in ("material", "latex2mathml"):
    pytest.importorskip(package)


def build(folder, out):
    """The exit status of a strict build, and what it says."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", folder / "mkdocs.yml", "-d", out]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr


def test_the_site(tmp_path):
    status, told = build(REPO, tmp_path)
    assert status == 0, told
    pages = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")]
    assert len(pages) > 30 and any("<math " in page for page in pages)
    fetched = [link for page in pages for link in re.findall(r"<(?:script|link|img)[^>]*https?://[^>]*>", page)]
    assert not fetched and not list(tmp_path.rglob("*.py"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a](../README.md), $x_1 < 2$ and `$HOME`\n\n- b\n", ""),
        ("[a](nothing.md)\n", "nothing.md"),
        ("[a](../nothing.py)\n", "../nothing.py, which is not there"),
        ("[a](#nowhere)\n", "#nowhere"),
        ("Words\n- b\n", "a list needs an empty line before it"),
        ("$\\nosuchthing x$\n", "\\nosuchthing"),
    ],
)
def test_what_fails_a_build(text, told, tmp_path):
    (tmp_path / ".ci").mkdir()
    (tmp_path / "docs").mkdir()
    shutil.copy(REPO / ".ci" / "site.py", tmp_path / ".ci")
    settings = "site_name: a\nhooks: [.ci/site.py]\nvalidation: {links: {anchors: warn}}\n"
    (tmp_path / "mkdocs.yml").write_text(settings)
    (tmp_path / "README.md").write_text("")
    (tmp_path / "docs" / "index.md").write_text(f"# A\n\n{text}")
    status, said = build(tmp_path, tmp_path / "site")
    assert (status != 0) == bool(told) and told in said, said
    if not told:
        page = (tmp_path / "site" / "index.html").read_text()
        assert "<span>a (<code>README.md</code>)</span>, <math " in page and "<code>$HOME</code>" in page


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_of_pages_outside_the_site(name):
    links = re.findall(r"\]\((?!http)([^)#]+)", (REPO / name).read_text(encoding="utf-8"))
    assert links and not [link for link in links if not (REPO / link).exists()]
