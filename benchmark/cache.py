"""The command that shows what derived files take on disk, and frees it."""

import argparse
import math
import time
from collections import defaultdict
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
    is computed again. Only images that were converted or drawn have to stay while runs read them. --older-than and
    --limit are of image features alone.
    """

    examples = ("", "--older-than 30", "--limit 5", "--free", "--free all")

    def add_arguments(self, add: Any) -> None:
        more = "remove all image features; with names, those folders; with `all`, everything"
        add("--free", nargs="*", metavar="FOLDER", help=more)
        add("--older-than", type=float, metavar="DAYS", help="remove those that no run has used for so long")
        add("--limit", type=float, metavar="GB", help="remove those used longest ago, until no more GiB are left")

    def run(self, args: argparse.Namespace) -> int:
        from dassl.utils import cache_dir
        from prompting.feature_store import LIMIT_GB, entries
        from prompting.image_features import FOLDER

        root = cache_dir()
        folder = root / FOLDER
        if args.free is not None and (args.older_than, args.limit) != (None, None):
            raise UserError("--free removes all there is: give it alone, or --older-than and --limit without it")
        if args.free:
            _free_folders(root, args.free)
        elif args.free is not None or (args.older_than, args.limit) != (None, None):
            _free(folder, args.free is not None, args.older_than, args.limit)
        found = entries(folder)
        bound = f"runs keep it below {LIMIT_GB:g} GiB (FEATURES_LIMIT_GB)"
        print(f"{folder}: {len(found)} entries, {_of(found)}; {bound}")
        if found:
            print(f"\n{tabulate(_kinds(found), KINDS, disable_numparse=True)}")
        if others := [_folder(path) for path in sorted(root.iterdir()) if path.is_dir() and path != folder]:
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
    print(f"removed {len(gone)} entries, {_of(gone)}\n")
    if any(entry.path.exists() for entry in old) or sum(entry.size for entry in entries(folder)) > room:
        raise UserError(f"not all of it can be removed from {folder}: is it someone else's?")


def _free_folders(root, names):
    """Remove folders and what is in them."""
    from dassl.utils.caches import free

    folders = {path.name: path for path in root.iterdir() if path.is_dir()}
    names = list(folders) if names == ["all"] else names
    for name in names:
        if name not in folders:
            raise UserError(f"there is nothing called {name} in {root}: {nearest(name, folders)}")
    for name in names:
        _, files, size, _ = _folder(folders[name])
        try:
            if not free(folders[name]):
                raise UserError(f"a running process reads {folders[name]}: free it when that has ended")
        except OSError as error:
            raise UserError(f"not all of {folders[name]} can be removed ({error.strerror})") from error
        print(f"removed {name}: {files} files, {size}\n")


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


def _folder(path):
    """The row of a folder that holds something else."""
    files = [file.stat() for file in path.rglob("*") if file.is_file()]
    size, used = sum(file.st_size for file in files), max((file.st_mtime for file in files), default=0)
    return path.name, len(files), size_of(size), day(used) if files else ""


def _of(entries):
    return size_of(sum(entry.size for entry in entries))


def size_of(size):
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / 2**20:.2f} MiB"


def day(seconds):
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
