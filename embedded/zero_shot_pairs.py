"""Zero-shot figures on the pairs of the embedded benchmark: python -m embedded.zero_shot_pairs [--backbone B]"""

import argparse
import json

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tabulate import tabulate

from dassl.evaluation.compositional import seen_unseen_curve
from datasets.icons import unpacked
from embedded.pretrain import normalized
from prompting.backbone import load_backbone
from prompting.prompts import encode_templates
from prompting.text_encoder import TextEncoder


@torch.no_grad()
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="icon-clip")
    parser.add_argument("--template", default="a photo of {}.")
    args = parser.parse_args(argv)
    folder = unpacked() / "pairs"
    metadata = json.loads((folder / "metadata.json").read_text())
    lists = {p: _pairs(folder / "compositional-split-natural" / f"{p}_pairs.txt") for p in ("train", "val", "test")}
    rows = []
    for part, pairs in lists.items():
        images = [m for m in metadata if m["set"] == part]
        unseen = len(set(pairs) - set(lists["train"]))
        rows.append([part, len(images), len(pairs) - unseen, unseen])
    print(tabulate(rows, ["part", "images", "seen pairs", "unseen pairs"]))

    model = load_backbone(args.backbone)
    rows = []
    for part in ("val", "test"):
        pairs = lists[part]
        images = [m for m in metadata if m["set"] == part]
        text = encode_templates(TextEncoder(model), [args.template], [" ".join(pair) for pair in pairs])[0]
        batches = [images[i : i + 200] for i in range(0, len(images), 200)]
        features = torch.cat([model.encode_image(torch.stack([_read(folder, m) for m in b])) for b in batches])
        scores = F.normalize(features, dim=-1) @ F.normalize(text, dim=-1).t()
        labels = [pairs.index((m["attr"], m["obj"])) for m in images]
        found = seen_unseen_curve(scores.numpy(), labels, np.array([pair in lists["train"] for pair in pairs]))
        rows.append([part, *(found[k] for k in ("best_seen", "best_unseen", "best_harmonic", "auc"))])
    print(tabulate(rows, ["closed world", "seen", "unseen", "H", "AUC"], floatfmt=".1f"))


def _pairs(path):
    return [tuple(line.split()) for line in path.read_text().splitlines()]


def _read(folder, item):
    with Image.open(folder / "images" / item["image"]) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255
    return normalized(pixels)


if __name__ == "__main__":
    main()
