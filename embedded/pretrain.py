"""Pre-train the small CLIP of the embedded benchmark from scratch, on icons and their names.

    python -m embedded.build --pretraining icons.npz       # once: what to learn from
    python -m embedded.pretrain icons.npz --output DIR     # 45 minutes on 2 CPU cores; the same command resumes

Contrastive loss over batches of drawings and captions (Radford et al., 2021), in which all captions of one concept
count as positives. A caption is made anew each time: a bare name, a name in one of CLIP's templates, with a style word,
or behind a run of random context words, with and without the closing full stop, so that no form of prompt is strange
to the text encoder. Drawings are turned, scaled, shifted, coloured and inverted a little. With --photos, a folder of
class folders with photographs joins in.
"""

import argparse
import json
import logging
import math
import random
import time
import zipfile
from pathlib import Path

import clip
import numpy as np
import torch
import torch.nn.functional as F
from clip.model import CLIP
from PIL import Image
from torch import nn

from dassl.utils import atomic_path, set_random_seed, setup_logger
from embedded.concepts import COMMON
from prompting.backbone import PIXEL_MEAN, PIXEL_STD
from prompting.prompts import tokenizer
from prompting.templates import IMAGENET

logger = logging.getLogger("dassl.embedded")

HERE = Path(__file__).parent
STYLE_WORDS = {
    "outline": ("outline", "outlined", "line"),
    "filled": ("filled", "solid", "flat"),
    "duotone": ("duotone", "two-tone", "shaded"),
    "pixel": ("pixel", "pixelated", "8-bit"),
    "hand-drawn": ("hand-drawn", "sketched", "freehand"),
    "colour": ("colour", "colorful", "emoji"),
    "photo": ("real", "natural", "nice"),
}
CONTEXT = "x a an the this that my one of in on with some very small big new old good photo icon picture image".split()
START, END = 49406, 49407
LONGEST = 32
SAVE_EVERY = 300  # steps


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the .npz of build.py --pretraining")
    parser.add_argument("--output", type=Path, default=Path("output/pretrain"))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--photos", type=Path, help="folder of class folders with photographs, to learn from as well")
    args = parser.parse_args(argv)
    setup_logger(str(args.output))
    set_random_seed(args.seed)
    pixels, words, styles = read_data(args.data, args.photos)
    model = build_model()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    per_epoch = len(pixels) // args.batch
    total = args.epochs * per_epoch
    start = resume(args.output, model, optimizer)
    logger.info("%d images, %d steps of %d, from step %d", len(pixels), total, args.batch, start)
    captions = Captions(words, styles)
    began, losses = time.time(), []
    for step in range(start, total):
        epoch, k = divmod(step, per_epoch)
        order = np.random.default_rng((args.seed, epoch)).permutation(len(pixels))
        rows = order[k * args.batch : (k + 1) * args.batch]
        rng = random.Random(f"{args.seed} {step}")
        torch.manual_seed(args.seed * 1_000_003 + step)  # a resumed run draws what this step would have drawn
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / (0.05 * total)) * 0.5 * (1 + math.cos(math.pi * step / total))
        images = augment(torch.from_numpy(pixels[np.sort(rows)]))
        texts, concepts = captions.draw(np.sort(rows), rng)
        loss = contrastive_loss(model, images, texts, concepts)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            left = (time.time() - began) / (step + 1 - start) * (total - step - 1)
            logger.info(
                "step %d/%d loss %.3f scale %.1f lr %.2e images/s %.0f left %.0f min",
                step + 1, total, np.mean(losses[-50:]), model.logit_scale.exp().item(), optimizer.param_groups[0]["lr"],
                (step + 1 - start) * args.batch / (time.time() - began), left / 60,
            )  # fmt: skip
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == total:
            save(args.output, model, optimizer, step + 1)
        if (step + 1) % per_epoch == 0 or step + 1 == total:
            report(model)
    export(model, captions.known_tokens(), args.output / "model.pt")


# Data


def read_data(path, photos):
    data = np.load(path)
    pixels, words, styles = data["pixels"], data["words"].tolist(), data["style"].tolist()
    keep = [i for i, name in enumerate(words) if len(name.split()) <= 6 and not name.isdigit()]
    pixels, words, styles = pixels[keep], [words[i] for i in keep], [styles[i] for i in keep]
    if photos:
        files = sorted(p for p in photos.glob("*/*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        shots = [np.asarray(Image.open(p).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)) for p in files]
        pixels = np.concatenate([pixels, np.stack(shots)])
        words += [p.parent.name.replace("_", " ") for p in files]
        styles += ["photo"] * len(files)
    return pixels, words, styles


def augment(pixels):
    """(B, 64, 64, 3) uint8 -> (B, 3, 64, 64) normalised, each turned, scaled, shifted, coloured, inverted a little."""
    images = pixels.permute(0, 3, 1, 2).float() / 255
    n = len(images)
    angle = (torch.rand(n) - 0.5) * 0.35
    scale = 0.9 + 0.4 * torch.rand(n)  # above 1: smaller
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = scale * angle.cos(), -scale * angle.sin()
    matrix[:, 1, 0], matrix[:, 1, 1] = scale * angle.sin(), scale * angle.cos()
    matrix[:, :, 2] = (torch.rand(n, 2) - 0.5) * 0.25
    grid = F.affine_grid(matrix, images.shape, align_corners=False)
    images = 1 - F.grid_sample(1 - images, grid, align_corners=False)  # white comes in from outside
    kind = torch.rand(n)[:, None, None, None]
    ink, paper = torch.rand(2, n, 3, 1, 1)
    ink, paper = ink * 0.5, 0.65 + 0.35 * paper
    images = torch.where(kind < 0.3, ink + images * (paper - ink), images)
    images = torch.where(kind > 0.85, 1 - images, images)
    return normalized(images).contiguous(memory_format=torch.channels_last)


def normalized(images):
    """(*, 3, 64, 64) in [0, 1] -> what the model takes."""
    return (images - torch.tensor(PIXEL_MEAN)[:, None, None]) / torch.tensor(PIXEL_STD)[:, None, None]


class Captions:
    """Captions of the images, made anew at every draw."""

    def __init__(self, words, styles):
        self.styles = styles
        concept_of = {alias: name for name, aliases in COMMON.items() for alias in aliases}
        self.concepts = [concept_of.get(name, name) for name in words]
        self.names = [[name] + [c] * (c != name) for name, c in zip(words, self.concepts, strict=True)]
        self.ids = {c: i for i, c in enumerate(dict.fromkeys(self.concepts))}
        self.cache = {}

    def draw(self, rows, rng):
        """(B, L) token ids, padded with 0, and (B,) numbers of the concepts."""
        texts = [self.tokens(self.caption(rng, rng.choice(self.names[i]), self.styles[i])) for i in rows]
        width = max(map(len, texts))
        tokens = torch.zeros(len(texts), width, dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text)] = torch.tensor(text)
        return tokens, torch.tensor([self.ids[self.concepts[i]] for i in rows])

    def caption(self, rng, name, style):
        word = rng.choice(STYLE_WORDS[style])
        kind = rng.random()
        if kind < 0.2:
            text = name
        elif kind < 0.4:
            text = "a photo of a " + name
        elif kind < 0.6:
            text = rng.choice(IMAGENET).removesuffix(".").replace("{}", name)
        elif kind < 0.75:
            text = " ".join(rng.choices(CONTEXT, k=rng.randint(1, 16))) + " " + name
        else:
            form = rng.choice(("an icon of a {}", "a {s} icon of a {}", "{s} {}", "{} icon", "a {s} drawing of the {}"))
            text = form.replace("{s}", word).replace("{}", name)
        return text + "." * (rng.random() < 0.5)

    def tokens(self, text):
        encode = tokenizer().encode
        found = [START]
        for word in text.replace(".", " .").split():
            if word not in self.cache:
                self.cache[word] = encode(word)
            found += self.cache[word]
        return [*found[: LONGEST - 1], END]

    def known_tokens(self):
        """All token ids that a caption can hold."""
        texts = [*IMAGENET, *CONTEXT, "an icon of a drawing the photo", *(w for ws in STYLE_WORDS.values() for w in ws)]
        texts += [name for names in self.names for name in names]
        return sorted({START, END, 0} | {t for text in dict.fromkeys(texts) for t in self.tokens(text + " .")})


# Model


def build_model():
    """A ModifiedResNet (2, 2, 2, 2) of width 32 at 64 pixels; text width 128, 3 layers; joint space of 128."""
    model = CLIP(128, 64, (2, 2, 2, 2), 32, None, 77, 49408, 128, 2, 3)
    model.visual.to(memory_format=torch.channels_last)
    return model.float()


def contrastive_loss(model, images, tokens, concepts):
    """Symmetric cross-entropy of images and captions; captions and images of one concept share the target."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        v = model.visual(images)
        x = model.token_embedding(tokens) + model.positional_embedding[: tokens.shape[1]]
        mask = model.transformer.resblocks[0].attn_mask[: tokens.shape[1], : tokens.shape[1]]
        x = x.permute(1, 0, 2)
        for block in model.transformer.resblocks:
            h = block.ln_1(x)
            x = x + block.attn(h, h, h, need_weights=False, attn_mask=mask.to(h.dtype))[0]
            x = x + block.mlp(block.ln_2(x))
        x = model.ln_final(x.permute(1, 0, 2))
        t = x[torch.arange(len(tokens)), tokens.argmax(dim=-1)] @ model.text_projection
    v, t = F.normalize(v.float(), dim=-1), F.normalize(t.float(), dim=-1)
    logits = model.logit_scale.exp() * v @ t.t()
    target = (concepts[:, None] == concepts).float()
    target /= target.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2


def resume(folder, model, optimizer):
    path = folder / "last.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def save(folder, model, optimizer, step):
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    with atomic_path(folder / "last.pt") as temporary:
        torch.save(state, temporary)


def export(model, known, path):
    """The state dict in half precision, with the embeddings of known tokens alone and their numbers."""
    weights = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    weights["token_embedding.rows"] = torch.tensor(known, dtype=torch.int32)
    weights["token_embedding.weight"] = weights["token_embedding.weight"][known].contiguous()
    with atomic_path(path) as temporary:
        torch.save(weights, temporary)
    logger.info("%s: %.1f MB, %d tokens", path, path.stat().st_size / 1e6, len(known))


@torch.no_grad()
def report(model):
    """Zero-shot accuracy on the validation images of the benchmark, with and without the full stop."""
    model.eval()
    with zipfile.ZipFile(HERE / "icons.zip") as archive:
        for name in ("common", "rare"):
            split = json.loads(archive.read(f"{name}/split.json"))
            classes = sorted({c for _, _, c in split["val"]})
            images, labels = [], []
            for file, _, c in split["val"]:
                with archive.open(f"{name}/images/{file}") as png:
                    pixels = torch.from_numpy(np.array(Image.open(png).convert("RGB")))
                images.append(normalized(pixels.permute(2, 0, 1).float() / 255))
                labels.append(classes.index(c))
            v = F.normalize(model.encode_image(torch.stack(images)), dim=-1)
            found = []
            for template in ("a photo of a {}", "a photo of a {}.", "an icon of a {}.", "{}"):
                t = model.encode_text(clip.tokenize([template.replace("{}", c) for c in classes]))
                right = (v @ F.normalize(t, dim=-1).t()).argmax(dim=1) == torch.tensor(labels)
                found.append(f'"{template}" {100 * right.float().mean().item():.1f}%')
            logger.info("zero-shot on %s: %s", name, ", ".join(found))
    model.train()


if __name__ == "__main__":
    main()
