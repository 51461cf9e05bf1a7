"""CSP and its CoOp as their release has them: loss, configs, prompts, MIX, the table of vectors that it saves."""

import json

import clip
import pytest
import torch
import torch.nn.functional as F
import yaml

import train
from benchmark.facts import method_of
from dassl.data.transforms import build_transform
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import UserError
from prompting.backbone import load_backbone
from prompting.pairs import PREFIX, PairPrompts
from prompting.text_encoder import TextEncoder
from tests.conftest import REPO
from tests.reference import in_double, relative_error, tiny_clip
from tests.trainers.test_csp import name_tokens

MIX_GRID = REPO / "configs/grids/csp_mix.yaml"


@pytest.fixture
def run(toy_pairs_run):
    return toy_pairs_run


@pytest.mark.parametrize("trainer, config", [("CSP", "vit_l14"), ("CoOp", "vit_l14_czsl")])
def test_the_loss_is_the_releases(tmp_path, run, toy_backbone, trainer, config):
    """Image by image in float64, in prompts of 8 tokens: cross-entropy over the seen pairs of s cos."""
    trained = run(trainer, tmp_path, f"TRAINER.{trainer.upper()}.ACCUMULATE", 2, flags=["--no-train"], config=config)
    dataset, learner = trained.dm.dataset, in_double(trained.model).prompt_learner.eval()
    batch = next(iter(trained.train_loader_x))
    images, labels = batch["img"].double(), batch["label"]
    learner.train()
    learner.dropout = torch.nn.Identity()
    for chunk in (*learner.seen, *learner.unseen):
        chunk.double()
    trained.loss(images, labels)[0].backward()

    model = in_double(load_backbone(toy_backbone))
    for block in model.transformer.resblocks:
        block.attn_mask = model.build_attention_mask()[:8, :8].double()
    start = model.token_embedding(clip.tokenize("a photo of")[0])
    words = [["Faux Leather", "dark", "pale"], ["boat", "dog", "sea_shell"]]
    table = torch.stack([name_tokens(model, name).mean(dim=0) for kind in words for name in kind])
    context = start[1:4].clone().requires_grad_(trainer == "CoOp")
    table = table.clone().requires_grad_(trainer == "CSP")
    texts = []
    for attribute, object_ in dataset.pairs[: dataset.num_seen]:
        x = torch.cat([start[:1], context, table[attribute][None], table[3 + object_][None], start[4:5], start[5:6]])
        x = x + model.positional_embedding[:8]
        for block in model.transformer.resblocks:
            x = block(x[:, None])[:, 0]
        texts.append(model.ln_final(x)[6] @ model.text_projection)
    loss = 0
    for image, label in zip(images, labels, strict=True):
        feature = model.visual(image[None])[0]
        logits = [model.logit_scale.exp() * F.cosine_similarity(feature, text, dim=0) for text in texts]
        loss = loss + (torch.stack(logits).exp().sum().log() - logits[label]) / len(labels)
    loss.backward()
    assert trained.loss(images, labels)[0].item() == pytest.approx(loss.item(), rel=1e-6)
    if trainer == "CoOp":
        assert relative_error(learner.ctx.grad, context.grad) < 1e-5
    else:
        found = torch.cat([learner.attributes.learned.grad, learner.objects.learned.grad])
        assert relative_error(found, table.grad) < 1e-5


RECIPES, TEMPLATES = (
    yaml.safe_load((REPO / f"tests/recipes/{name}.yaml").read_text())["csp"] for name in ("schedules", "templates")
)


@pytest.mark.parametrize("dataset", ["mit_states", "ut_zappos", "cgqa"])
@pytest.mark.parametrize("trainer", ["CSP", "CoOp"])
def test_configs_are_the_releases(trainer, dataset):
    recipe = RECIPES["czsl"]
    config = method_of(trainer).recipe("czsl", dataset)[0]
    files = ["--dataset-config-file", f"{REPO}/configs/datasets/{dataset}.yaml"]
    files += ["--config-file", f"{REPO}/configs/trainers/{trainer}/{config}.yaml", "--trainer", trainer]
    cfg = train.setup_cfg(train.parse_args(files))
    default, options = recipe["default"], cfg.TRAINER[trainer.upper()]
    assert (default["scheduler"], default["warmup"]) == ("none", 0)
    optimizer = build_optimizer(torch.nn.Linear(1, 1), cfg.OPTIM)
    scheduler = build_lr_scheduler(optimizer, cfg.OPTIM)
    assert isinstance(optimizer, torch.optim.Adam) and optimizer.defaults["betas"] == (0.9, 0.999)
    for _ in range(default["epochs"]):
        assert optimizer.param_groups[0]["lr"] == cfg.OPTIM.LR
        optimizer.step()
        scheduler.step()
    assert cfg.MODEL.BACKBONE.NAME == default["backbone"] and cfg.OPTIM.NAME == default["optimizer"]
    assert cfg.OPTIM.MAX_EPOCH == default["epochs"] and cfg.OPTIM.WEIGHT_DECAY == default["weight_decay"]
    assert cfg.DATALOADER.TRAIN_X.BATCH_SIZE == default["batch"] and options.ACCUMULATE == default["accumulate"]
    assert not cfg.DATALOADER.TRAIN_X.DROP_LAST
    assert options.PREC == "fp16" and default["prec"] == "fp16 CLIP, fp32 vectors"
    own = recipe["by_dataset"][dataset]
    if trainer == "CoOp":
        assert cfg.OPTIM.LR == 5e-5 and "default 5e-5" in recipe["coop"]["lr"]
        assert options.CTX_INIT == recipe["coop"]["ctx_init"]
        assert len(options.CTX_INIT.split()) == recipe["coop"]["n_ctx"]
    elif dataset == "cgqa":
        assert "default 5e-5" in own["lr"] and "default 0)" in own["attr_dropout"]
        assert (cfg.OPTIM.LR, options.ATTR_DROPOUT) == (5e-5, 0)
    else:
        assert (cfg.OPTIM.LR, options.ATTR_DROPOUT) == (own["lr"], own["attr_dropout"])
    if dataset == "ut_zappos" and trainer == "CSP":
        mix = RECIPES["mix"]["default"]
        assert (cfg.OPTIM.LR, options.ATTR_DROPOUT) == (mix["lr"], mix["attr_dropout"])
        overrides = [m["overrides"]["TRAINER.CSP.MIX"] for m in yaml.safe_load(MIX_GRID.read_text())["methods"]]
        assert overrides == RECIPES["mix"]["attr_keep_ratio"]

    assert default["transforms"] == "resize 224 bicubic, centre crop 224, flip, perspective, rotation 5"
    steps = build_transform(cfg).transforms
    names = ["Resize", "CenterCrop", "RandomHorizontalFlip", "RandomPerspective", "RandomRotation"]
    assert [type(step).__name__ for step in steps] == [*names, "PILToTensor", "ToDtype", "Normalize"]
    assert steps[0].interpolation.value == "bicubic" and steps[0].size == [224] and steps[1].size == (224, 224)
    assert (steps[3].distortion_scale, steps[3].p, steps[4].degrees) == (0.5, 0.5, [-5.0, 5.0])


def test_prompts_are_the_releases(tmp_path, run):
    assert PREFIX == TEMPLATES["coop_learned_words"]
    assert TEMPLATES["csp"] == f"{PREFIX} [attribute] [object]"
    assert TEMPLATES["zeroshot"] == f"{PREFIX} {{attribute}} {{object}}"
    dataset = run("CSP", tmp_path, flags=["--no-train"]).dm.dataset
    assert dataset.spelling == {"sea shell": "sea_shell"}
    encoder = TextEncoder(tiny_clip())
    words = PairPrompts(dataset, encoder, 100)
    for (a, o), name in zip(dataset.pairs, dataset.classnames, strict=True):
        text = TEMPLATES["zeroshot"].format(attribute=dataset.attributes[a].lower(), object=dataset.objects[o])
        expected = clip.tokenize(text.replace("sea shell", "sea_shell"))[0]
        assert encoder.tokenizer.sequence(words.sequence(a, o)) == expected[: expected.argmax() + 1].tolist(), name


MIX = ("TRAINER.CSP.MIX", 0.7, "OPTIM.MAX_EPOCH", 2, "OPTIM.LR", 0.01)


def test_mix_learns_some_attributes_and_all_objects(tmp_path, run):
    """The images and pairs of the others leave the training set; in the test their pairs are unseen."""
    trained, again, plain = (run("CSP", tmp_path / name, *keys) for name, keys in [("a", MIX), ("b", MIX), ("c", ())])
    learner, dataset, whole = trained.model.prompt_learner, trained.dm.dataset, plain.dm.dataset
    assert len(learner.attributes.names) == 2, "int(0.7 * 3)"
    assert learner.objects.names == dataset.objects == whole.objects
    assert learner.attributes.names == again.model.prompt_learner.attributes.names
    (dropped,) = dataset.dropped
    assert dropped not in learner.attributes.names

    def names(dataset, labels):
        return {dataset.classnames[label] for label in labels}

    kept = [name for name in whole.classnames[:5] if not name.startswith(dropped)]
    assert dataset.classnames[: dataset.num_seen] == kept and len(kept) < 5
    assert {item.classname for item in dataset.train_x} == set(kept)
    assert names(dataset, dataset.phase_pairs["test"]) == names(whole, whole.phase_pairs["test"])
    assert sorted(dataset.classnames) == sorted(whole.classnames)
    for item in [*dataset.train_x, *dataset.val, *dataset.test]:
        assert item.classname == dataset.classnames[item.label] and dataset.lab2cname[item.label] == item.classname
        assert dataset.pairs[item.label] == (item.attribute, item.object)

    place = dataset.attributes.index(dropped)
    with torch.no_grad():
        vector = learner.eval().vectors()[~learner.words["attributes"][place][0]]
    assert torch.allclose(vector, name_tokens(trained.model.text_encoder, dropped).mean(dim=0)), "its starting vector"

    flags = ["--eval-only", "--model-dir", str(tmp_path / "a")]
    alone = run("CSP", tmp_path / "d", flags=flags)
    with torch.no_grad():
        other = dict(zip(alone.dm.dataset.classnames, alone.model.encode_text(), strict=True))
        for name, feature in zip(dataset.classnames, trained.model.encode_text(), strict=True):
            assert torch.allclose(other[name], feature, atol=1e-6), "the weights tell which words"


def test_mix_by_bucket(tmp_path, run):
    """Image by image, at the bias of the twenty-point curve's best harmonic mean."""
    trainer = run("CSP", tmp_path, *MIX)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    dataset, scores, labels = trainer.dm.dataset, [], []
    with torch.no_grad():
        for logits, label in trainer.predict_classes(trainer.test_loader):
            scores, labels = [*scores, *logits.double().tolist()], [*labels, *label.tolist()]
    candidates = dataset.phase_pairs["test"]
    seen = [k for k in candidates if k < dataset.num_seen]
    unseen = [k for k in candidates if k >= dataset.num_seen]
    gaps = []
    for row, label in zip(scores, labels, strict=True):
        if label in unseen and max(unseen, key=lambda k: row[k]) == label:
            gaps.append(max(row[k] for k in seen) - row[label] - 1e-4)
    gaps = sorted(gaps)

    def right(bias):
        best = [max(candidates, key=lambda k: row[k] + bias * (k in unseen)) for row in scores]
        return [a == b for a, b in zip(best, labels, strict=True)]

    def share(found, images):
        return 100 * sum(found[i] for i in images) / len(images) if images else 0

    def harmonic(bias):
        s, u = (share(right(bias), [i for i, k in enumerate(labels) if k in part]) for part in (seen, unseen))
        return 2 * s * u / (s + u) if s + u else 0

    biases = [*gaps[:: max(len(gaps) // 20, 1)], 1e3]
    found = right(max(biases, key=harmonic))
    (dropped,) = dataset.dropped
    new = [i for i, k in enumerate(labels) if dataset.classnames[k].startswith(dropped)]
    old = [i for i in range(len(labels)) if i not in new]
    buckets = {
        "attribute_dropped": new,
        "both_learned": old,
        "both_learned_seen": [i for i in old if labels[i] in seen],
        "both_learned_unseen": [i for i in old if labels[i] in unseen],
        "overall": range(len(labels)),
    }
    assert metrics["best_harmonic_20"] == pytest.approx(max(map(harmonic, biases)))
    for name, images in buckets.items():
        assert (name in metrics) == bool(images)
        assert metrics.get(name, 0) == pytest.approx(share(found, images)), name


@pytest.mark.parametrize("wrap", [lambda table: table, lambda table: {"soft_embeddings": table.half()}])
def test_a_released_table_loads(tmp_path, run, wrap):
    table = torch.randn(6, 64)
    torch.save(wrap(table), tmp_path / "soft.pt")
    trainer = run("CSP", tmp_path / "run", "MODEL.INIT_WEIGHTS", tmp_path / "soft.pt", flags=["--eval-only"])
    learner = trainer.model.prompt_learner
    assert torch.allclose(torch.cat([learner.attributes(), learner.objects()]), table, atol=2e-3)
    assert [*learner.attributes.names, *learner.objects.names] == [
        *("Faux Leather", "dark", "pale", "boat", "dog", "sea shell")
    ]
    trained = run(
        "CSP", tmp_path / "b", "MODEL.INIT_WEIGHTS", tmp_path / "soft.pt", "OPTIM.MAX_EPOCH", 1, "OPTIM.LR", 0.0
    )
    assert torch.equal(trained.model.prompt_learner.vectors(), learner.vectors())


@pytest.mark.parametrize(
    "content, message",
    [
        (torch.zeros(7, 64), "nor one table of all those of MITStates, 6 x 64"),
        (torch.zeros(6), "nor one table"),
        ({"a": torch.zeros(6, 64), "b": torch.zeros(6, 64)}, "nor one table"),
        ({"a": 1}, "holds neither a checkpoint nor a state dict"),
        ({0: torch.zeros(6, 64)}, "holds neither a checkpoint nor a state dict"),
        ([torch.zeros(6, 64)], "holds neither a checkpoint nor a state dict"),
        (len, "holds pickled code, which is not run here"),
    ],
)
def test_other_tables_are_refused(tmp_path, run, content, message):
    torch.save(content, tmp_path / "soft.pt")
    with pytest.raises(UserError, match=f"soft.pt .*{message}"):
        run("CSP", tmp_path / "run", "MODEL.INIT_WEIGHTS", tmp_path / "soft.pt", flags=["--eval-only"])
