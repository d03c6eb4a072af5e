"""`spos evaluate`: measure a weights file on the validation images."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spos_cli.engine import checkpoint
from spos_cli.engine.distributed import Processes
from spos_cli.engine.evaluation import evaluate
from spos_cli.engine.progress import track
from spos_cli.errors import CheckpointError, ConfigError
from spos_cli.models.counting import count
from spos_cli.models.network import Network
from spos_cli.models.supernet import Supernet
from spos_cli.search.evaluator import Evaluator
from spos_cli.space.architecture import Architecture, read
from spos_cli.space.cost import format_cost
from spos_cli.stages.common import Images, Run, load_state, load_supernet, only_one
from spos_cli.stages.search import decode_calibration

Forward = Callable[[Tensor], Tensor]


def find_weights(folder: Path) -> Path:
    """The one retrained model of a run folder."""
    return only_one(list(folder.glob("retrain/*/model.pt")), "model.pt", "spos retrain")


def stored_config(path: Path) -> dict[str, Any]:
    """The settings that a weights file was made with.

    Raises:
        CheckpointError: the file is torn, foreign or unsafe.
    """
    content = checkpoint.load(path)
    config = content.get("config")
    if content.get("kind") not in ("supernet", "network", "retrain") or not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a weights file of spos")
    return config


def run(run: Run, processes: Processes, weights: Path, arch: str | None, save_logits: Path | None) -> None:
    """Prints accuracy and costs; `config` of the run is the file's own where the user gave none.

    Args:
        weights: a retrained model, or a supernet's checkpoint with `arch`.
        arch: the path of the supernet to measure, a literal or a file; it is calibrated first.
        save_logits: an `.npz` to write `logits (N, classes)`, `labels (N,)` and `paths (N,)` to.

    Raises:
        SposError: the file, the architecture or the data do not allow it.
    """
    config = run.config
    images = Images(config)
    forward, architecture = load_forward(run, weights, arch, images, processes)
    val = images.val
    logits = torch.zeros(len(val) if save_logits else 0, config.space.classes)
    begin = time.monotonic()
    with track("evaluate", len(val), "images", quiet=not processes.is_main or run.as_json) as task:
        positions: list[Tensor] = []

        def pairs() -> Iterator[tuple[Tensor, Tensor]]:
            for pixels, labels, where in images.val_batches(config.search.batch_size, processes):
                positions.append(where)
                yield pixels, labels
                task.advance(len(labels) * processes.world_size)

        def keep(batch: Tensor) -> None:
            logits[positions[-1]] = batch.float().cpu()

        accuracy = evaluate(
            forward,
            pairs(),
            images.preprocess,
            processes.device,
            processes=processes,
            keep=keep if save_logits else None,
        )
    seconds = time.monotonic() - begin
    if save_logits:
        write_logits(save_logits, processes.sum(logits.to(processes.device)).cpu(), images, processes)
    if not processes.is_main:
        return
    costs = count(config.space.build())
    result = {
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "loss": accuracy.loss,
        "images": accuracy.images,
        "flops": costs.flops.of(architecture),
        "params": costs.params.of(architecture),
        "images_per_second": round(accuracy.images / seconds, 1),
    }
    run.result(result)
    rows = [
        ("weights", weights),
        ("architecture", architecture),
        ("top-1", f"{accuracy.top1:.2%}"),
        ("top-5", f"{accuracy.top5:.2%}"),
        ("loss", f"{accuracy.loss:.4f}"),
        ("images", f"{accuracy.images:,} of {val.name}"),
        ("FLOPs", format_cost(costs.flops.of(architecture))),
        ("parameters", format_cost(costs.params.of(architecture))),
        ("images per second", result["images_per_second"]),
    ]
    run.show("evaluated", ["what:", "value:"], rows)


def load_forward(
    run: Run, path: Path, arch: str | None, images: Images, processes: Processes
) -> tuple[Forward, Architecture]:
    """The network in eval mode, and its architecture."""
    content = checkpoint.load(path)
    kind, space = content.get("kind"), run.config.space.build()
    if kind == "supernet":
        if arch is None:
            raise ConfigError(f"{path} is a supernet; name the path to evaluate with --arch")
        supernet, _ = load_supernet(path, run.config)
        architecture = read(arch)
        space.validate(architecture)
        calibrate_path(run, supernet, architecture, images, processes.device)
        return lambda pixels: supernet(pixels, architecture), architecture
    if kind == "retrain":
        raise CheckpointError(f"{path} is in the middle of a retraining; evaluate the model.pt beside it")
    if arch is not None:
        raise ConfigError(f"{path} is a retrained network and has its architecture in it; leave --arch away")
    architecture = Architecture(tuple(int(choice) for choice in content["architecture"]))
    network = Network(space, architecture, bool(content["affine"]), dropout=0.0)
    load_state(network, content["model"], path)
    check_classes(content["classes"], images)
    return network.to(processes.device, memory_format=torch.channels_last).eval(), architecture  # type: ignore[call-overload]


def calibrate_path(run: Run, supernet: Supernet, arch: Architecture, images: Images, device: torch.device) -> None:
    """Gives one path the BatchNorm statistics that it has in a search."""
    search, alone = run.config.search, Processes(0, 1, device)
    with tempfile.TemporaryDirectory() as folder:
        store = decode_calibration(run, Path(folder), images, alone)
        evaluator = Evaluator(
            supernet,
            images.preprocess,
            calibration=store.images,
            calibration_batch=search.calibration_batch_size,
            images=store.images[:0],
            labels=store.labels[:0],
            batch=search.batch_size,
            device=device,
            amp=search.amp,
        )
        evaluator.calibrate(arch)


def check_classes(classes: list[str], images: Images) -> None:
    """Raises CheckpointError if the validation images have other classes than the network was trained for."""
    if tuple(classes) != images.val.classes:
        raise CheckpointError(
            f"the network was trained for {len(classes)} classes ({', '.join(classes[:3])}, ...), the images have"
            f" {len(images.val.classes)} ({', '.join(images.val.classes[:3])}, ...)"
        )


def write_logits(path: Path, logits: Tensor, images: Images, processes: Processes) -> None:
    """Writes the logits of all images, from the first process."""
    if processes.is_main:
        buffer = io.BytesIO()
        paths = np.array([images.val.path(index) for index in range(len(images.val))])
        np.savez(buffer, logits=logits.numpy(), labels=images.val.labels, paths=paths)
        checkpoint.write_atomically(path, buffer.getvalue())
