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
from spos_cli.search.evaluator import calibrate_path
from spos_cli.space.architecture import Architecture, parse, read
from spos_cli.space.cost import format_cost
from spos_cli.stages.common import Images, Run, load_state, only_one, supernet_of
from spos_cli.stages.search import decode_calibration

Forward = Callable[[Tensor], Tensor]


NETWORK_PARTS = {"config": dict, "model": dict, "architecture": list, "affine": bool, "classes": list}


def find_weights(folder: Path) -> Path:
    """The one retrained model of a run folder."""
    return only_one(list(folder.glob("retrain/*/model.pt")), "model.pt", "spos retrain")


def read_weights(path: Path) -> dict[str, Any]:
    """What a weights file holds; `config` in it are the settings that it was made with.

    Raises:
        CheckpointError: the file is torn, foreign or unsafe, or in the middle of a retraining.
    """
    content = checkpoint.load(path)
    kind = content.get("kind")
    if kind == "retrain":
        raise CheckpointError(f"{path} is in the middle of a retraining; evaluate the model.pt beside it")
    parts = {"config": dict, "model": dict, "step": int} if kind == "supernet" else NETWORK_PARTS
    if kind not in ("supernet", "network") or not all(isinstance(content.get(p), t) for p, t in parts.items()):
        raise CheckpointError(f"{path} is not a weights file of spos")
    return content


def run(
    run: Run, processes: Processes, path: Path, content: dict[str, Any], arch: str | None, save_logits: Path | None
) -> None:
    """Prints accuracy and costs.

    Args:
        run: its settings are those of the weights file, on the images that the user named.
        path: of the weights: a retrained model, or a supernet's checkpoint with `arch`.
        content: of that file, from `read_weights`.
        arch: the path of the supernet to measure, a literal or a file; it is calibrated first.
        save_logits: an `.npz` to write `logits (N, classes)`, `labels (N,)` and `paths (N,)` to.

    Raises:
        SposError: the file, the architecture or the data do not allow it.
    """
    config = run.config
    images = Images(config, processes)
    is_supernet = content["kind"] == "supernet"
    load = load_path if is_supernet else load_network
    forward, architecture = load(run, path, content, arch, images, processes.device)
    val = images.val
    logits = torch.zeros(len(val) if save_logits else 0, config.space.classes)
    begin = time.monotonic()
    with track("evaluate", len(val), "images", quiet=not processes.is_main or run.as_json) as task:
        positions: list[Tensor] = []

        def pairs() -> Iterator[tuple[Tensor, Tensor]]:
            for pixels, labels, where in images.val_batches(config.search.batch_size):
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
            config.search.amp if is_supernet else config.retrain.amp,
            processes,
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
        ("weights", path),
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


def load_network(
    run: Run, path: Path, content: dict[str, Any], arch: str | None, images: Images, device: torch.device
) -> tuple[Forward, Architecture]:
    """A retrained network in eval mode, and its architecture."""
    if arch is not None:
        raise ConfigError(f"{path} is a retrained network and has its architecture in it; leave --arch away")
    architecture = parse(",".join(map(str, content["architecture"])))
    network = Network(run.config.space.build(), architecture, bool(content["affine"]), dropout=0.0)
    load_state(network, content["model"], path)
    check_classes(content["classes"], images)
    return network.to(device, memory_format=torch.channels_last).eval(), architecture  # type: ignore[call-overload]


def load_path(
    run: Run, path: Path, content: dict[str, Any], arch: str | None, images: Images, device: torch.device
) -> tuple[Forward, Architecture]:
    """One path of a supernet, calibrated, in eval mode."""
    if arch is None:
        raise ConfigError(f"{path} is a supernet; name the path to evaluate with --arch")
    supernet = supernet_of(content, run.config, path)
    architecture = read(arch)
    supernet.space.validate(architecture)
    images.check()
    supernet.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    search = run.config.search
    with tempfile.TemporaryDirectory() as folder:  # the statistics that the path has in a search
        store = decode_calibration(run, Path(folder), images, Processes(0, 1, device))
        calibrate_path(
            supernet,
            architecture,
            images.preprocess,
            store.images,
            search.calibration_batch_size,
            device,
            search.amp,
        )
    return lambda pixels: supernet(pixels, architecture), architecture


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
