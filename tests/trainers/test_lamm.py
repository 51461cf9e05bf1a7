"""LAMM's losses against loops in float64, its prompts against whole 77-token ones, its vectors through several runs."""

import math

import clip
import pytest
import torch
import yaml

from dassl.config import get_cfg_default, merge_from_file, merge_from_list
from dassl.utils import UserError
from learned.model import build_for
from prompting.backbone import load_backbone
from prompting.deep_prompts import CoupledPrompts
from prompting.forms import with_form
from prompting.text_encoder import TextEncoder
from tests.conftest import REPO, TOY_CLASSES
from tests.reference import (
    encode_image_in_full,
    encode_in_full,
    in_double,
    relative_error,
    tiny_clip,
)
from trainers import extend_cfg, lamm
from trainers.lamm import BASES, FORMS, PromptLearner, initial_vectors

E = 32
NAMES = ["cat", "yin_yang", "flamingo head", "St. Bernard's dog No. 5."]
PLAIN = [name.replace("_", " ") for name in NAMES]
LONG = PLAIN[1:]  # the shortest of two tokens


def config(**options):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.TRAINER.LAMM.update(options)
    return cfg


def made(cfg, classnames, model, learned, kept=()):
    """The PromptLearner of a config; learned and kept are names."""
    options, encoder = with_form(cfg, "LAMM", FORMS), TextEncoder(model)
    maple = CoupledPrompts(cfg.TRAINER.MAPLE, encoder, model.visual) if options.BASE == "maple" else None
    start = initial_vectors(options, [*learned, *kept], encoder, {})
    vectors = ({name: start[name] for name in names} for names in (learned, kept))
    return PromptLearner(options, classnames, encoder, *vectors, maple)


# The losses


def unit(vectors):
    return [v / v.square().sum().sqrt() for v in vectors]


def softmax(logits, temperature=1.0):
    exps = [(z / temperature).exp() for z in logits]
    return [e / sum(exps) for e in exps]


def mean(values):
    return sum(values) / len(values)


def slow_terms(trainer, backbone, parameters, images, labels):
    """{"ce", "wc", "cos", "kd"} by the formulas of the recipe's page, class by class and image by image."""
    options, learner = trainer.options, trainer.model.prompt_learner
    released, base = options.FORM == "released", options.BASE
    template = "a photo of a {}." if released else "a photo of {}."
    model, names = in_double(load_backbone(backbone)), [name.replace("_", " ") for name in TOY_CLASSES]
    ctx = parameters.get("ctx", parameters.get("maple.ctx"))
    deep = [p for key, p in parameters.items() if "compound_prompts_text" in key]

    def encode(rows, ends, deep=deep):
        return unit(encode_in_full(model, torch.stack(rows)[None], torch.tensor(ends)[None], deep)[0])

    def text(vectors, context=True):
        """Text features: rows of the classes' vectors, none for names; in the context or, without it, in words."""
        words, rows, ends = template.split(" {}")[0], [], []
        if context and ctx is not None:
            words = " ".join(["X"] * len(ctx)) + (" of a" if base == "maple" else "")
        n = len(clip.tokenize(words)[0].nonzero()) - 2
        for name, own in zip(names, vectors, strict=True):
            tokens = clip.tokenize(f"{words} {'X' if len(own) and not released else name}.")[0]
            row = model.token_embedding(tokens)
            if context and ctx is not None:
                row = torch.cat([row[:1], ctx, row[1 + len(ctx) :]])
            rows.append(torch.cat([row[: 1 + n], own, row[1 + n + len(own) :]]))
            ends.append(tokens.argmax().item())
        return encode(rows, ends, deep if context else [])

    none = [torch.zeros(0, 64, dtype=torch.double)] * len(names)
    vectors = [parameters["vectors.learned"][i : i + 1] for i in range(len(names))]
    assert learner.vectors.names == names and len(parameters["vectors.learned"]) == 4, "one token each"
    t, h = text(vectors), text(none, context=released)
    plain = images = images.double()
    plain = unit(model.encode_image(images))
    seen = plain
    if base == "maple":
        layers = ["proj", *(f"compound_prompt_projections.{i}" for i in range(len(deep)))]
        prompts = [
            vectors @ parameters[f"maple.{layer}.weight"].t() + parameters[f"maple.{layer}.bias"]
            for layer, vectors in zip(layers, [ctx, *deep], strict=True)
        ]
        seen = unit(encode_image_in_full(model.visual, images, prompts))
    scale = model.logit_scale.exp()
    z = [[scale * (f @ v) for v in t] for f in seen]
    z_h = [[scale * (f @ v) for v in h] for f in (seen if released else plain)]

    start = []
    for name in names:
        tokens = clip.tokenize(name)[0]
        words = model.token_embedding(tokens[1 : tokens.argmax()])
        start.append(words[0] if released else mean(list(words)))
    away = [sum((a - b) ** 2 for a, b in zip(v[0], s, strict=True)) for v, s in zip(vectors, start, strict=True)]
    ce = mean([-softmax(row)[y].log() for row, y in zip(z, labels, strict=True)])
    if released:
        counted = [y for y in labels if any(other != y for other in labels)]
        cos = mean([1 - t[y] @ h[y].detach() for y in counted]) if counted else torch.zeros(())
        kd = 4 * mean(
            [
                -sum(p * q.log() for p, q in zip(softmax(row, 2.0), softmax(row_h, 2.0), strict=True))
                for row, row_h in zip(z, z_h, strict=True)
            ]
        )
        return {"ce": ce, "wc": sum(away), "cos": cos, "kd": kd}
    kd = mean(
        [
            sum(q * (q / p).log() for p, q in zip(softmax(row), softmax(row_h), strict=True))
            for row, row_h in zip(z, z_h, strict=True)
        ]
    )
    return {"ce": ce, "wc": mean(away), "cos": mean([1 - a @ b for a, b in zip(t, h, strict=True)]), "kd": kd}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("form", FORMS)
def test_loss_and_gradient_over_whole_prompts(form, base, tmp_path, toy_run, toy_backbone):
    weights = {"WC": 0.5, "COS": 2.0, "KD": 0.3}
    options = {"FORM": form, "BASE": base, **{f"{key}_WEIGHT": value for key, value in weights.items()}}
    keys = [x for key, value in options.items() for x in (f"TRAINER.LAMM.{key}", value)]
    trainer = toy_run("LAMM", tmp_path, *keys, "DATALOADER.TRAIN_X.BATCH_SIZE", 5, flags=["--no-train"])
    learner, images = in_double(trainer.model).prompt_learner, next(iter(trainer.train_loader_x))["img"]
    trainer.before_train()  # gradients of couplings are small beside float32's rounding
    torch.manual_seed(0)
    with torch.no_grad():
        learner.vectors.learned.add_(0.2 * torch.randn_like(learner.vectors.learned))
    for labels in ([0, 3, 0, 1, 3], [2, 2, 2, 2, 2]):
        trainer.model_zero_grad()
        loss, told = trainer.loss(images, torch.tensor(labels))
        loss.backward()
        parameters = {key: p.detach().double().requires_grad_(True) for key, p in learner.named_parameters()}
        terms = slow_terms(trainer, toy_backbone, parameters, images, labels)
        expected = terms["ce"] + sum(weight * terms[key.lower()] for key, weight in weights.items())
        expected.backward()
        for key, value in terms.items():
            assert math.isclose(told[f"loss_{key}"], value.item(), rel_tol=1e-4, abs_tol=1e-7), key
        assert (told["loss_cos"] == 0) == (form == "released" and len(set(labels)) == 1)
        assert min(told["loss_ce"], told["loss_wc"], told["loss_kd"]) > 1e-3
        assert math.isclose(loss.item(), expected.item(), rel_tol=1e-5)
        for key, p in learner.named_parameters():
            assert relative_error(p.grad.double(), parameters[key].grad) < 2e-4, key


def test_a_weight_of_zero_leaves_its_loss_out(tmp_path, toy_run):
    keys = [x for key in ("WC", "COS", "KD") for x in (f"TRAINER.LAMM.{key}_WEIGHT", 0)]
    trainer = toy_run("LAMM", tmp_path, *keys, "OPTIM.MAX_EPOCH", 1)
    batch = next(iter(trainer.train_loader_x))
    loss, told = trainer.loss(batch["img"], batch["label"])
    assert loss.item() == told["loss_ce"] and set(told) == {"loss_ce", "acc"}


def test_a_form_taken_apart(tmp_path, toy_run):
    """The sum over four classes is four means; every other key may be given alone, too."""
    both = []
    for key, value in (
        ("WC", "sum"),
        ("WC", "mean"),
        ("COS", "classes"),
        ("KD_TARGET", "teacher"),
        ("TEACHER", "clip"),
    ):
        keys = (f"TRAINER.LAMM.{key}", value, "TRAINER.LAMM.BASE", "coop")
        trainer = toy_run("LAMM", tmp_path / value, *keys, flags=["--no-train"])
        with torch.no_grad():
            trainer.model.prompt_learner.vectors.learned.add_(0.1)
            trainer.before_train()
            batch = next(iter(trainer.train_loader_x))
            both.append(trainer.loss(batch["img"], batch["label"])[1])
    assert math.isclose(both[0]["loss_wc"], 4 * both[1]["loss_wc"], rel_tol=1e-6)
    assert both[3]["loss_kd"] < both[0]["loss_kd"], "a divergence is less than a cross-entropy"


# The prompts


def recipe(name):
    return yaml.safe_load((REPO / f"tests/recipes/{name}.yaml").read_text())["lamm"]


def test_the_templates_are_those_of_the_recipe():
    assert FORMS["released"]["TEMPLATE"] == recipe("templates")["template"]
    assert config().TRAINER.LAMM.FORM == "released"


@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        ("few_shot", "vit_b16_ep50"),
        ("few_shot_base_coop", "vit_b16_ep50_coop"),
        ("few_shot_base_maple", "vit_b16_ep5_batch4_maple"),
        ("incremental", "vit_b16_ep50_incremental"),
        ("domain_generalization", "vit_b16_ep50"),
    ],
)
def test_a_config_is_the_releases_recipe(protocol, name):
    cfg = config()
    merge_from_file(cfg, REPO / f"configs/trainers/LAMM/{name}.yaml")
    options, optim, context = with_form(cfg, "LAMM", FORMS), cfg.OPTIM, cfg.TRAINER.LAMM
    context = cfg.TRAINER.MAPLE if options.BASE == "maple" else context
    found = {
        **{"base": options.BASE, "backbone": cfg.MODEL.BACKBONE.NAME, "prec": options.PREC, "lr": optim.LR},
        **{"epochs": optim.MAX_EPOCH, "warmup": optim.WARMUP_EPOCH, "batch": cfg.DATALOADER.TRAIN_X.BATCH_SIZE},
        "test_batch": cfg.DATALOADER.TEST.BATCH_SIZE,
        "weights": {key: options[key] for key in ("WC_WEIGHT", "COS_WEIGHT", "KD_WEIGHT", "KD_TEMPERATURE")}
        | {"WC_reduction": options.WC, "KD_target": options.KD_TARGET, "KD_factor": options.KD_TEMPERATURE**2},
    }
    found |= {"ctx": f"{options.TEMPLATE.split(' {}')[0]} (frozen)"} if options.BASE == "clip" else {}
    found |= {"n_ctx": context.N_CTX, "ctx_init": context.CTX_INIT} if options.BASE != "clip" else {}
    found |= {"prompt_depth": context.PROMPT_DEPTH} if options.BASE == "maple" else {}
    wanted = recipe("schedules")[protocol]["default"]
    assert found == {key: value for key, value in wanted.items() if key != "shots"}


def reference(model, learner, names=NAMES, whole=False):
    """encode_in_full's arguments: a whole name is tokenized as a stand-in word, then vectors take their places."""
    maple, vectors = learner.maple, learner.vectors.values()
    ctx = learner.ctx if maple is None else maple.ctx
    words = "a photo of" + " a" * (not whole)
    if ctx is not None:
        words = " ".join(["X"] * len(ctx)) + (" of a" if maple is not None else "")
    rows, ends = [], []
    for name in (name.replace("_", " ") for name in names):
        own = vectors.get(name, torch.zeros(0, 64)).reshape(-1, 64)
        tokens = clip.tokenize(f"{words} {'X' if whole and len(own) else name}.")[0]
        row, n = model.token_embedding(tokens), len(clip.tokenize(words)[0].nonzero()) - 2
        if ctx is not None:
            row = torch.cat([row[:1], ctx, row[1 + len(ctx) :]])
        rows.append(torch.cat([row[: 1 + n], own, row[1 + n + len(own) :]]))
        ends.append(tokens.argmax())
    deep = () if maple is None else maple.compound_prompts_text
    return torch.stack(rows)[None], torch.stack(ends)[None], deep


@pytest.mark.parametrize(("kind", "base"), [*((k, b) for k in ("vit", "resnet") for b in BASES[:2]), ("vit", "maple")])
@pytest.mark.parametrize("learned", [PLAIN, LONG, PLAIN[1::2]])
@pytest.mark.parametrize("form", FORMS)
def test_features_and_gradients_equal_whole_prompts(form, kind, base, learned):
    model = tiny_clip(kind)
    encoder = TextEncoder(model)
    kept = ["emu", PLAIN[0]] if learned == PLAIN[1::2] else []
    learner = made(config(FORM=form, BASE=base, N_CTX=3), NAMES, model, learned, kept)
    tokens = 2 if (form, learned) == ("released", LONG) and base != "maple" else 1
    assert len(learner.vectors.learned) == tokens * len(learned)
    vectors, context = learner.vectors, [p for n, p in learner.named_parameters() if "vectors" not in n]
    for tensor in (vectors.learned, vectors.kept, *context):
        torch.nn.init.normal_(tensor, std=0.2)
    text_parameters = [p for n, p in learner.named_parameters() if "proj" not in n]
    target = torch.randn(1, len(NAMES), E)
    found = []
    for features in (encoder(*learner()), encode_in_full(model, *reference(model, learner, whole=form == "paper"))):
        learner.zero_grad()
        (features * target).sum().backward()
        found.append([features, *(p.grad.clone() for p in text_parameters)])
    assert len(found[0]) == {"clip": 2, "coop": 3, "maple": 4}[base]
    for fast, plain in zip(*found, strict=True):
        assert relative_error(fast, plain) < 3e-5  # float32 gradients of vectors far from words: 1.4e-5 seen


def test_vectors_start_as_the_names_first_tokens_or_their_mean():
    model = tiny_clip()
    for names, n in ((NAMES, 1), (NAMES[1:], 2)):
        released, paper = (
            made(config(FORM=form), names, model, [lamm.plain(name) for name in names]) for form in FORMS
        )
        for name, first, whole in zip(names, released.vectors.values().values(), paper.vectors.learned, strict=True):
            tokens = clip.tokenize(lamm.plain(name))[0]
            words = model.token_embedding(tokens[1 : tokens.argmax()])
            assert torch.equal(first, words[:n])
            assert torch.allclose(whole, words.mean(dim=0), atol=1e-6)
    assert len(made(config(BASE="maple"), LONG, model, LONG).vectors.learned) == len(LONG), "one, whatever the names"


@pytest.mark.parametrize("form", FORMS)
def test_classes_without_a_vector_are_zero_shot_clip(form):
    """So are, as released, those whose vectors are where they started."""
    model = tiny_clip()
    encoder, template = TextEncoder(model), FORMS[form]["TEMPLATE"]
    learner = made(config(FORM=form), NAMES, model, [], ["emu"])
    assert not any(p.requires_grad for p in learner.parameters())
    plain = model.encode_text(clip.tokenize([template.format(name) for name in PLAIN]))
    assert relative_error(encoder(*learner())[0], plain) < 1e-5
    words = made(config(FORM=form, BASE="coop", CTX_INIT=template.split(" {}")[0].replace(" ", "_")), NAMES, model, [])
    assert relative_error(encoder(*words())[0], plain) < 1e-5
    if form == "released":
        assert relative_error(encoder(*made(config(), NAMES, model, PLAIN)())[0], plain) < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_state_dicts_merge_by_class_name(form):
    """Those of runs with other numbers of tokens, too: two in the first, one in the second."""
    model, cfg = tiny_clip(), config(FORM=form)
    first = made(cfg, ["fruit bat", "sea_lion"], model, ["fruit bat", "sea lion"])
    second = made(cfg, NAMES, model, PLAIN)
    merged = first.state_dict() | second.state_dict()
    assert list(merged) == [f"vectors.{name}" for name in ("fruit bat", "sea lion", *PLAIN)]
    shape = {"released": (2, 64), "paper": (64,)}[form]
    assert merged["vectors.sea lion"].shape == shape and merged["vectors.cat"].shape == (1, 64)[-len(shape) :]
    options, encoder = with_form(cfg, "LAMM", FORMS), TextEncoder(model)
    there = lamm.vectors_in(merged, options, 64, "x")
    both = PromptLearner(options, ["sea lion", *NAMES], encoder, there, {})
    both.load_state_dict(merged)
    assert torch.equal(both.vectors(), torch.cat([first.vectors(), second.vectors()]))
    features = torch.cat([encoder(*learner())[0] for learner in (first, second)])[1:]
    assert relative_error(encoder(*both())[0], features) < 1e-5
    with pytest.raises(RuntimeError, match='Unexpected key.*"vectors.fruit bat"'):
        second.load_state_dict(merged)
    with pytest.raises(RuntimeError, match='Missing key.*"vectors.fruit bat"'):
        both.load_state_dict(second.state_dict())


def test_earlier_vectors_keep_their_number_of_tokens(tmp_path, toy_backbone):
    """Two tokens of each class in the first half, one in the second, as FGVCAircraft's halves have four and one."""

    def build(classes, *keys):
        cfg = get_cfg_default()
        extend_cfg(cfg)
        words = ("TRAINER.NAME", "LAMM", "MODEL.BACKBONE.NAME", toy_backbone, "USE_CUDA", False, *keys)
        merge_from_list(cfg, words)
        return build_for(cfg, {"classnames": classes})

    first = build(["fruit bat", "sea lion"]).model
    torch.save({"state_dict": first.prompt_learner.state_dict()}, tmp_path / "first")
    weights = ("MODEL.INIT_WEIGHTS", str(tmp_path / "first"))
    for frozen in (True, False):
        keys = (*weights, "TRAINER.LAMM.FREEZE_EARLIER", frozen)
        vectors = build(["cat", "sea lion"], *keys).model.prompt_learner.vectors
        shapes = {name: tuple(value.shape) for name, value in vectors.values().items()}
        assert shapes == {"cat": (1, 64), "sea lion": (2, 64), "fruit bat": (2, 64)}
        assert len(vectors.learned) == (1 if frozen else 3)
        assert torch.equal(vectors.values()["fruit bat"], first.prompt_learner.vectors.learned[:2])


def test_a_name_without_words():
    with pytest.raises(UserError, match="no word"):
        made(config(), ["cat", " "], tiny_clip(), ["cat", " "])
