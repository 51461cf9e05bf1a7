"""Paired tests against p-values worked out by hand."""

import numpy as np
import pytest

from dassl.errors import UserError
from report import results
from report.significance import compare, text
from report.significance import test as paired_test


def test_six_pairs_and_more_by_signed_ranks():
    assert paired_test(np.array([1.0, 2, 3, 4, 5, 6])) == ("Wilcoxon signed-rank", pytest.approx(2 / 2**6))
    # rank 1 is negative: rank sums of at most 1 are {} and {1}, of 2**6 signs, two-sided
    assert paired_test(np.array([-1.0, 2, 3, 4, 5, 6]))[1] == pytest.approx(2 * 2 / 2**6)


def test_few_pairs_by_student():
    name, p = paired_test(np.array([1.0, 2, 3]))  # t = 2 / (1 / sqrt 3) with 2 degrees of freedom
    t = 2 * np.sqrt(3)
    assert name == "paired t" and p == pytest.approx(1 - t / np.sqrt(t**2 + 2))
    assert paired_test(np.zeros(3))[1] == 1
    name, p = paired_test(np.ones(2))
    assert name == "not tested: 2 of the 3 pairs needed" and np.isnan(p)


def test_pairs_are_of_one_dataset_and_seed(base2new, tmp_path):
    for dataset, gain in (("dtd", 1), ("eurosat", 2)):
        for seed in (1, 2, 3):
            base2new(dataset, "CoOp", 60 + seed, 50, seed=seed)
            base2new(dataset, "MoCoOp", 60 + seed + gain + seed / 10, 50, seed=seed)
    base2new("dtd", "MoCoOp", 0, 0, seed=4)  # has no counterpart
    base2new("dtd", "ZeroshotCLIP", 60, 50)
    runs = results.read(tmp_path / "runs")
    found = compare(runs, "MoCoOp", "CoOp").set_index("column")
    assert tuple(found.loc["base", ["pairs", "datasets", "test"]]) == (6, 2, "Wilcoxon signed-rank")
    assert found.difference["base"] == pytest.approx(1.7) and found.p["base"] == pytest.approx(2 / 2**6)
    assert found.p["new"] == 1
    found = compare(runs, "CoOp", "ZeroshotCLIP").set_index("column")
    assert tuple(found.loc["base", ["difference", "pairs", "test"]]) == (2, 3, "paired t")


def test_targets_are_the_datasets_of_a_transfer(put, tmp_path):
    for target, gain in (("dtd", 1), ("eurosat", 2), ("food101", 3)):
        put(f"evaluation/CoOp/c_16shots/{target}/seed1", 40)
        put(f"evaluation/MoCoOp/c_16shots/{target}/seed1", 40 + gain)
    (found,) = compare(results.read(tmp_path / "runs"), "MoCoOp", "CoOp").itertuples()
    assert (found.column, found.difference, found.pairs, found.datasets) == ("targets", 2, 3, 3)


def test_zero_shot_is_beside_any_number_of_shots(put, tmp_path):
    put("dtd/ZeroshotCLIP/c/seed1", 40)
    for seed in (1, 2, 3):
        put(f"dtd/CoOp/c_4shots/seed{seed}", 50 + seed)
    (found,) = compare(results.read(tmp_path / "runs"), "CoOp", "ZeroshotCLIP").itertuples()
    assert (found.column, found.difference, found.pairs) == ("4-shot", 12, 3)


def test_too_few_pairs_are_told(base2new, tmp_path):
    base2new("dtd", "CoOp", 60, 50)
    base2new("dtd", "MoCoOp", 61, 51)
    base2new("eurosat", "KgCoOp", 61, 51)
    runs = results.read(tmp_path / "runs")
    found = compare(runs, "MoCoOp", "CoOp").set_index("column")
    assert found.test.unique().tolist() == ["not tested: 1 of the 3 pairs needed"]
    assert found.difference["base"] == pytest.approx(1) and found.p.isna().all()
    assert "nan" not in text(compare(runs, "MoCoOp", "CoOp"), "MoCoOp", "CoOp")
    assert "not tested: 0 of the 3 pairs needed" in text(compare(runs, "KgCoOp", "CoOp"), "KgCoOp", "CoOp")


def test_methods_by_the_names_that_tables_print(put, tmp_path):
    for seed in (1, 2, 3):
        put(f"dtd/CoOp/vit_b16_4shots/seed{seed}", 50)
        for method, more in (("CoOp/vit_b16-csc", 2), ("CoOp/vit_b16-LR0.1", 3), ("MoCoOp/vit_b16_ep50-top1", 1)):
            put(f"dtd/{method}_4shots/seed{seed}", 50 + more + (seed - 2) / 4)
    runs = results.read(tmp_path / "runs")
    names = {"csc": 2, "CoOp (csc)": 2, "CoOp (vit_b16-csc)": 2, "LR0.1": 3, "top1": 1, "MoCoOp (top1)": 1, "MoCoOp": 1}
    for name, difference in names.items():
        assert compare(runs, name, "CoOp (vit_b16)").difference.tolist() == [difference], name
    with pytest.raises(UserError, match=r"CoOp means several methods: name one of CoOp \(vit_b16\), CoOp \("):
        compare(runs, "CoOp", "MoCoOp")
    with pytest.raises(UserError, match=r"the method cscs: there are CoOp \(vit_b16\), .*, MoCoOp \(top1\)$"):
        compare(runs, "MoCoOp", "cscs")
