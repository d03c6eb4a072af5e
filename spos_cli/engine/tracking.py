"""Send the numbers of a stage to Weights & Biases or MLflow."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping

from spos_cli.engine.mirrors import Record
from spos_cli.engine.progress import console

PROJECT = "spos"  # the project, or the experiment, unless the service's own variable names another


class WandbMirror:
    """A run of Weights & Biases. A resumed stage goes on with the same run.

    `WANDB_PROJECT`, `WANDB_ENTITY`, `WANDB_MODE=offline` and the other variables of the package say where it is.
    """

    def __init__(self, record: Record) -> None:
        import wandb

        self.record = record
        record.id = record.id or secrets.token_hex(4)
        record.write()
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=record.id,
            resume="allow",
            name=record.title,
            dir=str(record.folder),
            settings=wandb.Settings(console="off", silent=True),  # The screen is ours: it may show a dashboard.
        )
        # Numbers are drawn by our steps. The package's own may not go back, so a training could not be resumed.
        self.run.define_metric("*", step_metric="step")
        console.print(
            f"mirrored to Weights & Biases: {self.run.dir if self.run.offline else self.run.url}",
            soft_wrap=True,
            markup=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the numbers of a step, unless an earlier process has sent them."""
        if not self.record.has_earlier(step, values):
            self.run.log({**values, "step": step})
            self.record.note(step, values)

    def close(self) -> None:
        """End the run; it can be resumed."""
        self.run.finish()


class MlflowMirror:
    """A run of MLflow. A resumed stage goes on with the same run.

    `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME` and the other variables of the package say where it is.
    """

    def __init__(self, record: Record) -> None:
        import mlflow
        from mlflow.entities import Metric

        self.record, self.metric = record, Metric
        self.client = mlflow.MlflowClient()
        if record.id is not None:
            self.client.update_run(record.id, status="RUNNING")
        else:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            known = self.client.get_experiment_by_name(name)
            experiment = self.client.create_experiment(name) if known is None else known.experiment_id
            run = self.client.create_run(experiment, run_name=record.title)
            record.id = run.info.run_id
            record.write()
        console.print(
            f"mirrored to MLflow: run {record.id} at {mlflow.get_tracking_uri()}", soft_wrap=True, markup=False
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the numbers of a step, unless an earlier process has sent them."""
        if self.record.has_earlier(step, values):
            return
        now = int(1000 * time.time())  # milliseconds
        metrics = [self.metric(tag, value, now, step) for tag, value in values.items()]
        self.client.log_batch(self.record.id, metrics=metrics)
        self.record.note(step, values)

    def close(self) -> None:
        """Mark the run as finished; it can be resumed."""
        self.client.set_terminated(self.record.id, status="FINISHED")
