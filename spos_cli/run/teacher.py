"""Read the teacher of a retraining: a model.pt, an exported program, or the user's own module."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spos_cli.config import loading
from spos_cli.config.identity import without_machine
from spos_cli.config.schema import Config
from spos_cli.config.training import TeacherConfig
from spos_cli.data.loaders import images_per_pass
from spos_cli.data.transforms import IMAGENET, Normalisation, PresetName, preprocess
from spos_cli.engine import checkpoint
from spos_cli.engine.distributed import Processes
from spos_cli.engine.teacher import Teacher
from spos_cli.errors import CheckpointError, ConfigError, RunError
from spos_cli.files.digests import file_digest
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.own_code import call_own_code, shorten_reason
from spos_cli.run.images import Images
from spos_cli.run.preparation import make_normalisation
from spos_cli.run.weights_file import read_weights

EXPORTED_SUFFIX = ".pt2"
MAX_NAMED_CLASSES = 3  # in a message


class Source(NamedTuple):
    """A network that may teach.

    Attributes:
        module: in eval mode, on the CPU.
        identity: what names it: the digest of its file, or its import path and the digest of its tensors.
        preset, image_size, normalisation: how its images are prepared; None if it does not say.
    """

    module: nn.Module
    identity: dict[str, Any]
    preset: PresetName | None = None
    image_size: int | None = None
    normalisation: Normalisation | None = None


def read_teacher(config: Config, images: Images, processes: Processes) -> Teacher | None:
    """Return the teacher that `retrain.teacher` names, on the device; None if it names none.

    It classifies one batch of noise here, so that a mistake is found before the training.

    Args:
        images: of the run; the teacher must have the same classes.

    Raises:
        ConfigError: it cannot be imported, has other classes or another preset, or cannot classify a batch.
        CheckpointError: its file is missing, torn, or not a network.
        RunError: not all processes see the same teacher.
    """
    settings = config.retrain.teacher
    if settings is None:
        return None
    if settings.is_import_path:
        source = _import(settings.weights)
    elif settings.weights.endswith(EXPORTED_SUFFIX):
        source = _read_exported(Path(settings.weights))
    else:
        source = _read_network(Path(settings.weights), config, images.train.classes)
    if not processes.agree(checkpoint.fingerprint(source.identity)):
        raise RunError(f"not all processes see the same {settings.weights}; all machines need the same teacher")
    own = config.data.preset, make_normalisation(config)
    preset = choose_preset(settings, source.preset, config.data.preset)
    normalisation = source.normalisation or (own[1] if preset == config.data.preset else IMAGENET)
    module: nn.Module = source.module.to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    teacher = Teacher(
        module,
        settings.image_size or source.image_size or config.space.image_size,
        None if (preset, normalisation) == own else partial(preprocess, preset, normalisation=normalisation),
        weight=settings.weight,
        loss=settings.loss,
        temperature=settings.temperature,
        identity=source.identity,
    )
    training = config.retrain
    count = images_per_pass(training.batch_size, processes.world_size, training.accumulate)
    require_logits(teacher, config, count, processes.device)
    return teacher


def name_teacher(teacher: Teacher | None) -> dict[str, Any]:
    """Return what a training's identity has of its teacher, so that it is resumed with the same one."""
    return {"teacher": None if teacher is None else teacher.identity}


def choose_preset(settings: TeacherConfig, recorded: PresetName | None, own: PresetName) -> PresetName:
    """Return how the teacher's images are prepared.

    Args:
        recorded: what its file says, if it says so.
        own: that of the run.

    Raises:
        ConfigError: the settings contradict the file.
    """
    if recorded is not None and settings.preset not in (None, recorded):
        raise ConfigError(
            f"retrain.teacher: {settings.weights} was trained with preset {recorded}, not {settings.preset}; remove"
            " retrain.teacher.preset"
        )
    return settings.preset or recorded or own


def _read_network(path: Path, config: Config, classes: Sequence[str]) -> Source:
    """Read a network of `spos` or of the official code; an official one is of the space of the config."""
    weights = read_weights(path)
    if weights.kind != "network":
        raise CheckpointError(f"retrain.teacher: {path} is a supernet, not a network; name a model.pt")
    if weights.classes and list(weights.classes) != list(classes):
        raise ConfigError(
            f"retrain.teacher: {path} is of the classes {_list_classes(weights.classes)}, but these images have"
            f" {_list_classes(classes)}; name a teacher of the same classes"
        )
    identity = {"digest": file_digest(path)}
    if weights.config is None:
        return Source(weights.network(config).eval(), identity)
    origin = f"the settings in {path}"
    recorded = loading.validate(without_machine(weights.config), origin=origin)
    recorded.require_known_blocks(config.own_blocks, origin)
    network, data = weights.network(recorded).eval(), recorded.data
    return Source(network, identity, data.preset, recorded.space.image_size, make_normalisation(recorded))


def _list_classes(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > MAX_NAMED_CLASSES else ""
    return f"{', '.join(names[:MAX_NAMED_CLASSES])}{more} ({len(names):,})"


def _read_exported(path: Path) -> Source:
    """Read a program that `torch.export.save` has written. PyTorch may run code from it."""
    if not path.is_file():
        raise CheckpointError(f"retrain.teacher: there is no file {path}")
    with os_errors_as(CheckpointError, f"retrain.teacher: cannot read {path}"):
        digest = file_digest(path)
    logging.disable(logging.WARNING)  # PyTorch logs the traceback of what it raises.
    try:
        module = torch.export.load(path).module()
    except Exception:  # PyTorch raises almost anything for a torn file.
        raise CheckpointError(f"retrain.teacher: {path} is not a file of torch.export.save, or is torn") from None
    finally:
        logging.disable(logging.NOTSET)
    return Source(module, {"digest": digest})


def _import(path: str) -> Source:
    """Call the user's function, which returns the network."""
    module = call_own_code(path, f"retrain.teacher: cannot build {path}")
    if not isinstance(module, nn.Module):
        raise ConfigError(f"retrain.teacher: {path} returned a {type(module).__name__}, not a torch.nn.Module")
    return Source(module.eval(), {"import": path, "digest": fingerprint_tensors(module)})


def fingerprint_tensors(module: nn.Module) -> str:
    """Return the digest of a module's tensors; other values of its state have no bytes to rely on."""
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    return checkpoint.fingerprint(state)


def require_logits(teacher: Teacher, config: Config, count: int, device: torch.device) -> None:
    """Let the teacher classify one batch of noise.

    Args:
        count: images of a pass of the training.

    Raises:
        ConfigError: it fails, or its logits have another shape than the classes ask for, or are not finite, or it
            changes itself.
    """
    assert config.retrain.teacher is not None
    name, size, classes = config.retrain.teacher.weights, config.space.image_size, config.space.classes
    noise = torch.randint(
        256,
        (count, config.space.stem.in_channels, size, size),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )
    own = partial(preprocess, config.data.preset, normalisation=make_normalisation(config))
    images = (teacher.preprocess or own)(noise.to(device), None)
    before, seen = fingerprint_tensors(teacher.module), f"{count} images of {teacher.image_size} pixels"
    try:
        logits = teacher.classify(images, config.retrain.amp)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # A user's code may raise anything.
        raise ConfigError(f"retrain.teacher: {name} cannot classify {seen}: {shorten_reason(error)}") from error
    if logits.shape != (count, classes):
        raise ConfigError(
            f"retrain.teacher: {name} makes {tuple(logits.shape)} of {seen} instead of {(count, classes)}, a logit for"
            " each class of space.classes"
        )
    if not logits.isfinite().all():
        raise ConfigError(f"retrain.teacher: {name} makes logits that are not finite, with amp: {config.retrain.amp}")
    if fingerprint_tensors(teacher.module) != before:
        raise ConfigError(
            f"retrain.teacher: {name} changes its own tensors when it classifies, such as BatchNorm statistics; call"
            " eval() on the module before torch.export.export"
        )
