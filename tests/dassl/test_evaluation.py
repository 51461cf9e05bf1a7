"""Accuracy, macro F1, results per class and the confusion matrix, worked out by hand."""

import json
import logging

import pytest
import torch

import train
from dassl.config import get_cfg_default
from dassl.evaluation import EVALUATOR_REGISTRY, Classification, EvaluatorBase, build_evaluator
from dassl.evaluation.finite import NonFiniteScoresError
from dassl.metrics import METRIC_REGISTRY, compute_accuracy, compute_distance_matrix
from dassl.utils import UserError
from trainers.base import PromptTrainer

# true -> predicted: 0 -> 0, 0; 1 -> 0, 1; 3 -> 3, 2, 3, 3. Class 2 does not occur.
TRUE = torch.tensor([0, 0, 1, 1, 3, 3, 3, 3])
PREDICTED = torch.tensor([0, 0, 0, 1, 3, 2, 3, 3])
# F1 = 2 TP / (2 TP + FP + FN): class 0: 4/5, class 1: 2/3, class 3: 6/7
MACRO_F1 = 100 * (4 / 5 + 2 / 3 + 6 / 7) / 3
CNAMES = {0: "ant", 1: "bee", 2: "cat", 3: "dog"}


def _evaluator(tmp_path, **settings):
    cfg = get_cfg_default()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.TEST.update(settings)
    return build_evaluator(cfg, lab2cname=CNAMES)


def _feed(evaluator, true=TRUE, predicted=PREDICTED):
    logits = torch.nn.functional.one_hot(predicted, 4).float()
    for mo, gt in zip(logits.split(3), true.split(3), strict=True):
        evaluator.process(mo, gt)
    return evaluator.evaluate()


def test_classification(tmp_path, caplog):
    evaluator = _evaluator(tmp_path)
    with caplog.at_level(logging.INFO, "dassl"):
        results = _feed(evaluator)
    assert list(results) == ["accuracy", "error_rate", "macro_f1"]
    assert list(results.values()) == pytest.approx([75, 25, MACRO_F1])
    counts = evaluator.counts()
    assert len(counts.pop("predictions")) == 64 and counts == {"total": 8, "correct": 6}
    assert caplog.messages[-1] == (
        "=> result\n* total: 8\n* correct: 6\n* accuracy: 75.0%\n* error: 25.0%\n* macro_f1: 77.5%"
    )


class Alone:
    """An evaluator that shares nothing with ours."""

    def __init__(self, cfg, **kwargs):
        self._total = 3

    def reset(self):
        pass

    def process(self, mo, gt):
        pass

    def evaluate(self):
        return {"mine": 1.0}


@pytest.mark.parametrize("of_ours", [False, True])
def test_counts_in_metrics_are_what_an_evaluator_says(of_ours, tmp_path, toy_run, monkeypatch):
    """Dassl's evaluators say nothing, and no attribute of theirs is read."""
    evaluator = type("Other", (Alone, EvaluatorBase) if of_ours else (Alone,), {})
    monkeypatch.setitem(EVALUATOR_REGISTRY._objects, "Other", evaluator)
    for name, expected in (("Other", None), ("Classification", 12)):
        toy_run("ZeroshotCLIP", tmp_path / name, "TEST.EVALUATOR", name, config="vit_b16", flags=["--eval-only"])
        assert json.loads((tmp_path / name / "metrics.json").read_text()).get("total") == expected


def test_large_totals_have_commas(tmp_path, caplog):
    label = torch.zeros(1500, dtype=torch.long)
    with caplog.at_level(logging.INFO, "dassl"):
        _feed(_evaluator(tmp_path), label, label)
    assert "* total: 1,500\n* correct: 1,500\n* accuracy: 100.0%\n* error: 0.0%" in caplog.text


def test_reset_forgets(tmp_path):
    evaluator = _evaluator(tmp_path)
    _feed(evaluator)
    evaluator.reset()
    assert _feed(evaluator, TRUE[:3], PREDICTED[:3])["accuracy"] == pytest.approx(200 / 3)


def test_result_per_class(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "dassl"):
        results = _feed(_evaluator(tmp_path, PER_CLASS_RESULT=True))
    assert results["perclass_accuracy"] == 75.0
    assert caplog.messages[-1] == (
        "=> per-class result\n"
        "* class: 0 (ant)\ttotal: 2\tcorrect: 2\tacc: 100.0%\n"
        "* class: 1 (bee)\ttotal: 2\tcorrect: 1\tacc: 50.0%\n"
        "* class: 3 (dog)\ttotal: 4\tcorrect: 3\tacc: 75.0%\n"
        "* average: 75.0%"
    )


def test_confusion_matrix(tmp_path):
    _feed(_evaluator(tmp_path, COMPUTE_CMAT=True))
    matrix = torch.load(tmp_path / "out" / "cmat.pt", weights_only=True)
    assert matrix.tolist() == [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0], [0, 0, 0.25, 0.75]]


def test_nothing_to_evaluate(tmp_path):
    evaluator = _evaluator(tmp_path)
    with pytest.raises(UserError, match="nothing to evaluate: the test split is empty"):
        evaluator.evaluate()


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("row", [[0, NAN, 1, 2], [0, INF, 1, 2], [NAN] * 4, [-INF] * 4], ids=str)
def test_scores_that_are_no_numbers_make_no_result(row, tmp_path, caplog):
    """argmax gives a class to each of these rows: 6 percent of Caltech101's images would have been right."""
    evaluator = _evaluator(tmp_path, COMPUTE_CMAT=True)
    evaluator.process(torch.eye(4), torch.arange(4))
    evaluator.process(torch.tensor([[0.0, 1, 2, 3], row, row]), torch.zeros(3, dtype=torch.int64))
    evaluator.split = "val"
    name = "ant" if row[0] != 0 else "bee"
    with pytest.raises(NonFiniteScoresError, match=f'2 of 7 val images .* first number 6 for class "{name}": .*fp32'):
        evaluator.evaluate()
    assert "=> result" not in caplog.text and not (tmp_path / "out").exists()


def test_a_class_left_out_by_minus_infinity_wins_nothing(tmp_path):
    evaluator = _evaluator(tmp_path)
    evaluator.process(torch.tensor([[-INF, 1, 0, 0], [2, -INF, 0, 0]]), torch.tensor([1, 0]))
    assert evaluator.evaluate()["accuracy"] == 100


@pytest.mark.parametrize("trainer, keys", [
    ("ZeroshotCLIP", ()), ("CoOp", ("TEST.FINAL_MODEL", "best_val", "OPTIM.MAX_EPOCH", 1)),
])  # fmt: skip
def test_a_run_with_broken_scores_ends_in_a_line(trainer, keys, tmp_path, toy_args, monkeypatch, capsys):
    score = PromptTrainer.score
    monkeypatch.setattr(PromptTrainer, "score", lambda *args: score(*args) * torch.tensor([1, 1, NAN, 1]))
    config = {"config": "vit_b16", "flags": ["--eval-only"]} if trainer == "ZeroshotCLIP" else {}
    assert train.run(toy_args(trainer, tmp_path, "DATALOADER.NUM_WORKERS", 0, *keys, **config)) == 1
    split, n = ("val", 8) if keys else ("test", 12)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and f"{n} of {n} {split} images" in errors[0] and 'class "crab_claw"' in errors[0]
    assert not (tmp_path / "metrics.json").exists()


def test_registry():
    assert EVALUATOR_REGISTRY.get("Classification") is Classification
    cfg = get_cfg_default()
    cfg.TEST.EVALUATOR = "Clasification"
    with pytest.raises(UserError, match="did you mean Classification"):
        build_evaluator(cfg)


def test_compute_accuracy():
    logits = torch.tensor([[3.0, 2, 1], [3, 2, 1], [1, 2, 3], [2, 3, 1]])
    target = torch.tensor([0, 1, 0, 1])
    top1, top2 = compute_accuracy(logits, target, topk=(1, 2))
    assert (top1.shape, top1.item(), top2.item()) == ((1,), 50.0, 75.0)
    assert compute_accuracy((logits, None), target)[0].item() == 50.0


def test_distances_by_hand():
    a, b = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [-1.0, 0.0], [3.0, 4.0]])
    assert compute_distance_matrix(a, b).tolist() == [[13, 32, 0], [5, 4, 20]]
    cosine = [[1 - 0.8, 1 + 0.6, 0], [1, 2, 1 - 0.6]]
    assert torch.allclose(compute_distance_matrix(a, b, "cosine"), torch.tensor(cosine), atol=1e-6)
    with pytest.raises(UserError, match="did you mean cosine"):
        compute_distance_matrix(a, b, "cosin")


@pytest.fixture
def largest_score(monkeypatch):
    """A metric of that name: 100 times the mean of the largest scores."""
    monkeypatch.setattr(METRIC_REGISTRY, "_objects", {})

    @METRIC_REGISTRY.register()
    def largest_score(scores, labels):
        assert scores.dtype == torch.float32 and labels.dtype == torch.int64 and len(scores) == len(labels)
        return 100 * scores.max(dim=1).values.mean()

    return largest_score


def test_metrics_by_name(largest_score, closing_logger, caplog):
    cfg = get_cfg_default()
    cfg.TEST.METRICS = ["largest_score"]
    evaluator = Classification(cfg)
    for batch in ([[1.0, 3.0], [2.0, 0.0]], [[0.5, 0.0]]):
        evaluator.process(torch.tensor(batch, dtype=torch.float64), torch.zeros(len(batch), dtype=torch.int64))
    with caplog.at_level("INFO", logger="dassl"):
        results = evaluator.evaluate()
    assert list(results) == ["accuracy", "error_rate", "macro_f1", "largest_score"], "accuracy stays the first"
    assert results["largest_score"] == pytest.approx(100 * 5.5 / 3) and "* largest_score: 183.3%" in caplog.text


def test_a_metric_that_cannot_be(largest_score):
    cfg = get_cfg_default()
    cfg.TEST.METRICS = ["largest_scores"]
    with pytest.raises(UserError, match='no "largest_scores" in the METRIC registry: did you mean largest_score'):
        Classification(cfg)
    METRIC_REGISTRY._objects["accuracy"] = largest_score
    cfg.TEST.METRICS = ["accuracy"]
    with pytest.raises(UserError, match="accuracy is a figure that the evaluator has already"):
        Classification(cfg)
