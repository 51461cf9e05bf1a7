"""Pre-train the small CLIP of the embedded benchmark from scratch, on icons and their names.

    python -m embedded.build --pretraining icons.npz       # once: what to learn from
    python -m embedded.pretrain icons.npz --output DIR     # 45 minutes on 2 CPU cores; the same command resumes
    python -m embedded.pretrain icons.npz --output DIR --vit --epochs 6 --batch 128   # an hour on one shared core

Contrastive loss over batches of drawings and captions (Radford et al., 2021), in which all captions of one concept
count as positives. A caption is made afresh each time: a bare name, a name in one of CLIP's templates, with a style
word, or behind a run of random context words, with and without the closing full stop, so that no form of prompt is new
to the text encoder. Drawings are turned, scaled, shifted, coloured and inverted a little. With --photos, a folder of
class folders with photographs is used as well.

--vit trains icon-clip-vit: the image tower alone, a ViT, for the text tower of icon-clip, which stays as it is. Besides
the captions, icon-clip's features of the same drawings teach it (Yang et al., 2024, CLIP-KD, feature distillation), and
until the last sixth of the steps it sees half of the patches, at twice the pace (after FLIP, Li et al., 2023), those
with something drawn on them first.
"""

import argparse
import json
import logging
import math
import random
import sys
import time
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from dassl.errors import UserError, exit_status
from dassl.utils import atomic_path, read_image, set_random_seed, setup_logger
from embedded.concepts import COMMON
from prompting.backbone import load_backbone
from prompting.backbones.files import OPENAI
from prompting.openai_clip import clip
from prompting.openai_clip import model as openai_model
from prompting.templates import IMAGENET
from prompting.tokenizers import openai_tokenizer

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
TAUGHT = 10  # weight of the distillation


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m embedded.pretrain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="the .npz of build.py --pretraining")
    parser.add_argument("--output", type=Path, default=Path("output/pretrain"))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--photos", type=Path, help="folder of class folders with photographs, to learn from as well")
    parser.add_argument("--vit", action="store_true", help="train icon-clip-vit, taught by icon-clip")
    args = parser.parse_args(argv)
    setup_logger(str(args.output))
    set_random_seed(args.seed)
    pixels, words, styles = read_data(args.data, args.photos)
    teacher = load_backbone("icon-clip") if args.vit else None
    model = build_model(teacher)
    learned = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in learned if p.ndim > 1]
    rest = [p for p in learned if p.ndim <= 1]
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
        loss = loss_of(model, images, texts, concepts, teacher, halved=step < 5 / 6 * total)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
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
    export(model, None if args.vit else captions.known_tokens(), args.output / "model.pt")


# Data


def read_data(path: Path, photos: Path | None) -> tuple[np.ndarray, list[str], list[str]]:
    """(n, 64, 64, 3) uint8 pixels, n names, n styles. Raises UserError where a file or photograph cannot be read."""
    try:
        data = np.load(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}): python -m embedded.build --pretraining {path}") from error
    pixels, words, styles = data["pixels"], data["words"].tolist(), data["style"].tolist()
    keep = [i for i, name in enumerate(words) if len(name.split()) <= 6 and not name.isdigit()]
    pixels, words, styles = pixels[keep], [words[i] for i in keep], [styles[i] for i in keep]
    if photos:
        files = sorted(p for p in photos.glob("*/*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if not files:
            raise UserError(
                f"no photograph in {photos}: --photos takes a folder of class folders of .jpg or .png files"
            )
        shots = [np.asarray(read_image(p).resize((64, 64), Image.Resampling.BICUBIC)) for p in files]
        pixels = np.concatenate([pixels, np.stack(shots)])
        words += [p.parent.name.replace("_", " ") for p in files]
        styles += ["photo"] * len(files)
    return pixels, words, styles


def augment(pixels: torch.Tensor) -> torch.Tensor:
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


def normalized(images: torch.Tensor) -> torch.Tensor:
    """(*, 3, 64, 64) in [0, 1] -> what the model takes."""
    return (images - torch.tensor(OPENAI.pixel_mean)[:, None, None]) / torch.tensor(OPENAI.pixel_std)[:, None, None]


class Captions:
    """Captions of the images, made afresh at every draw."""

    def __init__(self, words: Sequence[str], styles: Sequence[str]) -> None:
        self.styles = styles
        concept_of = {alias: name for name, aliases in COMMON.items() for alias in aliases}
        self.concepts = [concept_of.get(name, name) for name in words]
        self.names = [[name] + [c] * (c != name) for name, c in zip(words, self.concepts, strict=True)]
        self.ids = {c: i for i, c in enumerate(dict.fromkeys(self.concepts))}
        self.cache: dict[str, list[int]] = {}

    def draw(self, rows: Iterable[int], rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L) token ids, padded with 0, and (B,) numbers of the concepts."""
        texts = [self.tokens(self.caption(rng, rng.choice(self.names[i]), self.styles[i])) for i in rows]
        width = max(map(len, texts))
        tokens = torch.zeros(len(texts), width, dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text)] = torch.tensor(text)
        return tokens, torch.tensor([self.ids[self.concepts[i]] for i in rows])

    def caption(self, rng: random.Random, name: str, style: str) -> str:
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

    def tokens(self, text: str) -> list[int]:
        encode = openai_tokenizer().encode
        found = [START]
        for word in text.replace(".", " .").split():
            if word not in self.cache:
                self.cache[word] = encode(word)
            found += self.cache[word]
        return [*found[: LONGEST - 1], END]

    def known_tokens(self) -> list[int]:
        """All token ids that a caption can hold."""
        texts = [*IMAGENET, *CONTEXT, "an icon of a drawing the photo", *(w for ws in STYLE_WORDS.values() for w in ws)]
        texts += [name for names in self.names for name in names]
        return sorted({START, END, 0} | {t for text in dict.fromkeys(texts) for t in self.tokens(text + " .")})


# Model


def build_model(teacher: nn.Module | None = None) -> nn.Module:
    """A ModifiedResNet (2, 2, 2, 2) of width 32 at 64 pixels; text width 128, 3 layers; joint space of 128.

    With a teacher, a ViT of width 192 with 6 layers and patches of 8 pixels; the text tower is the teacher's, frozen.
    """
    if teacher is None:
        model = openai_model.CLIP(128, 64, (2, 2, 2, 2), 32, None, 77, 49408, 128, 2, 3)
        model.visual.to(memory_format=torch.channels_last)
        return model.float()
    model = openai_model.CLIP(128, 64, 6, 192, 8, 77, 49408, 128, 2, 3).float()
    of_images = ("visual.", "logit_scale")
    text = {k: v for k, v in teacher.state_dict().items() if not k.startswith(of_images)}
    model.load_state_dict(text, strict=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(of_images))
    return model


def loss_of(
    model: nn.Module,
    images: torch.Tensor,
    tokens: torch.Tensor,
    concepts: torch.Tensor,
    teacher: nn.Module | None = None,
    halved: bool = False,
) -> torch.Tensor:
    """The contrastive loss and, with a teacher, how far the image features are from its own, by cosine."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        v, t = image_features(model.visual, images, halved), text_features(model, tokens)
        goal = teacher.visual(images) if teacher else None
    v, t = F.normalize(v.float(), dim=-1), F.normalize(t.float(), dim=-1)
    loss = contrastive_loss(model.logit_scale.exp() * v @ t.t(), concepts)
    return loss if goal is None else loss + TAUGHT * (1 - F.cosine_similarity(v, goal.float())).mean()


def contrastive_loss(logits: torch.Tensor, concepts: torch.Tensor) -> torch.Tensor:
    """Symmetric cross-entropy of images and captions; captions and images of one concept share the target."""
    target = (concepts[:, None] == concepts).float()
    target /= target.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2


def image_features(visual: nn.Module, images: torch.Tensor, halved: bool = False) -> torch.Tensor:
    """(B, e), not normalised. `halved`: a ViT sees half of each image's patches, blank ones if others are too few."""
    if not isinstance(visual, openai_model.VisionTransformer):
        return visual(images)
    x = visual.conv1(images).flatten(2).transpose(1, 2) + visual.positional_embedding[1:]
    if halved:
        size = visual.conv1.kernel_size
        contrast = F.max_pool2d(images, size) + F.max_pool2d(-images, size)
        drawn = contrast.amax(dim=1).flatten(1) > 0.1
        seen = (drawn + torch.rand(drawn.shape)).topk(x.shape[1] // 2).indices
        x = x.gather(1, seen[:, :, None].expand(-1, -1, x.shape[2]))
    first = (visual.class_embedding + visual.positional_embedding[0]).expand(len(x), 1, -1)
    x = visual.ln_pre(torch.cat([first, x], dim=1)).permute(1, 0, 2)
    return visual.ln_post(transform(visual.transformer.resblocks, x)[0]) @ visual.proj


def text_features(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """(B, e), not normalised, of (B, L) token ids with L <= 77."""
    x = model.token_embedding(tokens) + model.positional_embedding[: tokens.shape[1]]
    blocks = model.transformer.resblocks
    x = transform(blocks, x.permute(1, 0, 2), blocks[0].attn_mask[: tokens.shape[1], : tokens.shape[1]])
    x = model.ln_final(x.permute(1, 0, 2))
    return x[torch.arange(len(tokens)), tokens.argmax(dim=-1)] @ model.text_projection


def transform(blocks: Iterable[nn.Module], x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """(L, B, d) through a transformer's blocks."""
    for block in blocks:
        h = block.ln_1(x)
        # Asking for the weights avoids the fused attention, ten times slower on CPU in bf16 at 65 tokens (torch 2.14).
        x = x + block.attn(h, h, h, need_weights=True, average_attn_weights=False, attn_mask=mask)[0]
        x = x + block.mlp(block.ln_2(x))
    return x


def resume(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    path = folder / "last.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    with atomic_path(folder / "last.pt") as temporary:
        torch.save(state, temporary)


def export(model: nn.Module, known: list[int] | None, path: Path) -> None:
    """The state dict in half precision.

    Of the token embeddings, those of `known` tokens alone, and their numbers; without `known`, of all parameters those
    that were learned, and the name of the backbone that has the others.
    """
    weights = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    if known is None:
        weights = {k: weights[k] for k, p in model.named_parameters() if p.requires_grad}
        weights["text_tower"] = "icon-clip"
    else:
        weights["token_embedding.rows"] = torch.tensor(known, dtype=torch.int32)
        weights["token_embedding.weight"] = weights["token_embedding.weight"][known].contiguous()
    weights["family"] = OPENAI.name  # names and shapes do not tell it
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.save(weights, file)  # to a path it would write the temporary name into the archive
    logger.info("%s: %.1f MB", path, path.stat().st_size / 1e6)


@torch.no_grad()
def report(model: nn.Module) -> None:
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
    sys.exit(exit_status(main))
