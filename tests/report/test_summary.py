"""What a report says, against figures worked out by hand."""

import numpy as np
import pytest

from report import published, results, summary


@pytest.fixture
def cell(tmp_path):
    """cell(protocol, dataset, method, column): that row of the summary; by default of base2new."""

    def cell(dataset, method, column, protocol="base2new"):
        cells = summary.summarise(results.read(tmp_path / "runs"), protocol)
        found = cells[(cells.dataset == dataset) & (cells.method == method) & (cells.column == column)]
        assert len(found) <= 1
        return found.iloc[0] if len(found) else None

    return cell


def test_a_data_set_named_average_is_none(base2new, cell):
    base2new("average", "CoOp", 60, 60)
    base2new("dtd", "CoOp", 70, 70)
    assert cell("average", "CoOp", "base")["mean"] == 65
    assert cell("average (data set)", "CoOp", "base")["mean"] == 60


def test_mean_deviation_and_the_harmonic_mean_of_means(base2new, cell):
    base2new("dtd", "CoOp", 60, 30, seed=1)
    base2new("dtd", "CoOp", 80, 50, seed=2)
    base = cell("dtd", "CoOp", "base")
    assert (base["mean"], base["std"], base.seeds, base.setting) == (70, 10, 2, "16 shots")
    found = cell("dtd", "CoOp", "H")
    assert found["mean"] == pytest.approx(2 * 70 * 40 / 110), "of the means 70 and 40, not the mean of 40 and 61.5"
    assert found["std"] == pytest.approx((2 * 80 * 50 / 130 - 40) / 2)


def test_one_seed_has_no_deviation_and_half_a_seed_does_not_count(base2new, put, cell):
    base2new("dtd", "CoOp", 60, 30)
    put("base2new/train_base/dtd/shots_16/CoOp/c/seed2", 99)
    base = cell("dtd", "CoOp", "base")
    assert (base["mean"], base.seeds) == (60, 1) and np.isnan(base["std"])


def test_averages_over_the_datasets_that_a_method_has(base2new, cell):
    for dataset, base, new in (("dtd", 60, 30), ("eurosat", 80, 50), ("food101", 40, 10)):
        base2new(dataset, "CoOp", base, new)
        base2new(dataset, "ZeroshotCLIP", 50, 50)
    for dataset in ("dtd", "eurosat"):
        base2new(dataset, "MoCoOp", 90, 90)
    average = cell("average", "CoOp", "base")
    assert (average["mean"], average.datasets, average.of) == (60, 3, 3)
    assert cell("average", "CoOp", "H")["mean"] == pytest.approx(2 * 60 * 30 / 90)
    assert cell("average", "ZeroshotCLIP", "new")["mean"] == 50, "beside every setting"
    fewer = cell("average", "MoCoOp", "base")
    assert (fewer["mean"], fewer.datasets, fewer.of) == (90, 2, 3)
    assert average.best and not fewer.best, "90 over other datasets is not better than 60"
    assert cell("dtd", "MoCoOp", "base").best


def test_an_average_takes_seeds_that_all_its_datasets_have(base2new, cell):
    for dataset, seed, base in (("dtd", 1, 10), ("dtd", 2, 20), ("dtd", 3, 99), ("eurosat", 1, 30), ("eurosat", 2, 60)):
        base2new(dataset, "CoOp", base, 50, seed=seed)
    average = cell("average", "CoOp", "base")
    assert (average["mean"], average["std"], average.seeds) == (30, 10, 2)


def test_the_best_at_two_digits(base2new, cell):
    base2new("dtd", "CoOp", 60.001, 30)
    assert not cell("dtd", "CoOp", "base").best, "of one"
    base2new("dtd", "MoCoOp", 60.004, 31)
    base2new("dtd", "ZeroshotCLIP", 59.99, 20)
    best = {method: cell("dtd", method, "base").best for method in ("CoOp", "MoCoOp", "ZeroshotCLIP")}
    assert best == {"CoOp": True, "MoCoOp": True, "ZeroshotCLIP": False}
    assert not cell("dtd", "CoOp", "new").best


def test_published_figures_of_the_same_backbone(base2new, cell):
    base2new("dtd", "CoOp", 80, 40, backbone="ViT-B/16")
    base2new("eurosat", "CoOp", 80, 40, backbone="icon-clip")
    base2new("food101", "CoOp", 80, 40, seed=1, backbone="ViT-B/16")
    base2new("food101", "CoOp", 80, 40, seed=2, backbone="RN50")
    base2new("dtd", "ZeroshotCLIP", 50, 60, backbone="ViT-B/16")
    found = cell("dtd", "CoOp on ViT-B/16", "base")
    assert (found.published, found.source) == (79.44, "CoCoOp, CVPR 2022, Table 1")
    assert found.difference == pytest.approx(0.56)
    assert cell("dtd", "ZeroshotCLIP", "new").published == 59.90
    for dataset, backbone in (("eurosat", "icon-clip"), ("food101", "RN50")):
        other = cell(dataset, f"CoOp on {backbone}", "base")
        assert np.isnan(other.published) and np.isnan(other.difference) and other.source == ""
    assert cell("food101", "CoOp on ViT-B/16", "base").seeds == 1, "no row is of two backbones"
    assert cell("average", "CoOp on ViT-B/16", "base").datasets == 2


def test_a_published_average_is_over_its_eleven_datasets(base2new, cell):
    eleven = published.averaged("base2new", "ViT-B/16")
    assert len(eleven) == 11
    for dataset in eleven - {"dtd"}:
        base2new(dataset, "KgCoOp", 80, 70, backbone="ViT-B/16")
    assert np.isnan(cell("average", "KgCoOp", "base").published)
    base2new("dtd", "KgCoOp", 80, 70, backbone="ViT-B/16")
    assert cell("average", "KgCoOp", "base").difference == pytest.approx(80 - 80.73)


@pytest.mark.parametrize(("trainer", "dataset", "backbone", "why"), [
    ("CoOp", "dtd", "icon-clip", "CoOp: here on icon-clip, published on ViT-B/16"),
    ("KgCoOp", "dtd", "ViT-B/16", "KgCoOp: here for dtd, published for average"),
    ("CoOp", "folder", "ViT-B/16", "CoOp: here for folder, published for 12 others"),
    ("MoCoOp", "dtd", "ViT-B/16", "MoCoOp: no figure is known"),
    ("CoOp", "dtd", "ViT-B/16", ""),
])  # fmt: skip
def test_why_a_table_is_not_compared(base2new, cell, trainer, dataset, backbone, why):
    base2new(dataset, trainer, 80, 40, backbone=backbone)
    assert cell(dataset, trainer, "base").why_not == why


def test_why_averages_are_not_compared(base2new, cell):
    for dataset in ("dtd", "eurosat"):
        base2new(dataset, "CoOp", 80, 40, backbone="ViT-B/16")
    assert "over 2 data sets, published over 11" in cell("average", "CoOp", "base").why_not


def test_published_transfers(put, cell):
    def found():
        columns = ("imagenet", "imagenet_a", "average")
        return [cell("imagenet", "CoOp", column, "domain_generalization") for column in columns]

    put("imagenet/CoOp/c_16shots/seed1", 71, backbone="ViT-B/16")
    for target in ("imagenet_a", "imagenet_sketch", "imagenetv2"):
        put(f"evaluation/CoOp/c_16shots/{target}/seed1", 60, backbone="ViT-B/16")
    *each, average = found()
    assert [row.published for row in each] == [71.51, 49.71]
    assert np.isnan(average.published) and "over 3 data sets, published over 4" in average.why_not
    put("evaluation/CoOp/c_16shots/imagenet_r/seed1", 60, backbone="ViT-B/16")
    assert [row.published for row in found()] == [71.51, 49.71, 59.28] and not found()[-1].why_not


def test_other_shots_are_not_compared(put, cell):
    for part in ("train_base", "test_new"):
        put(f"base2new/{part}/dtd/shots_4/CoOp/c/seed1", 70, backbone="ViT-B/16")
    found = cell("dtd", "CoOp", "base")
    assert np.isnan(found.published) and found.why_not == "CoOp: here with 4 shots, published with 16 shots"


def test_few_shot(put, cell):
    put("dtd/ZeroshotCLIP/c/seed1", 44)
    put("dtd/LinearProbe/c/seed1", 66)
    for shots, accuracy in ((1, 45), (16, 65)):
        put(f"dtd/CoOp/c_{shots}shots/seed1", accuracy)
    put("eurosat/CoOp/c_1shots/seed1", 55)
    put("icons_rare_outline/CoOp/c_1shots/seed1", 0)
    assert cell("dtd", "ZeroshotCLIP", 0, "few_shot")["mean"] == 44
    assert cell("dtd", "LinearProbe", "all", "few_shot")["mean"] == 66
    assert cell("average", "CoOp", 1, "few_shot")["mean"] == 50, "icons of one style are left aside"
    average = cell("average", "CoOp", 16, "few_shot")
    assert (average["mean"], average.datasets, average.of) == (65, 1, 2)


def test_czsl_compares_with_the_curve_of_twenty_points(put, cell):
    figures = dict(best_seen=46.0, best_unseen=50.0, best_harmonic=36.5, auc=19.6, best_harmonic_20=36.0, auc_20=19.0)
    put("czsl/closed/mit_states/CSP/c/seed1", 30, backbone="ViT-L/14", **figures)
    assert cell("mit_states", "CSP", "AUC 20", "czsl").difference == pytest.approx(19.0 - 19.4)
    assert np.isnan(cell("mit_states", "CSP", "AUC", "czsl").published)
    assert cell("mit_states", "CSP", "S", "czsl").setting == "closed world"


def test_transfers_have_targets_as_columns(put, cell):
    put("imagenet/CoOp/c_16shots/seed1", 71)
    for target, accuracy in (("dtd", 40), ("eurosat", 50)):
        put(f"evaluation/CoOp/c_16shots/{target}/seed1", accuracy)
    row = [cell("imagenet", "CoOp", column, "cross_dataset")["mean"] for column in ("imagenet", "dtd", "average")]
    assert row == [71, 40, 45]


def test_methods_keep_their_config_where_it_tells_them_apart(put, cell):
    for folder in ("dtd/CoOp/c_1shots/seed1", "dtd/CoOp/d_1shots/seed1", "dtd/MoCoOp/c_1shots/seed1"):
        put(folder, 50)
    assert cell("dtd", "CoOp (d)", 1, "few_shot") is not None and cell("dtd", "MoCoOp", 1, "few_shot") is not None


def test_a_label_is_told(put, cell):
    put("dtd/CoOp/vit_b16_ep50-csc_1shots/seed1", 50)
    put("dtd/MoCoOp/vit_b16_ep50_1shots/seed1", 50)
    assert cell("dtd", "CoOp (csc)", 1, "few_shot") is not None and cell("dtd", "MoCoOp", 1, "few_shot") is not None
