"""Weights & Biases and MLflow, by packages that record their calls and, where installed, by the real ones."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spos_cli.engine import mirrors
from spos_cli.engine.mirrors import Mirrors
from spos_cli.errors import ConfigError
from tests.conftest import Spos

# What the packages are asked to do, by name of the call, one line of JSON each.
FAKE_WANDB = """
import json, pathlib
CALLS = pathlib.Path(__file__).with_name("calls.jsonl")
FAILS = pathlib.Path(__file__).with_name("fails")

def note(*call):
    with CALLS.open("a") as file:
        file.write(json.dumps(call) + "\\n")

class Settings:
    def __init__(self, **settings):
        note("settings", settings)

class Run:
    def __init__(self, id):
        self.id, self.url, self.dir, self.offline = id, "https://example.org/" + id, "", False
    def define_metric(self, name, step_metric):
        note("metric", name, step_metric)
    def log(self, values):
        if FAILS.exists():
            raise RuntimeError("no route to host\\nand a page of details")
        note("log", values)
    def finish(self):
        note("finish")

def init(*, project, id, resume, name, dir, settings):
    assert pathlib.Path(dir).is_dir()
    note("init", project, id, resume, name)
    return Run(id)
"""
FAKE_MLFLOW = """
import types
from wandb import note

def get_tracking_uri():
    return "file:///nowhere"

class MlflowClient:
    def get_experiment_by_name(self, name):
        note("experiment", name)
    def create_experiment(self, name):
        return "e1"
    def create_run(self, experiment_id, run_name):
        note("create", experiment_id, run_name)
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))
    def update_run(self, run_id, status):
        note("update", run_id, status)
    def log_batch(self, run_id, metrics):
        note("batch", run_id, [[m.key, m.value, m.step] for m in metrics])
    def set_terminated(self, run_id, status):
        note("end", run_id, status)
"""
FAKE_ENTITIES = """
class Metric:
    def __init__(self, key, value, timestamp, step):
        assert type(timestamp) is int and timestamp > 10 ** 12  # milliseconds
        self.key, self.value, self.step = key, value, step
"""


class Calls:
    """What the fake packages in a folder were asked to do."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "calls.jsonl"

    def of(self, *names: str) -> list[Any]:
        """Return the arguments of the calls of these names."""
        if not self.path.exists():
            return []
        calls = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [rest for name, *rest in calls if name in names]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """Put packages on the path that record their calls."""
    folder = tmp_path / "packages"
    (folder / "mlflow").mkdir(parents=True)
    (folder / "wandb.py").write_text(FAKE_WANDB)
    (folder / "mlflow" / "__init__.py").write_text(FAKE_MLFLOW)
    (folder / "mlflow" / "entities.py").write_text(FAKE_ENTITIES)
    for name in ("wandb", "mlflow", "mlflow.entities"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for variable in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    yield Calls(folder)
    for name in ("wandb", "mlflow", "mlflow.entities"):
        sys.modules.pop(name, None)


def line(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 1.0, "top1": float("nan")}


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    folder = tmp_path / "imagenet" / "supernet"
    folder.mkdir(parents=True)
    return folder


def test_wandb_gets_each_step_once_in_one_run(stage: Path, calls: Calls) -> None:
    """The first process is killed after step 40, and resumed at step 25."""
    killed = Mirrors(["wandb"], stage, 0)
    for step in (10, 20, 30, 40):
        killed.log_metrics(line(step))
    resumed = Mirrors(["wandb"], stage, 25)
    for step in (10, 20, 30, 40, 50, 60):
        resumed.log_metrics(line(step))
    resumed.log_metrics({"step": 50, "val_top1": 0.5})
    resumed.close()
    missed = Mirrors(["wandb"], stage, 50)  # killed before the validation of step 60
    missed.log_metrics(line(60))
    missed.log_metrics({"step": 60, "val_top1": 0.75})
    assert calls.of("log") == [
        *([{"train/loss": 1.0, "step": step}] for step in (10, 20, 30, 40, 50, 60)),
        [{"val/top1": 0.5, "step": 50}],
        [{"val/top1": 0.75, "step": 60}],
    ]
    (first, second, third) = calls.of("init")
    assert first == second == third
    project, run_id, resume, name = first
    assert (project, resume, name) == ("spos", "allow", "/".join(stage.parts[-3:]))
    assert json.loads((stage / "mirrors.json").read_text()) == {
        "wandb": {"id": run_id, "steps": {"train": 60, "val": 60}}
    }
    assert calls.of("metric") == [["*", "step"]] * 3
    assert calls.of("settings")[0] == [{"console": "off", "silent": True}]
    assert len(calls.of("finish")) == 1


def test_mlflow_gets_each_step_once_in_one_run(stage: Path, calls: Calls) -> None:
    killed = Mirrors(["mlflow"], stage, 0)
    for step in (10, 20):
        killed.log_metrics(line(step))
    resumed = Mirrors(["mlflow"], stage, 10)
    for step in (10, 20, 30):
        resumed.log_metrics(line(step))
    resumed.close()
    assert calls.of("batch") == [["r1", [["train/loss", 1.0, step]]] for step in (10, 20, 30)]
    assert calls.of("experiment") == [["spos"]]
    assert calls.of("create") == [["e1", "/".join(stage.parts[-3:])]]
    assert calls.of("update", "end") == [["r1", "RUNNING"], ["r1", "FINISHED"]]


def test_the_services_own_variables_name_the_project(
    stage: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    Mirrors(["wandb", "mlflow"], stage).close()
    assert calls.of("init")[0][0] == "mine"
    assert calls.of("experiment") == [["ours"]]


def test_a_mirror_that_fails_ends_itself_only(stage: Path, calls: Calls, capfd: pytest.CaptureFixture[str]) -> None:
    both = Mirrors(["wandb", "mlflow"], stage, 0)
    both.log_metrics(line(10))
    calls.path.with_name("fails").touch()
    for step in (20, 30):
        both.log_metrics(line(step))
    both.close()
    warned = capfd.readouterr().err
    assert warned.count("cannot write to Weights & Biases: no route to host; nothing more is mirrored there") == 1
    assert "details" not in warned
    assert [step for _, ((_, _, step),) in calls.of("batch")] == [10, 20, 30]
    assert json.loads((stage / "mirrors.json").read_text())["wandb"]["steps"] == {"train": 10}
    calls.path.with_name("fails").unlink()
    again = Mirrors(["wandb"], stage, 30)
    for step in (10, 20, 30, 40):
        again.log_metrics(line(step))
    assert [values["step"] for (values,) in calls.of("log")] == [10, 20, 30, 40]  # what it has missed comes first


def test_a_service_that_cannot_be_reached_is_left_out(
    stage: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(mirrors, "_open", fail)
    left_out = Mirrors(["wandb"], stage, 0)
    left_out.log_metrics(line(10))
    left_out.close()
    assert capfd.readouterr().err.count("cannot write to Weights & Biases: ConnectionError") == 1


@pytest.mark.parametrize(
    "content", ["", "[]", '{"wandb": 3}', '{"wandb": {"id": 5, "steps": {"train": true}}}', '{"wandb": {"steps": 3}}']
)
def test_a_damaged_record_begins_another_run(stage: Path, calls: Calls, content: str) -> None:
    (stage / "mirrors.json").write_text(content)
    Mirrors(["wandb"], stage, 0).log_metrics(line(10))
    assert calls.of("log") == [[{"train/loss": 1.0, "step": 10}]]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_an_error_before_any_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda one, *rest: None if one == name else find(one, *rest))
    with pytest.raises(ConfigError, match=f"--{name} needs the package {name}.*pip install {name}"):
        mirrors.require_package(name)  # type: ignore[arg-type]
    spos = Spos(tmp_path / "work")
    assert f"pip install {name}" in spos.here("supernet-train", f"--{name}", code=2).stderr
    assert not spos.run.exists()


def test_a_training_and_a_search_are_mirrored(tmp_path: Path, calls: Calls) -> None:
    """A service that fails in the midst changes nothing in the run folder."""
    alone, mirrored = Spos(tmp_path / "alone"), Spos(tmp_path / "mirrored")
    short = ("--set", "supernet.steps=30")
    alone.here("supernet-train", *short)
    calls.path.with_name("fails").touch()
    said = mirrored.here("supernet-train", "--wandb", "--mlflow", *short)
    assert (said.stdout + said.stderr).count("cannot write to Weights & Biases") == 1
    for name in ("last.pt",):
        assert (mirrored.run / "supernet" / name).read_bytes() == (alone.run / "supernet" / name).read_bytes()
    sent = [{key: value for key, value, _ in metrics} for _, metrics in calls.of("batch")]
    lines = [json.loads(text) for text in (mirrored.run / "supernet" / "metrics.jsonl").read_text().splitlines()]
    assert [one["train/loss"] for one in sent] == [one["loss"] for one in lines]
    mirrored.here("search", "--mlflow", *short)
    generations = [metrics for _, metrics in calls.of("batch")][len(sent) :]
    assert [sorted(name for name, _, _ in one) for one in generations] == [["search/best_top1", "search/mean_top1"]] * 3
    assert [one[0][2] for one in generations] == [0, 1, 2]


@pytest.mark.filterwarnings("ignore")
def test_the_real_packages_without_a_network(
    stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 advises a data base
    for steps in ((10, 20), (10, 20, 30)):
        both = Mirrors(["wandb", "mlflow"], stage, steps[-1])
        for step in steps:
            both.log_metrics(line(step))
        both.close()
    assert "cannot write" not in capfd.readouterr().err
    record = json.loads((stage / "mirrors.json").read_text())
    assert [record[name]["steps"] for name in ("wandb", "mlflow")] == [{"train": 30}] * 2
    history = mlflow.MlflowClient().get_metric_history(record["mlflow"]["id"], "train/loss")
    assert [metric.step for metric in history] == [10, 20, 30]
    assert len(list((stage / "wandb").glob(f"*run-*-{record['wandb']['id']}"))) == 2  # two parts of one run
