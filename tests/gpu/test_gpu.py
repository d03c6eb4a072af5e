"""`make gpu` without a GPU: all checks that a CPU can run, and proof that wrong results are noticed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from spos_cli.engine import accelerator
from spos_cli.official import self_test
from tests.gpu import __main__ as gpu
from tests.gpu import checks, numbers, speed
from tests.gpu.checks import Check, Place, Rate, Setting, Wrong, find_winners, perform, require_within

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
NEED_A_GPU = {name for name in gpu.CHECKS if name.endswith(("-tf32", "-fp16"))} | {"memory", "latency-events"}


def read_results(folder: Path) -> Any:
    return json.loads((folder / "gpu.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(900)  # seconds; the machine may be busy
def test_all_checks_on_the_cpu(tmp_path: Path) -> None:
    """In a process, as a user starts it."""
    command = [sys.executable, "-m", "tests.gpu", "--cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("no accelerator found: checked itself on the CPU with small sizes")
    content = read_results(tmp_path)
    status = {one["name"]: one["status"] for one in content["checks"]}
    assert list(status) == list(gpu.CHECKS)
    assert {name for name, found in status.items() if found == "skipped"} <= NEED_A_GPU | {
        "training-compile",
        "step-compile",
    }
    assert {name for name, found in status.items() if found == "ok"}.isdisjoint(NEED_A_GPU)
    assert all(one["found"] for one in content["checks"])
    for name, found in status.items():
        assert re.search(rf"^{name} +{found} +[0-9.]+ s  .", done.stdout, re.MULTILINE), name
    ways = {(rate["what"].split(",")[0], rate["way"]) for rate in content["rates"]}
    step, candidate = "supernet step", "a candidate"
    assert {(step, way) for way in ("official", "default", "NCHW memory", "bf16", "cudnn.benchmark")} <= ways
    assert {(candidate, way) for way in ("official", "default", "bf16")} <= ways
    assert {way[0] for way in ways} >= {"training input from JPEG files", "training input from the cache"}
    assert all(rate["value"] > 0 for rate in content["rates"])
    settings = {(row["setting"], row["default"]) for row in content["defaults"]}
    assert settings >= {("memory", "channels_last"), ("cudnn.benchmark", "off"), ("amp", "off"), ("search.amp", "off")}
    assert content["machine"]["kind"] == "cpu"


def test_the_list_names_each_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == list(gpu.CHECKS)
    with pytest.raises(SystemExit):
        gpu.main(["--only", "logits"])
    assert "no check logits" in capsys.readouterr().err


def test_all_checks_fit_into_ten_minutes_on_one_gpu() -> None:
    """With one GPU, `kill-one` is skipped."""
    longest = sum(check.budget for name, check in gpu.CHECKS.items() if name != "kill-one")
    assert longest <= 600 or accelerator.count() > 1


def test_after_a_wrong_result_the_other_checks_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a device whose logits are off by a tenth, and a check that crashes."""
    right = self_test.run_self_test
    monkeypatch.setattr(
        self_test, "run_self_test", lambda device: {name: off + 0.1 for name, off in right(device).items()}
    )

    def crash(place: Place) -> str:
        raise RuntimeError("the device\nis gone")

    monkeypatch.setitem(gpu.CHECKS, "scores-float32", Check("scores-float32", "", 1, crash))
    monkeypatch.chdir(tmp_path)
    assert gpu.main(["--cpu", "--only", "logits-float32,scores-float32,latency-clock"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"logits-float32 +FAIL .* logits of the supernet.* differs by 0\.1, at most 0\.001", lines[1])
    assert re.match(r"scores-float32 +FAIL .* RuntimeError: the device is gone$", lines[2])
    assert re.match(r"latency-clock +ok ", lines[3])
    assert any("failed: logits-float32, scores-float32" in line for line in lines)
    found = read_results(tmp_path)["checks"]
    assert [one["status"] for one in found] == ["FAIL", "FAIL", "ok"]
    assert "Wrong" in found[0]["traceback"]
    assert 'raise RuntimeError("the device' in found[1]["traceback"]
    assert found[2]["traceback"] is None


def test_a_check_is_stopped_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a check that catches every Exception is stopped."""
    monkeypatch.setattr(checks, "CPU_BUDGET_FACTOR", 1)

    def endless(place: Place) -> str:
        while True:
            try:
                time.sleep(60)
            except Exception:
                continue

    result = perform(Check("endless", "", 0.2, endless), Place(CPU, tmp_path))
    assert (result.status, result.found) == ("FAIL", "not done in 0.2 s")


@pytest.fixture
def fake_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place with an accelerator that only patched functions know."""
    for name in ("synchronize", "release_memory"):
        monkeypatch.setattr(accelerator, name, lambda device: None)
    return Place(torch.device("meta"), tmp_path)


@pytest.mark.parametrize(("share", "is_right"), [(1.0, True), (1.002, False), (0.0, False), (float("nan"), False)])
def test_a_wrong_change_of_weights_is_noticed(
    share: float, is_right: bool, fake_accelerator: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_twice(kind: str, device: torch.device, *settings: object) -> numbers.Trained:
        change = torch.ones(8) * (share if device.type == "meta" else 1)
        return numbers.Trained([2.5, 2.4], change, False)

    monkeypatch.setattr(numbers, "train_twice", train_twice)
    check = Check("", "", 60, lambda place: numbers.check_trainings(numbers.PRECISIONS[0], "off", place))
    assert perform(check, fake_accelerator).status == ("ok" if is_right else "FAIL")


@pytest.mark.parametrize(("wrong", "status"), [(0, "ok"), (2, "ok"), (3, "FAIL")])
def test_too_many_wrong_outcomes_are_noticed(
    wrong: int, status: str, fake_accelerator: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, two of 2,000 outcomes may differ."""
    right = numbers.Score(torch.arange(2000).numpy() % 2 == 0, 2000, False)
    other = replace(right, top1=right.top1 & (torch.arange(2000).numpy() >= 2 * wrong))

    def score_on(device: torch.device, *settings: object) -> list[numbers.Score]:
        return [right, other if device.type == "meta" else right]

    monkeypatch.setattr(numbers, "score_on", score_on)
    check = Check("", "", 60, lambda place: numbers.check_scores(numbers.PRECISIONS[0], place))
    assert perform(check, fake_accelerator).status == status


def test_a_way_that_does_not_fit_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other ways are measured. If no way fits, the result says so."""
    right = speed.make_our_step

    def make_our_step(place: Place, way: speed.Way, batch: int) -> speed.Call:
        if fits(way):
            return right(place, way, batch)
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(speed, "make_our_step", make_our_step)
    fits = lambda way: way.amp == "off"  # noqa: E731
    place = Place(CPU, tmp_path)
    rates, skipped = speed.measure_steps(place, 64, speed.COMPILED[::2])
    assert ([rate.way for rate in rates], skipped) == (["default"], ["batch 2, bf16: does not fit"])
    fits = lambda way: False  # noqa: E731
    assert speed.measure_steps(place, 64, (speed.DEFAULT,)) == ([], ["batch 2, default: does not fit"])
    assert speed.summarize([]) == "nothing measured"


@pytest.mark.parametrize("difference", [0.2, float("nan"), float("inf")])
def test_large_differences_and_nan_are_wrong(difference: float) -> None:
    require_within("it", 0.1, 0.1)
    with pytest.raises(Wrong):
        require_within("it", difference, 0.1)


def test_a_winner_must_be_clearly_faster() -> None:
    """The fastest value of a setting wins; if it is about as fast as the default, the default stays."""
    amp = [Setting("amp", value, "off") for value in ("bf16", "fp16")]
    memory = Setting("memory", "NCHW", "channels_last")
    rates = [
        Rate("a", "default", 100, "images/s"),
        Rate("a", "bf16", 150, "images/s", amp[0]),
        Rate("a", "fp16", 160, "images/s", amp[1]),
        Rate("a", "both", 900, "images/s"),
        Rate("a", "NCHW", 102, "images/s", memory),
        Rate("b", "default", 100, "images/s"),
        Rate("b", "bf16", 50, "images/s", amp[0]),
    ]
    rows = [(row["what"], row["setting"], row["fastest_other"], row["wins"]) for row in find_winners(rates)]
    assert rows == [
        ("a", "amp", "fp16", "fp16"),
        ("a", "memory", "NCHW", "channels_last"),
        ("b", "amp", "bf16", "off"),
    ]
