"""The accelerator of this machine, and what it can do.

No other file distinguishes kinds of devices. Accelerator is PyTorch's word: NVIDIA's and AMD's GPUs (both are `cuda`),
Intel's (`xpu`) and Apple's (`mps`, a single device that several processes cannot share).
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

from spos_cli.data.memory import keep_freed_memory
from spos_cli.errors import ConfigError

CPU = torch.device("cpu")
CPUINFO = Path("/proc/cpuinfo")  # exists on Linux
CAPABILITIES_WITHOUT_BF16 = ("DEFAULT", "NO AVX", "AVX2")  # CPU capabilities, by PyTorch's names


def count() -> int:
    """Count the accelerators of this machine, including those that the driver shows but this PyTorch cannot use."""
    # torch.cuda asks the driver's library without initialising CUDA, so that loader workers can still be forked.
    return torch.cuda.device_count() or (torch.accelerator.device_count() if torch.accelerator.is_available() else 0)


def get_device(index: int) -> torch.device:
    """Return the accelerator with this index; there must be one."""
    if torch.cuda.device_count():
        return torch.device("cuda", index)
    current = torch.accelerator.current_accelerator()
    assert current is not None
    return torch.device(current.type, index)


def is_usable() -> bool:
    """Return whether this PyTorch can use the accelerators."""
    return torch.cuda.is_available() if torch.cuda.device_count() else torch.accelerator.is_available()


def require_usable(devices: int | str) -> None:
    """Raise ConfigError if the settings use accelerators that the driver counts but this PyTorch cannot use."""
    gpus = count()
    if devices != "cpu" and gpus and not is_usable():
        there, them = ("is a GPU", "it") if gpus == 1 else (f"are {gpus} GPUs", "them")
        raise ConfigError(
            f"there {there}, but this PyTorch ({torch.__version__}) cannot use {them}; update the driver, install"
            " another build of PyTorch, or use --devices cpu"
        )


def select(device: torch.device) -> None:
    """Select the device that this process computes on."""
    if device.type == "cpu":
        keep_freed_memory()
    elif device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.accelerator.set_device_index(device)


def choose_transport(device: torch.device) -> str:
    """Name the library that sends tensors of a device between processes: gloo for CPUs, the vendor's for GPUs."""
    return str(dist.Backend.default_device_backend_map.get(device.type, "gloo"))


def choose_backend(device: torch.device) -> str:
    """Name the backend of a process group that sends tensors of the CPU and of a device."""
    return "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:{choose_transport(device)}"


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished all its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def time_call(device: torch.device, call: Callable[[], object]) -> float:
    """Return the seconds of a call: by the clock on a CPU, else by events of the accelerator.

    Events do not count the time that the host waits for the accelerator. It must be the selected one (`select`).
    """
    if device.type == "cpu":
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin
    event: Callable[..., Any] = torch.cuda.Event if device.type == "cuda" else torch.Event
    first, last = event(enable_timing=True), event(enable_timing=True)
    synchronize(device)  # Earlier work does not count.
    first.record()
    call()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1000


def measure_memory(device: torch.device, call: Callable[[], object]) -> int | None:
    """Make a call and return its peak memory on an accelerator, in bytes above what was in use before.

    Return None on a CPU, and where PyTorch does not count memory.
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
    """Release the memory that PyTorch keeps for later use, so that other processes can use it."""
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()


@contextlib.contextmanager
def set_convolutions(*, tf32: bool = True, benchmark: bool = False) -> Iterator[None]:
    """Set, within a `with` block, how NVIDIA's GPUs compute convolutions of float32.

    Args:
        tf32: let newer GPUs round inputs to 10 bits (TF32), which is faster.
        benchmark: time all algorithms at the first use of each shape, and take the fastest one.
    """
    with torch.backends.cudnn.flags(enabled=True, benchmark=benchmark, allow_tf32=tf32):
        yield


def pins_memory(device: torch.device) -> bool:
    """Return whether copies from page-locked memory to a device can overlap with its work."""
    return device.type in ("cuda", "xpu")


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of an accelerator, or None where PyTorch does not report them."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with contextlib.suppress(AttributeError, RuntimeError):  # PyTorch is too old, or the device does not report it.
        return int(torch.accelerator.get_memory_info(device)[0])
    return None


def choose_sum_dtype(device: torch.device) -> torch.dtype:
    """Choose the type of sums: float64 is exact up to 2 ** 53, but Apple's GPUs do not have it."""
    return torch.float32 if device.type == "mps" else torch.float64


def has_fast(device: torch.device, amp: Literal["bf16", "fp16"]) -> bool:
    """Return whether a device computes in a mixed precision natively, without emulation."""
    if device.type == "cpu":
        return amp == "bf16" and torch.backends.cpu.get_cpu_capability() not in CAPABILITIES_WITHOUT_BF16
    if amp == "fp16":
        return True
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    with contextlib.suppress(RuntimeError, TypeError):
        return bool((torch.ones(1, device=device, dtype=torch.bfloat16) + 1).item() == 2)
    return False


def has_tf32(device: torch.device) -> bool:
    """Return whether a device has TF32: faster float32 convolutions that round their inputs to 10 bits."""
    is_nvidia = device.type == "cuda" and torch.version.hip is None
    return is_nvidia and torch.cuda.get_device_capability(device) >= (8, 0)


def describe_float32(device: torch.device) -> str:
    """Return `float32 (TF32)` where convolutions round their inputs to 10 bits, else `float32`."""
    return "float32 (TF32)" if torch.backends.cudnn.allow_tf32 and has_tf32(device) else "float32"


def get_name(device: torch.device) -> str:
    """Return the vendor's name of a device, as far as it is known."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "xpu":
        return torch.xpu.get_device_name(device)
    return f"{_read_cpu_name()} GPU" if device.type == "mps" else _read_cpu_name()


def _read_cpu_name() -> str:
    """Read the name of the CPU from Linux, or return a general name."""
    with contextlib.suppress(OSError):
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or f"{platform.machine()} CPU"
