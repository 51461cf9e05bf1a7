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
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, _, rest = svg.partition(">")
    view = re.search(r'viewBox="([^"]*)"', head)
    assert view, "matplotlib's have one"
    for name, colour in LIGHT.items():
        rest = rest.replace(colour, f"var(--{name})")
    rest = re.sub(r"(font: [^;'\"]*?px) [^;\"]*", r"\1 system-ui, sans-serif", rest)
    referenced = set(re.findall(r"#([\w-]+)", rest))
    rest = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in referenced else "", rest)
    rest = re.sub(r"\n\s*", "\n", rest).replace("xlink:href", "href")
    return f'<svg viewBox="{view[1]}" role="img"><title>{escape(title)}</title>{rest}'.strip()
