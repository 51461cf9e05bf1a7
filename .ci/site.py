"""What `make docs` does beside mkdocs: equations without a script, and links to files that are no page of the site.

mkdocs.yml names it as a hook. Pages are written for GitHub, where both work as they stand.
"""

import logging
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.treeprocessors import Treeprocessor

logger = logging.getLogger("mkdocs.hooks.site")  # a warning fails a strict build
REPO = Path(__file__).resolve().parents[1]
DISPLAY = r"(?<![\\$])\$\$(?!\$)(.+?)\$\$"
INLINE = r"(?<![\\$])\$(?![\s$])((?:[^$\\]|\\.)+?)(?<!\s)\$(?!\d)"
LOG = re.compile("<mi>log</mi>(?!<mo)")  # browsers leave no space around it
SPACE = '<mspace width="0.17em" />'
CODE = re.compile(r"^(`{3,}).*?^\1|^(?: {4}|\t)[^\n]*", re.MULTILINE | re.DOTALL)
TIGHT = re.compile(r"^(?!\s|[-*+>|#] |\d+\. |<).*\S\n(?:[-*+]|\d+\.) ", re.MULTILINE)


class Equation(InlineProcessor):
    """$...$ or $$...$$, outside of code, as MathML."""

    def __init__(self, pattern: str, md: Markdown, display: str) -> None:
        super().__init__(pattern, md)
        self.display = display

    def handleMatch(self, m, data):  # noqa: N802  the name is Markdown's
        mathml = convert(m[1].strip(), display=self.display)
        if unknown := re.search(r"\\\w+", mathml):
            logger.warning("latex2mathml does not know %s, in $%s$", unknown[0], m[1])
        mathml = LOG.sub(f"{SPACE}<mi>log</mi>{SPACE}", mathml)
        return self.md.htmlStash.store(mathml), m.start(0), m.end(0)


class Outside(Treeprocessor):
    """Links to files of the project that are no pages become their text with the file's path."""

    page = REPO / "docs" / "index.md"

    def run(self, root):
        for link in root.iter("a"):
            path = link.get("href", "").partition("#")[0]
            if not path.startswith("../"):
                continue
            target = (self.page.parent / path).resolve()
            if target.is_relative_to(REPO / "docs"):
                continue
            if not target.is_relative_to(REPO) or not target.exists():
                logger.warning("%s links to %s, which is not there", self.page.name, path)
            show(link, str(target.relative_to(REPO)) if target.is_relative_to(REPO) else path)


def show(link: ET.Element, path: str) -> None:
    """What a link says, with a path of the project's behind it unless it says the path."""
    label, tail = "".join(link.itertext()).strip("`/"), link.tail
    del link.attrib["href"]
    link.tag = "span"
    if label in (path, Path(path).name):
        link.clear()
    elif len(link):
        link[-1].tail = (link[-1].tail or "") + " ("
    else:
        link.text = (link.text or "") + " ("
    ET.SubElement(link, "code").text = path
    if label not in (path, Path(path).name):
        link[-1].tail = ")"
    link.tail = tail


class Site(Extension):
    def extendMarkdown(self, md):  # noqa: N802  the name is Markdown's
        self.outside = Outside(md)
        md.inlinePatterns.register(Equation(DISPLAY, md, "block"), "equation", 187)  # after code, before escapes
        md.inlinePatterns.register(Equation(INLINE, md, "inline"), "inline equation", 186)
        md.treeprocessors.register(self.outside, "outside", 5)  # before mkdocs looks at the links


def on_config(config):
    config.markdown_extensions.append(Site())
    return config


def on_page_markdown(markdown, page, config, files):
    Outside.page = Path(page.file.abs_src_path)
    if tight := TIGHT.search(CODE.sub("", markdown)):
        logger.warning("%s: a list needs an empty line before it: %s", page.file.src_uri, tight[0])
    return markdown
