"""Write a trained run's classifier to a file that any CLIP of the same weights can use, with or without this project.

    python -m benchmark export RUN --out FILE.safetensors [--classnames FILE_OR_LIST] [--load-epoch E]

The file holds text_features, (N, e) float32 and normalised, and logit_scale, a float32 number (CLIP's learned scale,
exponentiated); its metadata class names (a JSON list), backbone, trainer, dataset and image_size in pixels. The logits
of a normalised image feature v are logit_scale * text_features @ v.
"""

import argparse
import json
from pathlib import Path

from safetensors.torch import save

from dassl.utils import atomic_path, mkdir_if_missing
from trainers.trained import load_run, parse_classnames


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmark export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--out", required=True, metavar="FILE.safetensors")
    parser.add_argument("--classnames", metavar="FILE_OR_LIST", help="other classes than the run's, by name alone")
    parser.add_argument("--load-epoch", type=int, help="the weights of this epoch")
    args = parser.parse_args(argv)
    names = None if args.classnames is None else parse_classnames(args.classnames)
    model = load_run(args.run, names, epoch=args.load_epoch)
    features, scale = model.classifier()
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
        temporary.write_bytes(save({"text_features": features, "logit_scale": scale}, metadata))
    print(f"{out}: {len(features)} classes, text features of length {features.shape[1]}, for {cfg.MODEL.BACKBONE.NAME}")
    return 0
