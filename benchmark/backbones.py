"""The command that lists backbones: what there is, what is at hand, and what the benchmark has to know of each."""

import argparse
from typing import Any

from tabulate import tabulate

from dassl.errors import UserError
from mocoop.command import Command

OTHERS = (
    ("a path", "", "a file of weights with OpenAI's names: an archive of OpenAI's, or a state dict"),
    ("open_clip:ARCH/TAG", "open_clip", "also open_clip:ARCH,FILE and open_clip:/FOLDER"),
    ("hf:NAME", "transformers", "also hf:/FOLDER; CLIP and SigLIP"),
)
"""Forms of names that no list holds, the package that each needs, and more about them."""

EXTRAS = {"open_clip": "open_clip", "transformers": "hf"}


class Backbones(Command):
    """Backbones by name: whether their weights are at hand, image size in pixels, length of features, and more.

    "image" is the kind of image encoder: prompts can join a vit; vit and resnet have local features. "causal" is the
    text tower: where it is not, prompts are encoded whole, which takes longer. Lists those that ship with the project,
    OpenAI's and what is at hand of others; with words, all whose names hold one of them.
    """

    examples = ("", "SigLIP", "open_clip:ViT-B-16")

    def add_arguments(self, add: Any) -> None:
        add("words", nargs="*", metavar="WORD", help="part of a name, capitals or not")

    def run(self, args: argparse.Namespace) -> int:
        from prompting.backbone import known_names, left_out, listed

        words, always = [word.lower() for word in args.words], known_names()
        rows = []
        for record in listed():
            at_hand, family = record.at_hand(), record.family
            asked = any(word in record.name.lower() for word in words)
            if asked or (not words and (at_hand or record.name in always)):
                facts = record.image_encoder, record.image_size, record.width or None, _yes(family.causal)
                rows.append([record.name, family.name, _yes(at_hand), *facts])
        if not rows:
            raise UserError(f"no backbone is called like {' or '.join(args.words)}")
        print(tabulate(rows, ["backbone", "family", "at hand", "image", "pixels", "width", "causal"]))
        print("\nOthers by name:")
        for form, package, more in OTHERS:
            print(f"  {form:20} {more}{_missing(package)}")
        print(*(f"\nLeft out, because it failed: {why}" for why in left_out()), sep="", end="")
        return 0


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"


def _missing(package: str) -> str:
    """What to install for a package that is not there; "" where it is, or none is needed."""
    from importlib.util import find_spec

    if not package or find_spec(package):
        return ""
    return f"; needs {package}: pip install 'mocoop[{EXTRAS[package]}]'"
