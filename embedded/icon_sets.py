"""The icon sets of the embedded benchmark: how each spells concept and style, and which side of a split it is on.

A rule reads an icon's name and gives (words, style), or None for icons that are left out: logos, skin tones, second
sizes of the same drawing. What is a style in one set is a meaning in another ("line", "off", "bold"), so every set
has rules of its own.
"""

import re
from collections.abc import Callable

TEST = ("ph", "solar", "mingcute", "pixelarticons", "pepicons-pencil", "majesticons", "iconoir", "twemoji")
"""Whole sets that pre-training never sees; all test images are theirs."""

VAL = (
    "basil", "fluent-emoji", "fluent-emoji-flat", "fluent-emoji-high-contrast", "hugeicons", "si", "streamline-pixel",
    "tdesign",
)  # fmt: skip
"""Whole sets that pre-training never sees; all validation images are theirs."""

KIN = ("pepicons-pop", "pepicons-print")
"""Sets that draw the glyphs of a set in TEST once more: left out everywhere."""

TRAIN = (
    "ant-design", "bi", "carbon", "eva", "fa6-regular", "fa6-solid", "famicons", "flat-color-icons", "flowbite",
    "fluent", "fluent-color", "ic", "ion", "material-symbols", "mdi", "mynaui", "noto", "noto-v1", "octicon", "pixel",
    "ri", "stash", "streamline-freehand-color", "tabler", "teenyicons", "uil", "uim", "uis",
)  # fmt: skip
"""Sets of the common classes' training images, which pre-training does not see. It sees the sets' other icons."""


Rule = Callable[[str], tuple[str, str] | None]
"""An icon's name -> its words and style; None leaves it out."""


def suffixes(default: str | None, /, **styles: str | None) -> Rule:
    """A rule: the last word names the style. Underscores stand for hyphens; None leaves the icon out."""
    table = sorted(((f"-{k.replace('_', '-')}", v) for k, v in styles.items()), key=lambda kv: -len(kv[0]))

    def rule(name):
        for suffix, style in table:
            if name.endswith(suffix):
                return style and (name.removesuffix(suffix), style)
        return default and (name, default)

    return rule


def prefixes(default: str | None, /, **styles: str | None) -> Rule:
    """A rule: the first word names the style."""

    def rule(name):
        first, _, rest = name.partition("-")
        if first in styles:
            return styles[first] and (rest, styles[first])
        return default and (name, default)

    return rule


def sized(pattern: str, rule: Rule) -> Rule:
    """A rule for sets with several sizes: only names that match, without the part that does, go to `rule`."""

    def sized_rule(name):
        short, n = re.subn(pattern, "", name)
        return rule(short) if n else None

    return sized_rule


def emoji(style: str) -> Rule:
    """A rule for emoji: people in several skin tones and hair colours are left out, flags too."""
    words = re.compile(r"(^|-)(tone|skin|light|medium|dark|flag|hair|bald|man|woman|person|boy|girl)(-|$)")

    def rule(name):
        return None if words.search(name) else (name, style)

    return rule


RULES = {
    "akar-icons": suffixes("outline", fill="filled"),
    "ant-design": suffixes(None, outlined="outline", filled="filled", twotone="duotone"),
    "basil": suffixes(None, outline="outline", solid="filled"),
    "bi": suffixes("outline", fill="filled"),
    "bx": prefixes("outline", bxs=None, bxl=None),
    "bxs": suffixes("filled"),
    "carbon": suffixes("outline", filled="filled", filled_alt=None),
    "charm": suffixes("outline"),
    "clarity": suffixes(
        None, line="outline", solid="filled", outline_badged=None, solid_badged=None, outline_alerted=None
    ),
    "codicon": suffixes("outline", filled="filled", compact=None, small=None),
    "duo-icons": suffixes("duotone"),
    "ep": suffixes("outline", filled="filled"),
    "eva": suffixes(None, fill="filled", outline="outline"),
    "f7": suffixes("outline", fill="filled"),
    "fa6-regular": suffixes("outline"),
    "fa6-solid": suffixes("filled"),
    "famicons": suffixes("filled", outline="outline", sharp=None),
    "feather": suffixes("outline"),
    "flat-color-icons": suffixes("colour"),
    "flowbite": suffixes(None, outline="outline", solid="filled"),
    "fluent": sized(r"-24(?=-(filled|regular)$)", suffixes(None, regular="outline", filled="filled")),
    "fluent-color": sized(r"-24$", suffixes("colour")),
    "fluent-emoji": emoji("colour"),
    "fluent-emoji-flat": emoji("colour"),
    "fluent-emoji-high-contrast": emoji("filled"),
    "fluent-mdl2": suffixes("outline", solid="filled", fill="filled", mirrored=None),
    "fxemoji": emoji("colour"),
    "gravity-ui": suffixes("outline", fill="filled"),
    "grommet-icons": suffixes("outline", fill="filled"),
    "healthicons": suffixes("filled", outline="outline", negative=None, outline_24px=None, _24px=None),
    "heroicons": suffixes("outline", solid="filled", _16_solid=None, _20_solid=None),
    "hugeicons": suffixes("outline"),
    "humbleicons": suffixes("outline"),
    "ic": prefixes(None, baseline="filled", outline="outline", twotone="duotone", round=None, sharp=None),
    "icon-park": suffixes("colour"),
    "icon-park-outline": suffixes("outline"),
    "icon-park-solid": suffixes("filled"),
    "icon-park-twotone": suffixes("duotone"),
    "iconamoon": suffixes("outline", light=None, bold="outline", fill="filled", thin=None, duotone="duotone"),
    "iconoir": suffixes("outline", solid="filled"),
    "ion": prefixes(None, ios=None, md=None, logo=None),
    "ix": suffixes("outline", filled="filled"),
    "jam": suffixes("outline", f="filled"),
    "lets-icons": suffixes(
        "outline", fill="filled", duotone="duotone", duotone_line="duotone", light=None, duotone_fill=None, line=None
    ),
    "lucide": suffixes("outline"),
    "lucide-lab": suffixes("outline"),
    "mage": suffixes("outline", fill="filled"),
    "majesticons": suffixes("filled", line="outline"),
    "material-symbols": suffixes(
        "filled", outline="outline", rounded=None, sharp=None, outline_rounded=None, outline_sharp=None
    ),
    "mdi": suffixes("filled", outline="outline", variant=None, variant_outline=None),
    "mingcute": suffixes(None, fill="filled", line="outline"),
    "mynaui": suffixes("outline", solid="filled"),
    "noto": emoji("colour"),
    "noto-v1": emoji("colour"),
    "octicon": sized(r"-24$", suffixes("outline", fill="filled")),
    "oui": suffixes("outline", filled="filled"),
    "pepicons-pencil": suffixes("hand-drawn", circle=None, circle_filled=None, circle_off=None),
    "pepicons-pop": suffixes("outline", circle=None, circle_filled=None, circle_off=None),
    "pepicons-print": suffixes("duotone", circle=None, circle_filled=None, circle_off=None),
    "ph": suffixes("outline", bold=None, light=None, thin="outline", duotone="duotone", fill="filled"),
    "pixel": suffixes("pixel", solid="pixel"),
    "pixelarticons": suffixes("pixel", sharp=None, solid="pixel"),
    "proicons": suffixes("outline"),
    "qlementine-icons": sized(r"-16$", suffixes("outline")),
    "quill": suffixes("outline"),
    "radix-icons": suffixes("outline"),
    "ri": suffixes(None, fill="filled", line="outline"),
    "si": suffixes(None, fill="filled", line="outline", duotone="duotone"),
    "solar": suffixes(
        None, bold="filled", bold_duotone="duotone", broken="outline", linear="outline", line_duotone=None, outline=None
    ),
    "stash": suffixes("outline", duotone="duotone", light=None, solid="filled"),
    "streamline-emojis": emoji("colour"),
    "streamline-flex": suffixes("outline", solid="filled", remix=None),
    "streamline-freehand-color": suffixes("hand-drawn"),
    "streamline-pixel": suffixes("pixel"),
    "streamline-plump": suffixes("outline", solid="filled", remix=None),
    "streamline-ultimate": suffixes("outline", bold="filled"),
    "tabler": suffixes("outline", filled="filled"),
    "tdesign": suffixes("outline", filled="filled"),
    "teenyicons": suffixes(None, outline="outline", solid="filled"),
    "twemoji": emoji("colour"),
    "uil": suffixes("outline"),
    "uim": suffixes("duotone"),
    "uis": suffixes("filled"),
    "uiw": suffixes("filled", o="outline"),
    "vaadin": suffixes("filled", o="outline"),
}
