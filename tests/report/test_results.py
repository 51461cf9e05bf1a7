"""The table of runs: of real metrics.json files, of CoOp's logs, and of what is neither."""

import json
import random

import pandas as pd
import pytest

from benchmark.__main__ import main
from dassl.errors import UserError
from report import results
from tests.mutants import mutant

LOG = """\
***************
** Arguments **
***************
seed: 2
trainer: CoOp
************
** Config **
************
DATASET:
  NAME: DescribableTextures
  NUM_SHOTS: 16
  SUBSAMPLE_CLASSES: all
INPUT:
  SIZE: (224, 224)
MODEL:
  BACKBONE:
    NAME: RN50
SEED: 2
TEST:
  SPLIT: test
TRAINER:
  COOP:
    CTX_INIT: 
    N_CTX: 16
  NAME: CoOp
Collecting env info ...
** System info **
epoch [1/50] batch [5/25] time 0.1 loss 3.2
=> result
* total: 9
* accuracy: 1.0%
epoch [50/50] batch [25/25] time 0.1 loss 1.2
{}
=> result
* total: 1,692
* correct: 1,075
* accuracy: 63.5%
* error: 36.5%
* macro_f1: 63.1%
Elapsed: 1 day, 0:01:02
"""
METRICS = {"accuracy": 90.0, "trainer": "CoOp", "dataset": "DescribableTextures", "shots": 16, "seed": 1}


def write(folder, metrics):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(metrics if isinstance(metrics, str) else json.dumps(metrics))


def test_a_real_run(tmp_path, toy_run):
    folder = tmp_path / "caltech101" / "CoOp" / "vit_b16_ep50_4shots" / "seed1"
    trainer = toy_run("CoOp", folder)
    runs = results.read(tmp_path)
    assert list(runs) == results.COLUMNS and len(runs) == 1
    run, metrics = runs.iloc[0], results.read_metrics(folder)
    assert run[results.IDENTITY].tolist() == [
        *("few_shot", "train", "caltech101", 4, "CoOp", "vit_b16_ep50", 1, "CoOp (vit_b16_ep50)")
    ]
    assert run.accuracy == metrics["accuracy"] and run.correct == metrics["correct"] and run.total == 12
    assert run.trainable_parameters == trainer.model.prompt_learner.ctx.numel()
    assert run.train_seconds > 0 and run.peak_memory_mb > 0 and run.torch == metrics["versions"]["torch"]
    assert (run.backbone, run.split, run.source, run.folder) == (
        *(trainer.cfg.MODEL.BACKBONE.NAME, "test", "metrics.json", str(folder)),
    )
    assert pd.isna(run.auc)


def test_columns_are_of_one_kind_whatever_is_there(tmp_path):
    empty = results.read(tmp_path)
    write(tmp_path / "dtd" / "CoOp" / "c_16shots" / "seed1", METRICS | {"router_entropy": 0.5, "expert_usage": [1, 2]})
    write(tmp_path / "dtd" / "ZeroshotCLIP" / "c" / "seed1", METRICS | {"trainer": "ZeroshotCLIP", "shots": -1})
    runs = results.read(tmp_path)
    assert list(runs) == [*results.COLUMNS, "router_entropy"]
    assert empty.dtypes.to_dict() == runs.drop(columns="router_entropy").dtypes.to_dict()
    assert runs.shots.tolist() == [16, pd.NA] and runs.part.tolist() == ["train", "test"]


def test_a_run_elsewhere_has_no_protocol(tmp_path):
    write(tmp_path / "mine", METRICS | {"seed": -1})
    write(tmp_path / "dtd" / "CoCoOp" / "c_16shots" / "seed1", METRICS)  # CoOp's result: the folder says nothing
    runs = results.read(tmp_path)
    assert runs.protocol.tolist() == ["", ""] and runs.method.tolist() == ["CoOp", "CoOp"]
    assert runs.dataset.tolist() == ["DescribableTextures"] * 2 and runs.seed.tolist() == [1, pd.NA]


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", '{"accuracy": 90}', '{"trainer": "CoOp"}', '{"trainer": 3, "accuracy": 90}'),
        '{"trainer": "CoOp", "accuracy": null}',
        "[" * 100_000,
    ],
)
def test_what_is_no_result_is_passed_over(content, tmp_path, caplog):
    write(tmp_path / "broken", content)
    write(tmp_path / "whole", METRICS)
    assert results.read(tmp_path).folder.tolist() == [str(tmp_path / "whole")]
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path}/broken/metrics.json is passed over: ") and line.isprintable()


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ({"shots": "many"}, "shots is 'many': give a whole number"),
        ({"macro_f1": [1]}, "macro_f1 is [1]: give a number"),
        ({"trainer": "a\x1b[31m"}, "trainer is 'a\\x1b[31m': give one line of printable text"),
        ({"versions": {"torch": 2}}, "versions.torch is 2: give text"),
        ({"curve": {"seen": [1.0], "unseen": []}}, "curve is {'seen': [1.0], 'unseen': []}: "),
        ({"total": 2**63}, "total is 9223372036854775808: it should be less"),
        ({"accuracy": 101}, "accuracy is 101: it should be less"),
        ({"train_seconds": float("nan")}, "train_seconds is nan: "),
    ],
)
def test_a_run_with_an_odd_value_is_passed_over(odd, why, tmp_path, caplog):
    write(tmp_path / "odd", METRICS | odd)
    assert results.read(tmp_path).empty
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path}/odd/metrics.json is passed over: {why}")


def test_what_is_not_said_is_missing(tmp_path, caplog):
    more = {"part": 3, "method": 1, "extra": True, "big": 10**400, "own": 0.5}
    write(tmp_path / "odd", METRICS | {"shots": -1, "seed": None, "macro_f1": None, "versions": None} | more)
    run = results.read(tmp_path).iloc[0]
    assert run[["shots", "seed", "macro_f1", "torch"]].isna().all() and run.accuracy == 90 and not caplog.messages
    assert (run.part, run.method, run.own) == ("", "CoOp", 0.5) and not {"extra", "big"}.intersection(run.index)


def test_the_commands_outlive_whatever_is_in_a_folder(tmp_path, caplog):
    rng, folder = random.Random(0), tmp_path / "dtd/MoCoOp/vit_b16_ep50_16shots"
    whole = METRICS | {"trainer": "MoCoOp", "expert_usage": [0.1, 0.9], "expert_names": ["a", "b"], "own": 0.5}
    write(folder / "seed1", whole)
    for seed in range(2, 102):
        write(folder / f"seed{seed}", json.dumps(mutant(whole, rng), default=str))
    write(tmp_path / "dtd/CoOp/rn50_16shots" / f"seed{10**20}", METRICS)
    assert main(["table", str(tmp_path)]) == 0
    assert main(["results", str(tmp_path), "--csv", str(tmp_path / "runs.csv")]) == 0
    assert main(["report", str(tmp_path)]) == 0
    assert sum("passed over" in line for line in caplog.messages) > 50


def test_logs_of_coops_own_code(tmp_path):
    folder = tmp_path / "dtd" / "CoOp" / "rn50_16shots" / "nctx16_cscFalse_ctpend" / "seed2"
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text(LOG.format("Finish training"))
    (folder / "log.txt-2021-11-21-04-20-00").write_text(LOG.format("interrupted"))  # a later try that came to nothing
    run = results.read(tmp_path).iloc[0]
    assert run[results.IDENTITY].tolist() == [
        *("few_shot", "train", "dtd", 16, "CoOp", "rn50-nctx16_cscFalse_ctpend", 2),
        "CoOp (nctx16_cscFalse_ctpend)",
    ]
    assert run.accuracy == pytest.approx(100 * 1075 / 1692) and (run.total, run.macro_f1) == (1692, 63.1)
    assert (run.train_seconds, run.backbone, run.source) == (86462, "RN50", "log.txt")


@pytest.mark.parametrize(
    "text", ["", "=> result\n* accuracy: 9.0%\n", LOG.format("interrupted"), LOG.replace("SEED", "sed")]
)
def test_logs_without_result(text, tmp_path):
    (tmp_path / "log.txt").write_text(text)
    assert results.read(tmp_path).empty


def test_a_log_beside_our_config_is_of_an_unfinished_run(tmp_path):
    (tmp_path / "log.txt").write_text(LOG.format("Finish training"))
    (tmp_path / "config.yaml").touch()
    assert results.read(tmp_path).empty


def test_what_is_unfinished(tmp_path):
    """Not what loggers keep in a run's folder or elsewhere, whose files have our names."""
    ours, wandb = (
        "TRAINER: {NAME: CoOp}\nOUTPUT_DIR: here\n",
        "TRAINER: {value: {NAME: CoOp}}\nOUTPUT_DIR: {value: x}\n",
    )
    done, begun = (tmp_path / f"dtd/CoOp/c_16shots/seed{seed}" for seed in (1, 2))
    write(done, METRICS)
    for folder, text in (
        *((done, ours), (done / "wandb/run-1/files", wandb), (done / "copy", ours)),
        *((begun, ours), (begun / "wandb/run-2/files", wandb), (begun / "copy", ours)),
        *((tmp_path / "mine", ours), (tmp_path / "wandb/run-3/files", wandb), (tmp_path / "damaged", "[")),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(text)
    assert results.unfinished(tmp_path) == {"CoOp (c)": 1, "others": 1}


def test_csv_and_parquet(tmp_path, capsys):
    write(tmp_path / "dtd" / "CoOp" / "c_16shots" / "seed1", METRICS)
    assert main(["results", str(tmp_path), "--csv", str(tmp_path / "runs.csv")]) == 0
    assert pd.read_csv(tmp_path / "runs.csv").accuracy.tolist() == [90.0]
    pytest.importorskip("pyarrow")
    assert main(["results", str(tmp_path), "--parquet", str(tmp_path / "runs.parquet")]) == 0
    assert pd.read_parquet(tmp_path / "runs.parquet").dtypes.to_dict() == results.read(tmp_path).dtypes.to_dict()
    assert main(["results", str(tmp_path)]) == 0
    assert "90.0" in capsys.readouterr().out


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        results.read(tmp_path / "nowhere")
