"""MLflow: TRAIN.LOGGERS "('tensorboard', 'mlflow')". Its own environment variables say where to (MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_NAME); without them it is where MLflow writes by itself.
"""

import os
import time
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from dassl.layout import flat
from dassl.loggers.build import LOGGER_REGISTRY, package

NEEDS = ("mlflow", "mlflow-skinny")

AT_ONCE, PARAMS_AT_ONCE = 500, 100  # entries that a server takes in one request
LONGEST = 500  # characters of a parameter
PATIENCE = 10.0  # seconds that numbers wait for others


class MLflow:
    """An MLflow run, by its client: nothing in the process is set.

    Args:
        cfg: its parameters.
        run: the id of the run to continue; "": a new one.
    """

    def __init__(self, cfg: CfgNode, run: str) -> None:
        self._entities = package(NEEDS[0]).entities
        self._client: Any = package(NEEDS[0]).MlflowClient()
        self._waiting: list[Any] = []
        self._sent = time.monotonic()
        self.run = run or self._create(cfg)
        if run:
            self._client.update_run(run, status="RUNNING")

    def _create(self, cfg):
        """The id of a new run, with the config as its parameters."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "mocoop")
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        created = self._client.create_run(experiment, run_name="/".join(Path(cfg.OUTPUT_DIR).parts[-4:]))
        params = [self._entities.Param(key, str(value)[:LONGEST]) for key, value in flat(cfg).items()]
        for i in range(0, len(params), PARAMS_AT_ONCE):
            self._client.log_batch(created.info.run_id, params=params[i : i + PARAMS_AT_ONCE])
        return created.info.run_id

    def add_scalar(self, tag: str, value: float, step: int | None = None) -> None:
        """Numbers are sent some at a time."""
        self._waiting.append(self._entities.Metric(tag, float(value), int(time.time() * 1000), step or 0))
        if len(self._waiting) >= AT_ONCE or time.monotonic() - self._sent > PATIENCE:
            self._flush()

    def close(self, status: str = "FINISHED") -> None:
        self._flush()
        self._client.set_terminated(self.run, status=status)

    def abort(self, error: BaseException) -> None:
        self.close("FAILED" if isinstance(error, Exception) else "KILLED")

    def _flush(self):
        sent, self._waiting, self._sent = self._waiting, [], time.monotonic()
        if sent:
            self._client.log_batch(self.run, metrics=sent)


@LOGGER_REGISTRY.register()
def mlflow(cfg: CfgNode, log_dir: str | Path, first_step: int | None, run: str) -> MLflow:
    return MLflow(cfg, run)


mlflow.needs = NEEDS
