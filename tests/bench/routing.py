"""What MoCoOp's router learns in each form: expert usage, router entropy, mutual information, accuracy on base and new.

    python tests/bench/routing.py [--datasets icons_blurred ...] [--seeds 1 2 3] [--epochs N] [--out FILE.csv]

Base-to-new runs on the embedded data sets and icon-clip, 16 shots, with MoCoOp's config but for two things that keep it
to minutes on one core: N epochs in place of 50, the first of them warm-up; and each training image in VIEWS random
crops made beforehand, one of them in an epoch, in place of a new crop each time. CoOp has 5 N epochs: its steps are
cheaper by as much. Val images serve to choose; both halves' are all there are, whatever the shots.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import train  # noqa: E402
from dassl.data.data_manager import build_data_loader  # noqa: E402
from dassl.data.transforms import build_transform  # noqa: E402
from dassl.engine import build_trainer  # noqa: E402
from trainers.coop import CoOp  # noqa: E402
from trainers.mocoop import MoCoOp  # noqa: E402

CONFIGS = Path(__file__).parents[2] / "configs"
VIEWS = 4
SHOTS = 16
FORMS = {"released": ("TRAINER.MOCOOP.FORM", "released")} | {
    f"paper, temperature {t:g}": ("TRAINER.MOCOOP.FORM", "paper", "TRAINER.MOCOOP.ROUTER_TEMPERATURE", t)
    for t in (1.0, 0.3, 0.1, 0.03, 0.01)
}
SHOWN = ["router_entropy", "expert_class_bits", "expert_class_chance", "expert_class_share"]
SHOWN += [name.replace("class", "style") for name in SHOWN[1:]]


class Batches:
    """Batches of one view's features, in a new order each epoch."""

    def __init__(self, views, labels, size):
        self.views, self.labels, self.size, self.epoch = views, labels, size, 0
        self.order = torch.Generator().manual_seed(0)

    def __len__(self):
        return len(self.labels) // self.size

    def __iter__(self):
        features, self.epoch = self.views[self.epoch % len(self.views)], self.epoch + 1
        for rows in torch.randperm(len(self.labels), generator=self.order).split(self.size)[: len(self)]:
            yield {"img": features[rows], "label": self.labels[rows]}


class FromViews:
    """A trainer that trains on features of a frozen image encoder."""

    known: dict = {}

    def before_train(self):
        super().before_train()
        cfg, items, key = self.cfg, self.dm.dataset.train_x, (self.cfg.DATASET.NAME, self.cfg.SEED)
        encode = self.model.image_encoding()
        if key not in self.known:
            crops = build_transform(cfg, is_train=True)
            loader = build_data_loader(cfg, data_source=items, batch_size=100, tfm=crops, is_train=False)
            with torch.no_grad():
                self.known[key] = [torch.cat([encode(batch["img"]) for batch in loader]) for _ in range(VIEWS)]
        self.model.image_encoding, self.model.encode_image = lambda: encode, lambda features: features
        labels = torch.tensor([item.label for item in items])
        self.train_loader_x = Batches(self.known[key], labels, cfg.DATALOADER.TRAIN_X.BATCH_SIZE)


class FastMoCoOp(FromViews, MoCoOp):
    pass


class FastCoOp(FromViews, CoOp):
    pass


def config(trainer, file, dataset, classes, seed, shots, output, *keys):
    options = {"--seed": seed, "--trainer": trainer, "--backbone": "icon-clip", "--output-dir": output}
    options["--dataset-config-file"] = CONFIGS / f"datasets/{dataset}.yaml"
    options["--config-file"] = CONFIGS / f"trainers/{trainer}/{file}.yaml"
    words = [word for pair in options.items() for word in pair]
    words += ["DATASET.SUBSAMPLE_CLASSES", classes, "DATASET.NUM_SHOTS", shots, "DATALOADER.NUM_WORKERS", 0]
    return train.setup_cfg(train.parse_args([str(word) for word in (*words, "TRAIN.PRINT_FREQ", 0, *keys)]))


def figures(trainer):
    """{(split, figure): value} of a trainer's val and test images."""
    found = {}
    for split in ("val", "test"):
        found[split, "accuracy"] = trainer.test(split=split)
        found |= {(split, name): value for name, value in trainer.extra_metrics().items()}
    return found


def measure(dataset, seeds, epochs):
    """Yield (setting, seed, {half: figures})."""
    with tempfile.TemporaryDirectory() as folder:
        halves = ("base", "new")
        tested = {
            (trainer, half): build_trainer(config(trainer, file, dataset, half, 1, -1, f"{folder}/{trainer}/{half}"))
            for trainer, file in (("MoCoOp", "vit_b16_ep50"), ("CoOp", "vit_b16_ctxv1"), ("ZeroshotCLIP", "vit_b16"))
            for half in halves
        }
        yield "zero-shot CLIP", 1, {half: figures(tested["ZeroshotCLIP", half]) for half in halves}
        for seed in seeds:
            rows = [("CoOp", FastCoOp, "vit_b16_ctxv1", 5 * epochs, ())]
            rows += [(name, FastMoCoOp, "vit_b16_ep50", epochs, keys) for name, keys in FORMS.items()]
            for name, make, file, length, keys in rows:
                trainer, output = make.__mro__[2].__name__, f"{folder}/{name}/seed{seed}"
                short = ("OPTIM.MAX_EPOCH", length, "OPTIM.WARMUP_EPOCH", 1, "TEST.NO_TEST", True)
                cfg = config(trainer, file, dataset, "base", seed, SHOTS, output, *short, *keys)
                torch.manual_seed(seed)
                make(cfg).train()
                for half in halves:
                    tested[trainer, half].load_model(output)
                yield name, seed, {half: figures(tested[trainer, half]) for half in halves}


def table(rows):
    """A line for each setting: means over seeds, with the deviation of H."""
    frame = pd.DataFrame(rows)
    mean, std = (getattr(frame.groupby("setting", sort=False), f)(numeric_only=True) for f in ("mean", "std"))
    lines = []
    for name, row in mean.iterrows():
        cells = [name, *(f"{row[f'{split}_{c}']:.1f}" for split in ("val", "test") for c in ("base", "new", "H"))]
        cells[-1] += f" ± {std.test_H[name]:.1f}" if std.test_H[name] == std.test_H[name] else ""
        cells += ["" if pd.isna(row.get(figure)) else f"{row[figure]:.2f}" for figure in SHOWN]
        usage = frame[frame.setting == name].usage.dropna().tolist()
        cells.append(" ".join(f"{100 * sum(x) / len(x):.0f}" for x in zip(*usage, strict=True)))
        lines.append(cells)
    head = ["setting", "val base", "val new", "val H", "base", "new", "H", "router entropy"]
    head += ["class, bits", "by chance", "share", "style, bits", "by chance", "share", "expert usage, %"]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=["icons_blurred", "icons_common", "icons_rare"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", help="all figures, as CSV")
    args = parser.parse_args()
    torch.set_num_threads(1)
    everything = []
    for dataset in args.datasets:
        rows = []
        for setting, seed, found in measure(dataset, args.seeds, args.epochs):
            row = {"dataset": dataset, "setting": setting, "seed": seed}
            for split in ("val", "test"):
                base, new = (found[half][split, "accuracy"] for half in ("base", "new"))
                row |= {f"{split}_base": base, f"{split}_new": new, f"{split}_H": 2 * base * new / (base + new)}
            of_both = [found[half] for half in ("base", "new")]
            if ("test", "router_entropy") in of_both[0]:  # means of both halves' test images
                row |= {name: sum(half["test", name] for half in of_both) / 2 for name in SHOWN}
                usage = [half["test", "expert_usage"] for half in of_both]
                row["usage"] = [sum(shares) / 2 for shares in zip(*usage, strict=True)]
            rows.append(row)
            everything.append(row)
            if args.out:
                pd.DataFrame(everything).to_csv(args.out, index=False)
        print(f"\n{dataset}\n\n{table(rows)}", flush=True)


if __name__ == "__main__":
    main()
