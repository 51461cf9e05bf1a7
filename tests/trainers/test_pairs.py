"""Pairs for any trainer: CoOp and zero-shot CLIP as CSP's release has them, and the open world."""

import json
import math

import clip
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

import train
from dassl.utils import UserError
from datasets.compositional import CGQA, MITStates, UTZappos
from prompting.backbone import load_backbone
from tests.conftest import REPO
from tests.reference import encode_in_full, relative_error

OPEN = ("TRAINER.CSP.OPEN_WORLD", True)
CONFIGS = {"CSP": "vit_l14", "CoOp": "vit_l14_czsl", "ZeroshotCLIP": "vit_l14_czsl"}
RECIPES = yaml.safe_load((REPO / "tests/recipes/schedules.yaml").read_text())["csp"]["open_world"]
SPELLED = {"Faux Leather": "faux leather", "sea shell": "sea_shell"}


@pytest.fixture
def run(toy_pairs_run):
    return lambda trainer, *args, **options: toy_pairs_run(trainer, *args, config=CONFIGS[trainer], **options)


def embedded(model, text):
    """(n, d) token embeddings of a text between its start and end."""
    tokens = clip.tokenize(text)[0]
    return model.token_embedding(tokens[1 : tokens.argmax()])


def whole(model, parts):
    """(1, N, 77, d), (1, N): prompts made of embeddings, between start and end."""
    start, end = model.token_embedding(torch.tensor([49406, 49407]))
    rows = [torch.cat([start[None], *part, end[None]]) for part in parts]
    ends = torch.tensor([[len(row) - 1 for row in rows]])
    return torch.stack([torch.cat([row, row.new_zeros(77 - len(row), row.shape[1])]) for row in rows])[None], ends


def plain_features(trainer, model, pairs):
    """(N, e) features of whole prompts of pairs as the release has them."""
    dataset, ctx = trainer.dm.dataset, getattr(trainer.model.prompt_learner, "ctx", None)
    parts = []
    for a, o in pairs:
        words = [embedded(model, SPELLED.get(name, name)) for name in (dataset.attributes[a], dataset.objects[o])]
        if ctx is not None:
            words = [word.mean(dim=0, keepdim=True) for word in words]
        parts.append([embedded(model, "a photo of") if ctx is None else ctx, *words])
    return F.normalize(encode_in_full(model, *whole(model, parts))[0], dim=-1)


@pytest.mark.parametrize("trainer", ["CoOp", "ZeroshotCLIP"])
def test_prompts_in_both_worlds(tmp_path, run, toy_backbone, trainer):
    keys = ("OPTIM.LR", 0.01, f"TRAINER.{trainer.upper()}.OPEN_WORLD", True)
    trained, model = run(trainer, tmp_path, *keys), load_backbone(toy_backbone)
    dataset = trained.dm.dataset
    with torch.no_grad():
        assert relative_error(trained.model.encode_text(), plain_features(trained, model, dataset.pairs)) < 1e-5
        codes, features = zip(*trained.model.encode_open_world(2), strict=True)
        pairs = [(a, o) for a in range(3) for o in range(3)]
        assert torch.cat(codes).tolist() == list(range(9))
        assert relative_error(torch.cat(features), plain_features(trained, model, pairs)) < 1e-5
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["world"] == "open" and metrics["pairs"] == 9


def test_coop_learns_its_context_alone(tmp_path, run, toy_backbone):
    trained = run("CoOp", tmp_path / "a", "OPTIM.LR", 0.01, "OPTIM.MAX_EPOCH", 10)
    learner, model = trained.model.prompt_learner, load_backbone(toy_backbone)
    assert {key: tuple(value.shape) for key, value in learner.state_dict().items()} == {"ctx": (3, 64)}
    assert json.loads((tmp_path / "a" / "metrics.json").read_text())["world"] == "closed"
    assert not torch.allclose(learner.ctx, embedded(model, "a photo of"), atol=1e-3)
    trained.model.train()
    assert trained.model.encode_text().shape == (5, 32), "seen pairs"
    trained.model.eval()

    flags = ["--eval-only", "--model-dir", str(tmp_path / "a")]
    alone = run("CoOp", tmp_path / "b", "TRAINER.COOP.OPEN_WORLD", True, flags=flags)
    assert torch.equal(alone.model.prompt_learner.ctx, learner.ctx)


def test_coop_on_other_data_sets_is_coop(tmp_path, toy_run, toy_args, closing_logger, capsys):
    a = toy_run("CoOp", tmp_path / "a", "TRAINER.COOP.N_CTX", 2)
    assert type(a.model).__name__ == "PromptedCLIP" and "world" not in (tmp_path / "a" / "metrics.json").read_text()
    assert train.run(toy_args("CoOp", tmp_path / "b", config="vit_l14_czsl")) == 1
    expected = "CoOp with TRAINER.COOP.PAIRS needs pairs of attribute and object, which Caltech101 does not have"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    "keys, message",
    [
        (("TRAINER.COOP.CSC", True), "TRAINER.COOP.PAIRS puts one context in front of all pairs"),
        (("TRAINER.COOP.CLASS_TOKEN_POSITION", "middle"), "TRAINER.COOP.PAIRS puts one context in front of all pairs"),
        (("TRAINER.COOP.PAIRS", False, "TRAINER.COOP.OPEN_WORLD", True), "set TRAINER.COOP.PAIRS True"),
        (("TRAINER.COOP.ACCUMULATE", 0), "TRAINER.COOP.ACCUMULATE is 0: give 1 or more"),
    ],
)
def test_what_coop_cannot_do_with_pairs(tmp_path, run, keys, message):
    with pytest.raises(UserError, match=message):
        run("CoOp", tmp_path, *keys)


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
    """A candidate, given by hand and evaluated on val, does no better than the chosen one: every seventh of them."""
    given = open_run.thresholds().tolist()
    assert open_run.threshold in given
    results = {}
    flags = ["--eval-only", "--model-dir", str(tmp_path / "open")]
    for i, threshold in enumerate(sorted({*given[::7], open_run.threshold})):
        keys = (*OPEN, "OPTIM.LR", 0.01, "TRAINER.CSP.THRESHOLD", threshold, "TEST.SPLIT", "val")
        trainer = run("CSP", tmp_path / str(i), *keys, flags=flags)
        results[threshold] = json.loads((tmp_path / str(i) / "metrics.json").read_text())["auc_20"]
        left = (trainer.feasibility >= threshold).sum()
        (best, _) = next(iter(trainer.predict(trainer.val_loader)))
        assert (trainer.feasibility[best.pairs[:, 1]] >= threshold - 1e-6).all() and left >= 6
    assert len(given) == 50
    assert open_run.threshold == max(results, key=results.get), "the first of equals"


def test_thresholds_are_fifty_even_steps(open_run):
    unseen = [f for f in open_run.feasibility.tolist() if f < 2]
    low, high = min(unseen), max(unseen)
    assert open_run.thresholds() == pytest.approx(np.array([low + k * (high - low) / 49 for k in range(50)]), abs=1e-6)
    assert RECIPES["trials"] == 50 and RECIPES["chosen_by"] == "AUC on val"


def test_published_thresholds(tmp_path, run):
    assert {"mit_states": MITStates.threshold, "ut_zappos": UTZappos.threshold, "cgqa": CGQA.threshold} == RECIPES[
        "threshold"
    ]
    path = tmp_path / "glove.txt"
    words = "dark pale fake leather dog boat sea shell".split()
    path.write_text(
        "".join(f"{word} {' '.join(map(str, np.random.default_rng(i).random(4)))}\n" for i, word in enumerate(words))
    )
    keys = (*OPEN, "TRAINER.CSP.WORD_VECTORS", path, "TRAINER.CSP.THRESHOLD", "published", "OPTIM.MAX_EPOCH", 1)
    trainer = run("CSP", tmp_path / "run", *keys)
    assert trainer.threshold == pytest.approx(RECIPES["threshold"]["mit_states"])
    trainer.dm.dataset.threshold = None
    with pytest.raises(UserError, match="no threshold is published for MITStates: set TRAINER.CSP.THRESHOLD to"):
        trainer.thresholds()


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
    words = {"dark": "1 0", "pale": "0 1", "fake": "1 1", "leather": "1 0", "dog": "1 0", "boat": "1 0", "sea": "0 1"}
    path.write_text("".join(f"{word} {numbers}\n" for word, numbers in words.items()))
    trainer = run("CSP", tmp_path / "run", *OPEN, "TRAINER.CSP.WORD_VECTORS", path, "OPTIM.MAX_EPOCH", 1)
    f = trainer.feasibility.reshape(3, 3)  # Faux Leather, dark, pale x boat, dog, sea shell
    assert f.isinf().tolist() == [[True, False, False], [True, True, False], [False, True, True]]
    # pale boat: boats are like dogs, seen with pale; Faux Leather, (1, 0.5), is nearer to pale than dark is
    assert f[2, 0] == pytest.approx((1 + 1 / math.sqrt(5)) / 2)
    assert f[0, 2] == pytest.approx((0 + 1 / math.sqrt(5)) / 2)
    assert f[1, 2] == pytest.approx(0)
    assert "No word vector for 1 of 8 words: shell" in (tmp_path / "run" / "log.txt").read_text()
