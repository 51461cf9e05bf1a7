"""Classify images with a trained run: the most probable classes of each, as a table, CSV or JSON."""

import argparse
import csv
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from dassl.errors import UserError  # torch is imported when the arguments are parsed: --help does without

EXAMPLES = """\
examples:
  python predict.py --model-dir output/coop photo.jpg photos/ --top 3
  python predict.py --model-dir output/coop photos/ --classnames "emu, fruit bat" --format csv
"""


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="predict.py", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE_OR_FOLDER", help="image files, and folders that are searched for images")
    add("--model-dir", required=True, metavar="RUN", help="folder of the run, as train.py's --output-dir named it")
    add("--top", type=int, default=5, help="how many classes per image (default: 5)")
    add("--format", choices=FORMATS, default="table", help="of the output (default: table)")
    add("--load-epoch", type=int, help="the weights of this epoch (default: the best on val, else the last)")
    add("--classnames", help="other classes than the run's: a file with a name a line, or names between commas")
    add("--device", choices=("cpu", "cuda"), help="where to compute (default: as the run's config says)")
    add("--batch-size", type=int, help="images at a time (default: as the run's test)")
    return parser.parse_args(argv)


def find_images(places):
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


def classify(model, paths, batch_size):
    """Yield (path, (N,) probabilities) of images, one batch in memory at a time.

    Args:
        model: a TrainedModel.
        paths: image files.
        batch_size: how many images are encoded at a time.

    What cannot be read is (path, UserError).
    """
    import torch

    from dassl.utils import read_image

    def read(path):
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


def as_table(predictions, width):
    for path, classes in predictions:
        for rank, (name, probability) in enumerate(classes):
            print(f"{path if rank == 0 else '':{width}}  {probability:7.2%}  {name}")


def as_csv(predictions, width):
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "probability"])
    for path, classes in predictions:
        writer.writerows([path, rank, name, f"{p:.6g}"] for rank, (name, p) in enumerate(classes, start=1))


def as_json(predictions, width):
    """A list that begins to appear before it ends, an image a line."""
    before = "[\n"
    for path, classes in predictions:
        ranked = [{"class": name, "probability": float(f"{p:.6g}")} for name, p in classes]
        print(before + json.dumps({"image": path, "classes": ranked}, ensure_ascii=False), end="")
        before = ",\n"
    print("\n]" if before == ",\n" else "[]")


FORMATS = {"table": as_table, "csv": as_csv, "json": as_json}


def main(argv=None):
    """Print predictions, and a line on stderr for each image that cannot be read; return how many those are."""
    args = parse_args(argv)
    for name in ("top", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}: give 1 or more")

    from trainers.trained import load_run, parse_classnames  # here, so that a broken plug-in is a mistake like others

    names = None if args.classnames is None else parse_classnames(args.classnames)
    model = load_run(args.model_dir, names, args.device, args.load_epoch)
    found = list(find_images(args.images))
    paths = [path for path in found if not isinstance(path, UserError)]
    errors = [error for error in found if isinstance(error, UserError)]
    for error in errors:
        print(f"error: {error}", file=sys.stderr)

    def predictions():
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


def run(argv=None):
    """main(), with a user's mistakes as one line on stderr; exit status 1 where there was any."""
    try:
        return int(main(argv) > 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who reads has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # python flushes once more
        return 1


if __name__ == "__main__":
    sys.exit(run())
