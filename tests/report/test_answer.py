"""The first sentences of a report, against cases worked out by hand."""

import pytest

from report import answer, results, summary


@pytest.fixture
def answers(tmp_path):
    """answers(): the Answers of the runs."""

    def answers():
        runs = results.read(tmp_path / "runs")
        return answer.answers(runs, summary.summaries(runs))

    return answers


def test_the_leader_the_distance_and_the_test(base2new, answers):
    for dataset, gain in (("dtd", 3), ("eurosat", 4), ("food101", 5)):
        for seed in (1, 2):
            base2new(dataset, "CoOp", 60, 60, seed=seed)
            base2new(dataset, "MoCoOp", 60 + gain + seed, 60 + gain + seed, seed=seed)
        base2new(dataset, "ZeroshotCLIP", 50, 50)
    (found,) = answers()
    assert found.where == "Base-to-new generalisation, average over 3 datasets, 16 shots"
    assert found.lead == "MoCoOp leads in H: 65.50", "the mean of 4, 5; 5, 6; 6, 7 above 60"
    # all six differences are above zero, so the exact two-sided p is 2 / 2^6
    assert found.rest == (
        "That is 5.50 above CoOp (60.00). The difference is significant at 5% "
        "(p = 0.0312, Wilcoxon signed-rank test, 6 pairs of dataset and seed). "
        "2 of 2 trained methods are above ZeroshotCLIP (50.00)."
    )


def test_one_seed_cannot_tell(base2new, answers):
    base2new("dtd", "CoOp", 60, 50)
    base2new("dtd", "ZeroshotCLIP", 70, 70)
    (found,) = answers()
    assert found.lead == "ZeroshotCLIP leads in H: 70.00"
    assert found.rest.endswith("cannot be told from 1 pair of dataset and seed: a test needs 3.")


def test_ties_at_the_digits_that_are_shown(base2new, answers):
    base2new("dtd", "CoOp", 60.001, 60.001)
    base2new("dtd", "MoCoOp", 60.004, 60.004)
    base2new("dtd", "LAMM", 50, 50)
    (found,) = answers()
    assert (found.lead, found.rest) == ("CoOp and MoCoOp share the lead in H: 60.00", "Next is LAMM (50.00).")


def test_one_method(base2new, answers):
    base2new("dtd", "CoOp", 60, 60)
    (found,) = answers()
    assert (found.lead, found.rest) == ("CoOp alone: H 60.00", "There is no other method to compare.")


def test_a_method_without_all_datasets_cannot_lead(base2new, answers):
    for dataset in ("dtd", "eurosat"):
        base2new(dataset, "CoOp", 60, 60)
        base2new(dataset, "KgCoOp", 50, 50)
    base2new("dtd", "MoCoOp", 90, 90)
    (found,) = answers()
    assert found.lead == "CoOp leads in H: 60.00"
    assert found.rest.endswith("Left aside, since datasets are missing: MoCoOp.")


def test_few_shot_is_told_at_the_most_shots_and_against_zero_shot(put, answers):
    put("dtd/ZeroshotCLIP/c/seed1", 70)
    for seed in (1, 2, 3):
        for shots, accuracy in ((1, 90), (16, 60)):
            put(f"dtd/CoOp/c_{shots}shots/seed{seed}", accuracy + seed)
    (found,) = answers()
    assert found.where == "Few-shot classification, dtd, 16 shots"
    assert found.lead == "ZeroshotCLIP leads in accuracy: 70.00"
    # differences 9, 8, 7: t = 8 / (1 / sqrt(3)), two degrees of freedom
    assert "8.00 above CoOp (62.00). The difference is significant at 5% (p = 0.0052, paired t test, 3" in found.rest


def test_few_shot_on_all_images(put, answers):
    put("dtd/ZeroshotCLIP/c/seed1", 70)
    put("dtd/CoOp/c/seed1", 75)
    (found,) = answers()
    assert found.where == "Few-shot classification, dtd, all images"
    assert found.lead == "CoOp leads in accuracy: 75.00" and "5.00 above ZeroshotCLIP (70.00)" in found.rest


def test_what_lacks_shots_does_not_lack_data_sets(put, answers):
    for dataset in ("dtd", "eurosat"):
        put(f"{dataset}/CoOp/c_16shots/seed1", 60)
        put(f"{dataset}/KgCoOp/c_8shots/seed1", 90)
        put(f"{dataset}/LASP/c/seed1", 90)
    put("dtd/MoCoOp/c_16shots/seed1", 90)
    put("dtd/ZeroshotCLIP/c/seed1", 90)
    (found,) = answers()
    assert found.where == "Few-shot classification, average over 2 datasets, 16 shots"
    assert found.lead == "CoOp alone: accuracy 60.00"
    aside = found.rest.partition("compare. ")[2]
    assert (
        aside
        == "Left aside, since datasets are missing: ZeroshotCLIP and MoCoOp. Not run at 16 shots: KgCoOp and LASP."
    )


def test_the_most_shots_are_all_images(put, answers):
    for config in ("c_4shots", "c_16shots", "c"):
        put(f"imagenet/CoOp/{config}/seed1", 70)
        for target in ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"):
            put(f"evaluation/CoOp/{config}/{target}/seed1", 60)
    found = {each.where for each in answers()}
    assert "Domain generalisation, imagenet, all images" in found and len(found) == 2


def test_transfers_are_ranked_by_their_targets_and_a_world_at_a_time(put, answers):
    for trainer, gain in (("CoOp", 0), ("CoCoOp", 1)):
        put(f"imagenet/{trainer}/c_16shots/seed1", 70 - 9 * gain)
        for i, target in enumerate(("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")):
            put(f"evaluation/{trainer}/c_16shots/{target}/seed1", 50 + i + gain * (1 + i))
        put(f"czsl/closed/mit_states/{trainer}/c/seed1", 30, auc=10 + gain, best_harmonic=20 - gain)
    found = {each.where: each for each in answers()}
    transfer = found["Domain generalisation, imagenet, 16 shots"]
    assert transfer.lead == "CoCoOp leads in mean accuracy on the targets: 54.00"
    assert "2.50 above CoOp (51.50)" in transfer.rest and "paired t test, 4 pairs" in transfer.rest
    assert found["Compositional zero-shot learning, mit_states, closed world"].lead == "CoCoOp leads in AUC: 11.00"
    assert found["Few-shot classification, imagenet, 16 shots"].lead == "CoOp leads in accuracy: 70.00"


def test_the_title_says_what_was_compared_on_what(base2new, tmp_path):
    for trainer in ("CoOp", "MoCoOp"):
        base2new("dtd", trainer, 60, 60)
    runs = results.read(tmp_path / "runs")
    assert answer.title(summary.summaries(runs), runs) == "CoOp and MoCoOp on dtd"
