"""The command that shows what derived files take on disk, and frees it."""

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence, Sized
from contextlib import suppress
from pathlib import Path
from typing import Any

from tabulate import tabulate

from dassl.errors import UserError, nearest
from mocoop.command import Command

GIB = 2**30
DAY = 24 * 3600


class Cache(Command):
    """Show what is kept on disk of what runs compute, and free it.

    Image features of frozen encoders are kept for all runs that need the same ones (docs/features.md); what was used
    longest ago goes by itself when a run's FEATURES_LIMIT_GB is reached. All of it is safe to remove: what is missing
    is computed again. Only images that were converted or drawn stay while runs read them. --older-than and --limit
    concern image features alone.
    """

    examples = ("", "--older-than 30", "--limit 5", "--free", "--free all")

    def add_arguments(self, add: Any) -> None:
        more = "remove all image features; with names, those folders; with `all`, everything"
        add("--free", nargs="*", metavar="FOLDER", help=more)
        add("--older-than", type=float, metavar="DAYS", help="remove those that no run has used for so long")
        add("--limit", type=float, metavar="GB", help="remove those used longest ago, until no more GiB are left")

    def run(self, args: argparse.Namespace) -> int:
        from dassl.utils import cache_dir, caches
        from prompting.feature_store import LIMIT_GB, entries
        from prompting.image_features import FOLDER

        root = cache_dir()
        folder = root / FOLDER
        if args.free is not None and (args.older_than, args.limit) != (None, None):
            raise UserError("--free removes all there is: give it alone, or --older-than and --limit without it")
        if args.free:
            freed = free_folders([] if args.free == ["all"] else args.free)
            print(f"\nfreed: {size_of(freed)}\n")
        elif args.free is not None or (args.older_than, args.limit) != (None, None):
            _free(folder, args.free is not None, args.older_than, args.limit)
        found = entries(folder)
        bound = f"runs keep it below {LIMIT_GB:g} GiB (FEATURES_LIMIT_GB)"
        print(f"{folder}: {counted(found, 'entry', 'entries')}, {_of(found)}; {bound}")
        if found:
            print(f"\n{tabulate(_kinds(found), KINDS, disable_numparse=True)}")
        if others := [row_of(path) for path in caches.folders().values() if path != folder]:
            print(f"\n{tabulate(others, OTHERS, disable_numparse=True)}")
        return 0


def _free(folder, free, days, limit):
    """Remove what the options name, and say how much that was."""
    from prompting.feature_store import entries, remove, shrink

    if not all(number is None or number >= 0 for number in (days, limit)):
        raise UserError("--older-than and --limit take a number that is not negative")
    before = math.inf if free else time.time() - (math.inf if days is None else days * DAY)
    room = math.inf if limit is None else limit * GIB
    old = [entry for entry in entries(folder) if entry.used < before]
    gone = [entry for entry in old if remove(entry)] + shrink(folder, room)
    print(f"removed {counted(gone, 'entry', 'entries')}, {_of(gone)}\n")
    if any(entry.path.exists() for entry in old) or sum(entry.size for entry in entries(folder)) > room:
        raise UserError(f"not all of it can be removed from {folder}: is it someone else's?")


def free_folders(names: Sequence[str], dry_run: bool = False) -> int:
    """Remove the cache's folders of some names, all for none, but those in use; how many bytes that was.

    Raises:
        UserError: there is no such folder of ours, or not all of one can be removed.
    """
    from dassl.utils import cache_dir, caches

    folders = caches.folders()
    for name in names:
        if name not in folders:
            raise UserError(f'there is no folder "{name}" of ours in {cache_dir()}: {nearest(name, folders)}')
    freed = 0
    for folder in [folders[name] for name in names or folders]:
        files = sizes(caches.files(folder))
        try:
            done = dry_run or caches.free(folder)
        except OSError as error:
            raise UserError(f"cannot remove all of {folder}: {error.strerror or error}") from error
        told = f"{folder}: {counted(files, 'file')}, {size_of(sum(files.values()))}"
        print(f"{'would remove' if dry_run else 'removed'} {told}" if done else f"in use, left: {folder}")
        freed += done * sum(files.values())
    return freed


def row_of(folder: Path) -> tuple[str, int, str, str]:
    """A folder of the cache: its name, files, their size, their last change."""
    from dassl.utils import caches

    files = sizes(caches.files(folder))
    last = day(max(path.stat().st_mtime for path in files)) if files else ""
    return folder.name, len(files), size_of(sum(files.values())), last


KINDS = ("image features", "backbone", "precision", "seeds", "entries", "size", "last use")
OTHERS = ("other folder", "files", "size", "last change")


def _kinds(found):
    """A row for each kind of entries, backbone and precision."""
    from prompting.feature_store import EARLIER, about_of

    kinds, seeds = defaultdict(list), defaultdict(set)
    for entry in found:
        about = about_of(entry.path)
        if entry.path.suffix == EARLIER:
            kind = "of earlier versions"
        elif not about:
            kind = "damaged"
        else:
            kind = "training views" if "seed" in about else "plain images"
        kinds[key := (kind, about.get("backbone", ""), about.get("precision", ""))].append(entry)
        seeds[key] |= {about["seed"]} if "seed" in about else set()
    for key, entries in sorted(kinds.items()):
        used = max(entry.used for entry in entries)
        yield *key, ", ".join(sorted(seeds[key], key=int)), len(entries), _of(entries), day(used)


def _of(entries):
    return size_of(sum(entry.size for entry in entries))


def sizes(paths: Iterable[Path]) -> dict[Path, int]:
    """{file: bytes} of those that are there, links left out."""
    found = {}
    for path in paths:
        with suppress(OSError):  # somebody removed it just now
            if path.is_file() and not path.is_symlink():
                found[path] = path.stat().st_size
    return found


def counted(things: Sized, one: str, many: str = "") -> str:
    """How many there are, in words."""
    return f"{len(things)} {one if len(things) == 1 else many or f'{one}s'}"


def size_of(size: float) -> str:
    """Bytes, in words."""
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / 2**20:.2f} MiB"


def day(seconds: float) -> str:
    """A time since the epoch, in words."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
