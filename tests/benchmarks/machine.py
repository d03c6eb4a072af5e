"""Describe the machine of a measurement, and how much others have disturbed it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from spos_cli.engine.distributed import count_usable_cores
from spos_cli.files.quoting import plural

STEAL = 7  # Position of the stolen time in the first line of /proc/stat, see proc(5).


@dataclass(frozen=True)
class Machine:
    """What a speed depends on.

    Attributes:
        processor: its model.
        cores: that this process may use.
        instructions: the widest vector instructions that PyTorch uses, such as AVX2.
        threads: of PyTorch, unless a row says otherwise.
    """

    processor: str
    cores: int
    instructions: str
    threads: int
    torch: str
    python: str

    def __str__(self) -> str:
        return (
            f"{self.processor}, {plural(self.cores, 'core')}, {self.instructions}; PyTorch {self.torch} with"
            f" {plural(self.threads, 'thread')}, Python {self.python}"
        )


def describe_machine() -> Machine:
    """Describe this machine."""
    return Machine(
        processor=find_processor(Path("/proc/cpuinfo")),
        cores=count_usable_cores(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
    )


def find_processor(cpuinfo: Path) -> str:
    """Return the model of the processor, from a file of Linux; elsewhere what Python knows."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


@dataclass(frozen=True)
class Load:
    """How busy the machine is at one moment; zeros where the system does not tell.

    Attributes:
        average: processes that wanted a core in the last minute, on average.
        stolen: time since the start of the system in which a virtual core had to wait for a real one, in ticks.
        total: all time of all cores, in ticks.
    """

    average: float
    stolen: int
    total: int

    @staticmethod
    def read(stat: Path = Path("/proc/stat")) -> Load:
        """Read the present load."""
        ticks = [int(text) for text in stat.read_text().split("\n")[0].split()[1:9]] if stat.exists() else []
        average = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        return Load(average, ticks[STEAL] if len(ticks) > STEAL else 0, sum(ticks))

    def share_stolen_since(self, before: Load) -> float:
        """Return the share of all cores' time that was stolen since an earlier moment."""
        return (self.stolen - before.stolen) / max(1, self.total - before.total)


def describe_noise(before: Load, after: Load) -> str:
    """Say how busy the machine was during a measurement."""
    return (
        f"load average {before.average:.1f} at the beginning and {after.average:.1f} at the end;"
        f" {after.share_stolen_since(before):.1%} of the time of all cores stolen"
    )
