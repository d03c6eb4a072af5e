"""What is asked of devices that are not here: they are played."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from spos_cli.engine import accelerator
from spos_cli.engine.distributed import Processes, device_of, wanted
from spos_cli.engine.metrics import AccuracyMeter
from spos_cli.errors import ConfigError

CPU, CUDA, XPU, MPS = (torch.device(name) for name in ("cpu", "cuda:0", "xpu:0", "mps:0"))


@pytest.fixture(params=["xpu", "mps"])
def other(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A machine whose one accelerator is not CUDA's."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    fake = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        current_accelerator=lambda: SimpleNamespace(type=request.param),
    )
    monkeypatch.setattr(torch, "accelerator", fake)
    return str(request.param)


def test_another_makers_accelerator_is_used(other: str) -> None:
    assert wanted("auto") == 1
    assert device_of("auto", 1, 0) == torch.device(other, 0)
    assert device_of("cpu", 1, 0) == CPU
    accelerator.require_usable("auto")
    with pytest.raises(ConfigError, match="2 processes for 1 GPUs"):
        device_of(2, 2, 0)


def test_a_build_without_accelerators_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert accelerator.count() == 0
    assert device_of("auto", 1, 0) == CPU
    assert wanted("auto") == 1


@pytest.mark.parametrize(
    ("device", "backend"), [(CPU, "gloo"), (CUDA, "cpu:gloo,cuda:nccl"), (XPU, "cpu:gloo,xpu:xccl")], ids=str
)
def test_messages_go_by_what_the_maker_has(device: torch.device, backend: str) -> None:
    assert accelerator.backend(device) == backend


def test_only_apple_counts_in_float32() -> None:
    assert [accelerator.sum_dtype(device) for device in (CPU, CUDA, XPU, MPS)] == [*[torch.float64] * 3, torch.float32]


def test_counts_are_exact_whatever_the_sums_are_kept_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 2 ** 24, where float32 adds no ones any more."""
    monkeypatch.setattr("spos_cli.engine.metrics.sum_dtype", lambda device: torch.float32)
    meter = AccuracyMeter(CPU)
    meter.counts += 2**24
    meter.add(torch.eye(6), torch.tensor([0, 1, 2, 3, 4, 0]))
    total = meter.total(Processes(0, 1, CPU))
    assert (total.images, total.top1_count) == (2**24 + 6, 2**24 + 5)


def test_memory_is_unknown_where_pytorch_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "accelerator", SimpleNamespace())  # as in PyTorch 2.6
    assert accelerator.free_memory(XPU) is None


def test_a_device_has_a_name() -> None:
    assert accelerator.name(CPU)
