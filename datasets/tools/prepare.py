"""python -m datasets prepare: downloads, archives, and where their files go."""

import argparse
import http.client
import os
import posixpath
import shutil
import sys
import tarfile
import urllib.error
import zipfile
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

from torchvision.datasets.utils import check_integrity
from tqdm import tqdm

from dassl.utils import UserError, mkdir_if_missing
from dassl.utils.digests import sha256
from dassl.utils.downloads import open_url
from datasets.sources import Source
from datasets.split import path_inside
from datasets.tools import Tool, find
from datasets.tools.check import check

CHUNK = 2**20


class Prepare(Tool):
    """Download a data set, unpack it and arrange its files under the root as CoOp does; then check them.

    What is already there is left alone, and an interrupted download continues where it stopped. Where a site asks for a
    login or a file is unavailable, the command says which file to put where; when repeated, it continues from there.
    """

    examples = ("dtd --root data",)

    def add_arguments(self, add: Any) -> None:
        super().add_arguments(add)
        add("--quick", action="store_true", help="do not open the images to check them")

    def run(self, args: argparse.Namespace) -> int:
        reader, _ = find(args.name, args.root)
        sources = getattr(reader, "sources", ())
        if not sources:
            print(f"{args.name}: no download is known; the first lines of {reader.__module__} describe its layout")
        folder = os.path.join(os.path.abspath(os.path.expanduser(args.root)), reader.dataset_dir)
        for source in sources:
            try:
                fetch(source, folder)
            except UserError as error:  # the other sources may be enough
                print(f"not done: {error}", file=sys.stderr)
        return int(not check(args.name, args.root, args.quick))


def fetch(source: Source, folder: str) -> None:
    """See that a source's files are in a data set's folder.

    Raises:
        UserError: it cannot be had, or is damaged; says what to put where.
    """
    path = os.path.join(folder, source.path)
    wanted = source.gives or {source.path: ""}
    if all(os.path.exists(os.path.join(folder, name)) for name in wanted):
        print(f"there: {', '.join(os.path.join(folder, name) for name in wanted)}")
        return
    by_hand = os.path.isfile(path)
    if not by_hand:
        if not source.url:
            raise UserError(f"{source.path} must be downloaded by hand: put it at {path} (from {source.page})")
        download(source, path)
    elif source.md5 and not check_integrity(path, source.md5):
        raise UserError(f"{path} is not the published file (its md5 is not {source.md5}): remove it")
    if source.gives:
        lay_out(source, path, folder)
        if not by_hand:
            os.remove(path)


def download(source: Source, path: str) -> None:
    """Download a source to a path, continuing where an earlier try stopped. Raises UserError if that fails."""
    print(f"downloading {source.url}")
    mkdir_if_missing(os.path.dirname(path))
    part = f"{path}.part"
    try:
        _append(source.url, part)
    except (OSError, http.client.HTTPException) as error:  # urllib's errors are OSErrors
        reason = getattr(error, "reason", None) or error
        page = f" (see {source.page})" if source.page else ""
        raise UserError(
            f"cannot download {source.url} ({reason}): try again to resume it, or put the file at {path}{page}"
        ) from error
    if source.md5 and not check_integrity(part, source.md5):
        os.remove(part)
        raise UserError(f"{source.url} did not give the published file (its md5 is not {source.md5}): try again")
    if not source.md5 and _is_page(part):
        os.remove(part)
        raise UserError(f"{source.url} gave a web page, not the file: put it at {path} (from {source.page})")
    os.replace(part, path)
    if not source.md5:
        print(f"not checked: {path}, of which no checksum is published; its SHA-256 is {sha256(path)}")


def _append(url, part):
    """Add what is still missing of a url to a file. Raises OSError or HTTPException."""
    start = os.path.getsize(part) if os.path.isfile(part) else 0
    headers = {"User-Agent": "Mozilla/5.0"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = open_url(url, headers)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing
            return
        raise
    with response:
        goes_on = getattr(response, "status", None) == 206
        start = start if goes_on else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with open(part, "ab" if goes_on else "wb") as file, _progress(total, start) as bar:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and os.path.getsize(part) != total:
        raise OSError(f"the connection ended after {os.path.getsize(part):,} of {total:,} bytes")


def _progress(total, start):
    return tqdm(total=total, initial=start, unit="B", unit_scale=True, disable=None, leave=False)


def _is_page(path):
    with open(path, "rb") as file:
        return file.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))


def lay_out(source: Source, archive: str, folder: str) -> None:
    """Unpack an archive and move what it gives to its places, each whole or not at all.

    Raises:
        UserError: the archive is damaged, names a path outside of its folder, or lacks what it should give.
    """
    print(f"unpacking {archive}")
    gives = source.gives or {}
    temporary = os.path.join(folder, f".unpacking-{os.path.basename(archive)}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a try that was killed
    mkdir_if_missing(temporary)
    try:
        if source.inner:
            unpack(archive, {posixpath.basename(source.inner): source.inner}, temporary)
            archive = os.path.join(temporary, posixpath.basename(source.inner))
        if source.unpack:
            (name,) = gives
            source.unpack(archive, os.path.join(temporary, name))
        else:
            unpack(archive, gives, temporary)
        for name, inside in gives.items():
            if not os.path.exists(os.path.join(temporary, name)):
                raise UserError(f"{archive} holds no {inside}: it is not the published archive")
        for name in gives:
            target = os.path.join(folder, name)
            if not os.path.exists(target):
                mkdir_if_missing(os.path.dirname(target))
                os.rename(os.path.join(temporary, name), target)
    except (OSError, RuntimeError) as error:  # RuntimeError: torchvision's
        raise UserError(f"cannot unpack {archive}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def unpack(archive: str, gives: Mapping[str, str], folder: str) -> None:
    """Write files of a zip or tar archive below a folder. Links and devices are left out.

    Args:
        archive: its path.
        gives: {path below the folder: file, or folder of files, in the archive}.
        folder: it exists.

    Raises:
        UserError: the archive is damaged, or names a path outside of the folder; nothing is written there.
    """
    try:
        with _files(archive) as files:
            for name, content in tqdm(files, unit=" files", disable=None, leave=False):
                inside = os.path.relpath(path_inside(name, folder, archive), folder)
                for target, wanted in gives.items():
                    if inside == wanted or inside.startswith(f"{wanted}/"):
                        path = os.path.join(folder, target + inside[len(wanted) :])
                        os.makedirs(os.path.dirname(path), exist_ok=True)
                        with content() as source, open(path, "wb") as file:
                            shutil.copyfileobj(source, file, CHUNK)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError) as error:
        raise UserError(f"cannot unpack {archive} ({error}): it is damaged; remove it and try again") from error


@contextmanager
def _files(path):
    """The (name, function that opens it) pairs of an archive's files, in the archive's order."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            infos = (info for info in archive.infolist() if not info.is_dir())
            yield ((info.filename, lambda info=info: archive.open(info)) for info in infos)
    else:
        with tarfile.open(path) as archive:
            yield ((info.name, lambda info=info: archive.extractfile(info)) for info in archive if info.isfile())
