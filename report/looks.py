"""What methods look like in figures and on pages: the same colour, marker and line in every report.

Seven hues that colour-blind people tell apart, in two shades each: for light pages and for dark ones. A marker goes
with a hue, so that methods differ in grey too. Methods that learn nothing are stars, zero-shot CLIP's in the colour of
the text. A method.yaml says which look a method has; the others' follow from their names, among those that no
method.yaml takes as long as there are any.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import matplotlib.markers
from matplotlib.path import Path
from matplotlib.transforms import Affine2D

from benchmark.facts import method_of, methods

LIGHT = {
    **{"ink": "#1a1a1a", "quiet": "#595959", "line": "#d9d9d9", "paper": "#ffffff", "accent": "#0b3fc4"},
    **{"blue": "#1439b6", "vermilion": "#b5470a", "green": "#30866f", "pink": "#7a2f6d", "amber": "#b28c1d"},
    **{"sky": "#119ad5", "brown": "#422d0c"},
}
DARK = {
    **{"ink": "#e8e8e8", "quiet": "#a8adb3", "line": "#3a4047", "paper": "#15181c", "accent": "#7cc7ff"},
    **{"blue": "#3d7eee", "vermilion": "#ea5520", "green": "#17b58a", "pink": "#b06aa0", "amber": "#fbcd06"},
    **{"sky": "#6fd0ff", "brown": "#d6bda9"},
}
"""{name of a colour: its value}: CSS variables of look.css."""

HUES = ("blue", "vermilion", "green", "pink", "amber", "sky", "brown")


@dataclass(frozen=True)
class Look:
    """A method's.

    Attributes:
        hue: a name in LIGHT and DARK.
        marker: matplotlib's.
        line: matplotlib's line style.
        hollow: whether the marker is an outline.
    """

    hue: str
    marker: str
    line: str = "-"
    hollow: bool = False

    @property
    def colour(self) -> str:
        """On paper, and on light pages."""
        return LIGHT[self.hue]

    @property
    def css(self) -> str:
        """The colour on a page that has look.css."""
        return f"var(--{self.hue})"

    def keywords(self) -> dict[str, Any]:
        """matplotlib's, for lines with markers."""
        face = LIGHT["paper"] if self.hollow else self.colour
        return {"color": self.colour, "marker": self.marker, "linestyle": self.line, "markerfacecolor": face}

    def path(self) -> str:
        """The marker as SVG's path data, within (-0.5, -0.5) and (0.5, 0.5)."""
        marker = matplotlib.markers.MarkerStyle(self.marker)
        drawn = marker.get_path().transformed(marker.get_transform() + Affine2D().scale(0.5, -0.5))
        box = drawn.get_extents()
        drawn = drawn.transformed(Affine2D().scale(1 / max(1e-9, box.width, box.height)))
        letters = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}
        parts = []
        for points, code in drawn.iter_segments():
            numbers = "" if code == Path.CLOSEPOLY else " ".join(f"{x + 0:.2f}" for x in points)
            parts.append(letters[code] + numbers)
        return "".join(parts)


STARS = (Look("ink", "*"), Look("quiet", "*", hollow=True), *(Look(hue, "*") for hue in HUES))
LOOKS = (
    *(Look(hue, marker) for hue, marker in zip(HUES, "os^DvPX", strict=True)),
    *(Look(hue, marker, "--", hollow=True) for hue, marker in zip(HUES, "s^Dvoph", strict=True)),
    *(Look(hue, marker, ":") for hue, marker in zip(HUES, "><pdh8H", strict=True)),
)


def style_of(method: str, trainer: str | None = None) -> Look:
    """A method's look where nothing else is about; trainer: None where the method is called as its trainer."""
    return looks({method: trainer or method})[method]


def looks(trainers: Mapping[str, str]) -> dict[str, Look]:
    """{method: Look} of a report's methods; no two are alike unless there are more of them than looks.

    Args:
        trainers: method, as tables call it -> the registry name of its trainer. A trainer's own look goes to the method
            that is called as the trainer, or else to its only one.
    """
    found: dict[str, Look] = {}
    alone = {trainer: method for method, trainer in trainers.items()}
    alone = {trainer: method for trainer, method in alone.items() if list(trainers.values()).count(trainer) == 1}
    for method, trainer in trainers.items():
        facts = method_of(trainer)
        if facts.look is not None and (method == trainer or alone.get(trainer) == method):
            found[method] = _table(facts)[facts.look % len(_table(facts))]
    for method in sorted(set(trainers) - set(found)):
        table = _table(method_of(trainers[method]))
        held = {_table(facts)[facts.look % len(_table(facts))] for facts in methods() if facts.look is not None}
        start = int.from_bytes(sha256(method.encode(errors="surrogatepass")).digest()[:4], "big")
        turned = [table[(start + i) % len(table)] for i in range(len(table))]
        free = [look for look in turned if look not in found.values()]
        found[method] = next((look for look in free if look not in held), (free or turned)[0])
    return {method: found[method] for method in trainers}


def _table(facts):
    return LOOKS if facts.trains else STARS
