"""A release of CoOp's shape, run from its own folder and unedited; docs/releases.md says what that takes."""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dassl.errors import UserError
from mocoop import HOME
from mocoop.command import Command

PLACES = ("--root", "--output-dir", "--resume", "--model-dir")
"""Options of every train.py of the family that name places of the user's, not of the release's."""

FILES = ("--config-file", "--dataset-config-file")


class Release(Command):
    """Run a release of CoOp's shape, its train.py, trainers/, datasets/ and clip/ as they are, on our dassl.

    What follows -- are the arguments of its train.py. Its config files are found from its folder; the data, the
    output and the models from where you are. The run leaves metrics.json, so tables and reports have it beside ours.
    """

    examples = (
        """\
../theirs --weights ViT-B/16 -- --root data --seed 1 --trainer Theirs \\
      --dataset-config-file configs/datasets/dtd.yaml --config-file configs/trainers/Theirs/vit_b16.yaml \\
      --output-dir output/dtd/Theirs/vit_b16_16shots/seed1 DATASET.NUM_SHOTS 16""",
    )

    def add_arguments(self, add: Any) -> None:
        add("folder", metavar="PATH", help="the release's folder")
        add("--weights", default="", help="name or path of what it gets instead of what it downloads")
        add("--name", help="what tables call the release (default: its folder's name)")
        add("--device", choices=("cpu", "cuda"), help="(default: cuda where there is one)")
        add("--overwrite", action="store_true", help="replace a run of another config in the output directory")

    def parse(self, argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
        words = list(argv or [])
        end = words.index("--") if "--" in words else len(words)
        args = super().parse(words[:end], prog)
        args.arguments = words[end + 1 :]
        return args

    def parser(self, prog: str) -> argparse.ArgumentParser:
        parser = super().parser(prog)
        parser.usage = f"{prog} PATH [options] -- ITS ARGUMENTS"
        return parser

    def run(self, args: argparse.Namespace) -> int:
        folder = release_folder(args.folder)
        arguments = from_here(args.arguments, folder)
        asks = {"-h", "--help"}.intersection(arguments)
        if not asks and "--output-dir" not in arguments:
            raise UserError("its arguments need --output-dir, such as output/DATASET/TRAINER/CONFIG_16shots/seed1")
        with TemporaryDirectory() as temporary:
            file, size = weights_file(args.weights, Path(temporary)) if args.weights else (Path(), None)
            if size and "INPUT.SIZE" not in arguments:
                arguments += ["INPUT.SIZE", f"({size}, {size})"]
            told = {
                "home": str(HOME),
                "folder": str(folder),
                "name": args.name or folder.name,
                "weights": args.weights,
                "file": str(file) if args.weights else "",
                "overwrite": args.overwrite,
                "arguments": arguments,
            }
            if args.device == "cuda" and not _finds_a_gpu():
                raise UserError("--device cuda: there is no GPU here")
            environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if args.device == "cpu" else {})
            command = [sys.executable, str(HOME / "benchmark" / "inside_release.py"), json.dumps(told)]
            status = subprocess.run(command, cwd=folder, env=environment).returncode
        return 128 - status if status < 0 else status  # as a shell says that a signal ended it


def release_folder(path: str) -> Path:
    """The folder of a release, absolute. Raises UserError where there is none, or it has another shape than CoOp's."""
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise UserError(f"no folder {path}: give the one that a release was cloned to")
    script = folder / "train.py"
    lacks = [name for name in ("train.py", "trainers") if not (folder / name).exists()]
    if not lacks and not re.search(r"^\s*(from|import) dassl\b", script.read_text(errors="replace"), re.MULTILINE):
        lacks = ["a train.py that imports dassl"]
    if lacks:
        raise UserError(f"{path} is no release of CoOp's shape: it lacks {' and '.join(lacks)}")
    return folder


def from_here(arguments: Sequence[str], folder: Path) -> list[str]:
    """The arguments for a process that works in the release's folder, with --option=value as two words."""
    words: list[str] = []
    for word in arguments:
        option, equals, value = word.partition("=")
        words += [option, value] if equals and option in (*PLACES, *FILES) else [word]
    for i, option in enumerate(words[:-1]):
        path = Path(words[i + 1]).expanduser()
        if option in PLACES or (option in FILES and path.is_file() and not (folder / path).is_file()):
            words[i + 1] = os.path.abspath(path)
    return words


def weights_file(name: str, folder: Path) -> tuple[Path, int | None]:
    """A file that the release's own code loads, and the size of the images it takes where that is known.

    Args:
        name: a backbone's, or the path of a file, which is handed on as it is.
        folder: where a file may be written that the release can load.

    Raises:
        UserError: there is no such backbone, its weights are not at hand, or the release cannot compute with them.
    """
    import torch

    from prompting import backbone
    from prompting.backbones.files import OPENAI

    if Path(name).expanduser().is_file():
        try:
            size: int | None = backbone.image_size(name)
        except UserError:  # the release may know better
            size = None
        return Path(name).expanduser().resolve(), size
    record = backbone.find(name)
    if record.family != OPENAI:
        raise UserError(f"{name} is of the family {record.family.name}: a release computes with OpenAI's CLIP alone")
    backbone.fetch(name)
    fetched = record.fetch()
    if isinstance(fetched, Path):  # OpenAI's archive
        return fetched, record.image_size
    torch.save(backbone.load_backbone(name).state_dict(), folder / "weights.pt")
    return folder / "weights.pt", record.image_size


def _finds_a_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
