"""LAMM's losses against loops in float64, its prompts against whole 77-token ones, its vectors through several runs."""

import math
import textwrap

import clip
import pytest
import torch
import torch.nn.functional as F

from dassl.config import get_cfg_default
from dassl.utils import UserError, load_checkpoint
from prompting.backbone import load_backbone
from prompting.text_encoder import TextEncoder
from tests.conftest import TOY_CLASSES
from tests.reference import encode_image_in_full, encode_in_full, openai_weights, relative_error, tiny_clip
from trainers import extend_cfg, lamm
from trainers.lamm import BASES, PromptLearner

B, N, E, D = 5, 4, 32, 64
NAMES = ["cat", "yin_yang", "flamingo head", "St. Bernard's dog No. 5."]
PLAIN = [name.replace("_", " ") for name in NAMES]


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def unit(*shape, seed=0):
    return F.normalize(random(*shape, seed=seed), dim=-1)


def softmax(values):
    exps = [math.exp(v - max(values)) for v in values]
    return [e / sum(exps) for e in exps]


def config(**options):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.TRAINER.LAMM.update(options)
    return cfg


# The losses


def test_parameter_loss():
    vectors, initial = random(N, D), random(N, D, seed=1)
    expected = sum((vectors[n, d] - initial[n, d]).item() ** 2 for n in range(N) for d in range(D)) / N
    assert math.isclose(lamm.parameter_loss(vectors, initial).item(), expected, rel_tol=1e-12)
    assert lamm.parameter_loss(initial, initial) == 0


def test_feature_loss():
    text, frozen = unit(N, E), unit(N, E, seed=1)
    expected = sum(1 - sum((text[n, e] * frozen[n, e]).item() for e in range(E)) for n in range(N)) / N
    assert math.isclose(lamm.feature_loss(text, frozen).item(), expected, rel_tol=1e-12)
    assert abs(lamm.feature_loss(frozen, frozen).item()) < 1e-12


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_distillation_loss(temperature):
    logits, zero_shot = random(B, N) * 3, random(B, N, seed=1) * 3
    expected = 0.0
    for b in range(B):
        p, q = (softmax([z / temperature for z in row[b].tolist()]) for row in (zero_shot, logits))
        expected += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)) / B
    assert math.isclose(lamm.distillation_loss(logits, zero_shot, temperature).item(), expected, rel_tol=1e-9)
    assert abs(lamm.distillation_loss(zero_shot, zero_shot, temperature).item()) < 1e-12


def test_gradients_by_finite_differences():
    for loss, value in (
        (lambda v: lamm.parameter_loss(v, random(N, D, seed=1)), random(N, D)),
        (lambda t: lamm.feature_loss(t, unit(N, E, seed=1)), unit(N, E)),
        (lambda z: lamm.distillation_loss(z, random(B, N, seed=1), 2.5), random(B, N)),
    ):
        assert torch.autograd.gradcheck(loss, value.requires_grad_(True))


@pytest.mark.parametrize("base", ["clip", "maple"])
def test_the_loss_is_their_weighted_sum(base, tmp_path, toy_run, toy_backbone):
    weights = {"WC_WEIGHT": 0.5, "COS_WEIGHT": 2.0, "KD_WEIGHT": 3.0, "KD_TEMPERATURE": 2.0}
    keys = [x for key, value in weights.items() for x in (f"TRAINER.LAMM.{key}", value)]
    trainer = toy_run("LAMM", tmp_path, "TRAINER.LAMM.BASE", base, *keys, "OPTIM.LR", 0.1)
    batch = next(iter(trainer.train_loader_x))
    loss, told = trainer.loss(batch["img"], batch["label"])
    logits = trainer.model(batch["img"])
    assert told["loss_ce"] == F.cross_entropy(logits, batch["label"]).item()
    assert min(told[f"loss_{name}"] for name in ("ce", "wc", "cos", "kd")) > 0
    total = told["loss_ce"] + 0.5 * told["loss_wc"] + 2 * told["loss_cos"] + 3 * told["loss_kd"]
    assert math.isclose(loss.item(), total, rel_tol=1e-5)
    prompts = clip.tokenize([f"a photo of {name.replace('_', ' ')}." for name in TOY_CLASSES])
    model = load_backbone(toy_backbone, "fp32", "cpu")
    with torch.no_grad():
        zero_shot = model(batch["img"], prompts)[0]
    expected = lamm.distillation_loss(logits, zero_shot, 2.0).item()
    assert math.isclose(told["loss_kd"], expected, rel_tol=1e-3), "zero-shot CLIP on the same images"


def test_a_weight_of_zero_leaves_its_loss_out(tmp_path, toy_run):
    keys = [x for key in ("WC", "COS", "KD") for x in (f"TRAINER.LAMM.{key}_WEIGHT", 0)]
    trainer = toy_run("LAMM", tmp_path, *keys, "OPTIM.MAX_EPOCH", 1)
    batch = next(iter(trainer.train_loader_x))
    loss, told = trainer.loss(batch["img"], batch["label"])
    assert loss.item() == told["loss_ce"] and set(told) == {"loss_ce", "acc"}


# The prompts


def reference(model, learner, names=NAMES):
    """encode_in_full's arguments: a stand-in word is tokenized, then replaced by the class's vector."""
    maple, vectors = learner.maple, dict(zip(learner.vectors.names, learner.vectors(), strict=True))
    ctx = learner.ctx if maple is None else maple.ctx
    words = "a photo of" if ctx is None else " ".join(["X"] * len(ctx)) + (" of a" if maple is not None else "")
    rows, ends = [], []
    for name in (name.replace("_", " ") for name in names):
        tokens = clip.tokenize(f"{words} {'X' if name in vectors else name}.")[0]
        row, n = model.token_embedding(tokens), len(clip.tokenize(words)[0].nonzero()) - 2
        if ctx is not None:
            row = torch.cat([row[:1], ctx, row[1 + len(ctx) :]])
        if name in vectors:
            row = torch.cat([row[: 1 + n], vectors[name][None], row[2 + n :]])
        rows.append(row)
        ends.append(tokens.argmax())
    deep = () if maple is None else maple.compound_prompts_text
    return torch.stack(rows)[None], torch.stack(ends)[None], deep


@pytest.mark.parametrize(("kind", "base"), [*((k, b) for k in ("vit", "resnet") for b in BASES[:2]), ("vit", "maple")])
@pytest.mark.parametrize("learned", [PLAIN, PLAIN[1::2]])
def test_features_and_gradients_equal_whole_prompts(kind, base, learned):
    model = tiny_clip(kind)
    encoder = TextEncoder(model)
    kept = ["emu", PLAIN[0]] if learned != PLAIN else []
    learner = PromptLearner(config(BASE=base, N_CTX=3), NAMES, encoder, learned, kept, model.visual)
    vectors, context = learner.vectors, [p for n, p in learner.named_parameters() if "vectors" not in n]
    for tensor in (vectors.learned, vectors.kept, *context):
        torch.nn.init.normal_(tensor, std=0.2)
    text_parameters = [p for n, p in learner.named_parameters() if "proj" not in n]
    target = torch.randn(1, len(NAMES), E)
    found = []
    for features in (encoder(*learner()), encode_in_full(model, *reference(model, learner))):
        learner.zero_grad()
        (features * target).sum().backward()
        found.append([features, *(p.grad.clone() for p in text_parameters)])
    assert len(found[0]) == {"clip": 2, "coop": 3, "maple": 4}[base]
    for fast, plain in zip(*found, strict=True):
        assert relative_error(fast, plain) < 3e-5  # float32 gradients of vectors far from words: 1.4e-5 seen


def test_vectors_start_as_the_mean_of_the_names_tokens():
    model = tiny_clip()
    learner = PromptLearner(config(), NAMES, TextEncoder(model), PLAIN)
    for name, vector in zip(PLAIN, learner.vectors.learned, strict=True):
        tokens = clip.tokenize(name)[0]
        words = model.token_embedding(tokens[1 : tokens.argmax()])
        assert torch.allclose(vector, words.mean(dim=0), atol=1e-6)


def test_classes_without_a_vector_are_zero_shot_clip():
    model = tiny_clip()
    encoder = TextEncoder(model)
    learner = PromptLearner(config(), NAMES, encoder, [], ["emu"])
    assert not any(p.requires_grad for p in learner.parameters())
    plain = model.encode_text(clip.tokenize([f"a photo of {name}." for name in PLAIN]))
    assert relative_error(encoder(*learner())[0], plain) < 1e-5
    words = PromptLearner(config(BASE="coop", CTX_INIT="a photo_of"), NAMES, encoder, [])
    assert relative_error(encoder(*words())[0], plain) < 1e-5


def test_state_dicts_merge_by_class_name():
    encoder, cfg = TextEncoder(tiny_clip()), config()
    first = PromptLearner(cfg, ["emu", "sea_lion"], encoder, ["emu", "sea lion"])
    second = PromptLearner(cfg, NAMES, encoder, PLAIN)
    merged = first.state_dict() | second.state_dict()
    assert list(merged) == [f"vectors.{name}" for name in ("emu", "sea lion", *PLAIN)]
    both = PromptLearner(cfg, NAMES, encoder, PLAIN[::-1], ["sea lion", "emu"])
    both.load_state_dict(merged)
    assert torch.equal(both.vectors.learned, second.vectors.learned.flip(0))
    assert torch.equal(both.vectors.kept, first.vectors.learned.flip(0))
    with pytest.raises(RuntimeError, match='Unexpected key.*"vectors.emu"'):
        second.load_state_dict(merged)
    with pytest.raises(RuntimeError, match='Missing key.*"vectors.emu"'):
        both.load_state_dict(second.state_dict())


# Whole runs


def folder_of(tmp_path, name):
    return str(tmp_path / name)


def weights(tmp_path, name, epoch=3):
    return str(tmp_path / name / "prompt_learner" / f"model.pth.tar-{epoch}")


@pytest.fixture
def run(tmp_path, toy_run):
    """run(name, classes, *keys, model=None, earlier=None): a run on all, base or new classes in a folder of its own."""

    def run(name, classes, *keys, model=None, earlier=None, **options):
        options["flags"] = [*options.get("flags", ())]
        if model is not None:
            options["flags"] += ["--eval-only", "--model-dir", folder_of(tmp_path, model)]
        init = [] if earlier is None else ["MODEL.INIT_WEIGHTS", weights(tmp_path, earlier)]
        keys = ("DATASET.SUBSAMPLE_CLASSES", classes, "OPTIM.LR", 0.1, *init, *keys)
        return toy_run("LAMM", folder_of(tmp_path, name), *keys, **options)

    return run


@torch.no_grad()
def text_features(trainer):
    return trainer.model.encode_text()


@pytest.mark.parametrize("base", BASES)
def test_a_run_is_saved_by_name_and_loads_to_the_same_outputs(base, tmp_path, run):
    keys = ("TRAINER.LAMM.BASE", base)
    trained = run("a", "all", *keys)
    state = load_checkpoint(weights(tmp_path, "a"))["state_dict"]
    vectors = {key for key in state if key.startswith("vectors.")}
    assert vectors == {"vectors.ant", "vectors.bee", "vectors.crab claw", "vectors.dog"}
    assert all(state[key].shape == (64,) for key in vectors)
    couplings = {
        f"{layer}.{kind}" for layer in ("proj", "compound_prompt_projections.0") for kind in ("weight", "bias")
    }
    maple = {f"maple.{name}" for name in ("ctx", "compound_prompts_text.0", *couplings)}
    assert set(state) - vectors == {"clip": set(), "coop": {"ctx"}, "maple": maple}[base]
    alone = run("b", "all", *keys, model="a")
    batch = next(iter(alone.test_loader))["img"]
    with torch.no_grad():
        assert torch.equal(trained.model(batch), alone.model(batch))
    assert trained.test() == alone.test()


def test_images_are_seen_with_maples_prompts(run):
    trainer = run("a", "base", "TRAINER.LAMM.BASE", "maple")
    maple, images = trainer.model.prompt_learner.maple, next(iter(trainer.test_loader))["img"]
    with torch.no_grad():
        prompts = [maple.proj(maple.ctx), maple.compound_prompt_projections[0](maple.compound_prompts_text[0])]
        seen = F.normalize(encode_image_in_full(trainer.model.image_encoder, images, prompts), dim=-1)
        expected = 1 / 0.07 * seen @ text_features(trainer).t()
        evaluated = torch.cat([output for output, _ in trainer.predict(trainer.test_loader)])
    assert relative_error(trainer.model(images), expected) < 1e-5
    assert relative_error(evaluated, expected) < 1e-5


def test_new_classes_go_by_their_names(run, toy_backbone):
    trained = run("a", "base")
    new = run("b", "new", model="a")
    prompts = clip.tokenize([f"a photo of {name.replace('_', ' ')}." for name in TOY_CLASSES[2:]])
    plain = F.normalize(load_backbone(toy_backbone, "fp32", "cpu").encode_text(prompts), dim=-1).detach()
    assert relative_error(text_features(new), plain) < 1e-5
    both = text_features(run("c", "all", model="a"))
    assert relative_error(both[:2], text_features(trained)) < 1e-5
    assert relative_error(both[2:], plain) < 1e-5


@pytest.mark.parametrize("base", BASES)
def test_learning_more_classes_forgets_nothing(base, tmp_path, run):
    keys = ("TRAINER.LAMM.BASE", base)
    first = run("a", "base", *keys)
    second = run("b", "new", *keys, earlier="a")
    learner = second.model.prompt_learner
    assert learner.vectors.names == ["crab claw", "dog", "ant", "bee"]
    assert [n for n, p in learner.named_parameters() if p.requires_grad] == ["vectors.learned"]
    assert not torch.equal(learner.vectors.learned, learner.initial)
    assert torch.equal(text_features(run("c", "base", *keys, model="b")), text_features(first))
    assert torch.equal(text_features(run("d", "new", *keys, model="b")), text_features(second))
    states = [load_checkpoint(weights(tmp_path, name))["state_dict"] for name in ("a", "b")]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    images = next(iter(first.test_loader))["img"]
    with torch.no_grad():
        assert torch.equal(first.model.encode_image(images), second.model.encode_image(images))
    both = text_features(run("e", "all", *keys, model="b"))
    assert relative_error(both, torch.cat([text_features(first), text_features(second)])) < 1e-5


def test_runs_trained_apart_merge(tmp_path, run, monkeypatch):
    """By the lines that the module's docstring gives."""
    parts = [run("base", "base"), run("new", "new")]
    lines = [line for line in lamm.__doc__.splitlines() if line.startswith("    ") and "L_ce" not in line]
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent("\n".join(lines)).replace("tar-50", "tar-3"), {"torch": torch})
    alone = run("both", "all", "MODEL.INIT_WEIGHTS", "both.pth.tar", flags=["--eval-only"])
    assert alone.model.prompt_learner.vectors.names == ["ant", "bee", "crab claw", "dog"]
    both = torch.cat([text_features(part) for part in parts])
    assert relative_error(text_features(alone), both) < 1e-5
    assert not torch.allclose(both, alone.zero_shot_features(alone.cfg.TRAINER.LAMM.TEMPLATE), atol=1e-3)


def test_earlier_vectors_may_be_trained_on(tmp_path, run):
    first = run("a", "base")
    second = run("b", "all", "TRAINER.LAMM.FREEZE_EARLIER", False, "OPTIM.MAX_EPOCH", 0, earlier="a")
    vectors = second.model.prompt_learner.vectors
    assert vectors.learned.shape == (4, 64) and vectors.kept.shape == (0, 64)
    assert torch.equal(vectors.learned[:2], first.model.prompt_learner.vectors.learned), "they start as they were"


def test_an_interrupted_run_of_more_classes_resumes(tmp_path, run):
    run("a", "base")
    whole = run("b", "new", earlier="a")
    run("c", "new", "OPTIM.MAX_EPOCH", 3, "TRAIN.CHECKPOINT_FREQ", 1, earlier="a")
    (tmp_path / "c" / "prompt_learner" / "checkpoint").write_text("model.pth.tar-1\n")
    resumed = run("c", "new", "OPTIM.MAX_EPOCH", 3, "TRAIN.CHECKPOINT_FREQ", 1, earlier="a")
    assert resumed.start_epoch == 1
    for key, value in whole.model.prompt_learner.state_dict().items():
        assert torch.equal(value, resumed.model.prompt_learner.state_dict()[key])


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"BASE": "maple", "TRAINER.MAPLE.N_CTX": 5}, "has 4 tokens, but N_CTX is 5"),
        ({"BASE": "coops"}, "did you mean coop"),
        ({"TEMPLATE": "a photo"}, "one {}"),
        ({"BASE": "coop", "CTX_INIT": " "}, "no word"),
        ({"BASE": "coop", "CTX_INIT": "", "N_CTX": 0}, "N_CTX is 0: give 1 or more"),
        ({"KD_WEIGHT": -1.0}, "0 or more"),
        ({"KD_TEMPERATURE": 0.0}, "above 0"),
        ({"PREC": "fp8"}, "fp16"),
    ],
)
def test_mistakes_in_the_config(options, message, tmp_path, toy_run):
    options = {key if "." in key else f"TRAINER.LAMM.{key}": value for key, value in options.items()}
    keys = [x for key, value in options.items() for x in (key, f'"{value}"' if value == " " else value)]
    with pytest.raises(UserError, match=message):
        toy_run("LAMM", tmp_path, *keys)


def test_mistakes_with_weights(tmp_path, run, toy_run):
    base = ("DATASET.SUBSAMPLE_CLASSES", "base")
    coop, maple = (("TRAINER.LAMM.BASE", name) for name in ("coop", "maple"))
    run("a", "base")
    run("coop", "base", *coop)
    run("maple", "base", *maple)
    toy_run("CoOp", tmp_path / "other", *base)
    with pytest.raises(UserError, match="no class vectors"):
        run("b", "base", model="other")
    with pytest.raises(UserError, match="do not fit.*ctx"):
        run("b", "base", *coop, model="a")
    with pytest.raises(UserError, match="BASE clip, but here it is coop"):
        run("b", "new", *coop, earlier="a")
    with pytest.raises(UserError, match="BASE coop, but here it is clip"):
        run("b", "new", earlier="coop")
    with pytest.raises(UserError, match="BASE maple, but here it is coop"):
        run("b", "new", *coop, earlier="maple")
    with pytest.raises(UserError, match="prompts of 2 layers, but here they have 1"):
        run("b", "new", *maple, "TRAINER.MAPLE.PROMPT_DEPTH", 1, earlier="maple")
    with pytest.raises(UserError, match=r"ctx of size \(4, 64\), but here it is \(2, 64\)"):
        run("b", "new", *coop, "TRAINER.LAMM.CTX_INIT", "a photo", earlier="coop")
    with pytest.raises(UserError, match="FREEZE_EARLIER False"):
        run("b", "base", earlier="a")
    wide = tmp_path / "wide.pt"
    torch.save(openai_weights(tiny_clip(width=128)), wide)
    with pytest.raises(UserError, match=r"vectors.ant of size \(64,\), but here it is \(128,\)"):
        run("b", "base", "MODEL.BACKBONE.NAME", wide, earlier="a")
    with pytest.raises(UserError, match="vectors of other classes"):
        run("b", "new", "RESUME", folder_of(tmp_path, "a"))


def test_a_name_without_words():
    with pytest.raises(UserError, match="no word"):
        PromptLearner(config(), ["cat", " "], TextEncoder(tiny_clip()), ["cat", " "])
