"""What no one would write, made of what somebody did: trees of values, tensors, bytes, each as a generator decides."""

import copy
import io
import math
import random
from typing import Any

import torch
from PIL import Image

ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3.5, -0.0, 1e-320, 1e308, 2**31, 2**32, 2**63, -(2**70), 10**400),
    *(math.nan, math.inf, -math.inf, "", " ", "0", "-1", "1e9", "nan", "None", "True", "a", "x" * 5000, "\n", "\0"),
    *("../../etc/passwd", "/dev/null", "~", "<script>alert(1)</script>", "=1+1", "{}", "{0.__class__}", "%s", "$HOME"),
    *("é", "\u202e", "\U0001f600", "\ud800", [], {}, [[]], [None], [{}], {"a": 1}, {"": ""}, [1, "a", None]),
    *([0] * 1000, (), (1,), (0, 0), (2, 1), (-1, -1), (1e9, 1e9), ("a",), [[1], [2, [3]]], {"a": {"b": {"c": []}}}),
)


def tree(value: Any, rng: random.Random, odd: tuple[Any, ...] = ODD, leaf: Any = None) -> Any:
    """A copy of a tree of dicts and lists in which one to three things are other ones.

    Args:
        odd: values to put in.
        leaf: what else may be done to a leaf: leaf(value, rng) gives another.
    """
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _changed(value, rng, odd, leaf)
    return value


def _changed(value, rng, odd, leaf):
    inner = isinstance(value, dict | list) and len(value) > 0
    if not inner or rng.random() < 0.12:
        if leaf is not None and rng.random() < 0.7:
            return leaf(value, rng)
        if isinstance(value, str) and rng.random() < 0.4:
            return text(value, rng)
        return copy.deepcopy(rng.choice(odd))
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, way = rng.choice(keys), rng.random()
    if way < 0.12:
        del value[key]
    elif way < 0.2 and isinstance(value, dict):
        value[rng.choice((text(str(key), rng), rng.randint(-3, 3), "", None))] = value.pop(key)
    elif way < 0.26 and isinstance(value, dict):
        other = rng.choice(keys)
        value[key], value[other] = value[other], value[key]
    elif way < 0.3 and isinstance(value, list):
        value.insert(key, copy.deepcopy(rng.choice(odd)))
    else:
        value[key] = _changed(value[key], rng, odd, leaf)
    return value


def text(value: str, rng: random.Random) -> str:
    """A text, a little changed."""
    at = rng.randint(0, len(value))
    more = rng.choice(("", "x", " ", "-", "0", "\n", ".", ",", "[", "\0", "é", value))
    return value[:at] + more + value[at + rng.choice((0, 1, 3)) :]


def data(content: bytes, rng: random.Random) -> bytes:
    """Bytes, a little changed or cut short."""
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, way = rng.randint(0, max(0, len(content) - 1)), rng.random()
        if way < 0.3:
            content = content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
        elif way < 0.5:
            content = content[:at]
        elif way < 0.65:
            content = content[:at] + content[at + rng.randint(1, 64) :]
        elif way < 0.8:
            content = content[:at] + content[max(0, at - 100) : at] + content[at:]
        elif way < 0.9:
            content = content[:at] + bytes(rng.randint(1, 64)) + content[at:]
        else:
            content = content[:at] + rng.randbytes(rng.randint(1, 64)) + content[at:]
    return content


def tensor(value: Any, rng: random.Random) -> Any:
    """A tensor with another type, shape or number in it; of what is none, another kind of thing."""
    if not isinstance(value, torch.Tensor):
        return rng.choice((torch.zeros(3), torch.tensor(1), 7, "a", None, [1], {"a": 1}, {}, 0.5, -1))
    value = value.clone()
    flat = value.reshape(-1)
    types = torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8
    ways = [
        lambda: value.to(rng.choice(types)),
        lambda: value.to(torch.complex64),
        lambda: flat,
        lambda: flat[:1],
        lambda: value[None],
        lambda: value.transpose(0, -1) if value.dim() > 1 else flat[:0],
        lambda: torch.zeros(0),
        lambda: torch.full_like(value, math.nan) if value.is_floating_point() else value,
        lambda: value.to_sparse() if value.dim() else value,
        lambda: torch.zeros(1).expand(value.shape) if value.dim() else value,
        lambda: value.tolist(),
        lambda: "a",
    ]
    if value.is_floating_point() and flat.numel():
        flat[rng.randrange(flat.numel())] = rng.choice((math.nan, math.inf, -math.inf))
        ways += [lambda: value] * 4
    return rng.choice(ways)()


MODES = "1 L LA P PA RGB RGBA CMYK YCbCr HSV LAB I I;16 F RGBX La RGBa".split()
FORMATS = "PNG JPEG GIF TIFF BMP WEBP PPM TGA ICO PCX SGI JPEG2000 DDS MSP XBM EPS PDF IM".split()


def image(rng: random.Random) -> tuple[bytes, str]:
    """An image file of some mode, size and format, perhaps damaged, and its suffix."""
    while True:
        size = rng.choice(((1, 1), (64, 64), (3, 200), (2000, 1), (17, 31), (1, 4000)))
        made, file, kind = Image.new(rng.choice(MODES), size), io.BytesIO(), rng.choice(FORMATS)
        options: dict[str, Any] = {}
        if rng.random() < 0.2:
            options["exif"] = Image.Exif()
            options["exif"][274] = rng.choice((1, 3, 6, 8, 9, 0, 255))
        try:
            made.save(file, kind, **options)
        except Exception:  # not all modes go with all formats
            continue
        content = file.getvalue()
        return (data(content, rng) if rng.random() < 0.6 else content), f".{kind.lower()}"
