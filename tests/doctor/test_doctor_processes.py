"""Processes, batches, mixed precision and compiler: each planted fault is found."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from spos_cli.doctor import processes, speed
from tests.conftest import Spos
from tests.doctor.setups import expect, make_setup


@pytest.mark.parametrize(
    ("overrides", "check", "status", "phrase"),
    [
        (["devices=3"], "supernet batch", "fail", "batch_size 32 is not divisible by 3 processes"),
        (["devices=2", "retrain.batch_size=31"], "retrain batch", "fail", "use a multiple of 2"),
        (["space.image_size=4", "supernet.batch_size=1"], "supernet batch", "fail", "raise supernet.batch_size, or"),
        (
            ["space.image_size=4", "devices=2", "retrain.accumulate=2", "retrain.batch_size=4"],
            "retrain batch",
            "fail",
            "or lower retrain.accumulate or --devices",
        ),
        (["space.image_size=4", "devices=2", "retrain.batch_size=4"], "retrain batch", "ok", "2 images"),
        (["threads=3"], "processes", "warn", "1 x 3 threads compete for 2 cores"),
        (["devices=4"], "processes", "warn", "4 x 1 threads"),
        (["supernet.amp=fp16"], "mixed precision", "fail", "set supernet.amp to bf16 or off"),
        (["retrain.amp=fp16"], "mixed precision", "fail", "fp16 needs a GPU"),
    ],
)
def test_faulty_process_settings(overrides: list[str], check: str, status: str, phrase: str) -> None:
    expect(processes.check(make_setup(*overrides)), check, status, phrase)


def test_bf16_on_a_cpu_that_emulates_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, status in (("AVX2", "warn"), ("AVX512", "ok")):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda name=capability: name)
        expect(processes.check(make_setup("search.amp=bf16")), "mixed precision", status, "search bf16")


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    expect(processes.check(make_setup("devices=auto")), "processes", "ok", "2 processes on cuda:0, cuda:1")
    expect(processes.check(make_setup("devices=3")), "processes", "fail", "3 processes for 2 GPUs")
    for devices in ("cpu", "1"):
        expect(
            processes.check(make_setup(f"devices={devices}")),
            "processes",
            "warn",
            "of 2 GPUs are used: --devices auto",
        )
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    expect(processes.check(make_setup("devices=auto", "search.amp=bf16")), "mixed precision", "warn", "cuda:0 only")


def test_a_gpu_that_this_pytorch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi" if name == "nvidia-smi" else None)
    expect(processes.check(make_setup()), "processes", "warn", "install a CUDA build")


@pytest.fixture
def old_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that there are two GPUs, with a driver that is too old for this PyTorch."""

    def refuse() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update it.")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "_lazy_init", refuse)


@pytest.mark.usefixtures("old_driver")
@pytest.mark.parametrize("devices", ["auto", "2", "1"])
def test_gpus_with_an_old_driver(spos: Spos, devices: str) -> None:
    printed = spos.here("doctor", "--devices", devices, "--json", code=2).stdout
    failed = {line["check"]: line for line in json.loads(printed) if line["status"] == "fail"}
    assert set(failed) == {"processes", "self-test on cuda:0", "self-test on cuda:1", "speed"}
    assert failed["processes"]["seen"].startswith("there are 2 GPUs, but this PyTorch")
    assert failed["processes"]["advice"].startswith("update the driver")
    assert failed["speed"]["seen"] == "The NVIDIA driver on your system is too old (found version 11040)."


@pytest.mark.usefixtures("old_driver")
def test_a_cpu_training_ignores_an_old_driver() -> None:
    expect(processes.check(make_setup("devices=cpu")), "processes", "ok", "1 process on cpu")


def test_compiled_blocks_need_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "compiler" not in {finding.check for finding in processes.check(make_setup())}
    compiled = make_setup("retrain.compile=blocks")
    expect(processes.check(compiled), "compiler", "fail", "compile: blocks needs a C++ compiler on a CPU")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "g++" else None)
    monkeypatch.delenv("CXX", raising=False)
    expect(processes.check(compiled), "compiler", "ok", "retrain blocks, compiled by g++")


def test_a_batch_without_a_variance() -> None:
    """With one image of one pixel in the last layers, PyTorch would end the step with an error of its own."""
    one = make_setup("space.image_size=4", "supernet.batch_size=1", "supernet.accumulate=1", "retrain.batch_size=2")
    expect(processes.check(one), "supernet batch", "fail", "raise supernet.batch_size, or space.image_size")
    expect(processes.check(one), "retrain batch", "ok", "2 images per step")
    expect(speed.check(one), "speed", "fail", "one pixel")
