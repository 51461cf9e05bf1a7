"""CSP: prompts against CLIP's own transformer over whole ones, the release's recipe, whole runs; the open world is in
test_pairs.py."""

import json
import math
from types import SimpleNamespace

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
from prompting.pairs import PREFIX, PairCLIP, PairPrompts
from prompting.text_encoder import TextEncoder
from tests.conftest import REPO, write_pairs
from tests.reference import encode_in_full, in_double, relative_error, tiny_clip
from trainers.csp import PromptLearner

DATASET = SimpleNamespace(
    attributes=["caramelized", "old", "Faux Leather"],
    objects=["dog", "bullet train"],
    pairs=[(0, 0), (1, 1), (2, 0), (1, 0)],
    classnames=["caramelized dog", "old bullet train", "Faux Leather dog", "old dog"],
    num_seen=3,
)
OPEN = ("TRAINER.CSP.OPEN_WORLD", True)
MIX_GRID = REPO / "configs/grids/csp_mix.yaml"


@pytest.fixture
def run(toy_pairs_run):
    return toy_pairs_run


def csp_clip(tokens=300, dropout=0.0, dataset=DATASET, learned=None):
    model = tiny_clip()
    encoder = TextEncoder(model)
    return model, PairCLIP(model, PromptLearner(dataset, encoder, dropout, tokens, learned), encoder)


def name_tokens(model, name):
    tokens = clip.tokenize(name)[0]
    return model.token_embedding(tokens[1 : tokens.argmax()])


def whole_prompts(model, learner, vectors, pairs, dataset=DATASET):
    """(1, N, 77, d) embeddings and (1, N) ends of "a photo of", a vector for each word of a pair, and end.

    vectors: of the learner's attributes and objects; other words have the mean of their names' token embeddings.
    """
    words = []
    for kind, rows in zip(("attributes", "objects"), vectors, strict=True):
        known = dict(zip(getattr(learner, kind).names, rows, strict=True))
        names = getattr(dataset, kind)
        words.append([known.get(name, name_tokens(model, name).mean(dim=0))[None] for name in names])
    tokens = clip.tokenize("a photo of")[0]
    row, rows, ends = model.token_embedding(tokens), [], []
    for *attributes, object_ in pairs:
        prompt = torch.cat([row[:4], *(words[0][a] for a in attributes), words[1][object_], row[4:5]])
        rows.append(torch.cat([prompt, row.new_zeros(77 - len(prompt), row.shape[1])]))
        ends.append(len(prompt) - 1)
    return torch.stack(rows)[None], torch.tensor(ends)[None]


def test_vectors_start_from_the_mean_of_their_words():
    model, prompted = csp_clip()
    learner = prompted.prompt_learner
    for vectors, names in ((learner.attributes, DATASET.attributes), (learner.objects, DATASET.objects)):
        for vector, name in zip(vectors(), names, strict=True):
            assert torch.allclose(vector, name_tokens(model, name).mean(dim=0))
    names = [*(f"attributes.{name}" for name in DATASET.attributes), *(f"objects.{name}" for name in DATASET.objects)]
    assert {name: tuple(p.shape) for name, p in learner.state_dict().items()} == dict.fromkeys(names, (64,))


TRIPLES = SimpleNamespace(
    attributes=DATASET.attributes,
    objects=DATASET.objects,
    pairs=[(0, 1, 0), (2, 0, 1), (1, 2, 0)],
    classnames=["caramelized old dog", "Faux Leather caramelized bullet train", "old Faux Leather dog"],
    num_seen=0,
)
SOME = {"attributes": ["old", "unheard-of"], "objects": ["bullet train"]}


@pytest.mark.parametrize("dataset, training", [(DATASET, False), (DATASET, True), (TRIPLES, False)])
@pytest.mark.parametrize("learned", [None, SOME])
@pytest.mark.parametrize("tokens", [1, 10, 300])
def test_features_and_gradients_equal_whole_prompts(tokens, learned, dataset, training):
    model, prompted = csp_clip(tokens, dataset=dataset, learned=learned)
    learner = prompted.prompt_learner.train(training)
    pairs = dataset.pairs[: dataset.num_seen] if training else dataset.pairs
    target = torch.randn(len(pairs), model.text_projection.shape[1])

    features = prompted.encode_text()
    (features * target).sum().backward()
    parameters = learner.attributes.learned, learner.objects.learned
    vectors = [p.detach().clone().requires_grad_(True) for p in parameters]
    plain = F.normalize(encode_in_full(model, *whole_prompts(model, learner, vectors, pairs, dataset))[0], dim=-1)
    (plain * target).sum().backward()
    assert features.shape == plain.shape and relative_error(features, plain) < 1e-5
    for fast, slow in zip(parameters, vectors, strict=True):
        assert relative_error(fast.grad, slow.grad) < 1e-4


@pytest.mark.parametrize("learned", [None, SOME])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_open_world_is_every_pair(rows, learned):
    model, prompted = csp_clip(learned=learned)
    learner = prompted.prompt_learner.eval()
    with torch.no_grad():
        codes, features = (torch.cat(parts) for parts in zip(*prompted.encode_open_world(rows), strict=True))
        pairs, vectors = [(a, o) for a in range(3) for o in range(2)], (learner.attributes(), learner.objects())
        plain = encode_in_full(model, *whole_prompts(model, learner, vectors, pairs))[0]
    assert codes.tolist() == list(range(6))
    assert relative_error(features, F.normalize(plain, dim=-1)) < 1e-5


def test_dropout_is_of_training_alone():
    _, prompted = csp_clip(dropout=0.5)
    learner = prompted.prompt_learner.train()
    dropped = (learner.vectors() == 0).float().mean()
    assert 0.3 < dropped < 0.7
    assert not (learner.eval().vectors() == 0).any()


def test_budget_of_the_open_world():
    _, prompted = csp_clip()
    assert prompted.attributes_that_fit(100, 1e-9) == 1
    assert prompted.attributes_that_fit(100, 4) > prompted.attributes_that_fit(100, 1) > 1


def test_two_batches_make_a_step(tmp_path, run):
    """Each batch's loss counts half, also where an epoch's last one is alone in its step."""
    trainer = run("CSP", tmp_path, "OPTIM.MAX_EPOCH", 1, "TRAINER.CSP.ATTR_DROPOUT", 0.0)
    learner, steps = trainer.model.prompt_learner, []
    trainer.model_update = lambda names=None: steps.append(learner.attributes.learned.grad.clone())
    trainer.set_model_mode("train")
    trainer.num_batches = 3
    batches = [batch for _, batch in zip(range(3), trainer.train_loader_x, strict=False)]
    losses = []
    for trainer.batch_idx, batch in enumerate(batches):
        losses.append(trainer.loss(batch["img"], batch["label"])[0])
        trainer.model_backward_and_update(trainer.loss(batch["img"], batch["label"])[0])
    assert len(steps) == 2
    for step, loss in zip(steps, [(losses[0] + losses[1]) / 2, losses[2] / 2], strict=True):
        (expected,) = torch.autograd.grad(loss, learner.attributes.learned)
        assert relative_error(step, expected) < 1e-5


def test_a_whole_run_saved_and_evaluated_elsewhere(tmp_path, run):
    trained = run("CSP", tmp_path / "a", "OPTIM.LR", 0.01, "OPTIM.MAX_EPOCH", 10)
    result = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert result["world"] == "closed" and result["total"] == 16 and result["trainable_parameters"] == 6 * 64
    names = {"auc", "best_harmonic", "best_seen", "best_unseen", "attribute_accuracy", "object_accuracy", "auc_20"}
    assert names <= set(result)
    with torch.no_grad():
        batches = [(batch["img"], batch["label"]) for batch in trained.train_loader_x]
        losses = [F.cross_entropy(trained.model(x)[:, :5], y).item() for x, y in batches]
    assert sum(losses) / len(losses) < 1.45 < math.log(5)
    batch = next(iter(trained.test_loader))["img"]
    with torch.no_grad():
        assert trained.model(batch).shape == (16, 9)

    keys = ("OPTIM.LR", 0.01, "OPTIM.MAX_EPOCH", 10)
    alone = run("CSP", tmp_path / "b", *keys, flags=["--eval-only", "--model-dir", str(tmp_path / "a")])
    again = json.loads((tmp_path / "b" / "metrics.json").read_text())
    assert {k: again[k] for k in (*names, "accuracy")} == {k: result[k] for k in (*names, "accuracy")}
    assert torch.equal(alone.model.prompt_learner.objects(), trained.model.prompt_learner.objects())


def test_training_in_chunks_is_the_same(tmp_path, run):
    keys = ("TRAINER.CSP.ATTR_DROPOUT", 0.0, "OPTIM.MAX_EPOCH", 1, "OPTIM.LR", 0.01)
    whole = run("CSP", tmp_path / "a", *keys)
    chunked = run("CSP", tmp_path / "b", *keys, "TRAINER.CSP.MEMORY_GB", 1e-4)
    assert len(whole.model.prompt_learner.seen) == 1 < len(chunked.model.prompt_learner.seen)
    assert relative_error(chunked.model.prompt_learner.objects(), whole.model.prompt_learner.objects()) < 1e-3


def test_best_epoch_on_val_is_that_of_the_auc(tmp_path, run):
    trainer = run("CSP", tmp_path, "TEST.FINAL_MODEL", "best_val")
    assert trainer.best_result == pytest.approx(trainer.test(split="val"))


# The recipe


@pytest.mark.parametrize("trainer, config", [("CSP", "vit_l14"), ("CoOp", "vit_l14_czsl")])
def test_the_loss_is_the_releases(tmp_path, run, toy_backbone, trainer, config):
    """Image by image in float64, in prompts of 8 tokens: cross-entropy over the seen pairs of s cos."""
    trained = run(trainer, tmp_path, f"TRAINER.{trainer.upper()}.ACCUMULATE", 2, "OPTIM.MAX_EPOCH", 0, config=config)
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
    words = PairPrompts(dataset, TextEncoder(tiny_clip()), 100)
    for (a, o), name in zip(dataset.pairs, dataset.classnames, strict=True):
        text = TEMPLATES["zeroshot"].format(attribute=dataset.attributes[a].lower(), object=dataset.objects[o])
        expected = clip.tokenize(text.replace("sea shell", "sea_shell"))[0]
        assert words.sequence(a, o) == expected[: expected.argmax() + 1].tolist(), name


# Weights and words


def evaluate(run, tmp_path, root, *keys, model="a", dataset="compositional_folder"):
    """A run of its own on another folder of the compositional layout, with the weights of the run `model`."""
    config = str(REPO / f"configs/datasets/{dataset}.yaml")
    flags = ["--root", str(root), "--dataset-config-file", config]
    flags += ["--eval-only", "--model-dir", str(tmp_path / model), "--overwrite"]
    return run("CSP", tmp_path / "evaluated", *keys, flags=flags)


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


def test_other_data_sets_take_the_vectors_of_their_words(tmp_path, run, toy_backbone):
    trained = run("CSP", tmp_path / "a", "OPTIM.LR", 0.01, "OPTIM.MAX_EPOCH", 2).model.prompt_learner
    write_pairs(tmp_path / "other", {"train": ["dark cat", "wet dog"], "val": ["wet dog"], "test": ["dark dog"]})
    trainer = evaluate(run, tmp_path, tmp_path / "other")
    assert "1 of 2 attributes and 1 of 2 objects have a vector in" in (tmp_path / "evaluated/log.txt").read_text()
    with torch.no_grad():
        learner, vectors = trainer.model.prompt_learner, (trained.attributes(), trained.objects())
        pairs, dataset = trainer.dm.dataset.pairs, trainer.dm.dataset
        prompts = whole_prompts(trainer.model.text_encoder, learner, vectors, pairs, dataset)
        plain = F.normalize(encode_in_full(load_backbone(toy_backbone), *prompts)[0], dim=-1)
        assert relative_error(trainer.model.encode_text(), plain) < 1e-5

    write_pairs(tmp_path / "foreign", {"train": ["wet cat"], "val": ["wet cat"], "test": ["old cat"]})
    with pytest.raises(UserError, match="hold no vector of an attribute or object of CompositionalFolder"):
        evaluate(run, tmp_path, tmp_path / "foreign")


def test_weights_of_other_words_do_not_resume(tmp_path, run):
    run("CSP", tmp_path / "a", "OPTIM.MAX_EPOCH", 1)
    with pytest.raises(UserError, match="vectors of other words"):
        run("CSP", tmp_path / "b", "TRAINER.CSP.MIX", 0.7, "RESUME", tmp_path / "a")


def test_objects_with_two_attributes(tmp_path, run, toy_backbone):
    trained = run("CSP", tmp_path / "a", "OPTIM.LR", 0.01, "OPTIM.MAX_EPOCH", 2).model.prompt_learner
    write_pairs(tmp_path / "aao")
    images = [[f"dark dog/train{i}.png", "dark", "pale", "dog"] for i in range(2)]
    images += [["pale dog/train0.png", "Faux.Leather", "pale", "sea_shell"]]
    (tmp_path / "aao" / "aao.json").write_text(json.dumps(images))
    trainer = evaluate(run, tmp_path, tmp_path / "aao", dataset="aao_folder")
    dataset, learner = trainer.dm.dataset, trainer.model.prompt_learner
    assert dataset.classnames == ["Faux Leather pale sea shell", "dark pale dog"]
    with torch.no_grad():
        vectors = trained.attributes(), trained.objects()
        prompts = whole_prompts(trainer.model.text_encoder, learner, vectors, dataset.pairs, dataset)
        plain = F.normalize(encode_in_full(load_backbone(toy_backbone), *prompts)[0], dim=-1)
        features = F.normalize(torch.cat([trainer.model.encode_image(b["img"]) for b in trainer.test_loader]), dim=-1)
        right = (features @ plain.t()).argmax(dim=1) == torch.tensor([1, 1, 0])
    metrics = json.loads((tmp_path / "evaluated/metrics.json").read_text())
    assert metrics["total"] == 3 and metrics["correct"] == right.sum()


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
        ({"a": 1}, "nor one table"),
        ({0: torch.zeros(6, 64)}, "holds neither a checkpoint nor a state dict"),
        ([torch.zeros(6, 64)], "holds neither a checkpoint nor a state dict"),
        (len, "holds pickled code, which is not run here"),
    ],
)
def test_other_tables_are_refused(tmp_path, run, content, message):
    torch.save(content, tmp_path / "soft.pt")
    with pytest.raises(UserError, match=f"soft.pt .*{message}"):
        run("CSP", tmp_path / "run", "MODEL.INIT_WEIGHTS", tmp_path / "soft.pt", flags=["--eval-only"])


@pytest.mark.parametrize("trainer", ["ZeroshotCLIP", "ZeroshotCLIP2"])
def test_zero_shot(tmp_path, run, trainer, caplog):
    run(trainer, tmp_path, flags=["--eval-only"], config="vit_b16")
    assert '"a photo of {}.' in caplog.text or "'a photo of {}.'" in (tmp_path / "log.txt").read_text()
    assert json.loads((tmp_path / "metrics.json").read_text())["auc"] >= 0


def test_other_trainers_learn_from_seen_pairs_alone(tmp_path, run):
    trainer = run("CoOp", tmp_path, "OPTIM.MAX_EPOCH", 1, "TRAINER.COOP.N_CTX", 2, config="vit_b16_ep50")
    batch = next(iter(trainer.train_loader_x))
    logits = trainer.model(batch["img"])
    assert logits.shape == (4, 9)
    expected = F.cross_entropy(logits[:, :5], batch["label"])
    assert trainer.loss(batch["img"], batch["label"])[0] == expected
    assert json.loads((tmp_path / "metrics.json").read_text())["auc"] >= 0


@pytest.mark.parametrize(
    "keys, message",
    [
        (("TRAINER.CSP.ATTR_DROPOUT", 1.0), "TRAINER.CSP.ATTR_DROPOUT is 1.0: give 0 to below 1"),
        (("TRAINER.CSP.MIX", 0.0), "TRAINER.CSP.MIX is 0.0: give a number above 0, up to 1"),
        (("TRAINER.CSP.ACCUMULATE", 0), "TRAINER.CSP.ACCUMULATE is 0: give 1 or more"),
        (("TRAINER.CSP.CHOOSE_BY", "acu"), 'unknown TRAINER.CSP.CHOOSE_BY "acu": did you mean auc?'),
        (("TRAINER.CSP.THRESHOLD", "high"), "TRAINER.CSP.THRESHOLD is 'high': give a number, published, or None"),
        ((*OPEN, "TRAINER.CSP.THRESHOLD", "published"), "is of GloVe's vectors: name their file, WORD_VECTORS"),
        (("TRAINER.CSP.MIX", 0.3), "TRAINER.CSP.MIX 0.3 of 3 attributes leaves none to learn"),
        ((*OPEN, "TEST.EVALUATOR", "Classification"), "OPEN_WORLD needs TEST.EVALUATOR Compositional"),
        ((*OPEN, "TRAINER.CSP.WORD_VECTORS", "none.txt"), "cannot read the word vectors none.txt: No such file"),
        ((*OPEN, "TRAINER.CSP.THRESHOLD", 2.0, "OPTIM.MAX_EPOCH", 1), "THRESHOLD 2.0 leaves no unseen pair"),
        (("DATASET.SUBSAMPLE_CLASSES", "base"), "MITStates has no base and new classes"),
    ],
)
def test_mistakes_are_one_line(tmp_path, toy_args, toy_pairs_root, closing_logger, capsys, keys, message):
    pairs = ["--root", toy_pairs_root, "--dataset-config-file", REPO / "configs/datasets/mit_states.yaml"]
    assert train.run(toy_args("CSP", tmp_path, *keys, flags=pairs, config="vit_l14")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_other_datasets_are_refused(tmp_path, toy_args, closing_logger, capsys):
    assert train.run(toy_args("CSP", tmp_path, config="vit_l14")) == 1
    assert "CSP needs pairs of attribute and object, which Caltech101 does not have" in capsys.readouterr().err
