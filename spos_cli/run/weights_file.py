"""Read weights files of `spos` and of the official code, and make those of `spos`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from spos_cli.config.identity import portable_settings
from spos_cli.config.schema import Config
from spos_cli.data.identity import TrainedOn
from spos_cli.engine import checkpoint
from spos_cli.engine.checkpoint_folder import TRAINING_FORMAT
from spos_cli.engine.optim import pick_averaged_state
from spos_cli.errors import ArchitectureError, CheckpointError
from spos_cli.export.description import Description
from spos_cli.files.quoting import plural
from spos_cli.models.network import Network
from spos_cli.models.supernet import Supernet
from spos_cli.official import weights
from spos_cli.run.command import Run
from spos_cli.run.exported_files import is_exported, read_description
from spos_cli.run.folder import require_only_one
from spos_cli.run.preparation import describe_preparation, format_setting
from spos_cli.space.architecture import Architecture

NETWORK_FORMAT = "spos-model-1"
ANY_SIZE: dict[str, Any] = dict.fromkeys(("image_size", "image_sizes"))  # settings of a space that say no blocks
REQUIRED_PARTS: dict[str, dict[str, type]] = {
    "supernet": {"config": dict, "model": dict, "step": int},
    "network": {"config": dict, "model": dict, "architecture": list, "affine": bool, "classes": list},
}


@dataclass(frozen=True)
class Selection:
    """How the weights of a `best.pt` were chosen.

    Attributes:
        evaluations: during the training; these weights had the highest top-1 of them.
        images: hash of the validation images on which they were measured.
    """

    evaluations: int
    images: int

    def describe(self, images: int) -> str:
        """Say what the selection means for an accuracy.

        Args:
            images: hash of the validation images on which that accuracy is measured.
        """
        if self.evaluations == 1:
            return "of the only evaluation during the training"
        evaluations = plural(self.evaluations, "evaluation")
        if images != self.images:
            return f"as the best of {evaluations} on other validation images"
        return f"as the best of {evaluations} on these validation images, so its accuracy there is optimistic"


@dataclass(frozen=True)
class Weights:
    """What a weights file holds.

    Attributes:
        path: the file.
        kind: a supernet, the network of one architecture, or such a network that was exported to another format.
        state: its tensors, by their official names; the moving average of a supernet's training that keeps one.
        config: the settings that it was trained with; None in an official file.
        architecture: of the network; None in an official file, where the tensors tell it.
        classes: the names of the network's classes; empty if the file does not name them.
        step: the last training step of the supernet; None if the file does not say.
        trained_on: the images of the supernet; None if the file does not say which.
        selection: how the weights were chosen among those of a training; None if they are the last ones.
        description: what an exported file says of its network; it has no `state`.
    """

    path: Path
    kind: Literal["supernet", "network", "exported"]
    state: weights.State
    config: dict[str, Any] | None = None
    architecture: Architecture | None = None
    classes: tuple[str, ...] = ()
    step: int | None = None
    trained_on: TrainedOn | None = None
    selection: Selection | None = None
    description: Description | None = None

    @property
    def affine(self) -> bool:
        """Whether BatchNorm has a learned scale and shift."""
        return weights.is_affine(self.state)

    @property
    def is_complete(self) -> bool:
        """Whether the training of the supernet has ended; true if the file does not say."""
        settings = self.config.get("supernet") if self.config is not None else None
        return self.step is None or not isinstance(settings, dict) or self.step == settings.get("steps")

    def supernet(self, config: Config) -> Supernet:
        """Return the supernet, without dropout.

        Raises:
            CheckpointError: the file holds a network, or a supernet of another space.
        """
        if self.kind != "supernet":
            raise CheckpointError(f"{self.path} is a network, not a supernet's checkpoint")
        self.require_space(config)
        model = Supernet(config.space.build(), self.affine, dropout=0.0)
        load_state(model, self.state, self.path)
        return model

    @property
    def trained_size(self) -> int | None:
        """Side of the images that it was trained on, in pixels; None if the file does not say.

        Of a supernet with several image sizes, the largest one.
        """
        if self.description is not None:
            return self.description.trained_size
        space = self.config.get("space") if self.config is not None else None
        size = space.get("image_size") if isinstance(space, dict) else None
        return size if type(size) is int else None

    def find_trained_size(self, arch: Architecture) -> int | None:
        """Return the side of the images that this architecture was trained on, in pixels; None if unknown.

        Args:
            arch: of the network, or a path of the supernet.
        """
        return arch.image_size if self.kind == "supernet" and arch.image_size else self.trained_size

    def network(self, config: Config, *, any_size: bool = False) -> Network:
        """Return the network, without dropout.

        Args:
            any_size: whether the images of the config may have another size than those of the training.

        Raises:
            CheckpointError: the network is not in the space of the config, or was exported.
        """
        if self.description is not None:
            raise CheckpointError(
                f"{self.path} was exported, for spos evaluate and spos predict; name its model.pt here"
            )
        self.require_space(config, any_size=any_size)
        model = Network(config.space.build(), self.find_architecture(config), self.affine, dropout=0.0)
        load_state(model, self.state, self.path)
        return model

    def find_architecture(self, config: Config) -> Architecture:
        """Return the architecture of the network; the tensors of an official file tell it.

        Its image size is that of the config, if that has only one. If the config has several, but the file does not say
        which one the network has, it is the largest.

        Raises:
            CheckpointError: the network is not in the space of the config.
        """
        space, arch = config.space, self.architecture
        if arch is None:
            try:
                arch = weights.infer_architecture(
                    space.model_copy(update={"image_sizes": ()}).build(),
                    self.state,  # Tensors have no image size.
                )
            except CheckpointError as error:
                raise CheckpointError(f"{self.path}: {error}") from None
        if len(space.image_sizes) > 1 and arch.image_size:
            return arch
        return arch.with_image_size(space.image_size if space.image_sizes else 0)

    def find_classes(self, config: Config) -> tuple[str, ...]:
        """Return the names of the network's classes; empty if the file does not name them.

        Raises:
            CheckpointError: the network has another number of classes than the file names.
        """
        named, expected = len(self.classes), config.space.classes
        if named not in (0, expected):
            raise CheckpointError(
                f"{self.path} names {plural(named, 'class', 'classes')}, but its network has {expected}"
            )
        return self.classes

    def require_same_preparation(self, config: Config) -> None:
        """Raise CheckpointError if the config prepares images in another way than the training did."""
        theirs = self.config.get("data") if self.config is not None else None
        if not isinstance(theirs, dict):
            return
        ours = portable_settings(config)["data"]
        for name in ("preset", "mean", "std", "value_range", "exif"):
            # With "auto", all images had 8 bits, which any range leaves as they are.
            fits = theirs.get(name) == ours[name] or (name == "value_range" and theirs.get(name) == "auto")
            if not fits:
                before, now = map(format_setting, (theirs.get(name), ours[name]))
                raise CheckpointError(
                    f"{self.path} was trained with data.{name}: {before}, not {now}, so its scores would mean nothing;"
                    f" set data.{name} to {before}"
                )

    def require_space(self, config: Config, *, any_size: bool = False) -> None:
        """Raise CheckpointError if the config has another space than the file was trained on.

        Args:
            any_size: whether the images may have another size.
        """
        theirs = self.config.get("space") if self.config is not None else None
        if self.config is None or theirs == (ours := portable_settings(config)["space"]):
            return
        if not isinstance(theirs, dict) or {**theirs, **ANY_SIZE} != {**ours, **ANY_SIZE}:
            raise CheckpointError(
                f"{self.path} was trained on another space than this config has; use the config of its run"
            )
        if any_size:
            return
        before, now = map(_list_image_sizes, (theirs, ours))
        advice = {
            "supernet": "write a path of it as a network with spos export-arch --weights FILE --arch ARCH, and use that"
            " at another size",
            "exported": "export its network again with spos export-arch --image-size",
            "network": f"set space.image_size to {theirs.get('image_size')}",
        }
        if before[-1] == now[-1]:  # Only the smaller sizes differ.
            advice["supernet"] = f"set space.image_sizes to [{', '.join(map(str, before))}]"
        raise CheckpointError(
            f"{self.path} is for images of {', '.join(f'{side} x {side}' for side in before)} pixels, not of"
            f" {', '.join(f'{side} x {side}' for side in now)}; {advice[self.kind]}"
        )


def _list_image_sizes(space: dict[str, Any]) -> list[Any]:
    """Return the sides of the images in the settings of a space, which may come from a broken file."""
    sizes = space.get("image_sizes")
    return sizes if isinstance(sizes, list) and sizes else [space.get("image_size")]


def find_weights(run: Run) -> Path:
    """Return the only retrained model of a run folder.

    Raises:
        RunError: there is none, or there are several.
    """
    return require_only_one(run.folder.list_retrained_models(), "model.pt", run.command("retrain"))


def read_weights(path: Path) -> Weights:
    """Read a supernet's checkpoint or a network, of `spos` or of the official code, or an exported network.

    The suffix tells the format of an exported network; of other files the content tells what they are.

    Raises:
        CheckpointError: the file is torn, foreign or unsafe, or a checkpoint of a retraining.
        ConfigError: the package that reads this format is missing.
    """
    if is_exported(path):
        text = read_description(path)
        return Weights(path, "exported", {}, text.config, text.architecture, text.classes, description=text)
    content = checkpoint.load(path)
    kind = content.get("kind")
    if kind == "retrain":
        raise CheckpointError(f"{path} is a checkpoint of a retraining, not its result; use the model.pt beside it")
    state = weights.find_state(content)
    if kind is None and "format" not in content and state is not None:
        return Weights(path, weights.detect_kind(state), state)
    parts = REQUIRED_PARTS.get(kind, {}) if isinstance(kind, str) else {}
    broken = [name for name, part_type in parts.items() if not isinstance(content.get(name), part_type)]
    if not parts or broken:
        why = f"its {', '.join(broken)} cannot be read" if broken else weights.explain_content(content)
        why = why or "it does not say what it is"
        raise CheckpointError(f"{path} is neither a weights file of spos nor an official one: {why}")
    return _read_supernet(path, content) if kind == "supernet" else _read_network(path, content)


def _read_supernet(path: Path, content: dict[str, Any]) -> Weights:
    try:
        trained_on = TrainedOn.read(content)
    except ValueError:
        raise CheckpointError(
            f"{path} is not a weights file of spos: the record of its training images is broken"
        ) from None
    average = content.get("ema")
    if average is not None and not isinstance(average, dict):
        raise CheckpointError(f"{path} is not a weights file of spos: its moving average is broken")
    state = content["model"] if average is None else pick_averaged_state(average)
    return Weights(path, "supernet", state, content["config"], step=content["step"], trained_on=trained_on)


def _read_network(path: Path, content: dict[str, Any]) -> Weights:
    layers, classes = content["architecture"], content["classes"]
    try:
        architecture = Architecture.from_list(layers) if layers else None
    except ArchitectureError:
        architecture = None
    if architecture is None or not all(isinstance(name, str) for name in classes):
        raise CheckpointError(f"{path} is not a weights file of spos: its architecture or its classes are broken")
    return Weights(
        path,
        "network",
        content["model"],
        content["config"],
        architecture,
        tuple(classes),
        selection=read_selection(content, path),
    )


def read_selection(content: dict[str, Any], path: Path) -> Selection | None:
    """Return how the weights of a network were chosen; None if they are the last ones of a training.

    Raises:
        CheckpointError: the file does not say it in our form.
    """
    selection = content.get("selection")
    if selection is None:
        return None
    numbers = [selection.get(name) for name in ("evaluations", "images")] if isinstance(selection, dict) else [None]
    if not all(isinstance(number, int) for number in numbers):
        raise CheckpointError(f"{path} is not a weights file of spos: how its weights were chosen cannot be read")
    return Selection(*numbers)


def load_state(model: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load tensors into a model.

    Raises:
        CheckpointError: tensors are missing, unexpected, of another shape, or not finite.
    """
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        lines = str(error).splitlines()
        raise CheckpointError(f"{path} does not fit the model: {' '.join(lines[1:2] or lines).strip():.200}") from None
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite")


def make_network_content(
    config: Config, architecture: Architecture, state: weights.State, classes: Sequence[str], metrics: dict[str, Any]
) -> dict[str, Any]:
    """Return the content of a `model.pt`: a network with all that is needed to use it.

    Args:
        config: of the run; the file has the settings at the architecture's image size.
    """
    config = config.at_size(architecture.image_size)
    space = config.space.build()
    return {
        "format": NETWORK_FORMAT,
        "kind": "network",
        "architecture": architecture.to_list(),
        "space": space.to_dict(),
        "affine": weights.is_affine(state),
        "classes": list(classes),
        "preprocessing": describe_preparation(config),
        "metrics": metrics,
        "config": portable_settings(config),
        "model": {name: tensor.contiguous() for name, tensor in state.items()},
    }


def make_supernet_content(config: Config, state: weights.State) -> dict[str, Any]:
    """Return the content of a supernet's checkpoint that can be searched, but not trained further."""
    return {
        "format": TRAINING_FORMAT,
        "kind": "supernet",
        "config": portable_settings(config),
        "step": config.supernet.steps,
        "model": {name: tensor.contiguous() for name, tensor in state.items()},
    }
