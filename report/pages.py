"""HTML pages from the templates beside this file: one file each, without scripts, that loads nothing."""

import base64
import datetime
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from dassl.errors import printable
from report.looks import DARK, LIGHT, Look


def render(template: str, **values: Any) -> str:
    """A page.

    Args:
        template: the file's name. It has `look.css` to include, the function `swatch`, and the filters `data_uri` and
            `printable`; what it puts out is escaped.
        values: the template's variables, all that it uses.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"data_uri": _data_uri, "printable": printable}
    environment.globals |= {"light": LIGHT, "dark": DARK, "swatch": swatch}
    return environment.get_template(template).render(**values)


def origin(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """(what, which) pairs: the page's date and the commits that the runs are of, as `results.read` gives those."""
    commits = [commit.partition("-") for commit in runs.commit.dropna().unique()]
    code = ", ".join(sorted(hash[:12] + " with changes" * bool(dirty) for hash, _, dirty in commits))
    return [
        ("Written", datetime.date.today().isoformat()),
        ("Code", f"commit {code}" if code else "commit not known"),
    ]


def swatch(look: Look) -> Markup:
    """A method's marker, to stand before its name."""
    fill = "none" if look.hollow else look.css
    style = f'fill="{fill}" stroke="{look.css}" stroke-width="{0.14 if look.hollow else 0.02}"'
    box = '<svg class="swatch" viewBox="-0.6 -0.6 1.2 1.2" aria-hidden="true">'
    return Markup(f'{box}<path d="{look.path()}" {style}/></svg>')


def _data_uri(picture: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
