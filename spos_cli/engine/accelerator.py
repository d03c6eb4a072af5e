"""What this machine computes on beside its CPU, and what that can do. No other file asks for kinds of devices.

PyTorch's word is accelerator: NVIDIA's and AMD's GPUs (both are `cuda`), Intel's (`xpu`) and Apple's (`mps`, which is
one device that several processes cannot share).
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from spos_cli.errors import ConfigError

CPU = torch.device("cpu")
CPUINFO = Path("/proc/cpuinfo")  # of Linux
CPUS_WITHOUT_BF16 = ("DEFAULT", "NO AVX", "AVX2")  # capabilities, as PyTorch names them


def count() -> int:
    """Count the accelerators of this machine, also those that the driver shows and this PyTorch cannot use."""
    # torch.cuda asks the driver's library and leaves CUDA itself alone, so that workers can be forked afterwards.
    return torch.cuda.device_count() or (torch.accelerator.device_count() if torch.accelerator.is_available() else 0)


def device(index: int) -> torch.device:
    """The accelerator of that index; there has to be one."""
    if torch.cuda.device_count():
        return torch.device("cuda", index)
    found = torch.accelerator.current_accelerator()
    assert found is not None
    return torch.device(found.type, index)


def is_usable() -> bool:
    """Tell whether this PyTorch can use the accelerators."""
    return torch.cuda.is_available() if torch.cuda.device_count() else torch.accelerator.is_available()


def require_usable(devices: int | str) -> None:
    """Raise ConfigError if accelerators are wanted that the driver counts, but that this PyTorch cannot use."""
    gpus = count()
    if devices != "cpu" and gpus and not is_usable():
        there, them = ("is a GPU", "it") if gpus == 1 else (f"are {gpus} GPUs", "them")
        raise ConfigError(
            f"there {there}, but this PyTorch ({torch.__version__}) cannot use {them}; update the driver, install"
            " another build of PyTorch, or use --devices cpu"
        )


def select(device: torch.device) -> None:
    """Make a device the one that this process computes on."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        torch.accelerator.set_device_index(device)


def messenger(device: torch.device) -> str:
    """Name what carries tensors of a device between processes: gloo for CPUs, for GPUs what their maker has."""
    return str(dist.Backend.default_device_backend_map.get(device.type, "gloo"))


def backend(device: torch.device) -> str:
    """Name what a process group needs for tensors of the CPU and of a device."""
    return "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:{messenger(device)}"


def synchronize(device: torch.device) -> None:
    """Wait until all that was begun on a device is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def seconds_of(device: torch.device, call: Callable[[], object]) -> float:
    """Time a call: by the events of an accelerator, which leave out how long waiting for it takes; else by the clock.

    The accelerator is the one that this process computes on (`select`).
    """
    if device.type == "cpu":
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin
    event: Callable[..., Any] = torch.cuda.Event if device.type == "cuda" else torch.Event
    first, last = event(enable_timing=True), event(enable_timing=True)
    synchronize(device)  # what was begun before does not count
    first.record()
    call()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1000


def memory_of(device: torch.device, call: Callable[[], object]) -> int | None:
    """Make a call, and tell how many bytes of an accelerator it needs at most, beside those that are in use before.

    None on a CPU, and where PyTorch does not tell.
    """
    memory = torch.get_device_module(device)
    if not hasattr(memory, "max_memory_allocated"):
        call()
        return None
    synchronize(device)
    before = memory.memory_allocated(device)
    memory.reset_peak_memory_stats(device)
    call()
    synchronize(device)
    return int(memory.max_memory_allocated(device)) - int(before)


def release_memory(device: torch.device) -> None:
    """Give back what PyTorch keeps of an accelerator's memory for later use, so that other processes can have it."""
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()


@contextlib.contextmanager
def convolutions(*, tf32: bool = True, benchmark: bool = False) -> Iterator[None]:
    """Within, NVIDIA's convolutions of float32 may round their inputs, and may be chosen by a measurement.

    Args:
        tf32: round to 10 bits, on GPUs that are faster then.
        benchmark: measure all algorithms at the first use of each shape, and take the fastest.
    """
    with torch.backends.cudnn.flags(enabled=True, benchmark=benchmark, allow_tf32=tf32):
        yield


def pins_memory(device: torch.device) -> bool:
    """Tell whether copies to a device go on beside the work if they come from page-locked memory."""
    return device.type in ("cuda", "xpu")


def free_memory(device: torch.device) -> int | None:
    """Look up the bytes that are free on an accelerator; None where PyTorch does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with contextlib.suppress(AttributeError, RuntimeError):  # an older PyTorch, or a device without an answer
        return int(torch.accelerator.get_memory_info(device)[0])
    return None


def sum_dtype(device: torch.device) -> torch.dtype:
    """The type that sums are kept in; float64 counts exactly up to 2 ** 53, but Apple's GPUs do not have it."""
    return torch.float32 if device.type == "mps" else torch.float64


def has_fast(device: torch.device, amp: Literal["bf16", "fp16"]) -> bool:
    """Tell whether a device computes in a mixed precision, and not only emulates it."""
    if device.type == "cpu":
        return amp == "bf16" and torch.backends.cpu.get_cpu_capability() not in CPUS_WITHOUT_BF16
    if amp == "fp16":
        return True
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    with contextlib.suppress(RuntimeError, TypeError):
        return bool((torch.ones(1, device=device, dtype=torch.bfloat16) + 1).item() == 2)
    return False


def has_tf32(device: torch.device) -> bool:
    """Tell whether a device's convolutions of float32 can round their inputs to 10 bits, and are faster then."""
    is_nvidia = device.type == "cuda" and torch.version.hip is None
    return is_nvidia and torch.cuda.get_device_capability(device) >= (8, 0)


def float32_name(device: torch.device) -> str:
    """Say how float32 is computed: convolutions of newer GPUs round their inputs to 10 bits, if that is allowed."""
    return "float32 (TF32)" if torch.backends.cudnn.allow_tf32 and has_tf32(device) else "float32"


def name(device: torch.device) -> str:
    """What its maker calls a device, as far as can be told."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "xpu":
        return torch.xpu.get_device_name(device)
    return f"{_cpu_name()} GPU" if device.type == "mps" else _cpu_name()


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or f"{platform.machine()} CPU"
