"""Zip files as torch writes them, checked before anybody believes what is in them."""

import os
import struct
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

CHUNK = 2**20
HEADER = struct.Struct("<4s22xHH")  # of a member, before its name, what else is said of it, and its bytes
FOLDER = 0x10  # a member's attribute; torch takes its bytes for zeros
LARGEST = 64 * 2**20
"""Bytes that all the compressed members of a file may have: code, never tensors."""


def members(path: str | Path) -> dict[str, tuple[int, int]]:
    """{name of a member that is not compressed: where in the file its bytes begin, and how many they are}.

    All of the file's members have been read and are what was written, by their checksums (CRC-32), none is there twice
    and none is inside another. torch itself compares no checksums. Of a file that did not change this is done once.

    Raises:
        zipfile.BadZipFile: it is damaged, or no zip file.
        OSError: it cannot be read.
    """
    stat = os.stat(path)
    return dict(_members(os.path.realpath(path), stat.st_ino, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=16)
def _members(path: str, inode: int, size: int, written: int) -> dict[str, tuple[int, int]]:
    with open(path, "rb") as file:
        try:
            archive = zipfile.ZipFile(file)
            entries = archive.infolist()
            plain = [entry for entry in entries if entry.compress_type == zipfile.ZIP_STORED]
            packed = [entry for entry in entries if entry.compress_type == zipfile.ZIP_DEFLATED]
            if len(plain) + len(packed) < len(entries):
                raise ValueError("it is compressed in a way that torch does not write")
            if any(entry.file_size != entry.compress_size or entry.external_attr & FOLDER for entry in plain):
                raise ValueError("it says of its members what cannot be")
            if sum(entry.compress_size for entry in entries) > size or sum(e.file_size for e in packed) > LARGEST:
                raise ValueError("its members are larger than it is")
            if len({entry.filename for entry in entries}) < len(entries):
                raise ValueError("two of its members have one name")
            for entry in packed:
                archive.read(entry)  # which compares checksums
            return {entry.filename: _stored(file, entry) for entry in plain}
        except Exception as error:  # on a damaged file almost any
            raise zipfile.BadZipFile(str(error) or type(error).__name__) from error


def _stored(file, entry):
    """Where the bytes of a member begin, and how many they are."""
    file.seek(entry.header_offset)
    mark, name, more = HEADER.unpack(file.read(HEADER.size))
    start, left, found = file.seek(name + more, os.SEEK_CUR), entry.file_size, 0
    while left and (chunk := file.read(min(left, CHUNK))):
        left, found = left - len(chunk), zlib.crc32(chunk, found)
    if mark != b"PK\3\4" or left or found != entry.CRC:
        raise ValueError(f"{entry.filename} in it is damaged")
    return start, entry.file_size
