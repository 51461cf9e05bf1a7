"""A figure of matplotlib's as a part of a page: it takes the page's colours and fonts, light or dark."""

import re
from xml.sax.saxutils import escape

from report.looks import LIGHT


def inline(svg: str, title: str) -> str:
    """An <svg> element for HTML from the text of an SVG file whose colours are among looks.LIGHT.

    Args:
        svg: as matplotlib writes it, with text as text.
        title: what a reader who does not see the figure is told.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    head, _, rest = svg.partition(">")
    view = re.search(r'viewBox="([^"]*)"', head)
    assert view, "matplotlib's have one"
    parts = re.split(r"(<[^>]*>)", rest)  # each second one is a tag; the text between may be anything
    referenced = set(re.findall(r"#([\w-]+)", "".join(parts[1::2])))
    parts[1::2] = [_tag(tag, referenced) for tag in parts[1::2]]
    rest = re.sub(r"\n\s*", "\n", "".join(parts))
    return f'<svg viewBox="{view[1]}" role="img"><title>{escape(title)}</title>{rest}'.strip()


def _tag(tag, referenced):
    for name, colour in LIGHT.items():
        tag = tag.replace(colour, f"var(--{name})")
    tag = re.sub(r"(font: [^;'\"]*?px) [^;\"]*", r"\1 system-ui, sans-serif", tag)
    tag = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in referenced else "", tag)
    return tag.replace("xlink:href", "href")
