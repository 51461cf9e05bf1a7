"""W&B, MLflow and others' loggers: what they are given, that runs continue there, and that they never cost a run."""

import importlib.util
import json
import random
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import train
from dassl.config import get_cfg_default
from dassl.engine import TrainerBase
from dassl.errors import Stopped
from dassl.layout import LOGGERS
from dassl.loggers import LOGGER_REGISTRY
from dassl.loggers.tensorboard import LateWriter
from dassl.utils import load_checkpoint
from trainers.coop import CoOp

BOTH = ("TRAIN.LOGGERS", "('wandb', 'mlflow')")


class Wandb(ModuleType):
    """As much of wandb as is used, with its signatures; what it is told is in `runs`."""

    def __init__(self):
        super().__init__("wandb")
        self.run, self.runs = None, []
        self.Settings = lambda **settings: settings

    def init(self, project=None, id=None, resume=None, dir=None, name=None, config=None, settings=None):
        random.random(), np.random.rand(), torch.rand(1)
        alone = settings.get("reinit") == "create_new"
        if self.run and not alone:
            return self.run
        told = SimpleNamespace(
            project=project, id=id, resume=resume, dir=dir, config=config, rows=[], steps={}, ended=0
        )

        def finish(exit_code=None):
            told.ended, told.exit_code = 1, exit_code
            self.run = None if self.run is told else self.run

        def define_metric(name, step_metric=None):
            told.steps[name] = step_metric

        told.log = lambda data: told.rows.append(dict(data))
        told.define_metric, told.finish = define_metric, finish
        self.runs.append(told)
        self.run = self.run if alone else told
        return told

    def finish(self, exit_code=None):
        self.run.finish(exit_code)


class MLflow(ModuleType):
    """As much of mlflow as is used, with its signatures; runs by their ids are in `runs`."""

    def __init__(self):
        super().__init__("mlflow")
        self.runs, module = {}, self
        self.entities = SimpleNamespace(
            Metric=lambda key, value, timestamp, step: (key, value, step), Param=lambda key, value: (key, value)
        )

        class MlflowClient:
            def get_experiment_by_name(self, name):
                return None

            def create_experiment(self, name):
                return name

            def create_run(self, experiment_id, run_name=None):
                run_id = f"run{len(module.runs)}"
                module.runs[run_id] = SimpleNamespace(params={}, metrics=[], status="RUNNING", of=experiment_id)
                return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

            def update_run(self, run_id, status=None, name=None):
                module.runs[run_id].status = status

            def log_batch(self, run_id, metrics=(), params=()):
                assert len(params) <= 100 and len(metrics) <= 1000
                module.runs[run_id].params |= dict(params)
                module.runs[run_id].metrics += metrics

            def set_terminated(self, run_id, status=None, end_time=None):
                module.runs[run_id].status = status or "FINISHED"

        self.MlflowClient = MlflowClient


@pytest.fixture
def packages(monkeypatch):
    for module in (Wandb(), MLflow()):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return SimpleNamespace(wandb=sys.modules["wandb"], mlflow=sys.modules["mlflow"])


def weights(folder):
    return load_checkpoint(folder / "prompt_learner/model.pth.tar-3")["state_dict"]


def test_same_weights_with_and_without_and_all_figures_arrive(tmp_path, toy_run, packages):
    toy_run("CoOp", tmp_path / "plain")
    toy_run("CoOp", tmp_path / "told", *BOTH)
    plain, told = weights(tmp_path / "plain"), weights(tmp_path / "told")
    assert all(torch.equal(plain[key], told[key]) for key in plain)
    assert not (tmp_path / "plain" / LOGGERS).exists() and not (tmp_path / "told" / "tensorboard").exists()

    accuracy = json.loads((tmp_path / "told" / "metrics.json").read_text())["accuracy"]
    (run,) = packages.wandb.runs
    assert run.config["OPTIM.LR"] == 0.002 and run.ended and run.dir == str(tmp_path / "told")
    assert run.rows[-1]["test/accuracy"] == pytest.approx(accuracy) and run.rows[-1]["test/step"] == 2
    steps = [row for row in run.rows if "train/loss" in row]
    assert [row["train/step"] for row in steps] == list(range(12)) and all("train/lr" in row for row in steps)
    assert run.steps == {"train/*": "train/step", "test/*": "test/step"}
    (other,) = packages.mlflow.runs.values()
    assert other.params["OPTIM.LR"] == "0.002" and other.status == "FINISHED" and other.of == "mocoop"
    assert [step for key, _, step in other.metrics if key == "train/loss"] == list(range(12))
    assert dict((key, value) for key, value, _ in other.metrics)["test/accuracy"] == pytest.approx(accuracy)


def test_a_resumed_run_continues_there(tmp_path, toy_run, packages):
    toy_run("CoOp", tmp_path, *BOTH, "OPTIM.MAX_EPOCH", 2, "OPTIM.LR_SCHEDULER", "single_step", flags=["--no-train"])
    first = toy_run("CoOp", tmp_path, *BOTH)
    assert first.epoch == 2
    (tmp_path / "metrics.json").unlink()
    toy_run("CoOp", tmp_path, *BOTH)
    assert len({run.id for run in packages.wandb.runs}) == 1 and {run.resume for run in packages.wandb.runs} == {
        "allow"
    }
    assert list(packages.mlflow.runs) == ["run0"] and packages.mlflow.runs["run0"].status == "FINISHED"
    toy_run("CoOp", tmp_path, *BOTH, "OPTIM.LR", 0.1, flags=["--overwrite"])
    assert len({run.id for run in packages.wandb.runs}) == 2 and list(packages.mlflow.runs) == ["run0", "run1"]


def test_a_run_that_the_caller_has_open_stays_as_it_is(tmp_path, toy_run, packages):
    callers = packages.wandb.init(settings={})
    toy_run("CoOp", tmp_path, *BOTH)
    assert packages.wandb.run is callers and not callers.ended and not callers.rows
    assert packages.wandb.runs[1].ended and packages.wandb.runs[1].rows


@pytest.mark.parametrize(
    ("error", "status"),
    [(torch.OutOfMemoryError("no memory"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (Stopped(), "KILLED")],
)
def test_what_ended_a_run_is_told(error, status, tmp_path, toy_run, packages, monkeypatch):
    """And what was measured before arrives; loggers that know nothing of errors are closed."""
    closed = []

    class Plain:
        add_scalar = staticmethod(lambda *args: None)
        close = staticmethod(lambda: closed.append(True))

    def fail(trainer):
        raise error

    monkeypatch.setitem(LOGGER_REGISTRY._objects, "plain", lambda *args: Plain())
    monkeypatch.setattr(CoOp, "after_epoch", fail)
    with pytest.raises(type(error)):
        toy_run("CoOp", tmp_path, "TRAIN.LOGGERS", "('wandb', 'mlflow', 'plain')", "DATALOADER.NUM_WORKERS", 0)
    (other,) = packages.mlflow.runs.values()
    assert other.status == status and [key for key, *_ in other.metrics].count("train/loss") == 4
    assert packages.wandb.runs[0].exit_code == 1 and "train/loss" in packages.wandb.runs[0].rows[-1] and closed


def test_a_missing_package_ends_the_run_before_it_begins(tmp_path, toy_args, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert train.run(toy_args("CoOp", tmp_path / "run", "TRAIN.LOGGERS", "('mlflow',)")) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: TRAIN.LOGGERS names mlflow, which cannot be imported")
    assert error.endswith("pip install mlflow-skinny\n") and not (tmp_path / "run").exists()
    assert train.run(toy_args("CoOp", tmp_path / "run", "TRAIN.LOGGERS", "('tensorbord',)")) == 1
    assert "did you mean tensorboard" in capsys.readouterr().err


@pytest.mark.parametrize("fails", ["at first", "later"])
def test_a_logger_that_fails_costs_a_warning(fails, tmp_path, packages, caplog, monkeypatch):
    def fail(*args, **options):
        raise ConnectionError("no route to the host\nand more")

    monkeypatch.setattr(packages.mlflow.MlflowClient, "create_run" if fails == "at first" else "log_batch", fail)
    cfg = get_cfg_default()
    cfg.OUTPUT_DIR, cfg.TRAIN.LOGGERS = str(tmp_path), ("mlflow", "wandb")
    trainer = TrainerBase()
    trainer.cfg = cfg
    trainer.init_writer(tmp_path / "tensorboard", 0)
    for step in range(600):
        trainer.write_scalar("train/loss", 1.0, step)
    trainer._writer.add_image("a", None)  # TensorBoard's, which is not there
    trainer.close_writer()
    assert caplog.messages == ["mlflow fails (no route to the host): the run goes on without it"]
    assert len(packages.wandb.runs[0].rows) == 600


def test_tensorboard_alone_is_as_ever(tmp_path):
    trainer = TrainerBase()
    trainer.init_writer(tmp_path)
    assert isinstance(trainer._writer, LateWriter)
    assert {"mlflow", "tensorboard", "wandb"} <= set(LOGGER_REGISTRY.registered_names())


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_the_real_wandb(tmp_path, toy_run, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    toy_run("CoOp", tmp_path, "TRAIN.LOGGERS", "('wandb',)")
    run = json.loads((tmp_path / LOGGERS).read_text())["wandb"]
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{run}/run-{run}.wandb"))


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_the_real_mlflow(tmp_path, toy_run, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    toy_run("CoOp", tmp_path / "run", "TRAIN.LOGGERS", "('mlflow',)")
    client = mlflow.MlflowClient((tmp_path / "store").as_uri())
    run = client.get_run(json.loads((tmp_path / "run" / LOGGERS).read_text())["mlflow"])
    assert run.info.status == "FINISHED" and run.data.params["TRAINER.NAME"] == "CoOp"
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 12 and "test/accuracy" in run.data.metrics
