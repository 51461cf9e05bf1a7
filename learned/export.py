"""A trained run's classifier as a file that any CLIP with the same weights can use, with or without this project."""

import argparse
import json
from pathlib import Path
from typing import Any

from mocoop.command import Command


class Export(Command):
    """Write a trained run's classifier to a file for any CLIP with the same weights, even without this project.

    The file holds text_features, (N, e) float32 and normalised, and logit_scale, a float32 number (CLIP's learned
    scale, exponentiated); its metadata class names (a JSON list), backbone, trainer, dataset and image_size in pixels.
    The logits of a normalised image feature v are logit_scale * text_features @ v, plus logit_bias where the file has
    one (SigLIP).
    """

    examples = (
        "RUN --out classifier.safetensors",
        'RUN --out animals.safetensors --classnames "emu, fruit bat"',
    )

    def add_arguments(self, add: Any) -> None:
        add("run", metavar="RUN", help="folder of the run, the --output-dir of train.py")
        add("--out", required=True, metavar="FILE.safetensors", help="the file to write")
        add("--classnames", metavar="FILE_OR_LIST", help="other classes than the run's, by name alone")
        add("--load-epoch", type=int, help="use the weights of this epoch")

    def run(self, args: argparse.Namespace) -> None:
        from safetensors.torch import save

        from dassl.utils import atomic_path, mkdir_if_missing
        from learned.model import load_run, parse_classnames

        names = None if args.classnames is None else parse_classnames(args.classnames)
        model = load_run(args.run, names, epoch=args.load_epoch)
        classifier = model.classifier()
        cfg, out = model.trainer.cfg, Path(args.out)
        metadata = {
            "classnames": json.dumps(model.classnames, ensure_ascii=False),
            "backbone": cfg.MODEL.BACKBONE.NAME,
            "trainer": cfg.TRAINER.NAME,
            "dataset": cfg.DATASET.NAME,
            "image_size": str(cfg.INPUT.SIZE[0]),
        }
        mkdir_if_missing(out.parent)
        with atomic_path(out) as temporary:
            temporary.write_bytes(save(classifier, metadata))
        n, size = classifier["text_features"].shape
        print(f"{out}: {n} classes, text features of length {size}, for {cfg.MODEL.BACKBONE.NAME}")
