"""Check processes, batch sizes, shared memory, mixed precision and the compiler."""

from __future__ import annotations

import shutil

import torch

from spos_cli.config.training import TrainingConfig
from spos_cli.data.workers import shared_memory_free, shared_memory_needed
from spos_cli.doctor.finding import Finding, Findings, attempt, judge
from spos_cli.doctor.setup import Setup
from spos_cli.engine import accelerator, distributed
from spos_cli.engine.compilation import require_compiler
from spos_cli.files.quoting import plural
from spos_cli.run.images import advise_shared_memory
from spos_cli.run.output import format_bytes
from spos_cli.run.training import require_batch


def check(setup: Setup) -> Findings:
    """Check how a training would run on this machine."""
    config = setup.config
    return [
        attempt("processes", lambda: check_processes(setup)),
        attempt("supernet batch", lambda: check_batch("supernet", setup, config.supernet)),
        attempt("retrain batch", lambda: check_batch("retrain", setup, config.retrain)),
        check_shared_memory(setup),
        check_mixed_precision(setup),
        *check_compiler(setup),
    ]


def check_processes(setup: Setup) -> Finding:
    """Compare the processes, threads and devices with the cores and GPUs of this machine."""
    count, config, cores = setup.processes, setup.config, distributed.count_usable_cores()
    distributed.require_whole_launch()
    accelerator.require_usable(config.devices)
    devices = [distributed.choose_device(config.devices, count, rank) for rank in range(count)]
    gpus, on_gpus = accelerator.count(), setup.device.type != "cpu"
    names = ", ".join(map(str, devices)) if on_gpus else "cpu"
    backend = accelerator.choose_transport(setup.device).replace("nccl", "NCCL")
    each, connection = ("with", "") if count == 1 else ("each with", f", connected by {backend}")
    seen = (
        f"{plural(count, 'process', 'processes')} on {names}, {each} {plural(setup.threads, 'thread')} and"
        f" {plural(config.data.workers, 'loader worker')}{connection}; {plural(cores, 'core')} and"
        f" {plural(gpus, 'GPU')} are available"
    )
    advice = []
    if count * setup.threads > cores:
        advice.append(
            f"{count} x {setup.threads} threads compete for {plural(cores, 'core')}: lower --devices or threads until"
            f" their product is at most {cores}"
        )
    used = count if on_gpus else 0
    if gpus > used and accelerator.is_usable():
        advice.append(f"{used} of {gpus} GPUs are used: --devices auto uses all")
    if not (gpus and accelerator.is_usable()) and shutil.which("nvidia-smi"):
        advice.append(
            f"this machine has an NVIDIA driver, but PyTorch {torch.__version__} cannot use it: install a CUDA build of"
            " PyTorch that fits the driver"
        )
    return judge("processes", seen, advice)


def check_batch(section: str, setup: Setup, training: TrainingConfig) -> Finding:
    """Check that a training's global batch divides evenly among processes and passes.

    Raises:
        ConfigError: it does not, or leaves too little for BatchNorm.
    """
    each = require_batch(setup.space, training, setup.processes, section)
    passes = f" x {training.accumulate} passes" if training.accumulate > 1 else ""
    processes = plural(setup.processes, "process", "processes")
    seen = f"{training.batch_size:,} images per step = {processes}{passes} x {each:,} images"
    return Finding(f"{section} batch", "ok", seen)


def check_shared_memory(setup: Setup) -> Finding:
    """Check that batches from loader workers fit into shared memory; Docker gives a container 64 MB."""
    name, config = "shared memory", setup.config
    size = max(map(setup.batch_per_process, (config.supernet, config.retrain)))
    needed = setup.processes * shared_memory_needed(
        config.data.workers, size, setup.space.image_size, setup.space.in_channels
    )
    free = shared_memory_free()
    if not needed:
        return Finding(name, "ok", "not used, since data.workers is 0")
    if free is None:
        return Finding(name, "ok", "not checked, since this system has no /dev/shm")
    seen = (
        f"batches from the loader workers take up to {format_bytes(needed)}; {format_bytes(free)} are free in /dev/shm"
    )
    if needed <= free:
        return Finding(name, "ok", seen)
    seen += ". Batches that do not fit are sent through slower pipes"
    return Finding(name, "warn", seen, advise_shared_memory(needed))


def check_mixed_precision(setup: Setup) -> Finding:
    """Check that the device computes in the mixed precision that each stage asks for."""
    name, device = "mixed precision", setup.device
    stages = {stage: getattr(setup.config, stage).amp for stage in ("supernet", "search", "retrain")}
    used = {stage: amp for stage, amp in stages.items() if amp != "off"}
    seen = ", ".join(f"{stage} {amp}" for stage, amp in used.items()) or "off in all stages"
    fp16, bf16 = ([f"{stage}.amp" for stage, amp in used.items() if amp == kind] for kind in ("fp16", "bf16"))
    if fp16 and device.type == "cpu":
        return Finding(name, "fail", f"{seen}, but fp16 needs a GPU", f"set {' and '.join(fp16)} to bf16 or off")
    if bf16 and not accelerator.has_fast(device, "bf16"):
        advice = f"set {' and '.join(bf16)} to off, which is faster on {device}"
        return Finding(name, "warn", f"{seen}, but {device} only emulates bf16", advice)
    return Finding(name, "ok", seen)


def check_compiler(setup: Setup) -> Findings:
    """Check that there is a compiler if a stage compiles its blocks; no finding if none does."""
    stages = [stage for stage in ("supernet", "retrain") if getattr(setup.config, stage).compile == "blocks"]
    seen = f"{' and '.join(stages)} blocks"

    def find_compiler() -> Finding:
        return Finding("compiler", "ok", f"{seen}, compiled by {require_compiler(setup.device)}")

    return [attempt("compiler", find_compiler)] if stages else []
