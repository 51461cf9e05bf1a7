"""What `python -m benchmark cache` shows and frees."""

import os
import shlex
import time

import pytest
import torch

from benchmark.__main__ import main
from benchmark.cache import Cache
from prompting.feature_store import FeatureStore

DAY = 24 * 3600
SPLIT = f"Icons-{'1a' * 8}.json"


@pytest.fixture
def folder(tmp_cache):
    """Image features of two backbones, one entry of an earlier version, one damaged, and a folder of something else."""
    folder = tmp_cache / "image_features"
    folder.mkdir()
    store = FeatureStore(folder)
    test = {"images": "256", "precision": "fp32", "backbone": "ViT-B/32"}
    views = test | {"precision": "bf16", "backbone": "RN50"}
    for days, (key, about) in enumerate(
        [("a", test), ("b", test), *((f"{s}-{e}", views | {"seed": s, "epoch": e}) for s in "12" for e in "01")]
    ):
        store.get(key, 2**18, lambda: torch.zeros(2**18, 1), about)  # a MiB each
        touch(folder / f"{key}.safetensors", days)
    (folder / "old.pt").write_bytes(bytes(2**20))
    touch(folder / "old.pt", 40)
    (folder / "x.safetensors").write_bytes(b"not whole")
    touch(folder / "x.safetensors", 50)
    (tmp_cache / "splits").mkdir()
    (tmp_cache / "splits" / SPLIT).write_text("[]")
    return folder


def touch(path, days):
    os.utime(path, (time.time() - days * DAY,) * 2)


def cache(capsys, *options):
    """What the command prints, line by line."""
    assert main(["cache", *options]) == 0
    return capsys.readouterr().out.splitlines()


def cells(line):
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def left(folder):
    return {path.stem for path in folder.iterdir()}


def test_what_is_kept(folder, capsys):
    first, _, head, _, *rows = cache(capsys)
    assert first == f"{folder}: 8 entries, 7.00 MiB; runs keep it below 20 GiB (FEATURES_LIMIT_GB)"
    assert cells(head) == ["image features", "backbone", "precision", "seeds", "entries", "size", "last use"]
    today, day = (time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() - days * DAY)) for days in (0, 2))
    table = {row[0]: row[1:] for row in map(cells, rows[: rows.index("")])}
    assert table.keys() == {"damaged", "of earlier versions", "plain images", "training views"}
    assert table["plain images"][:4] == ["ViT-B/32", "fp32", "2", "2.00 MiB"]
    assert table["training views"][:5] == ["RN50", "bf16", "1, 2", "4", "4.00 MiB"]
    assert table["plain images"][-1][:10] == today[:10] and table["training views"][-1][:10] == day[:10]
    assert table["damaged"][0] == "1" and table["of earlier versions"][:2] == ["1", "1.00 MiB"]
    assert cells(rows[-1])[:3] == ["splits", "1", "0.00 MiB"]


def test_nothing_is_kept(tmp_cache, capsys):
    assert [line.partition(": ")[2][:22] for line in cache(capsys)] == ["0 entries, 0.00 MiB; r"]
    assert cache(capsys, "--free")[0] == "removed 0 entries, 0.00 MiB" and list(tmp_cache.iterdir()) == []


def test_all_is_freed(folder, capsys):
    assert cache(capsys, "--free")[0] == "removed 8 entries, 7.00 MiB"
    assert left(folder) == set() and (folder.parent / "splits" / SPLIT).is_file()


def test_other_folders_are_freed_by_name(folder, capsys):
    assert cache(capsys, "--free", "splits")[0] == f"removed {folder.parent}/splits: 1 file, 0.00 MiB"
    assert len(left(folder)) == 8 and not (folder.parent / "splits").exists()
    assert main(["cache", "--free", "../splits"]) == 1
    assert 'there is no folder "../splits" of ours in' in capsys.readouterr().err
    assert cache(capsys, "--free", "all")[0] == f"removed {folder}: 8 files, 7.00 MiB"
    assert list(folder.parent.iterdir()) == []


def test_what_was_not_used_for_long_is_freed(folder, capsys):
    assert cache(capsys, "--older-than", "3.5")[0] == "removed 4 entries, 3.00 MiB"
    assert left(folder) == {"a", "b", "1-0", "1-1"}


def test_what_exceeds_a_limit_is_freed(folder, capsys):
    assert cache(capsys, "--limit", "0.0031")[0] == "removed 5 entries, 4.00 MiB"
    assert left(folder) == {"a", "b", "1-0"}
    assert cache(capsys, "--limit", "0.002", "--older-than", "0.5")[0] == "removed 2 entries, 2.00 MiB"
    assert left(folder) == {"a"}


@pytest.mark.parametrize(("options", "message"), [
    (["--free", "--limit", "2"], "--free removes all there is: give it alone, or --older-than and --limit"),
    (["--limit", "-1"], "--older-than and --limit take a number that is not negative"),
    (["--older-than", "nan"], "--older-than and --limit take a number that is not negative"),
])  # fmt: skip
def test_mistakes(folder, capsys, options, message):
    assert main(["cache", *options]) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}") and len(left(folder)) == 8


def test_what_cannot_be_removed_is_said(folder, capsys):
    folder.chmod(0o500)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("root writes everywhere")
        assert main(["cache", "--free"]) == 1
        assert "error: not all of it can be removed from" in capsys.readouterr().err
    finally:
        folder.chmod(0o700)


def test_examples(tmp_cache, capsys):
    for example in Cache.examples:
        assert main(["cache", *shlex.split(example)]) == 0
