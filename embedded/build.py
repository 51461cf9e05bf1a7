"""Rebuild icons.zip, NOTICE.md and the data of pre-training from the npm packages of the icon sets.

    python -m embedded.build [--packages DIR] [--pretraining FILE]

Needs npm and resvg_py (`pip install resvg_py==0.5.0`). The versions of the packages are pinned in package-lock.json, so
the archive comes out byte for byte. `--packages` is a folder in which `npm ci` has been run; `--pretraining` also
writes what pretrain.py learns from.
"""

import argparse
import io
import json
import multiprocessing
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from embedded.concepts import COMMON, MODIFIERS, OBJECTS, RARE
from embedded.icon_sets import KIN, RULES, TEST, TRAIN, VAL

HERE = Path(__file__).parent
SIZE = 64
SAME = 0.045
"""Two drawings are near-duplicates where the root mean square difference of their 16 x 16 block means, white 1 and
black 0, is below this."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m embedded.build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packages", type=Path, help="folder with node_modules")
    parser.add_argument("--pretraining", type=Path, help="file to write the pre-training set to (.npz)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        packages = args.packages or install(Path(temporary))
        icons, infos = read_sets(packages / "node_modules" / "@iconify-json")
    with multiprocessing.Pool() as pool:
        drawn = pool.imap(draw, [icon["svg"] for icon in icons], chunksize=200)
        for icon, pixels in zip(icons, tqdm(drawn, total=len(icons), desc="rendering"), strict=True):
            icon["pixels"] = pixels
    icons = [icon for icon in icons if icon["pixels"] is not None]
    common, rare, pairs, pretraining = assign(icons)
    write_archive(HERE / "icons.zip", common, rare, pairs)
    write_notice(HERE / "NOTICE.md", infos, [*common, *rare, *pairs], pretraining)
    if args.pretraining:
        np.savez(
            args.pretraining,
            pixels=np.stack([icon["pixels"] for icon in pretraining]),
            words=np.array([icon["words"] for icon in pretraining]),
            style=np.array([icon["style"] for icon in pretraining]),
            set=np.array([icon["set"] for icon in pretraining]),
        )


def install(folder: Path) -> Path:
    """The icon sets as npm packages, in the versions of the lock file."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return folder


def read_sets(folder: Path) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """All icons that the rules admit, as dicts of set, name, words, style and svg; and what is known of each set."""
    icons, infos = [], {}
    for name, rule in RULES.items():
        data = json.loads((folder / name / "icons.json").read_text(encoding="utf-8"))
        info = json.loads((folder / name / "info.json").read_text(encoding="utf-8"))
        infos[name] = info | {"version": json.loads((folder / name / "package.json").read_text())["version"]}
        for icon, entry in data["icons"].items():
            parsed = None if entry.get("hidden") else rule(icon)
            if parsed:
                box = [
                    entry.get(k, data.get(k, v)) for k, v in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
                ]
                svg = (
                    f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                    f'width="{SIZE}" height="{SIZE}" viewBox="{" ".join(map(str, box))}">{entry["body"]}</svg>'
                )
                words = plain_words(parsed[0])
                icons.append({"set": name, "name": icon, "words": words, "style": parsed[1], "svg": svg})
    return icons, infos


def plain_words(name: str) -> str:
    """An icon's name as words, without the numbers that count its versions."""
    words = [word for word in name.split("-") if word]
    while len(words) > 1 and re.fullmatch(r"\d+|alt|one|two|three|four|variant|new", words[-1]):
        words.pop()
    return " ".join(words)


def draw(svg: str) -> np.ndarray | None:
    """(64, 64, 3) uint8 pixels, black on white where the icon has no colour of its own; None for an empty drawing."""
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg.replace("currentColor", "#000"), width=SIZE, height=SIZE))
    drawing = Image.open(io.BytesIO(png)).convert("RGBA")
    canvas = Image.new("RGBA", (SIZE, SIZE), "white")
    canvas.alpha_composite(drawing.crop((0, 0, SIZE, SIZE)))
    pixels = np.asarray(canvas.convert("RGB"))
    return pixels if pixels.min() < 200 else None


# Which icon goes where


def assign(
    icons: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """(common, rare, pairs, pretraining): lists of icons; in the first three with `class` (or `pair`) and `part`."""
    common_of = {alias: name for name, aliases in COMMON.items() for alias in aliases}
    rare_of = {alias: name for name, aliases in RARE.items() for alias in aliases}
    withheld = re.compile(rf"\b({'|'.join(sorted(map(re.escape, rare_of), key=len, reverse=True))})s?\b")
    icons = [icon for icon in icons if icon["set"] not in KIN]

    of_pair = defaultdict(list)
    for icon in icons:
        pair = as_pair(icon["words"])
        if pair:
            of_pair[pair].append(icon)
    parts = split_pairs({pair: len(found) for pair, found in of_pair.items()})

    common, rare, pairs, pretraining = [], [], [], []
    for icon in icons:
        side = "test" if icon["set"] in TEST else "val" if icon["set"] in VAL else "train"
        pair = as_pair(icon["words"])
        if icon["words"] in rare_of:
            rare.append(icon | {"class": rare_of[icon["words"]], "part": side})
        elif icon["words"] in common_of and (side != "train" or icon["set"] in TRAIN):
            common.append(icon | {"class": common_of[icon["words"]], "part": side})
        elif pair in parts and parts[pair] != "seen":
            pairs.append(icon | {"pair": pair, "part": parts[pair]})
        elif side == "train" and not withheld.search(icon["words"]):
            pretraining.append(icon)
        if pair in parts and parts[pair] == "seen":
            pairs.append(icon | {"pair": pair, "part": side})
    common, rare, pairs = map(without_repeats, (common, rare, pairs))
    tests = [icon for icon in [*common, *rare, *pairs] if icon["part"] == "test"]
    return common, rare, pairs, [icon for icon, new in zip(pretraining, unlike(pretraining, tests), strict=True) if new]


def as_pair(name: str) -> tuple[str, str] | None:
    """(modifier, object) of an icon's words, in either order, or None."""
    modifier_of = {alias: name for name, aliases in MODIFIERS.items() for alias in aliases}
    object_of = {alias: name for name, aliases in OBJECTS.items() for alias in aliases}
    words = name.split()
    for i in range(1, len(words)):
        first, second = " ".join(words[:i]), " ".join(words[i:])
        if first in object_of and second in modifier_of:
            return modifier_of[second], object_of[first]
        if second in object_of and first in modifier_of:
            return modifier_of[first], object_of[second]
    return None


def split_pairs(
    counts: Mapping[tuple[str, str], int], fewest: int = 8, modifiers: int = 3
) -> dict[tuple[str, str], str]:
    """{pair: "seen", "val" or "test"} (unseen ones in val and test), for pairs that are drawn often enough.

    Of every object with at least three modifiers about two thirds of its pairs are seen. The choice depends on the
    names alone; every modifier and object of an unseen pair has seen ones.
    """
    often = sorted(pair for pair, count in counts.items() if count >= fewest)
    per_object = Counter(obj for _, obj in often)
    often = [pair for pair in often if per_object[pair[1]] >= modifiers]
    parts = {pair: "seen" for pair in often}
    seen_modifiers, seen_objects = (Counter(pair[i] for pair in often) for i in (0, 1))
    rng = np.random.default_rng(0)
    unseen = 0
    for k in rng.permutation(len(often)):
        modifier, obj = pair = often[k]
        if unseen < len(often) // 3 and seen_modifiers[modifier] > 2 and seen_objects[obj] > 2:
            parts[pair] = "val" if unseen % 3 == 0 else "test"
            seen_modifiers[modifier] -= 1
            seen_objects[obj] -= 1
            unseen += 1
    return parts


def blocks(icons: Sequence[dict[str, Any]]) -> np.ndarray:
    """(n, 256) block means of the drawings, white 1."""
    if not icons:
        return np.zeros((0, 256), np.float32)
    grey = np.stack([icon["pixels"] for icon in icons]).mean(axis=-1, dtype=np.float32) / 255
    return grey.reshape(-1, 16, 4, 16, 4).mean(axis=(2, 4)).reshape(-1, 256)


def unlike(icons: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> np.ndarray:
    """(n,) booleans: which icons are near-duplicates of none of the others."""
    a, b = blocks(icons), blocks(others)
    new = np.ones(len(a), bool)
    for start in range(0, len(a), 4096):
        part = a[start : start + 4096]
        squares = (part**2).sum(1)[:, None] + (b**2).sum(1) - 2 * part @ b.T
        new[start : start + 4096] = (squares / 256 >= SAME**2).all(axis=1)
    return new


def without_repeats(icons: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of near-duplicates in different parts only those in test stay, then those in val; of equal ones in a part one."""
    kept: list[dict[str, Any]] = []
    for part in ("test", "val", "train"):
        of_part = [icon for icon in icons if icon["part"] == part]
        of_part = [icon for icon, new in zip(of_part, unlike(of_part, kept), strict=True) if new]
        kept += {(icon.get("class"), icon.get("pair"), icon["pixels"].tobytes()): icon for icon in of_part}.values()
    return kept


# What is shipped


def write_archive(
    path: Path, common: Sequence[dict[str, Any]], rare: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]
) -> None:
    """Images as small PNGs with their splits, uncompressed on the outside, without dates."""
    files = {}
    for name, icons, classes in (("common", common, COMMON), ("rare", rare, RARE)):
        labels = {c: i for i, c in enumerate(sorted(classes))}
        split: dict[str, list[list[Any]]] = {part: [] for part in ("train", "val", "test")}
        for icon in sorted(icons, key=lambda icon: (labels[icon["class"]], icon["set"], icon["name"])):
            file = f"{icon['style']}/{icon['class']}/{icon['set']}--{icon['name']}.png"
            files[f"{name}/images/{file}"] = png(icon["pixels"])
            split[icon["part"]].append([file, labels[icon["class"]], icon["class"]])
        files[f"{name}/split.json"] = json.dumps(split, indent=0).encode()
    metadata = []
    sets: dict[str, set[tuple[str, str]]] = {"train": set(), "val": set(), "test": set()}
    for icon in sorted(pairs, key=lambda icon: (icon["pair"], icon["set"], icon["name"])):
        folder = " ".join(icon["pair"])
        file = f"{folder}/{icon['set']}--{icon['name']}.png"
        files[f"pairs/images/{file}"] = png(icon["pixels"])
        attr, obj = icon["pair"]
        metadata.append({"image": file, "attr": attr, "obj": obj, "set": icon["part"]})
        sets[icon["part"]].add(icon["pair"])
    files["pairs/metadata.json"] = json.dumps(metadata, indent=0).encode()
    for part, found in sets.items():
        text = "".join(f"{attr} {obj}\n" for attr, obj in sorted(found))
        files[f"pairs/compositional-split-natural/{part}_pairs.txt"] = text.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), files[name])


def png(pixels: np.ndarray) -> bytes:
    """A small PNG: sixteen greys, or 64 colours."""
    grey = np.ptp(pixels.astype(np.int16), axis=-1).max() < 8
    image = Image.fromarray(pixels)
    if grey:
        levels = np.asarray(image.convert("L")).astype(np.int16)
        image = Image.fromarray(((levels + 8) // 17).clip(0, 15).astype(np.uint8), "P")
        image.putpalette([v for i in range(16) for v in (17 * i,) * 3])
    else:
        image = image.quantize(64, dither=Image.Dither.NONE)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True, bits=4 if grey else 8)
    return out.getvalue()


def write_notice(
    path: Path,
    infos: Mapping[str, dict[str, Any]],
    shipped: Sequence[dict[str, Any]],
    pretraining: Sequence[dict[str, Any]],
) -> None:
    """The table of the sets: what is whose, under which licence."""
    counts, learned = Counter(icon["set"] for icon in shipped), Counter(icon["set"] for icon in pretraining)
    lines = [
        "# Icons: whose they are",
        "",
        "`icons.zip` holds drawings from the icon sets below, rendered to 64 x 64 pixels and reduced to 16 greys or",
        "64 colours; the backbone was pre-trained on renderings of others of them. Each set is its authors' work,",
        "under the licence named; the npm packages `@iconify-json/<set>` carry the licence texts. Written by",
        "`build.py`.",
        "",
        "| set | version | icons here | in pre-training | author | licence |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted({*counts, *learned}):
        info = infos[name]
        author, licence = info["author"], info["license"]
        by, under = link(author["name"], author.get("url")), link(licence["spdx"], licence.get("url"))
        row = [f"{info['name']} (`{name}`)", info["version"], counts[name], learned[name], by, under]
        lines.append(f"| {' | '.join(map(str, row))} |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def link(text: str, url: str | None) -> str:
    return f"[{text}]({url})" if url else text


if __name__ == "__main__":
    main()
