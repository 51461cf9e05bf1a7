"""What files hold, in one number."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

CHUNK = 2**20


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal; of a file that did not change it is computed once.

    Raises:
        OSError: it cannot be read.
    """
    stat = os.stat(path)
    return _sha256(os.path.realpath(path), stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _sha256(path: str, inode: int, size: int, written: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
