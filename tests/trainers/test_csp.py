"""CSP: prompts against CLIP's own transformer over whole ones, training steps, whole runs, words that are others.

Its release's recipe is in test_csp_recipe.py, the open world in test_pairs.py.
"""

import json
import math
from types import SimpleNamespace

import clip
import pytest
import torch
import torch.nn.functional as F

import train
from dassl.utils import UserError
from prompting.backbone import load_backbone
from prompting.pairs import PairCLIP
from prompting.text_encoder import TextEncoder
from tests.conftest import REPO, write_pairs
from tests.reference import encode_in_full, relative_error, tiny_clip
from trainers.csp import PromptLearner

DATASET = SimpleNamespace(
    attributes=["caramelized", "old", "Faux Leather"],
    objects=["dog", "bullet train"],
    pairs=[(0, 0), (1, 1), (2, 0), (1, 0)],
    classnames=["caramelized dog", "old bullet train", "Faux Leather dog", "old dog"],
    num_seen=3,
)
OPEN = ("TRAINER.CSP.OPEN_WORLD", True)


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
    keys = ("OPTIM.LR", 0.05, "OPTIM.MAX_EPOCH", 20)
    trained = run("CSP", tmp_path / "a", *keys)
    result = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert result["world"] == "closed" and result["total"] == 16 and result["trainable_parameters"] == 6 * 64
    names = {"auc", "best_harmonic", "best_seen", "best_unseen", "attribute_accuracy", "object_accuracy", "auc_20"}
    assert names <= set(result)
    with torch.no_grad():
        batches = [(batch["img"], batch["label"]) for batch in trained.train_loader_x]
        losses = [F.cross_entropy(trained.model(x)[:, :5], y).item() for x, y in batches]
    assert sum(losses) / len(losses) < 1.5 < math.log(5)
    batch = next(iter(trained.test_loader))["img"]
    with torch.no_grad():
        assert trained.model(batch).shape == (16, 9)

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


# Weights and words


def evaluate(run, tmp_path, root, *keys, model="a", dataset="compositional_folder"):
    """A run of its own on another folder of the compositional layout, with the weights of the run `model`."""
    config = str(REPO / f"configs/datasets/{dataset}.yaml")
    flags = ["--root", str(root), "--dataset-config-file", config]
    flags += ["--eval-only", "--model-dir", str(tmp_path / model), "--overwrite"]
    return run("CSP", tmp_path / "evaluated", *keys, flags=flags)


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
    with pytest.raises(UserError, match="was trained on other classes than this run"):
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
        (
            (*OPEN, "TRAINER.CSP.THRESHOLD", "published"),
            "was chosen with GloVe's vectors: set WORD_VECTORS to",
        ),
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
