"""CoOp's prompts against CLIP's own tokenizer and text transformer over whole 77-token prompts."""

import clip
import pytest
import torch

from dassl.config import get_cfg_default
from prompting.text_encoder import TextEncoder
from tests.reference import encode_in_full, relative_error, tiny_clip
from trainers import extend_cfg
from trainers.coop import PromptLearner

NAMES = ["cat", "yin_yang", "flamingo head", "St. Bernard's dog No. 5."]


def options(**values):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.TRAINER.COOP.update(values)
    return cfg.TRAINER.COOP


def reference(model, ctx, position):
    """(1, N, 77, d) embeddings and (1, N) ends: placeholders are tokenized, then replaced by context vectors."""
    n_ctx = ctx.shape[1]
    names = [name.replace("_", " ") for name in NAMES]
    tokens = torch.cat([clip.tokenize(" ".join(["X"] * n_ctx) + f" {name}.") for name in names])
    embedding = model.token_embedding(tokens)
    rows = []
    for name, row, vectors in zip(names, embedding, ctx, strict=True):
        length = len(clip.tokenize(name)[0].nonzero()) - 2
        start, words, rest = row[:1], row[1 + n_ctx : 1 + n_ctx + length], row[1 + n_ctx + length :]
        before = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
        rows.append(torch.cat([start, vectors[:before], words, vectors[before:], rest]))
    return torch.stack(rows)[None], tokens.argmax(dim=-1)[None]


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("csc", [False, True])
def test_features_and_gradients_equal_whole_prompts(kind, position, csc):
    model = tiny_clip(kind)
    encoder = TextEncoder(model)
    learner = PromptLearner(options(N_CTX=5, CSC=csc, CLASS_TOKEN_POSITION=position), NAMES, encoder)
    torch.nn.init.normal_(learner.ctx, std=0.2)
    target = torch.randn(1, len(NAMES), model.text_projection.shape[1])

    features = encoder(*learner())
    (features * target).sum().backward()
    ctx = learner.ctx.detach().clone().requires_grad_(True)
    plain = encode_in_full(model, *reference(model, ctx if csc else ctx.expand(len(NAMES), -1, -1), position))
    (plain * target).sum().backward()
    assert learner.ctx.shape == ((len(NAMES), 5, 64) if csc else (5, 64))
    assert relative_error(features, plain) < 1e-5
    assert relative_error(learner.ctx.grad, ctx.grad) < 1e-5


@pytest.mark.parametrize("csc", [False, True])
def test_words_to_start_from_give_zero_shot_clip(csc):
    model = tiny_clip()
    encoder = TextEncoder(model)
    learner = PromptLearner(options(CTX_INIT="a_photo of a", CSC=csc), NAMES, encoder)
    assert learner.ctx.shape[-2] == 4
    prompts = clip.tokenize([f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    assert relative_error(encoder(*learner())[0], model.encode_text(prompts)) < 1e-5


def test_released_checkpoints_load(tmp_path, toy_run):
    """They hold context vectors of a name, the scheduler as an object, and frozen embeddings of other class names."""
    trainer = toy_run("CoOp", tmp_path / "run", "TRAINER.COOP.N_CTX", 4, "DATASET.SUBSAMPLE_CLASSES", "base")
    ctx = torch.randn(4, 64)
    state = {"ctx": ctx, "token_prefix": torch.randn(1000, 1, 64), "token_suffix": torch.randn(1000, 72, 64)}
    optimizer = torch.optim.SGD([torch.nn.Parameter(ctx.clone())], lr=0.002)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    folder = tmp_path / "released" / "prompt_learner"
    folder.mkdir(parents=True)
    state = {"state_dict": state, "epoch": 50, "optimizer": optimizer.state_dict(), "scheduler": vars(scheduler)}
    torch.save(state | {"val_result": None}, folder / "model.pth.tar-50")
    trainer.load_model(str(tmp_path / "released"), epoch=50)
    assert torch.equal(trainer.model.prompt_learner.ctx, ctx)
    trainer.test()
