"""How much faster CoOp and MoCoOp compute than a plain version of the same, as ratios measured in one run.

    python tests/bench/speed.py [--classes N] [--batches N] [--repeats N] [--device cuda]

Plain means as the papers' code does it: every prompt padded to 77 tokens, and text features computed anew for every
test batch. Both versions share weights (ViT-B/32's shape, random), images and formulas; the results are compared
first. Times are medians of interleaved repeats. "text part" leaves the image encoder out; "evaluation" is a whole test
set, once with image features computed and once with those from the cache.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parents[2]))

from dassl.config import get_cfg_default  # noqa: E402
from prompting.openai_clip import model as openai_model  # noqa: E402
from prompting.prompts import encode_templates  # noqa: E402
from prompting.text_encoder import TextEncoder  # noqa: E402
from tests.reference import encode_in_full, relative_error, whole_prompts  # noqa: E402
from trainers import coop, extend_cfg, mocoop  # noqa: E402
from trainers.base import PromptedCLIP  # noqa: E402

NAMES = (
    "face leopard motorbike accordion airplane anchor ant barrel bass beaver binocular bonsai brain brontosaurus "
    "buddha butterfly camera cannon car_side ceiling_fan cellphone chair chandelier cougar_body cougar_face crab "
    "crayfish crocodile crocodile_head cup dalmatian dollar_bill dolphin dragonfly electric_guitar elephant emu "
    "euphonium ewer ferry flamingo flamingo_head garfield gerenuk gramophone grand_piano hawksbill headphone hedgehog "
    "helicopter"
).split()  # the base half of Caltech101


class PlainEncoder(torch.nn.Module):
    """A text encoder of the same arguments that encodes every prompt whole."""

    def __init__(self, clip_model):
        super().__init__()
        self.model = [clip_model]

    def forward(self, *prompts):
        return encode_in_full(self.model[0], *whole_prompts(*prompts))


def build_coop(clip_model, encoder, names):
    cfg = get_cfg_default()
    extend_cfg(cfg)  # 16 context vectors
    torch.manual_seed(0)
    learner = coop.PromptLearner(cfg.TRAINER.COOP, names, encoder)
    model = PromptedCLIP(clip_model, learner, encoder)
    return model, lambda images, labels: F.cross_entropy(model.logits(images, model.encode_text()), labels)


def build_mocoop(clip_model, encoder, names):
    groups = [["a photo of a {} texture."], *mocoop.SHARED_GROUPS]  # Caltech101's
    ids = [mocoop.template_ids(group[0]) for group in groups]
    torch.manual_seed(0)
    learner = mocoop.PromptLearner([[len(a), len(b)] for a, b in ids], names, [], encoder, 512)
    words = torch.tensor([i for a, b in ids for i in a + b])
    with torch.no_grad():
        learner.ctx.copy_(encoder.token_embedding.weight[words.to(encoder.token_embedding.weight.device)])
    model = mocoop.MoCoOpCLIP(clip_model, learner, encoder, top_k=2, renormalize=False)
    hard = [F.normalize(encode_templates(encoder, group, names).float(), dim=-1) for group in groups]
    centers = torch.stack([h.mean(dim=(0, 1)) for h in hard])

    def loss(images, labels):
        text = model.encode_text()
        router, weights = learner.gates(images, 2)
        ce = F.cross_entropy(model.mix(images, text, weights), labels)
        router_loss = mocoop.router_loss(router, images, centers, 1.0)
        return ce + router_loss + 5 * mocoop.text_loss(text, hard, model.logit_scale)

    return model, loss


def race(variants, repeats, device):
    """Median seconds of each function, run in turn."""
    times = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            synchronize(device)
            start = time.perf_counter()
            run()
            synchronize(device)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=len(NAMES), help="classes (MoCoOp's plain version needs memory)")
    parser.add_argument("--batches", type=int, default=4, help="test batches of 100 images")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=["CoOp", "MoCoOp"])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device, names = args.device, NAMES[: args.classes]
    torch.manual_seed(0)
    clip_model = openai_model.CLIP(512, 224, 12, 768, 32, 77, 49408, 512, 8, 12).float().eval()
    clip_model.requires_grad_(False).to(device)
    fast, plain = TextEncoder(clip_model), PlainEncoder(clip_model)
    labels = torch.randint(len(names), (32,), device=device)
    train = F.normalize(torch.randn(32, 512, device=device), dim=-1)
    pictures = torch.randn(100, 3, 224, 224, device=device)  # every test batch is these
    cached = F.normalize(clip_model.encode_image(pictures), dim=-1)

    rows = []
    for method in args.methods:
        model, loss = {"CoOp": build_coop, "MoCoOp": build_mocoop}[method](clip_model, fast, names)
        model.to(device)

        def step(encoder, model=model, loss=loss):
            model.text_encoder = encoder
            model.zero_grad()
            loss(train, labels).backward()
            return model.prompt_learner.ctx.grad.clone()

        @torch.no_grad()
        def evaluate(encoder, image_features, model=model):
            model.text_encoder = encoder
            once = model.encode_text() if encoder is fast else None
            return [
                model.logits(image_features(), model.encode_text() if once is None else once).argmax(1)
                for _ in range(args.batches)
            ]

        def encode_pictures():
            return F.normalize(clip_model.encode_image(pictures), dim=-1)

        error = relative_error(step(fast), step(plain))
        assert error < 1e-4, f"the two differ by {error:.1e}"

        def compare(what, plain_run, fast_run, method=method, error=error):
            seconds = race({"plain": plain_run, "ours": fast_run}, args.repeats, device)
            times = seconds["plain"], seconds["ours"]
            rows.append([method, what, f"{times[0] / times[1]:.1f}x", *(f"{t:.3f}" for t in times), f"{error:.0e}"])

        compare("training step, text part", lambda: step(plain), lambda: step(fast))
        compare("evaluation, text", lambda: evaluate(plain, lambda: cached), lambda: evaluate(fast, lambda: cached))
        compare("evaluation, first", lambda: evaluate(plain, encode_pictures), lambda: evaluate(fast, encode_pictures))
        compare("evaluation, cached", lambda: evaluate(plain, encode_pictures), lambda: evaluate(fast, lambda: cached))

    print(f"{len(names)} classes, {args.batches} test batches of 100, {torch.get_num_threads()} threads, {device}")
    print(tabulate(rows, ["method", "what", "ratio", "plain s", "ours s", "gradient error"]))


if __name__ == "__main__":
    main()
