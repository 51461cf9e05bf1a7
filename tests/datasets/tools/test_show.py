"""python -m datasets show: which images are chosen, and where they and their names stand."""

import numpy as np
from PIL import Image

import datasets.__main__ as command
from dassl.data.datasets import Datum
from datasets.tools.show import choose, sheet


def items(part, **numbers):
    return [Datum(f"{part}/{name}{i}", ord(name), classname=name) for name, n in numbers.items() for i in range(n)]


def test_chosen_images():
    parts = {"train": items("train", b=5, a=1), "val": [], "test": items("test", a=9, b=1)}
    rows = dict(choose(parts, 4))
    assert list(rows) == ["a", "b"]
    assert [[len(group) for group in groups] for groups in rows.values()] == [[1, 3], [3, 1]]
    assert all(path.startswith(f"{part}/{name}") for name, groups in rows.items()
               for part, group in zip(("train", "test"), groups, strict=True) for path in group)  # fmt: skip
    assert rows == dict(choose(parts, 4))
    assert [[len(group) for group in groups] for _, groups in choose(parts, 1)] == [[1, 0], [1, 0]]
    ((_, groups),) = choose({"train": [], "test": items("test", a=3)}, 2)
    assert [len(group) for group in groups] == [0, 2]


def test_the_picture(tmp_path):
    colours = {"red": (255, 0, 0), "blue": (0, 0, 255)}
    for name, colour in colours.items():
        Image.new("RGB", (60, 20), colour).save(tmp_path / f"{name}.png")
    rows = [(name, ([], [str(tmp_path / f"{name}.png")])) for name in colours]
    assert sheet(rows, 30, "colours").height > sheet(rows, 30).height + 12, "a title above"
    pixels = np.asarray(sheet(rows, 30))
    for name, colour in colours.items():
        rows, columns = np.nonzero((pixels == colour).all(axis=-1))
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (10, 30), "scaled, not stretched"
        above = pixels[: rows.min() - 9, columns.min() : columns.max()]
        assert (above < 128).all(axis=-1).any(), f"{name} stands above its image"


def test_the_command(toy_root, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    arguments = ["show", "caltech101", "--root", toy_root, "--size", "20", "--out"]
    assert command.main([*arguments, str(out)]) == 0
    with Image.open(out) as picture:
        assert picture.width > 4 * 4 * 20 and f"{picture.width} x {picture.height} pixels" in capsys.readouterr().out
    assert command.main([*arguments, str(tmp_path / "no" / "sheet.png")]) == 1
    assert command.main([*arguments, str(tmp_path / "sheet.doc")]) == 1
    assert capsys.readouterr().err.count("error: cannot write ") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
