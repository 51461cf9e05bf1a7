"""The words nearest to the context vectors of a checkpoint: CoOp's command line. `benchmark explain` shows more.

python interpret_prompt.py output/coop/prompt_learner/model.pth.tar-50 3
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dassl.errors import UserError, exit_status
from mocoop import typed


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fpath", type=Path, help="the checkpoint")
    parser.add_argument("topk", type=int, help="words for each vector")
    parser.add_argument("--backbone", default="", help="whose words (default: as config.yaml of the run says)")
    return exit_status(show, parser.parse_args(argv))


def show(args: argparse.Namespace) -> None:
    """Print a line for each vector: its number, the words, their distances."""
    from dassl.utils import load_checkpoint
    from learned.model import read_cfg
    from prompting import backbone, nearest_words

    if args.topk < 1:
        raise UserError(f"topk is {args.topk}: give 1 or more")
    if (ctx := load_checkpoint(args.fpath)["state_dict"].get("ctx")) is None:
        raise UserError(
            f"{args.fpath} has no ctx: for other methods than CoOp's kind, {typed('benchmark explain')} RUN"
        )
    name = args.backbone or read_cfg(args.fpath.absolute().parents[1]).MODEL.BACKBONE.NAME
    record, embedding = backbone.find(name), backbone.load_backbone(name).token_embedding.weight
    if ctx.shape[-1] != embedding.shape[1]:
        raise UserError(f"a vector of {args.fpath} has {ctx.shape[-1]} numbers, a word of {name} {embedding.shape[1]}")
    found = (ctx.flatten(0, -2), embedding, backbone.known_tokens(name), args.topk, record.family.tokenizer())
    for m, row in enumerate(nearest_words.nearest_words(*found), start=1):
        print(f"{m}: {[word for word, _ in row]} {[f'{distance:.4f}' for _, distance in row]}")


if __name__ == "__main__":
    sys.exit(main())
