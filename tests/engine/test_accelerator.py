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


def test_a_call_is_timed_by_events_and_not_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of the device stand before and after the call, which begins when nothing else is left to do."""
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
    assert accelerator.seconds_of(CUDA, lambda: done.append("call")) == 0.25
    assert done == ["idle", "event", "call", "event", "waited"]


def test_a_cpu_is_timed_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([1.0, 1.5])
    monkeypatch.setattr(accelerator.time, "perf_counter", lambda: next(ticks))
    called: list[int] = []
    assert accelerator.seconds_of(CPU, lambda: called.append(1)) == 0.5
    assert called == [1]


def test_memory_is_what_a_call_needs_beside_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"now": 100, "most": 900}
    memory = SimpleNamespace(
        memory_allocated=lambda device: state["now"],
        max_memory_allocated=lambda device: state["most"],
        reset_peak_memory_stats=lambda device: state.update(most=state["now"]),
    )
    monkeypatch.setattr(torch, "get_device_module", lambda device: memory)
    monkeypatch.setattr(torch, "accelerator", SimpleNamespace(synchronize=lambda device: None))
    assert accelerator.memory_of(CUDA, lambda: state.update(most=130)) == 30


def test_the_memory_of_a_cpu_is_not_counted() -> None:
    called: list[int] = []
    assert accelerator.memory_of(CPU, lambda: called.append(1)) is None
    assert called == [1]
    accelerator.release_memory(CPU)


@pytest.mark.parametrize(
    ("hip", "generation", "there"), [(None, (9, 0), True), (None, (7, 5), False), ("6", (9, 4), False)]
)
def test_tf32_is_of_newer_nvidia_gpus(
    monkeypatch: pytest.MonkeyPatch, hip: str | None, generation: tuple[int, int], there: bool
) -> None:
    """AMD's GPUs are `cuda`, too, and have large numbers."""
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: generation)
    assert accelerator.has_tf32(CUDA) is there
    assert accelerator.float32_name(CUDA) == ("float32 (TF32)" if there else "float32")
    with accelerator.convolutions(tf32=False):
        assert accelerator.float32_name(CUDA) == "float32"
    assert not any(map(accelerator.has_tf32, (CPU, XPU, MPS)))


def test_convolutions_are_set_for_a_while() -> None:
    flags = torch.backends.cudnn
    before = flags.benchmark, flags.allow_tf32
    with accelerator.convolutions(tf32=not before[1], benchmark=not before[0]):
        assert (flags.benchmark, flags.allow_tf32) == (not before[0], not before[1])
    assert (flags.benchmark, flags.allow_tf32) == before


@pytest.mark.parametrize(
    ("generation", "allowed", "said"),
    [((8, 0), True, "float32 (TF32)"), ((8, 6), False, "float32"), ((7, 5), True, "float32")],
)
def test_what_float32_is_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, generation: tuple[int, int], allowed: bool, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: generation)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):
        assert accelerator.float32_name(torch.device("cuda", 0)) == said
        assert accelerator.float32_name(torch.device("cpu")) == "float32"
