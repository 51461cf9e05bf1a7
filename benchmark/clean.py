"""The command that shows what caches and runs take on disk, and removes what it is asked to."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from benchmark.cache import counted, free_folders, row_of, size_of, sizes
from benchmark.place import CONSOLE, FAILED
from dassl import layout
from dassl.errors import UserError
from mocoop.command import Command

STATES = {
    "finished": "has a result",
    "unfinished": "was stopped or killed; its command continues it",
    "failed": "ended in an error (failed.txt)",
    "damaged": "config, result or checkpoint cannot be read",
    "running": "a process is at it",
}
"""How a run stands, and what that means."""

WRITTEN = (
    *(layout.METRICS, layout.CONFUSIONS, layout.LOGGERS, layout.CLASSES, CONSOLE, FAILED),
    *(f"{layout.LOG}*", "seen_unseen.*", f"{layout.TENSORBOARD}/**/*", "wandb/**/*"),
)
"""What a run writes into its folder, beside its models and what makes it a run."""


class Clean(Command):
    """Show what caches and runs take on disk, and remove what the options name.

    Without options nothing is removed. What running processes use stays: the folder of a run that is under way, and
    images that a run reads from the cache. All else that the project made there is safe to remove, and made again
    when needed; what others keep there stays. Of a run's folder, what the run has written is removed; other files in it
    stay, and so do folders without a run. Links are not followed.
    """

    examples = (
        "",
        "--caches",
        "--caches splits weights",
        "--outputs output",
        "--outputs output --unfinished --failed --dry-run",
    )

    def add_arguments(self, add: Any) -> None:
        add("--caches", nargs="*", metavar="FOLDER", help="empty the cache; with names, only these folders of it")
        add("--outputs", metavar="DIR", type=Path, help="look at the runs in this folder and below it")
        for state in [*STATES][:-1]:
            add(f"--{state}", action="store_true", help=f"with --outputs: remove each run that {_what(state)}")
        add("--dry-run", action="store_true", help="only say what would be removed")

    def run(self, args: argparse.Namespace) -> int:
        asked = [state for state in [*STATES][:-1] if getattr(args, state)]
        if asked and not args.outputs:
            raise UserError(f"--{asked[0]} removes runs: say where they are with --outputs DIR")
        if args.outputs and not args.outputs.is_dir():
            raise UserError(f"no folder {args.outputs}: give --outputs the one that runs were written to")
        freed = _caches(args.caches, args.dry_run) if args.caches is not None or not args.outputs else 0
        if args.outputs:
            freed += _outputs(args.outputs, asked, args.dry_run)
        if asked or args.caches is not None:
            print(f"\n{'to be freed' if args.dry_run else 'freed'}: {size_of(freed)}")
        return 0


def _caches(names, dry_run):
    """Show the cache's folders, or free those of some names, all for []; how many bytes that was."""
    from dassl.utils import cache_dir, caches

    if names is not None:
        return free_folders(names, dry_run)
    folders = caches.folders().values()
    print(f"{cache_dir()}: {size_of(sum(sum(sizes(caches.files(folder)).values()) for folder in folders))}")
    if folders:
        header = ("cache folder", "files", "size", "last change")
        print(tabulate(map(row_of, folders), header, disable_numparse=True))
    return 0


def _outputs(output, asked, dry_run):
    """Show the runs below a folder, or remove those of some states; how many bytes that was."""
    found = {folder: state_of(folder) for folder in runs_in(output)}
    taken = {folder: sum(sizes(written(folder)).values()) for folder in found}
    rows = [
        (state, len(own), size_of(sum(taken[folder] for folder in own)), STATES[state])
        for state in STATES
        if (own := [folder for folder in found if found[folder] == state])
    ]
    print(f"{output}: {counted(found, 'run')}, {size_of(sum(taken.values()))}")
    if rows:
        print(tabulate(rows, ("runs", "number", "size", "meaning"), disable_numparse=True))
    for folder, state in found.items():
        if state not in ("finished", *asked):
            print(f"{state}: {folder}")
    freed = 0
    for folder in [folder for folder in found if found[folder] in asked]:
        done = dry_run or remove(folder, output, found[folder])
        print(f"{_removed(dry_run)} {found[folder]}: {folder}" if done else f"in use, left: {folder}")
        freed += taken[folder] * done
    return freed


def runs_in(output: Path) -> Iterator[Path]:
    """The folders of runs, a folder and those below it, in order. Links are not followed."""
    for place, folders, files in os.walk(output):
        folders.sort()
        if layout.CONFIG in files and any(name.startswith(layout.LOG) for name in files) and _is_ours(Path(place)):
            yield Path(place)


def _is_ours(folder):
    """Whether a folder with a config and a log has a run of this project: others' programs use these names, too."""
    if (folder / layout.INPUTS).is_file():
        return True
    config = _config(folder) or {}
    return isinstance(config.get("TRAINER"), dict) and "OUTPUT_DIR" in config


def _config(folder):
    """A run's config as its file has it; None where it is damaged."""
    try:
        found = yaml.safe_load((folder / layout.CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _models(folder):
    """The folders of a run's models."""
    pointers = sorted(folder.glob(f"*/{layout.POINTER}"))
    return [path.parent for path in pointers if path.is_file() and not path.parent.is_symlink()]


def state_of(folder: Path) -> str:
    """How the run in a folder stands, one of STATES."""
    from dassl.utils import locks

    return "running" if locks.owner(folder / layout.LOCK) else _left(folder)


def _left(folder):
    """How a run stands that nobody is at."""
    if _config(folder) is None or not all(layout.epochs_in(model) for model in _models(folder)):
        return "damaged"
    if (folder / layout.METRICS).exists():
        return "finished" if layout.read_metrics(folder) else "damaged"
    return "failed" if (folder / FAILED).is_file() else "unfinished"


def written(folder: Path) -> list[Path]:
    """The files that the run in a folder has written, last what makes it one. Links to folders are not followed."""
    paths = [path for pattern in WRITTEN for path in folder.glob(pattern)]
    for model in _models(folder):
        paths += [*model.glob(layout.ANY_CHECKPOINT), model / layout.POINTER]
    paths += [folder / layout.INPUTS, folder / layout.CONFIG]
    home = folder.resolve()
    inside = [path for path in paths if path.parent.resolve() == home / path.parent.relative_to(folder)]
    return [path for path in inside if path.is_symlink() or path.is_file()]


def remove(folder: Path, output: Path, state: str) -> bool:
    """Remove a run, and folders that are empty then; False where it is not in this state any more, or under way.

    Args:
        folder: the run's.
        output: where runs are; it stays.
        state: how the run stands.
    """
    from dassl.utils import WriteError, locks, remove_half_written

    try:
        with locks.owned(folder / layout.LOCK):  # nobody begins it meanwhile
            if _left(folder) != state:
                return False
            files = written(folder)
            for place in (folder, *_models(folder)):
                remove_half_written(place)
            for path in files:
                path.unlink(missing_ok=True)
    except WriteError:
        raise
    except UserError:  # somebody began it
        return False
    except OSError as error:
        raise UserError(f"cannot remove all of {folder}: {error.strerror or error}") from error
    parents = {parent for path in files for parent in path.parents if parent.is_relative_to(output)} - {output}
    for parent in sorted(parents, key=lambda path: -len(path.parts)):
        try:
            parent.rmdir()
        except OSError:  # not empty
            continue
    return True


def _removed(dry_run):
    return "would remove" if dry_run else "removed"


def _what(state):
    return STATES[state].partition(";")[0].replace("config, result or checkpoint cannot", "cannot")
