"""No bit of a checkpoint that flips makes another number, and no zip file costs more than its size."""

import copy
import random
import zipfile

import pytest
import torch

from dassl.utils.zips import members

STATE = {"weight": torch.arange(300.0).reshape(20, 15), "epoch": 3, "rates": [0.1, 0.2]}


def loaded(path):
    """What torch finds, in a form that can be compared; None where it is damaged."""
    try:
        members(path)
        found = torch.load(path, weights_only=True)
        return {key: value.tolist() if torch.is_tensor(value) else value for key, value in found.items()}
    except Exception:
        return None


def test_flipped_bits(tmp_path):
    path, seen = tmp_path / "model", set()
    torch.save(STATE, path)
    whole, expected = path.read_bytes(), loaded(path)
    assert expected is not None and expected["weight"][-1][-1] == 299
    for bit in random.Random(0).sample(range(8 * len(whole)), 400):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.unlink()
        path.write_bytes(flipped)
        found = loaded(path)
        assert found in (None, expected), f"bit {bit}"
        seen.add(found is None)
    assert seen == {True, False}, "names in headers, and what stands between members, do no harm"


def test_members_are_where_it_says(tmp_path):
    torch.save(STATE, tmp_path / "model")
    found, whole = members(tmp_path / "model"), (tmp_path / "model").read_bytes()
    with zipfile.ZipFile(tmp_path / "model") as archive:
        assert {name: whole[start : start + size] for name, (start, size) in found.items()} == {
            name: archive.read(name) for name in archive.namelist()
        }


def twice(archive):
    archive.writestr("a", b"1")
    archive.writestr("a", b"2")


def inside(archive):
    """The same bytes are of many members, so that to compare checksums would take an hour."""
    archive.writestr("0", bytes(1000))
    for n in range(1, 1000):
        entry = copy.copy(archive.getinfo("0"))
        entry.filename = str(n)
        archive.filelist.append(entry)


def bomb(archive):
    archive.writestr("code", bytes(2**26 + 1), zipfile.ZIP_DEFLATED)


def folder(archive):
    archive.writestr("data", bytes(10))
    archive.getinfo("data").external_attr = 0x10


def other(archive):
    archive.writestr("code", bytes(1000), zipfile.ZIP_LZMA)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (twice, "one name"),
        (inside, "larger than it is"),
        (bomb, "larger"),
        (folder, "cannot be"),
        (other, "compressed in"),
    ],
)
def test_odd_files(make, message, tmp_path):
    with zipfile.ZipFile(tmp_path / "file.zip", "w") as archive:
        make(archive)
    with pytest.raises(zipfile.BadZipFile, match=message):
        members(tmp_path / "file.zip")


def test_what_is_none(tmp_path):
    (tmp_path / "file").write_bytes(b"nothing")
    with pytest.raises(zipfile.BadZipFile):
        members(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        members(tmp_path / "nowhere")
