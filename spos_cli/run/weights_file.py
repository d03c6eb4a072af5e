"""Weights files, as the stages take them: those of `spos`, and the published ones, told apart by their content."""

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
from spos_cli.engine.trainer import FORMAT as TRAINING_FORMAT
from spos_cli.errors import ArchitectureError, CheckpointError
from spos_cli.models.network import Network
from spos_cli.models.supernet import Supernet
from spos_cli.official import weights
from spos_cli.space.architecture import Architecture

FORMAT = "spos-model-1"
PARTS: dict[str, dict[str, type]] = {
    "supernet": {"config": dict, "model": dict, "step": int},
    "network": {"config": dict, "model": dict, "architecture": list, "affine": bool, "classes": list},
}


@dataclass(frozen=True)
class Weights:
    """What a weights file holds.

    Attributes:
        path: the file.
        kind: a supernet, or the network of one architecture.
        state: its tensors, by their published names.
        config: the settings that it was made with; None in a published file.
        architecture: of the network; None where the tensors have to tell.
        classes: their names; empty where they are not known.
        step: how many updates the supernet has seen; None where that is not known.
        trained_on: the images of a supernet; None where they are not known.
    """

    path: Path
    kind: Literal["supernet", "network"]
    state: weights.State
    config: dict[str, Any] | None = None
    architecture: Architecture | None = None
    classes: tuple[str, ...] = ()
    step: int | None = None
    trained_on: TrainedOn | None = None

    @property
    def affine(self) -> bool:
        """Whether BatchNorm has a learned scale and shift."""
        return weights.is_affine(self.state)

    @property
    def is_complete(self) -> bool:
        """Whether a supernet has seen all its steps, as far as the file tells."""
        settings = self.config.get("supernet") if self.config is not None else None
        return self.step is None or not isinstance(settings, dict) or self.step == settings.get("steps")

    def supernet(self, config: Config) -> Supernet:
        """The supernet, without dropout.

        Raises:
            CheckpointError: the file holds none, or one of another space.
        """
        if self.kind != "supernet":
            raise CheckpointError(f"{self.path} is not a supernet's checkpoint, but a network's")
        self._require_space(config)
        model = Supernet(config.space.build(), self.affine, dropout=0.0)
        load_state(model, self.state, self.path)
        return model

    def network(self, config: Config) -> Network:
        """The network, without dropout; the tensors of a published one tell its architecture.

        Raises:
            CheckpointError: the file is of another space, or the network is none of it.
        """
        self._require_space(config)
        space = config.space.build()
        architecture = self.architecture
        if architecture is None:
            try:
                architecture = weights.infer_architecture(space, self.state)
            except CheckpointError as error:
                raise CheckpointError(f"{self.path}: {error}") from None
        model = Network(space, architecture, self.affine, dropout=0.0)
        load_state(model, self.state, self.path)
        return model

    def require_same_preparation(self, config: Config) -> None:
        """Raises CheckpointError if images would be prepared in another way than for the training."""
        theirs = self.config.get("data") if self.config is not None else None
        ours = portable_settings(config)["data"]
        for name, fits_all in (("preset", None), ("value_range", "auto")):  # auto: all images were of 8 bits
            if isinstance(theirs, dict) and theirs.get(name, fits_all) not in (fits_all, ours[name]):
                raise CheckpointError(
                    f"{self.path} was trained with data.{name}: {theirs[name]}, not {ours[name]}, so its scores would"
                    f" mean nothing; set data.{name} to that"
                )

    def _require_space(self, config: Config) -> None:
        if self.config is not None and self.config.get("space") != portable_settings(config)["space"]:
            raise CheckpointError(
                f"{self.path} was trained on another space than this config's; use the config of its run"
            )


def read_weights(path: Path) -> Weights:
    """Reads a supernet's checkpoint or a network, of `spos` or published.

    Raises:
        CheckpointError: the file is torn, foreign or unsafe, or in the middle of a retraining.
    """
    content = checkpoint.load(path)
    kind = content.get("kind")
    if kind == "retrain":
        raise CheckpointError(f"{path} is in the middle of a retraining; use the model.pt beside it")
    state = weights.state_of(content)
    if kind is None and state is not None:
        return Weights(path, weights.kind_of(state), state)
    if kind not in PARTS or not all(isinstance(content.get(part), of) for part, of in PARTS[kind].items()):
        raise CheckpointError(f"{path} is not a weights file of spos, nor a published one")
    if kind == "supernet":
        try:
            trained_on = TrainedOn.read(content)
        except ValueError:
            raise CheckpointError(f"{path} is not a weights file of spos: what it says of its images is none") from None
        return Weights(
            path, "supernet", content["model"], content["config"], step=content["step"], trained_on=trained_on
        )
    layers, classes = content["architecture"], content["classes"]
    try:
        architecture = Architecture.from_list(layers) if layers else None
    except ArchitectureError:
        architecture = None
    if architecture is None or not all(isinstance(name, str) for name in classes):
        raise CheckpointError(f"{path} is not a weights file of spos: its architecture or classes are none")
    return Weights(path, "network", content["model"], content["config"], architecture, tuple(classes))


def load_state(model: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Fills a model strictly.

    Raises:
        CheckpointError: tensors are missing, left over, of another shape, or not finite.
    """
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        lines = str(error).splitlines()
        raise CheckpointError(f"{path} does not fit the model: {' '.join(lines[1:2] or lines).strip():.200}") from None
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite")


def network_content(
    config: Config, architecture: Architecture, state: weights.State, classes: Sequence[str], metrics: dict[str, Any]
) -> dict[str, Any]:
    """The content of a `model.pt`: a network with all that is needed to use it."""
    space = config.space.build()
    return {
        "format": FORMAT,
        "kind": "network",
        "architecture": architecture.to_list(),
        "space": space.to_dict(),
        "affine": weights.is_affine(state),
        "classes": list(classes),
        "preprocessing": {"preset": config.data.preset, "image_size": space.image_size},
        "metrics": metrics,
        "config": portable_settings(config),
        "model": {name: tensor.contiguous() for name, tensor in state.items()},
    }


def supernet_content(config: Config, state: weights.State) -> dict[str, Any]:
    """The content of a supernet's checkpoint that can be searched, but not trained further."""
    return {
        "format": TRAINING_FORMAT,
        "kind": "supernet",
        "config": portable_settings(config),
        "step": config.supernet.steps,
        "model": {name: tensor.contiguous() for name, tensor in state.items()},
    }
