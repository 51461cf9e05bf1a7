"""Digests are of what files hold now, and of files that did not change computed once."""

import hashlib
import os

from dassl.utils import digests


def test_of_what_a_file_holds_now(tmp_path, monkeypatch):
    path, read = tmp_path / "file", []
    monkeypatch.setattr(digests, "open", lambda *args: read.append(args) or open(*args), raising=False)
    for content in (b"one", b"two", b"", bytes(2**20 + 1)):
        path.write_bytes(content)
        os.utime(path, ns=(len(read), len(read)))  # clocks of file systems are coarse
        assert digests.sha256(path) == digests.sha256(str(path)) == hashlib.sha256(content).hexdigest()
    assert len(read) == 4


def test_an_owner_that_takes_no_weak_reference():
    assert digests.once([], 1, lambda: "a") == "a" and digests.once([], 1, lambda: "b") == "b"
