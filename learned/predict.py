"""Classify images with a trained run: the most probable classes of each, as a table, CSV or JSON."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dassl.errors import UserError, printable  # torch is imported when a run is loaded: --help does without
from mocoop import escape
from mocoop.command import Command

Predictions = Iterable[tuple[str, list[tuple[str, float]]]]
"""(image, [(class, probability), ...]), the most probable class first."""


def find_images(places: Iterable[str]) -> Iterator[str | UserError]:
    """Yield image files: those named, and those in the folders named and below, in order of their names.

    What is not there, or holds no image, is a UserError in the place of a path.
    """
    from torchvision.datasets.folder import is_image_file

    for place in places:
        if not os.path.isdir(place):
            yield place if os.path.exists(place) else UserError(f"no file or folder {place}")
            continue
        found = False
        for folder, below, files in os.walk(place):
            below[:] = sorted(name for name in below if not name.startswith("."))
            for name in sorted(files):
                if is_image_file(name) and not name.startswith("."):
                    found = True
                    yield os.path.join(folder, name)
        if not found:
            yield UserError(f"no image in the folder {place}")


def classify(model: Any, paths: Sequence[str], batch_size: int) -> Iterator[tuple[str, Any]]:
    """Yield (path, (N,) probabilities) of images, one batch in memory at a time.

    Args:
        model: a TrainedModel.
        batch_size: how many images are encoded at a time.

    What cannot be read is (path, UserError).
    """
    import torch

    from dassl.utils import read_image

    def read(path: str) -> Any:
        try:
            return model.transform(read_image(path))
        except UserError as error:
            return error

    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            images = list(pool.map(read, batch))
            whole = [image for image in images if torch.is_tensor(image)]
            rows = iter(model.probabilities(torch.stack(whole)) if whole else ())
            for path, image in zip(batch, images, strict=True):
                yield path, next(rows) if torch.is_tensor(image) else image


def as_table(predictions: Predictions, width: int) -> None:
    for path, classes in predictions:
        for rank, (name, probability) in enumerate(classes):
            print(f"{printable(path) if rank == 0 else '':{width}}  {probability:7.2%}  {printable(name)}")


def as_csv(predictions: Predictions, width: int) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "probability"])
    for path, classes in predictions:
        rows = [[path, rank, name, f"{p:.6g}"] for rank, (name, p) in enumerate(classes, start=1)]
        writer.writerows(escape.csv_rows(rows))


def as_json(predictions: Predictions, width: int) -> None:
    """A list that begins to appear before it ends, an image a line."""
    before = "[\n"
    for path, classes in predictions:
        ranked = [{"class": name, "probability": float(f"{p:.6g}")} for name, p in classes]
        text = json.dumps(item := {"image": path, "classes": ranked}, ensure_ascii=False)
        print(before + (text if text.isprintable() else json.dumps(item)), end="")
        before = ",\n"
    print("\n]" if before == ",\n" else "[]")


FORMATS = {"table": as_table, "csv": as_csv, "json": as_json}


class Predict(Command):
    """Classify images with a trained run: the most probable classes of each, as a table, CSV or JSON.

    An image that cannot be read is reported in a line on stderr; the exit status is then 1.
    """

    examples = (
        "--model-dir output/coop photo.jpg photos/ --top 3",
        '--model-dir output/coop photos/ --classnames "emu, fruit bat" --format csv',
    )

    def add_arguments(self, add: Any) -> None:
        add(
            "images", nargs="+", metavar="IMAGE_OR_FOLDER", help="image files, and folders that are searched for images"
        )
        add("--model-dir", required=True, metavar="RUN", help="folder of the run, the --output-dir of train.py")
        add("--top", type=int, default=5, help="how many classes per image (default: 5)")
        add("--format", choices=FORMATS, default="table", help="output format (default: table)")
        add("--load-epoch", type=int, help="the weights of this epoch (default: the best on val, else the last)")
        names = "a file with one name per line, or names separated by commas"
        add("--classnames", help=f"other classes than the run's: {names}")
        add("--device", choices=("cpu", "cuda"), help="where to compute (default: as the run's config says)")
        add("--batch-size", type=int, help="images at a time (default: as in the run's tests)")

    def run(self, args: argparse.Namespace) -> int:
        try:
            return int(bool(predict(args)))
        except KeyboardInterrupt:  # there is nothing to go on with
            return 130


def predict(args: argparse.Namespace) -> int:
    """Print predictions, and a line on stderr for each image that cannot be read; how many those are."""
    for name in ("top", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}: give 1 or more")

    from learned.model import load_run, parse_classnames  # here, so that a broken plug-in is a mistake like others

    names = None if args.classnames is None else parse_classnames(args.classnames)
    model = load_run(args.model_dir, names, args.device, args.load_epoch)
    found = list(find_images(args.images))
    paths = [path for path in found if not isinstance(path, UserError)]
    errors = [error for error in found if isinstance(error, UserError)]
    for error in errors:
        print(f"error: {error}", file=sys.stderr)

    def predictions() -> Predictions:
        for path, row in classify(model, paths, args.batch_size or model.trainer.cfg.DATALOADER.TEST.BATCH_SIZE):
            if isinstance(row, UserError):
                errors.append(row)
                print(f"error: {row}", file=sys.stderr)
                continue
            top = row.topk(min(args.top, len(row)))
            yield (
                path,
                [(model.classnames[i], p) for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)],
            )
            sys.stdout.flush()

    FORMATS[args.format](predictions(), max(map(len, paths), default=0))
    return len(errors)
