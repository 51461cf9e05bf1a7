"""Runs that never were: folders with the metrics.json of a given result."""

import json

import pytest

from benchmark.facts import methods


@pytest.fixture
def put(tmp_path):
    """put(folder, accuracy, **more): a finished run below tmp_path / "runs", its folder as CoOp's; the folder."""

    def put(folder, accuracy, **more):
        trainer = next(name for name in folder.split("/") if name in {method.name for method in methods()})
        metrics = {"trainer": trainer, "dataset": "Any", "accuracy": accuracy, "backbone": "icon-clip"}
        path = tmp_path / "runs" / folder
        path.mkdir(parents=True)
        (path / "metrics.json").write_text(json.dumps(metrics | {"trainable_parameters": 512} | more))
        return path

    return put


@pytest.fixture
def base2new(put):
    """base2new(dataset, trainer, base, new, seed=1, **more): both runs of a seed, 16 shots unless zero-shot."""

    def base2new(dataset, trainer, base, new, seed=1, **more):
        trained = trainer != "ZeroshotCLIP"
        shots, part = ("shots_16/", "train_base") if trained else ("", "test_base")
        put(f"base2new/{part}/{dataset}/{shots}{trainer}/c/seed{seed}", base, **more)
        put(f"base2new/test_new/{dataset}/{shots}{trainer}/c/seed{seed}", new, **more)

    return base2new
