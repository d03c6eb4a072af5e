"""Check the run folder, its free space, and memory for the images."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn

from spos_cli.config.training import TrainingConfig
from spos_cli.data.cache import ResizedSet, free_memory
from spos_cli.doctor.finding import Finding, Findings, attempt
from spos_cli.doctor.setup import Setup
from spos_cli.engine.optim import count_averages
from spos_cli.models.network import Network
from spos_cli.models.supernet import Supernet
from spos_cli.run.output import format_bytes

TENSOR_RECORD_BYTES = 300  # about what a file needs for a tensor's name, shape and offset


def check(setup: Setup) -> Findings:
    """Check the run folder and its disk; with `data.store: ram`, also the memory."""
    folder = setup.run.folder.root.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        return [Finding("disk", "fail", f"{existing} is a file", "move it, or choose another --run-dir")]
    if not os.access(existing, os.W_OK | os.X_OK):
        return [Finding("disk", "fail", f"{existing} is not writable", "choose another --run-dir")]
    findings = [attempt("disk", lambda: check_space(setup, folder, existing))]
    if setup.config.data.store == "ram":
        findings.append(attempt("memory", lambda: check_memory(setup)))
    return findings


def check_space(setup: Setup, folder: Path, existing: Path) -> Finding:
    """Compare what a run writes with the free space.

    Args:
        folder: the run folder.
        existing: the deepest folder on the way there that exists.
    """
    parts = count_bytes(setup)
    needed, free = sum(parts.values()), shutil.disk_usage(existing).free
    listed = ", ".join(f"{name} {format_bytes(size)}" for name, size in parts.items())
    seen = f"a run needs up to {format_bytes(needed)} in {folder} ({listed}); {format_bytes(free)} are free"
    advice = (
        "free some space, choose another --run-dir, or lower supernet.keep_checkpoints, retrain.keep_checkpoints or"
        " search.calibration_images"
    )
    if free < needed:
        return Finding("disk", "fail", seen, advice)
    if free < 2 * needed:
        return Finding("disk", "warn", f"{seen}, less than twice as much", advice)
    return Finding("disk", "ok", seen)


def check_memory(setup: Setup) -> Finding:
    """Check that `data.store: ram` can hold the training images."""
    if setup.processes > 1:
        seen = f"data.store is ram, so each of {setup.processes} processes would hold all training images"
        return Finding("memory", "fail", seen, "set data.store=disk, which all processes share")
    if setup.images_error is not None:
        return Finding("memory", "ok", "not checked, since the images cannot be opened")
    if not isinstance(setup.images.to_augment, ResizedSet):
        return Finding("memory", "ok", "no more needed, since the images are in memory already")
    needed, free = setup.images.to_augment.bytes_for(np.arange(len(setup.images.train))), free_memory()
    if free is None:
        seen = f"the training images need {format_bytes(needed)}; this system does not tell how much is free"
        return Finding(
            "memory", "warn", seen, f"make sure that {format_bytes(needed)} are free, or set data.store=disk"
        )
    seen = f"the training images need {format_bytes(needed)}; {format_bytes(free)} are free"
    return Finding("memory", "ok", seen) if needed <= free else Finding("memory", "fail", seen, "set data.store=disk")


def count_bytes(setup: Setup) -> dict[str, int]:
    """Return the bytes that each stage leaves at most, with one retrained architecture."""
    config, search = setup.config, setup.config.search
    with torch.device("meta"):
        supernet = Supernet(setup.space, config.supernet.affine)
        network = Network(setup.space, setup.costs.params.most_expensive, config.retrain.affine)
    # One checkpoint more than are kept: the oldest is removed when the newest is complete.
    supernet_checkpoints, retrain_checkpoints = (
        training.keep_checkpoints + 1 for training in (config.supernet, config.retrain)
    )
    supernet_checkpoint = checkpoint_bytes(supernet, config.supernet)
    network_checkpoint = checkpoint_bytes(network, config.retrain)
    images, cached = setup.images, {}
    if config.data.store == "disk" and setup.images_error is None and isinstance(images.to_augment, ResizedSet):
        cached = {"cached images": images.to_augment.bytes_for(np.arange(len(images.train)))}
    calibration = search.calibration_images
    if setup.images_error is None:
        calibration = min(calibration, len(images.train))
    pixels = sum(side**2 for side in setup.space.image_sizes or (setup.space.image_size,))
    return {
        **cached,
        "supernet": supernet_checkpoint * supernet_checkpoints,
        "search": (count_scoring_images(setup) + calibration) * setup.space.in_channels * pixels,
        "retraining": network_checkpoint * retrain_checkpoints + state_bytes(network),
    }


def count_scoring_images(setup: Setup) -> int:
    """Return how many images the search scores candidates on, at most."""
    search = setup.config.search
    images = setup.space.classes * (setup.config.data.holdout_per_class or 0)
    if setup.config.data.holdout_share is not None and setup.can_load:
        images = len(setup.images.splits[1])
    if search.split == "val" and setup.images_error is None:
        images = len(setup.images.val)
    return min(images, search.images or images)


def checkpoint_bytes(model: nn.Module, training: TrainingConfig) -> int:
    """Return the bytes of a checkpoint: weights, what the optimizer keeps and, if any, their moving average."""
    averages = count_averages(training.optimizer, training.momentum) * sum(map(tensor_bytes, model.parameters()))
    return state_bytes(model) * (1 if training.ema_decay is None else 2) + averages


def state_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's weights and statistics in a file."""
    return sum(map(tensor_bytes, model.state_dict().values()))


def tensor_bytes(tensor: torch.Tensor) -> int:
    """Return the bytes of a tensor in a file."""
    return tensor.numel() * tensor.element_size() + TENSOR_RECORD_BYTES
