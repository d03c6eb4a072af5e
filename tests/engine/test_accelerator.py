"""Questions to accelerators that this machine does not have: all of them are fakes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from spos_cli.engine import accelerator
from spos_cli.engine.distributed import Processes, choose_device, count_processes
from spos_cli.engine.metrics import AccuracyMeter
from spos_cli.errors import ConfigError

CPU, CUDA, XPU, MPS = (torch.device(name) for name in ("cpu", "cuda:0", "xpu:0", "mps:0"))


@pytest.fixture(params=["xpu", "mps"])
def other(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A machine with one accelerator that is not CUDA's."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    fake = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        current_accelerator=lambda: SimpleNamespace(type=request.param),
    )
    monkeypatch.setattr(torch, "accelerator", fake)
    return str(request.param)


def test_accelerators_of_other_vendors_are_used(other: str) -> None:
    assert count_processes("auto") == 1
    assert choose_device("auto", 1, 0) == torch.device(other, 0)
    assert choose_device("cpu", 1, 0) == CPU
    accelerator.require_usable("auto")
    with pytest.raises(ConfigError, match="2 processes for 1 GPUs"):
        choose_device(2, 2, 0)


def test_without_accelerators_the_cpu_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert accelerator.count() == 0
    assert choose_device("auto", 1, 0) == CPU
    assert count_processes("auto") == 1


@pytest.mark.parametrize(
    ("device", "backend"), [(CPU, "gloo"), (CUDA, "cpu:gloo,cuda:nccl"), (XPU, "cpu:gloo,xpu:xccl")], ids=str
)
def test_the_backend_fits_the_vendor(device: torch.device, backend: str) -> None:
    assert accelerator.choose_backend(device) == backend


def test_only_apples_gpus_sum_in_float32() -> None:
    assert [accelerator.choose_sum_dtype(device) for device in (CPU, CUDA, XPU, MPS)] == [
        *[torch.float64] * 3,
        torch.float32,
    ]


def test_counts_are_exact_with_float32_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 2 ** 24, where adding 1 to a float32 changes nothing."""
    monkeypatch.setattr("spos_cli.engine.metrics.choose_sum_dtype", lambda device: torch.float32)
    meter = AccuracyMeter(CPU)
    meter.counts += 2**24
    meter.add(torch.eye(6), torch.tensor([0, 1, 2, 3, 4, 0]))
    total = meter.total(Processes(0, 1, CPU))
    assert (total.images, total.top1_count) == (2**24 + 6, 2**24 + 5)


def test_free_memory_is_none_where_pytorch_does_not_report_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "accelerator", SimpleNamespace())  # as in PyTorch 2.6
    assert accelerator.free_memory(XPU) is None


def test_a_device_has_a_name() -> None:
    assert accelerator.get_name(CPU)


def test_a_gpu_is_timed_by_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of the device surround the call, which begins when the device is idle."""
    done: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            done.append("event")

        def synchronize(self) -> None:
            done.append("waited")

        def elapsed_time(self, other: Event) -> float:
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "accelerator", SimpleNamespace(synchronize=lambda device: done.append("idle")))
    assert accelerator.time_call(CUDA, lambda: done.append("call")) == 0.25
    assert done == ["idle", "event", "call", "event", "waited"]


def test_a_cpu_is_timed_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([1.0, 1.5])
    monkeypatch.setattr(accelerator.time, "perf_counter", lambda: next(ticks))
    called: list[int] = []
    assert accelerator.time_call(CPU, lambda: called.append(1)) == 0.5
    assert called == [1]


def test_memory_of_a_call_excludes_what_was_in_use_before(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"now": 100, "peak": 900}
    memory = SimpleNamespace(
        memory_allocated=lambda device: state["now"],
        max_memory_allocated=lambda device: state["peak"],
        reset_peak_memory_stats=lambda device: state.update(peak=state["now"]),
    )
    monkeypatch.setattr(torch, "get_device_module", lambda device: memory)
    monkeypatch.setattr(torch, "accelerator", SimpleNamespace(synchronize=lambda device: None))
    assert accelerator.measure_memory(CUDA, lambda: state.update(peak=130)) == 30


def test_the_memory_of_a_cpu_is_not_measured() -> None:
    called: list[int] = []
    assert accelerator.measure_memory(CPU, lambda: called.append(1)) is None
    assert called == [1]
    accelerator.release_memory(CPU)


@pytest.mark.parametrize(
    ("hip", "capability", "expected"), [(None, (9, 0), True), (None, (7, 5), False), ("6", (9, 4), False)]
)
def test_only_newer_nvidia_gpus_have_tf32(
    monkeypatch: pytest.MonkeyPatch, hip: str | None, capability: tuple[int, int], expected: bool
) -> None:
    """AMD's GPUs are `cuda` too, and have large capability numbers."""
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert accelerator.has_tf32(CUDA) is expected
    assert accelerator.describe_float32(CUDA) == ("float32 (TF32)" if expected else "float32")
    with accelerator.set_convolutions(tf32=False):
        assert accelerator.describe_float32(CUDA) == "float32"
    assert not any(map(accelerator.has_tf32, (CPU, XPU, MPS)))


def test_convolutions_are_set_inside_the_block_only() -> None:
    flags = torch.backends.cudnn
    before = flags.benchmark, flags.allow_tf32
    with accelerator.set_convolutions(tf32=not before[1], benchmark=not before[0]):
        assert (flags.benchmark, flags.allow_tf32) == (not before[0], not before[1])
    assert (flags.benchmark, flags.allow_tf32) == before


@pytest.mark.parametrize(
    ("capability", "allowed", "expected"),
    [((8, 0), True, "float32 (TF32)"), ((8, 6), False, "float32"), ((7, 5), True, "float32")],
)
def test_float32_is_described_as_it_is_computed(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], allowed: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):
        assert accelerator.describe_float32(torch.device("cuda", 0)) == expected
        assert accelerator.describe_float32(torch.device("cpu")) == "float32"
