"""Draw the contact sheets of the embedded benchmark: python -m embedded.contact_sheet --output docs"""

import argparse
import io
import json
import random
import zipfile
from pathlib import Path

from PIL import Image, ImageDraw

HERE = Path(__file__).parent
ACROSS = 10


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs"))
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(HERE / "icons.zip") as archive:
        for part in ("common", "rare"):
            split = json.loads(archive.read(f"{part}/split.json"))
            rows = {}
            for side in ("train", "test"):
                for file, _, name in split[side]:
                    rows.setdefault(name, {}).setdefault(side, []).append(f"{part}/images/{file}")
            sheet(archive, {k: [v["train"], v["test"]] for k, v in rows.items()}).save(
                args.output / f"icons_{part}.png", optimize=True
            )
        rows = {}
        for item in json.loads(archive.read("pairs/metadata.json")):
            sides = rows.setdefault(f"{item['attr']} {item['obj']}", [[], []])
            sides[item["set"] != "train"].append(f"pairs/images/{item['image']}")
        sheet(archive, rows).save(args.output / "icons_pairs.png", optimize=True)


def sheet(archive, rows):
    """One line per class: five icons to train on, five to test on."""
    size, label = 34, 110
    picture = Image.new("L", ((label + ACROSS * size + 20) * 2, (len(rows) + 1) // 2 * size), 255)
    pen = ImageDraw.Draw(picture)
    for k, (name, sides) in enumerate(sorted(rows.items())):
        x0, y = k % 2 * (picture.width // 2), k // 2 * size
        pen.text((x0 + 4, y + 10), name, fill=0)
        for i, files in enumerate(sides):
            for j, file in enumerate(random.Random(name).sample(files, min(ACROSS // 2, len(files)))):
                icon = Image.open(io.BytesIO(archive.read(file))).convert("L").resize((size - 2, size - 2))
                picture.paste(icon, (x0 + label + (i * ACROSS // 2 + j) * size + 8 * i, y))
    return picture.quantize(16)


if __name__ == "__main__":
    main()
