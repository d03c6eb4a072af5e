"""All augmentation at once: the same bytes with any workers, after a kill, and with two processes."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import Spos
from tests.forks import Fork, environment, finish_all, free_port, make_environment

pytestmark = pytest.mark.slow

WINNER = "0,1,2,3"
# Between the two trainings, every ingredient is on.
TRIVIAL = {
    "crop": "random_resized",
    "min_scale": 0.5,
    "ratio": [0.8, 1.2],
    "flip": True,
    "jitter": 0.4,
    "vertical_flip": True,
    "grayscale": 0.2,
    "trivial_augment": True,
    "erasing": 0.3,
}
RAND = {"trivial_augment": False, "rand_augment": {"ops": 2, "magnitude": 9}}
TRAINING = {"steps": 16, "checkpoint_every": 4, "log_every": 4, "accumulate": 2, "mixup": 0.2, "cutmix": 1.0}


def prepare(folder: Path, workers: int) -> Spos:
    spos = Spos(folder)
    path = folder / "spos.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["data"] |= {"augmentation": TRIVIAL, "workers": workers}
    settings["supernet"] |= TRAINING
    settings["retrain"] |= {**TRAINING, "evaluate_every": 16, "augmentation": RAND}
    path.write_text(yaml.safe_dump(settings))
    return spos


def read_results(spos: Spos) -> list[bytes]:
    """The files of both trainings that anything depends on."""
    (retrained,) = spos.run.glob("retrain/*")
    names = ("last.pt", "step-00000012.pt")
    paths = [spos.run / "supernet" / name for name in names] + [retrained / name for name in (*names, "model.pt")]
    return [path.read_bytes() for path in paths]


def kill_and_resume(spos: Spos, processes: int, command: str, *arguments: str) -> None:
    """Kill all processes after the first checkpoint, then run the same command to its end."""
    port = free_port()
    environments = [environment()]
    if processes > 1:
        environments = [environment() | make_environment(rank, processes, port) for rank in range(processes)]
    running = [Fork([command, *arguments], spos.folder, one) for one in environments]
    pattern = "supernet/last.pt" if command == "supernet-train" else "retrain/*/last.pt"
    while not list(spos.run.glob(pattern)):
        time.sleep(0.002)
        assert all(process.poll() is None for process in running), running[0].finish(60).stderr
    for process in running:
        process.send_signal(signal.SIGKILL)
    finish_all(running, 60)
    (checkpoint,) = spos.run.glob(pattern)
    assert not (checkpoint.parent / f"step-{TRAINING['steps']:08d}.pt").exists(), "it was not interrupted"
    if processes > 1:
        (first, _) = spos.together(command, *arguments, processes=processes)
    else:
        first = spos(command, *arguments)
    assert "resuming at step" in first.stderr


def test_one_process_ends_in_the_same_bytes_with_any_workers_and_after_a_kill(tmp_path: Path) -> None:
    whole = prepare(tmp_path / "whole", workers=0)
    whole("supernet-train")
    whole("retrain", WINNER)
    broken = prepare(tmp_path / "broken", workers=2)
    kill_and_resume(broken, 1, "supernet-train")
    kill_and_resume(broken, 1, "retrain", WINNER)
    assert read_results(broken) == read_results(whole)
    one = prepare(tmp_path / "one", workers=1)
    one("supernet-train")
    one("retrain", WINNER)
    assert read_results(one) == read_results(whole)
    plain = prepare(tmp_path / "plain", workers=0)
    plain("supernet-train", "--set", "supernet.mixup=null", "--set", "supernet.cutmix=null")
    loss, other = (
        json.loads((spos.run / "supernet" / "metrics.jsonl").read_text().splitlines()[-1])["loss"]
        for spos in (whole, plain)
    )
    assert loss != other


def test_two_processes_end_in_the_same_bytes_with_any_workers_and_after_a_kill(tmp_path: Path) -> None:
    whole = prepare(tmp_path / "whole", workers=0)
    whole.together("supernet-train")
    whole.together("retrain", WINNER)
    broken = prepare(tmp_path / "broken", workers=1)
    kill_and_resume(broken, 2, "supernet-train")
    kill_and_resume(broken, 2, "retrain", WINNER)
    assert read_results(broken) == read_results(whole)
