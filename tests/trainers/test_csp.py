"""CSP: prompts against CLIP's own transformer over whole ones, training steps, whole runs, the open world."""

import json
import math
from types import SimpleNamespace

import clip
import pytest
import torch
import torch.nn.functional as F

import train
from prompting.text_encoder import TextEncoder
from tests.conftest import REPO
from tests.reference import encode_in_full, relative_error, tiny_clip
from trainers.csp import CSPCLIP, PromptLearner, attributes_that_fit

DATASET = SimpleNamespace(
    attributes=["caramelized", "old", "Faux Leather"],
    objects=["dog", "bullet train"],
    pairs=[(0, 0), (1, 1), (2, 0), (1, 0)],
    classnames=["caramelized dog", "old bullet train", "Faux Leather dog", "old dog"],
    num_seen=3,
)
OPEN = ("TRAINER.CSP.OPEN_WORLD", True)


@pytest.fixture
def run(toy_run, toy_pairs_root):
    """run(trainer, output_dir, *keys, flags=()): train.py on the tiny pairs."""
    pairs = ["--root", toy_pairs_root, "--dataset-config-file", str(REPO / "configs/datasets/mit_states.yaml")]

    def run(trainer, output, *keys, flags=(), config="vit_l14"):
        return toy_run(trainer, output, *keys, flags=[*pairs, *flags], config=config)

    return run


def csp_clip(chunk=100, dropout=0.0):
    model = tiny_clip()
    encoder = TextEncoder(model)
    return model, CSPCLIP(model, PromptLearner(DATASET, encoder, dropout, chunk), encoder)


def whole_prompts(model, attributes, objects, pairs):
    """(1, N, 77, d) embeddings and (1, N) ends of "a photo of x x" with the two x replaced."""
    tokens = clip.tokenize("a photo of x x")
    row = model.token_embedding(tokens)[0]
    rows = [torch.cat([row[:4], attributes[a : a + 1], objects[o : o + 1], row[6:]]) for a, o in pairs]
    return torch.stack(rows)[None], tokens.argmax(dim=-1).expand(1, len(pairs))


def test_vectors_start_from_the_mean_of_their_words():
    model, prompted = csp_clip()
    learner = prompted.prompt_learner
    for vectors, names in ((learner.attributes, DATASET.attributes), (learner.objects, DATASET.objects)):
        for vector, name in zip(vectors, names, strict=True):
            words = clip.tokenize(name)[0]
            words = words[1 : words.argmax()]
            assert torch.allclose(vector, model.token_embedding(words).mean(dim=0))
    shapes = {name: tuple(p.shape) for name, p in learner.state_dict().items()}
    assert shapes == {"attributes": (3, 64), "objects": (2, 64)}


@pytest.mark.parametrize("chunk", [1, 2, 100])
@pytest.mark.parametrize("training", [False, True])
def test_features_and_gradients_equal_whole_prompts(chunk, training):
    model, prompted = csp_clip(chunk)
    learner = prompted.prompt_learner.train(training)
    pairs = DATASET.pairs[: DATASET.num_seen] if training else DATASET.pairs
    target = torch.randn(len(pairs), model.text_projection.shape[1])

    features = prompted.encode_text()
    (features * target).sum().backward()
    vectors = [p.detach().clone().requires_grad_(True) for p in (learner.attributes, learner.objects)]
    plain = F.normalize(encode_in_full(model, *whole_prompts(model, *vectors, pairs))[0], dim=-1)
    (plain * target).sum().backward()
    assert features.shape == plain.shape and relative_error(features, plain) < 1e-5
    assert relative_error(learner.attributes.grad, vectors[0].grad) < 1e-5
    assert relative_error(learner.objects.grad, vectors[1].grad) < 1e-5


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_open_world_is_every_pair(rows):
    model, prompted = csp_clip()
    learner = prompted.prompt_learner.eval()
    with torch.no_grad():
        codes, features = (torch.cat(parts) for parts in zip(*prompted.encode_open_world(rows), strict=True))
        pairs = [(a, o) for a in range(3) for o in range(2)]
        plain = encode_in_full(model, *whole_prompts(model, learner.attributes, learner.objects, pairs))[0]
    assert codes.tolist() == list(range(6))
    assert relative_error(features, F.normalize(plain, dim=-1)) < 1e-5


def test_dropout_is_of_training_alone():
    _, prompted = csp_clip(dropout=0.5)
    learner = prompted.prompt_learner.train()
    dropped = (learner.vectors() == 0).float().mean()
    assert 0.3 < dropped < 0.7
    assert not (learner.eval().vectors() == 0).any()


def test_budget_of_the_open_world():
    encoder = TextEncoder(tiny_clip())
    assert attributes_that_fit(encoder, 674, 100, 1e-9) == 1
    assert attributes_that_fit(encoder, 674, 100, 4) > attributes_that_fit(encoder, 674, 100, 1) > 1


def test_two_batches_make_a_step(tmp_path, run):
    """The gradient is that of both batches' mean loss, the last step of an epoch that of what is left."""
    trainer = run("CSP", tmp_path, "OPTIM.MAX_EPOCH", 1, "TRAINER.CSP.ATTR_DROPOUT", 0.0)
    learner, steps = trainer.model.prompt_learner, []
    trainer.model_update = lambda names=None: steps.append(learner.attributes.grad.clone())
    trainer.set_model_mode("train")
    trainer.num_batches = 3
    batches = [batch for _, batch in zip(range(3), trainer.train_loader_x, strict=False)]
    losses = []
    for trainer.batch_idx, batch in enumerate(batches):
        losses.append(trainer.loss(batch["img"], batch["label"])[0])
        trainer.model_backward_and_update(trainer.loss(batch["img"], batch["label"])[0])
    assert len(steps) == 2
    for step, loss in zip(steps, [(losses[0] + losses[1]) / 2, losses[2]], strict=True):
        (expected,) = torch.autograd.grad(loss, learner.attributes)
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
    assert torch.equal(alone.model.prompt_learner.objects, trained.model.prompt_learner.objects)


def test_training_in_chunks_is_the_same(tmp_path, run):
    keys = ("TRAINER.CSP.ATTR_DROPOUT", 0.0, "OPTIM.MAX_EPOCH", 1, "OPTIM.LR", 0.01)
    whole = run("CSP", tmp_path / "a", *keys)
    chunked = run("CSP", tmp_path / "b", *keys, "TRAINER.CSP.MEMORY_GB", 1e-4)
    assert len(whole.model.prompt_learner.seen) == 1 < len(chunked.model.prompt_learner.seen)
    assert relative_error(chunked.model.prompt_learner.objects, whole.model.prompt_learner.objects) < 1e-3


def test_best_epoch_on_val_is_that_of_the_auc(tmp_path, run):
    trainer = run("CSP", tmp_path, "TEST.FINAL_MODEL", "best_val")
    assert trainer.best_result == pytest.approx(trainer.test(split="val"))


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


# The open world


@pytest.fixture
def open_run(tmp_path, run):
    return run("CSP", tmp_path / "open", *OPEN, "OPTIM.LR", 0.01)


def test_open_world_in_chunks_equals_all_at_once(tmp_path, run, open_run):
    metrics = json.loads((tmp_path / "open" / "metrics.json").read_text())
    assert metrics["world"] == "open" and metrics["pairs"] == 9
    flags = ["--eval-only", "--model-dir", str(tmp_path / "open")]
    chunked = run("CSP", tmp_path / "b", *OPEN, "OPTIM.LR", 0.01, "TRAINER.CSP.MEMORY_GB", 1e-6, flags=flags)
    assert "9 pairs of the open world, 3 at a time" in (tmp_path / "b" / "log.txt").read_text()
    again = json.loads((tmp_path / "b" / "metrics.json").read_text())
    for name in ("auc", "best_harmonic", "accuracy", "feasibility_threshold"):
        assert again[name] == metrics[name]
    (a, _), (b, _) = (next(iter(t.predict(t.test_loader))) for t in (open_run, chunked))
    assert torch.equal(a.pairs, b.pairs) and torch.allclose(a.scores, b.scores)


def test_threshold_is_the_best_on_val(tmp_path, run, open_run):
    """Each candidate, given by hand and evaluated on val, does no better than the chosen one."""
    given = open_run.thresholds().tolist()
    results = {}
    flags = ["--eval-only", "--model-dir", str(tmp_path / "open")]
    for i, threshold in enumerate(given):
        keys = (*OPEN, "OPTIM.LR", 0.01, "TRAINER.CSP.THRESHOLD", threshold, "TEST.SPLIT", "val")
        trainer = run("CSP", tmp_path / str(i), *keys, flags=flags)
        results[threshold] = json.loads((tmp_path / str(i) / "metrics.json").read_text())["auc"]
        left = (trainer.feasibility >= threshold).sum()
        (best, _) = next(iter(trainer.predict(trainer.val_loader)))
        assert (trainer.feasibility[best.pairs[:, 1]] >= threshold - 1e-6).all() and left >= 6
    assert len(given) > 1
    assert results[open_run.threshold] == max(results.values())


def test_all_pairs_feasible_is_a_plain_argmax(tmp_path, run):
    trainer = run("CSP", tmp_path, *OPEN, "TRAINER.CSP.THRESHOLD", -1.0)
    (best, labels) = next(iter(trainer.predict(trainer.test_loader)))
    features = F.normalize(trainer.image_features(trainer.test_loader).float(), dim=-1)
    with torch.no_grad():
        text = torch.cat([f for _, f in trainer.model.encode_open_world(3)])
        scores = trainer.model.logits(features, text)
    overall = torch.where(best.scores[:, 0] >= best.scores[:, 1], best.pairs[:, 0], best.pairs[:, 1])
    assert torch.equal(overall, scores.argmax(dim=1)) and len(labels) == 16


def test_word_vectors_decide_feasibility(tmp_path, run):
    path = tmp_path / "glove.txt"
    words = {"dark": "1 0", "pale": "0 1", "faux": "1 1", "leather": "1 0", "dog": "1 0", "boat": "1 0", "sea": "0 1"}
    path.write_text("".join(f"{word} {numbers}\n" for word, numbers in words.items()))
    trainer = run("CSP", tmp_path / "run", *OPEN, "TRAINER.CSP.WORD_VECTORS", path, "OPTIM.MAX_EPOCH", 1)
    f = trainer.feasibility.reshape(3, 3)  # Faux Leather, dark, pale x boat, dog, sea shell
    assert f.isinf().tolist() == [[True, False, False], [True, True, False], [False, True, True]]
    # pale boat: boats are like dogs, seen with pale; Faux Leather, (1, 0.5), is nearer to pale than dark is
    assert f[2, 0] == pytest.approx((1 + 1 / math.sqrt(5)) / 2)
    assert f[0, 2] == pytest.approx((0 + 1 / math.sqrt(5)) / 2)
    assert f[1, 2] == pytest.approx(0)
    assert "No word vector of 1 of 8 words: shell" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize(
    "keys, message",
    [
        (("TRAINER.CSP.ATTR_DROPOUT", 1.0), "TRAINER.CSP.ATTR_DROPOUT is 1.0: give a share"),
        (("TRAINER.CSP.ACCUMULATE", 0), "TRAINER.CSP.ACCUMULATE is 0: give at least one batch"),
        (("TRAINER.CSP.CHOOSE_BY", "acu"), 'unknown TRAINER.CSP.CHOOSE_BY "acu": did you mean auc?'),
        (("TRAINER.CSP.THRESHOLD", "high"), "TRAINER.CSP.THRESHOLD is 'high': give a number, or None"),
        ((*OPEN, "TEST.EVALUATOR", "Classification"), "OPEN_WORLD needs TEST.EVALUATOR Compositional"),
        ((*OPEN, "TRAINER.CSP.WORD_VECTORS", "none.txt"), "cannot read the word vectors none.txt: No such file"),
        ((*OPEN, "TRAINER.CSP.THRESHOLD", 2.0, "OPTIM.MAX_EPOCH", 1), "THRESHOLD 2.0 leaves no unseen pair"),
        (("DATASET.SUBSAMPLE_CLASSES", "base"), "MITStates has seen and unseen pairs of its own"),
    ],
)
def test_mistakes_are_one_line(tmp_path, toy_args, toy_pairs_root, closing_logger, capsys, keys, message):
    pairs = ["--root", toy_pairs_root, "--dataset-config-file", REPO / "configs/datasets/mit_states.yaml"]
    assert train.run(toy_args("CSP", tmp_path, *keys, flags=pairs, config="vit_l14")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_other_datasets_are_refused(tmp_path, toy_args, closing_logger, capsys):
    assert train.run(toy_args("CSP", tmp_path, config="vit_l14")) == 1
    assert "CSP needs pairs of attribute and object, which Caltech101 has not" in capsys.readouterr().err
