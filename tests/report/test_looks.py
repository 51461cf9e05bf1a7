"""Methods look the same in every report, and can be told apart on light and on dark pages."""

import pytest

from benchmark.facts import methods
from report.looks import DARK, HUES, LIGHT, STARS, looks, style_of

SHIPPED = {facts.name: facts.name for facts in methods()}


def contrast(one, other):
    """WCAG's ratio."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_contrast(palette):
    assert all(contrast(palette[name], palette["paper"]) >= 4.5 for name in ("ink", "quiet", "accent")), "AA, text"
    assert all(contrast(palette[hue], palette["paper"]) >= 3 for hue in HUES), "AA, graphics"


def test_a_method_looks_alike_in_every_report():
    together = looks(SHIPPED)
    assert len(set(together.values())) == len(SHIPPED) and len(SHIPPED) > 13
    assert all(together[name] == style_of(name) for name in SHIPPED)
    assert [together[name] for name in ("ZeroshotCLIP", "ZeroshotCLIP2")] == list(STARS[:2])
    others = {f"Method {i}": f"Theirs{i}" for i in range(8)}
    crowded = looks(others | SHIPPED)
    assert {name: crowded[name] for name in SHIPPED} == together
    assert len(set(crowded.values())) == len(crowded), "no clash"
    assert crowded == looks(dict(reversed((others | SHIPPED).items()))), "whatever the order"
    assert all(look not in together.values() for look in [crowded[name] for name in others][:7])


def test_variants_of_a_method_differ():
    found = looks({"CoOp": "CoOp", "CoOp (end)": "CoOp", "long": "MoCoOp"})
    assert found["CoOp"] == style_of("CoOp") != found["CoOp (end)"]
    assert found["long"] == style_of("MoCoOp"), "its trainer's only method, whatever a grid calls it"
    assert style_of("Nobody's") == style_of("Nobody's") not in looks(SHIPPED).values()
