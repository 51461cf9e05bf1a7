"""The embedded benchmark: what is in it, and that no icon and no rare name is where it must not be."""

import json
import os
import re
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from dassl.config import get_cfg_default
from dassl.data.datasets import build_dataset
from dassl.utils import UserError, read_image
from datasets import icons
from datasets.derived import CHECKSUMS
from datasets.icons import ARCHIVE, STYLES, unpacked
from embedded import build, icon_sets
from embedded.concepts import COMMON, MODIFIERS, OBJECTS, RARE
from tests.conftest import REPO


def dataset(name, **options):
    cfg = get_cfg_default()
    cfg.SEED, cfg.DATASET.NAME = 1, name
    for key, value in options.items():
        cfg.DATASET[key] = value
    return build_dataset(cfg)


def set_of(path):
    return Path(path).name.partition("--")[0]


@pytest.mark.parametrize(("name", "classes", "counts"), [
    ("IconsCommon", 100, (3460, 1130, 1796)),
    ("IconsRare", 54, (2021, 378, 763)),
])  # fmt: skip
def test_counts_and_splits_by_whole_sets(name, classes, counts):
    data = dataset(name)
    assert data.num_classes == classes and (len(data.train_x), len(data.val), len(data.test)) == counts
    assert data.classnames == sorted(data.classnames)
    for part, sets in (("test", icon_sets.TEST), ("val", icon_sets.VAL)):
        assert {set_of(item.impath) for item in getattr(data, part)} <= set(sets)
    train = {set_of(item.impath) for item in data.train_x}
    assert not train & {*icon_sets.TEST, *icon_sets.VAL, *icon_sets.KIN}
    assert min(Counter(item.label for item in data.train_x).values()) >= 16, "enough for 16 shots"
    assert len(dataset(name, NUM_SHOTS=16).train_x) == 16 * classes


def test_styles_are_domains():
    data = dataset("IconsCommon", SOURCE_DOMAINS=["outline"], TARGET_DOMAINS=["pixel", "colour"])
    assert {item.domain for item in data.train_x} == {STYLES.index("outline")}
    assert {STYLES[item.domain] for item in data.test} == {"pixel", "colour"}
    assert data.num_classes == 100
    with pytest.raises(UserError, match='no domain "outlined": did you mean outline'):
        dataset("IconsCommon", SOURCE_DOMAINS=["outlined"])
    with pytest.raises(UserError, match="no training icon in hand-drawn"):
        dataset("IconsCommon", SOURCE_DOMAINS=["hand-drawn"])


def test_blurred_icons_are_the_common_ones_out_of_focus():
    sharp, blurred = dataset("IconsCommon", NUM_SHOTS=2), dataset("IconsBlurred", NUM_SHOTS=2)
    for part in ("train_x", "val", "test"):
        pairs = list(zip(getattr(sharp, part), getattr(blurred, part), strict=True))
        assert all((a.label, a.domain, a.classname) == (b.label, b.domain, b.classname) for a, b in pairs)
        a, b = (read_image(item.impath) for item in pairs[0])
        reach = np.arange(-12, 13)
        kernel = np.exp(-(reach**2) / (2 * 3**2))
        padded = np.pad(np.asarray(a, float), ((12, 12), (12, 12), (0, 0)), mode="edge")
        for axis in (0, 1):
            padded = np.apply_along_axis(np.convolve, axis, padded, kernel / kernel.sum(), mode="valid")
        assert np.abs(np.asarray(b) - padded).mean() < 3, "Pillow's Gaussian is three boxes"
        assert np.abs(np.asarray(a) - padded).mean() > 15


def test_edges_are_what_differs_from_its_neighbours():
    sharp, edges = dataset("IconsCommon", NUM_SHOTS=1), dataset("IconsEdges", NUM_SHOTS=1)
    pairs = list(zip(sharp.test, edges.test, strict=True))
    assert all((a.label, a.domain, a.classname) == (b.label, b.domain, b.classname) for a, b in pairs)
    a, b = (np.asarray(read_image(item.impath), int)[:, :, 0] for item in pairs[0])
    neighbours = sum(a[1 + y : 63 + y, 1 + x : 63 + x] for y in (-1, 0, 1) for x in (-1, 0, 1))
    assert (b[1:-1, 1:-1] == (9 * a[1:-1, 1:-1] - neighbours).clip(0, 255)).all()
    assert b.any() and not (b[1:-1, 1:-1] == a[1:-1, 1:-1]).all()


def test_unpacked_once_and_whole(tmp_cache):
    folder = unpacked()
    assert folder.parent == tmp_cache and unpacked() == folder
    assert [path.name for path in tmp_cache.iterdir()] == [folder.name], "nothing temporary is left"
    with zipfile.ZipFile(ARCHIVE) as archive:
        assert all((folder / name).stat().st_size for name in archive.namelist())


@pytest.fixture
def rare_icon(tmp_path, monkeypatch):
    """The name of the only icon of an archive."""
    monkeypatch.setattr(icons, "ARCHIVE", tmp_path / "icons.zip")
    with zipfile.ZipFile(ARCHIVE) as archive, zipfile.ZipFile(icons.ARCHIVE, "w") as few:
        name = next(name for name in archive.namelist() if name.startswith("rare/images"))
        for kept in (name, "common/split.json", "pairs/metadata.json"):
            few.writestr(kept, archive.read(kept))
    return name


def test_what_a_killed_run_left_is_swept(rare_icon, tmp_cache):
    folder = unpacked()
    old, new = (folder.with_name(f".{digit * 32}.{folder.name}") for digit in "ab")
    for left in (old, new):
        folder.rename(left)
        folder.mkdir()
    os.utime(old, (0, 0))
    assert unpacked() == folder and (folder / rare_icon).is_file()
    assert {path.name for path in tmp_cache.iterdir()} == {folder.name, new.name}, "the new one may be at work"


@pytest.mark.parametrize("damage", ["gone", "empty", "a bit", "checksums"])
def test_damaged_icons_are_unpacked_again(damage, rare_icon, tmp_cache, caplog):
    """A bit of a PNG may be one that PIL does not mind: of 400 flipped at random, it read 12 as other pixels."""
    folder = unpacked("rare")
    icon = folder / rare_icon
    whole = icon.read_bytes()
    if damage == "gone":
        icon.unlink()
    elif damage == "checksums":
        (folder / CHECKSUMS).write_text("[")
    else:
        icon.write_bytes(b"" if damage == "empty" else whole[:-1] + bytes([whole[-1] ^ 1]))
    assert unpacked("common") == folder and bool(caplog.records) == (damage == "checksums"), "another part is whole"
    assert unpacked("rare") == folder and icon.read_bytes() == whole
    assert "is damaged or of an earlier version: it is made again" in caplog.text
    assert [path.name for path in tmp_cache.iterdir()] == [folder.name], "nothing temporary is left"


@pytest.mark.parametrize("damage", ["gone", "cut", "a bit", "a block"])
def test_a_damaged_archive_is_refused_in_a_line(damage, tmp_cache, tmp_path, monkeypatch):
    content = bytearray(ARCHIVE.read_bytes())
    archive = tmp_path / "icons.zip"
    monkeypatch.setattr(icons, "ARCHIVE", archive)
    middle = len(content) // 2
    if damage == "cut":
        del content[middle:]
    elif damage == "a block":
        content[middle : middle + 4096] = bytes(4096)
    else:
        content[middle] ^= 1
    if damage != "gone":
        archive.write_bytes(content)
    with pytest.raises(UserError, match="icons.zip .*: restore the file from the repository"):
        dataset("IconsRare")
    assert not [path for path in tmp_cache.iterdir() if path.name.startswith("icons")], "no half of it stays"


def test_pairs_are_a_compositional_data_set():
    data = dataset("IconsPairs")
    assert (len(data.train_x), len(data.val), len(data.test)) == (1632, 582, 1102)
    assert (len(data.attributes), len(data.objects), len(data.pairs), data.num_seen) == (12, 27, 164, 110)
    folder = unpacked() / "pairs"
    metadata = torch.load(folder / "metadata_compositional-split-natural.t7", weights_only=True)
    pairs = {
        p: (folder / f"compositional-split-natural/{p}_pairs.txt").read_text().split("\n")[:-1]
        for p in ("train", "val", "test")
    }
    seen = set(pairs["train"])
    assert all((folder / "images" / item["image"]).is_file() for item in metadata)
    assert all(f"{item['attr']} {item['obj']}" in pairs[item["set"]] for item in metadata)
    assert len(seen) == 110 and not (set(pairs["val"]) - seen) & (set(pairs["test"]) - seen)
    for part in ("val", "test"):
        unseen = set(pairs[part]) - seen
        assert unseen and all(any(words in pair for pair in seen) for u in unseen for words in u.split())
    assert {item["attr"] for item in metadata} <= set(MODIFIERS) and {item["obj"] for item in metadata} <= set(OBJECTS)


def test_sizes_and_licences():
    assert ARCHIVE.stat().st_size < 12e6
    notice = ARCHIVE.with_name("NOTICE.md").read_text()
    used = {set_of(name) for name in zipfile.ZipFile(ARCHIVE).namelist() if name.endswith(".png")}
    rows = dict(re.findall(r"\(`(.+?)`\) \|.*\| \[?([A-Z][\w.-]+)(?:\]\(\S+\))? \|$", notice, flags=re.MULTILINE))
    assert used <= set(rows)
    assert set(rows.values()) == {"MIT", "Apache-2.0", "CC-BY-4.0", "ISC"}, "share-alike sets stay out"
    locked = json.loads(ARCHIVE.with_name("package-lock.json").read_text())["packages"]
    assert {f"node_modules/@iconify-json/{name}" for name in rows} <= set(locked)


def icon(name, words, drawing=0, style="outline"):
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[4 * (drawing % 16) : 4 * (drawing % 16) + 8, : 4 + drawing] = 0
    return {"set": name, "name": words.replace(" ", "-"), "words": words, "style": style, "pixels": pixels}


def test_who_goes_where():
    icons = [
        icon("ph", "camera", 1), icon("si", "camera", 2), icon("tabler", "camera", 3), icon("feather", "camera", 4),
        icon("ph", "umbrella", 5), icon("feather", "umbrella", 6), icon("feather", "beach umbrella", 7),
        icon("feather", "umbrellas", 8), icon("feather", "zebra", 9), icon("ph", "zebra", 10),
        icon("pepicons-pop", "zebra", 11), icon("feather", "giraffe", 1), icon("tabler", "umbrella", 5),
    ]  # fmt: skip
    common, rare, pairs, pretraining = build.assign(icons)
    assert {(i["set"], i["part"]) for i in common} == {("ph", "test"), ("si", "val"), ("tabler", "train")}
    assert {(i["set"], i["part"]) for i in rare} == {("ph", "test"), ("feather", "train")}, "tabler's repeats ph's"
    assert {(i["set"], i["words"]) for i in pretraining} == {("feather", "camera"), ("feather", "zebra")}, (
        "no rare name, no set of the tests, no repeat of a test image"
    )
    assert not pairs


@pytest.mark.parametrize(("words", "pair"), [
    ("bell off", ("off", "bell")), ("add shopping cart", ("add", "cart")), ("map pin x", ("close", "location")),
    ("bell", None), ("off bell ring", None),
])  # fmt: skip
def test_pairs_from_names(words, pair):
    assert build.as_pair(words) == pair


def test_rules_of_names():
    assert icon_sets.RULES["solar"]("bell-off-bold-duotone") == ("bell-off", "duotone")
    assert icon_sets.RULES["majesticons"]("line-line") == ("line", "outline")
    assert icon_sets.RULES["fluent"]("alert-24-filled") == ("alert", "filled")
    assert icon_sets.RULES["fluent"]("alert-20-filled") is None
    assert icon_sets.RULES["twemoji"]("waving-hand-dark-skin-tone") is None
    assert build.plain_words("home-alt-02") == "home" and build.plain_words("3d") == "3d"


def test_names_are_of_one_class():
    for classes in (COMMON, RARE, MODIFIERS, OBJECTS):
        aliases = [alias for names in classes.values() for alias in names]
        assert len(aliases) == len(set(aliases))
    withheld = {alias for names in RARE.values() for alias in names}
    assert not withheld & {alias for names in COMMON.values() for alias in names}


@pytest.mark.parametrize("name", ["icons_blurred", "icons_common", "icons_edges", "icons_rare"])
def test_the_config_names_the_readers_styles(name):
    config = yaml.safe_load((REPO / f"configs/datasets/{name}.yaml").read_text())
    assert tuple(config["DATASET"]["STYLES"]) == STYLES
