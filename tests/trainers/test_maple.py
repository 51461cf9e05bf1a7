"""MaPLe's coupled prompts against whole 77-token prompts and one image at a time, and whole runs with them."""

import clip
import pytest
import torch
import torch.nn.functional as F

from dassl.config import get_cfg_default
from dassl.utils import UserError, load_checkpoint
from prompting.prompted_clip import DeepPromptedCLIP
from prompting.text_encoder import TextEncoder
from tests.reference import encode_image_in_full, encode_in_full, relative_error, tiny_clip
from trainers import extend_cfg
from trainers.maple import PromptLearner

NAMES = ["cat", "yin_yang", "flamingo head", "St. Bernard's dog No. 5."]
CONFIG = "vit_b16_c2_ep5_batch4_2ctx"


def build(model, **options):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.TRAINER.MAPLE.update(options)
    encoder = TextEncoder(model)
    torch.manual_seed(1)
    learner = PromptLearner(cfg.TRAINER.MAPLE, NAMES, encoder, model.visual)
    return DeepPromptedCLIP(model, learner, encoder)


def in_full(model, learner, images, words="a photo of a"):
    """Logits (B, N): prompts tokenized, their first tokens replaced by context vectors, layer by layer."""
    tokens = torch.cat([clip.tokenize(f"{words} {name.replace('_', ' ')}.") for name in NAMES])
    embedding, n = model.token_embedding(tokens), len(learner.ctx)
    prompts = torch.cat([embedding[:, :1], learner.ctx.expand(len(NAMES), -1, -1), embedding[:, 1 + n :]], dim=1)
    deep = learner.compound_prompts_text
    text = encode_in_full(model, prompts[None], tokens.argmax(dim=-1)[None], deep)[0]

    pairs = [(learner.proj, learner.ctx), *zip(learner.compound_prompt_projections, deep, strict=True)]
    vision = [[layer.weight @ vector + layer.bias for vector in vectors] for layer, vectors in pairs]
    seen = encode_image_in_full(model.visual, images, vision)
    return model.logit_scale.exp() * F.normalize(seen, dim=-1) @ F.normalize(text, dim=-1).t()


@pytest.mark.parametrize(
    ("options", "depth", "words"),
    [
        ({}, 3, "a photo of a"),  # the text encoder has no more layers
        ({"PROMPT_DEPTH": 2, "N_CTX": 4}, 2, "a photo of a"),
        ({"PROMPT_DEPTH": 1, "N_CTX": 3, "CTX_INIT": ""}, 1, "X X X"),
    ],
)
def test_logits_and_gradients_equal_whole_prompts(options, depth, words):
    model = tiny_clip(layers=3, vit=(4, 128, 8))
    fast = build(model, **options)
    learner = fast.prompt_learner
    for parameter in learner.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    assert len(learner.vision_prompts()) == depth
    images, labels, found = torch.randn(3, 3, 32, 32), torch.tensor([0, 3, 1]), []
    for logits in (fast(images), in_full(model, learner, images, words)):
        learner.zero_grad()
        F.cross_entropy(logits, labels).backward()
        found.append([logits.detach(), *(p.grad.clone() for p in learner.parameters())])
    for value, reference in zip(*found, strict=True):
        assert relative_error(value, reference) < 1e-4


def test_names_are_those_of_released_weights():
    learner = build(tiny_clip(layers=3, vit=(4, 128, 8))).prompt_learner
    layers = {"proj": (128, 64), "compound_prompt_projections.0": (128, 64), "compound_prompt_projections.1": (128, 64)}
    shapes = {"ctx": (2, 64), "compound_prompts_text.0": (2, 64), "compound_prompts_text.1": (2, 64)}
    shapes |= {f"{name}.weight": shape for name, shape in layers.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in layers.items()}
    assert {name: tuple(value.shape) for name, value in learner.state_dict().items()} == shapes


def test_what_prompts_start_from():
    """The first coupling by itself, the further ones equal; vectors of further layers apart, of deviation 0.02."""
    learner = build(tiny_clip(layers=9, vit=(9, 128, 8))).prompt_learner
    first, *others = learner.compound_prompt_projections
    assert len(others) == 7
    for other in others:
        assert torch.equal(first.weight, other.weight) and torch.equal(first.bias, other.bias)
        assert first.weight is not other.weight and first.bias is not other.bias
    assert not torch.equal(learner.proj.weight, first.weight)
    vectors = torch.stack(list(learner.compound_prompts_text))
    assert vectors.std().item() == pytest.approx(0.02, rel=0.1) and not torch.equal(vectors[0], vectors[1])


def test_text_prompts_of_one_layer_start_as_zero_shot_clip():
    model = tiny_clip()
    fast = build(model, PROMPT_DEPTH=1)
    plain = model.encode_text(clip.tokenize([f"a photo of a {name.replace('_', ' ')}." for name in NAMES]))
    assert relative_error(fast.encode_text(), F.normalize(plain, dim=-1)) < 1e-5


# Whole runs


def test_evaluation_is_of_the_prompts_as_they_are(tmp_path, toy_run, tmp_cache, monkeypatch):
    """Image features depend on what is learned: they come from no cache; the image prompts are made once for all."""
    trainer = toy_run("MaPLe", tmp_path, "OPTIM.MAX_EPOCH", 1, "DATALOADER.TEST.BATCH_SIZE", 5, config=CONFIG)
    learner, calls = trainer.model.prompt_learner, []
    with torch.no_grad():
        learner.proj.bias.add_(torch.randn(64))
        logits = torch.cat([trainer.model(batch["img"]) for batch in trainer.test_loader])
        vision_prompts = learner.vision_prompts
        monkeypatch.setattr(learner, "vision_prompts", lambda: calls.append(1) or vision_prompts())
        evaluated = torch.cat([output for output, _ in trainer.predict(trainer.test_loader)])
    assert torch.allclose(evaluated, logits, atol=1e-4) and len(logits) == 12
    assert len(calls) == 1 and not list(tmp_cache.rglob("*.pt"))


def test_released_checkpoints_load(tmp_path, toy_run):
    """They are of the whole model, in a folder of its name, with frozen embeddings of other class names."""
    trained = toy_run("MaPLe", tmp_path / "run", "OPTIM.LR", 0.1, config=CONFIG)
    saved = load_checkpoint(tmp_path / "run" / "prompt_learner" / "model.pth.tar-3")
    state = {f"prompt_learner.{key}": value for key, value in saved["state_dict"].items()}
    state |= {"prompt_learner.token_prefix": torch.randn(9, 1, 64), "image_encoder.proj": torch.randn(64, 32)}
    folder = tmp_path / "released" / "MultiModalPromptLearner"
    folder.mkdir(parents=True)
    torch.save({"state_dict": state, "epoch": 5}, folder / "model.pth.tar-5")
    flags = ["--eval-only", "--model-dir", str(tmp_path / "released"), "--load-epoch", "5"]
    released = toy_run("MaPLe", tmp_path / "eval", config=CONFIG, flags=flags)
    assert torch.equal(released.model.prompt_learner.proj.weight, trained.model.prompt_learner.proj.weight)
    assert released.test() == trained.test()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"PROMPT_DEPTH": 0}, "PROMPT_DEPTH is 0: give 1 or more"),
        ({"N_CTX": 0}, "N_CTX is 0: give 1 or more"),
        ({"N_CTX": 5}, '"a photo of a" has 4 tokens, but N_CTX is 5'),
        ({"PREC": "fp8"}, "fp16"),
    ],
)
def test_mistakes_in_the_config(options, message, tmp_path, toy_run):
    keys = [x for key, value in options.items() for x in (f"TRAINER.MAPLE.{key}", value)]
    with pytest.raises(UserError, match=message):
        toy_run("MaPLe", tmp_path, *keys, config=CONFIG)
