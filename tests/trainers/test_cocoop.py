"""CoCoOp's batches against one image at a time over whole 77-token prompts."""

import clip
import pytest
import torch
import torch.nn.functional as F

from dassl.config import get_cfg_default
from prompting.text_encoder import TextEncoder
from tests.reference import encode_in_full, relative_error, tiny_clip
from trainers import extend_cfg
from trainers.cocoop import CoCoOpCLIP, PromptLearner

NAMES = ["cat", "yin_yang", "flamingo head", "St. Bernard's dog"]
IMAGES = 5


def build(chunk, kind="vit", **options):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.TRAINER.COCOOP.update({"N_CTX": 4} | options)
    model = tiny_clip(kind)
    encoder = TextEncoder(model)
    torch.manual_seed(1)
    learner = PromptLearner(cfg, NAMES, encoder, model.text_projection.shape[1])
    torch.nn.init.normal_(learner.meta_net.linear2.weight, std=0.1)
    return model, CoCoOpCLIP(model, learner, encoder, chunk)


def one_by_one(model, learner, features):
    """Logits (B, N): for each image its context vectors, its prompts tokenized and encoded whole."""
    tokens = torch.cat([clip.tokenize(f"X X X X {name.replace('_', ' ')}.") for name in NAMES])
    embedding, rows = model.token_embedding(tokens), []
    for feature in features:
        hidden = F.relu(learner.meta_net.linear1.weight @ feature + learner.meta_net.linear1.bias)
        ctx = learner.ctx + learner.meta_net.linear2.weight @ hidden + learner.meta_net.linear2.bias
        prompts = torch.cat([embedding[:, :1], ctx.expand(len(NAMES), -1, -1), embedding[:, 5:]], dim=1)
        text = encode_in_full(model, prompts[None], tokens.argmax(dim=-1)[None])[0]
        rows.append(model.logit_scale.exp() * F.normalize(text, dim=-1) @ feature)
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_a_batch_equals_one_image_at_a_time(kind, chunk):
    model, fast = build(chunk, kind)
    learner, features = fast.prompt_learner, F.normalize(torch.randn(IMAGES, 32), dim=-1)
    labels = torch.tensor([0, 3, 1, 2, 0])
    logits = fast.logits(features)
    F.cross_entropy(logits, labels).backward()
    gradients = {name: p.grad.clone() for name, p in learner.named_parameters()}
    learner.zero_grad()
    reference = one_by_one(model, learner, features)
    F.cross_entropy(reference, labels).backward()
    assert relative_error(logits, reference) < 1e-5
    for name, p in learner.named_parameters():
        assert relative_error(gradients[name], p.grad) < 1e-4, name
    with torch.no_grad():
        assert torch.allclose(fast.logits(features), logits, atol=1e-5)


def test_names_are_those_of_released_weights():
    _, model = build(1)
    names = {f"meta_net.linear{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
    assert set(model.prompt_learner.state_dict()) == {"ctx", *names}
    assert model.prompt_learner.meta_net.linear1.weight.shape == (2, 32), "e // 16"


def test_a_whole_run(tmp_path, toy_run):
    keys = ("TRAINER.COCOOP.MEMORY_GB", 1e-9, "DATASET.SUBSAMPLE_CLASSES", "base", "DATALOADER.TRAIN_X.BATCH_SIZE", 2)
    config = "vit_b16_c4_ep10_batch1_ctxv1"
    trained = toy_run("CoCoOp", tmp_path / "a", *keys, config=config)
    assert trained.model.chunk == 1
    flags = ["--eval-only", "--model-dir", str(tmp_path / "a")]
    alone = toy_run("CoCoOp", tmp_path / "b", "DATASET.SUBSAMPLE_CLASSES", "base", config=config, flags=flags)
    assert alone.model.chunk > 1
    batch = next(iter(alone.test_loader))["img"]
    with torch.no_grad():
        assert torch.allclose(trained.model(batch), alone.model(batch), atol=1e-4)
