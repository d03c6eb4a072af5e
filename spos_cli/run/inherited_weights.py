"""Begin a training with weights from a file (`--init`), instead of random ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spos_cli.config.identity import portable_settings
from spos_cli.config.schema import Config
from spos_cli.engine.distributed import Processes
from spos_cli.errors import CheckpointError, RunError
from spos_cli.files.digests import file_digest
from spos_cli.models.layers import AnyBatchNorm, QuantizedConvolution
from spos_cli.models.network import Network
from spos_cli.models.skeleton import Skeleton
from spos_cli.models.supernet import Supernet
from spos_cli.official.weights import State, is_affine
from spos_cli.run.command import Run
from spos_cli.run.preparation import format_setting
from spos_cli.run.weights_file import ANY_SIZE, Weights, load_state, read_weights
from spos_cli.space.architecture import Architecture

CHOICE_TENSOR = re.compile(r"features\.(\d+)\.(\d+)\.(.+)")  # layer, choice and name in the block
CLIPPING_LEVEL = re.compile(r".+\.clipping_levels\.(\w+)")  # of a quantized convolution, see models.layers
CLASSIFIER = "classifier."
MAX_NAMED = 6  # tensors in a message


@dataclass(frozen=True)
class Inherited:
    """The weights to begin a training with.

    Attributes:
        weights: of a supernet, or of a network.
        digest: of the file.
    """

    weights: Weights
    digest: str

    @property
    def is_path(self) -> bool:
        """Whether a network gets a path of a supernet, whose BatchNorm statistics have to be calibrated."""
        return self.weights.kind == "supernet"

    def fill(self, model: Network | Supernet, config: Config, classes: Sequence[str]) -> bool:
        """Load the weights into a model; return whether its classifier keeps its new, random weights.

        It does if the images have other classes than those of the file. If the file's BatchNorm has no scale and shift,
        those of the model begin as 1 and 0, which changes no output.

        Args:
            classes: names of the classes of the images.

        Raises:
            CheckpointError: the weights are of other blocks than the model; the message names tensors.
        """
        weights, path = self.weights, self.weights.path
        self._require_same_blocks(config)
        state = dict(weights.state)
        if isinstance(model, Network) and self.is_path:
            state = select_path(state, model.arch)
        elif isinstance(model, Supernet) and not self.is_path:
            raise CheckpointError(f"{path} is a network, which is one path; name a supernet's checkpoint with --init")
        elif isinstance(model, Network) and (own := weights.find_architecture(config)) != model.arch.with_image_size(
            own.image_size
        ):
            raise CheckpointError(
                f"{path} is of the architecture {own}, not {model.arch}; leave out ARCH to go on with it"
            )
        if weights.affine and not is_affine(model.state_dict()):
            section = "retrain" if isinstance(model, Network) else "supernet"
            raise CheckpointError(f"{path} has BatchNorm with a scale and a shift; set {section}.affine: true")
        expected = model.state_dict()
        has_new_classifier = self._has_other_classes(classes) or any(
            name.startswith(CLASSIFIER) and state.get(name, tensor).shape != tensor.shape
            for name, tensor in expected.items()
        )
        if has_new_classifier:
            state |= {name: tensor for name, tensor in expected.items() if name.startswith(CLASSIFIER)}
        add_scales_and_shifts(model, state)
        if isinstance(model, Network) and self.is_path and (model.arch.widths or model.arch.outputs):
            state = cut_to_widths(expected, state)
        require_same_tensors(expected, state, path)
        load_state(model, state, path)
        return has_new_classifier

    def describe_new_classifier(self, classes: Sequence[str]) -> str:
        """Return what to say of a classifier that is not in the file."""
        return (
            f"{self.weights.path} is of other classes than the {len(classes):,} of these images, so the classifier"
            " begins with random weights"
        )

    def _require_same_blocks(self, config: Config) -> None:
        """Require that the file's space differs in classes and image sizes only, and that images are prepared alike.

        Raises:
            CheckpointError: they are not.
        """
        recorded = self.weights.config or {}
        theirs, data = (recorded.get(name) for name in ("space", "data"))
        if not isinstance(theirs, dict):
            return
        free = {**ANY_SIZE, "classes": None}
        ours = portable_settings(config)["space"]
        if {**theirs, **free} != {**ours, **free}:
            raise CheckpointError(
                f"{self.weights.path} was trained on another space than this config has; only space.classes and"
                " space.image_size (and space.image_sizes) may differ"
            )
        if not isinstance(data, dict):
            return
        prepared = portable_settings(config)["data"]
        for name in ("preset", "mean", "std"):
            if data.get(name) != prepared[name]:
                before, now = map(format_setting, (data.get(name), prepared[name]))
                raise CheckpointError(
                    f"{self.weights.path} was trained with data.{name}: {before}, not {now}; set data.{name} to"
                    f" {before}"
                )

    def _has_other_classes(self, classes: Sequence[str]) -> bool:
        """Return whether the file names its classes, and they are others."""
        named = self.weights.classes
        if self.weights.trained_on is not None:
            named = tuple(self.weights.trained_on.identity.classes)
        return bool(named) and list(named) != list(classes)


def read_inherited(path: Path, processes: Processes, run: Run) -> Inherited:
    """Read the file of `--init`, before anything in the run folder changes.

    Raises:
        CheckpointError: it is not a weights file.
        RunError: not all processes see the same file, or `--fresh` would move it.
    """
    if run.fresh and run.folder.root.resolve() in path.resolve().parents:
        raise RunError(f"--fresh moves earlier files, and {path} may be one of them; copy it out of {run.folder} first")
    weights, digest = read_weights(path), file_digest(path)
    if weights.description is not None:
        raise CheckpointError(f"{path} was exported, and is not a beginning for a training; name its model.pt")
    if not processes.agree(digest):
        raise RunError(f"not all processes see the same {path}; all machines need the same file")
    return Inherited(weights, digest)


def name_inherited(inherited: Inherited | None) -> dict[str, Any]:
    """Return what a training's identity has of `--init`, so that it is resumed with the same weights."""
    return {"init": None if inherited is None else inherited.digest}


def select_path(state: State, arch: Architecture) -> State:
    """Return the tensors of one path of a supernet, named as those of its network.

    Of the clipping levels of quantized convolutions, the path has those of its bits.
    """
    selected = {}
    for name, tensor in state.items():
        match = CHOICE_TENSOR.fullmatch(name)
        if match is None:
            selected[name] = tensor
            continue
        layer, choice, level = int(match[1]), int(match[2]), CLIPPING_LEVEL.fullmatch(name)
        is_on_path = layer < len(arch) and choice == arch[layer]
        if is_on_path and (level is None or level[1] == QuantizedConvolution.name_level(arch.options[layer].bits)):
            selected[f"features.{layer}.{match[3]}"] = tensor
    return selected


def cut_to_widths(expected: State, state: State) -> State:
    """Return tensors with the first of their channels, at most as many as expected (paper, section 3.3)."""
    return {
        name: tensor[tuple(map(slice, expected[name].shape))]
        if name in expected and tensor.dim() == expected[name].dim()
        else tensor
        for name, tensor in state.items()
    }


def add_scales_and_shifts(model: Skeleton, state: State) -> None:
    """Add a scale of 1 and a shift of 0 for each BatchNorm layer of the model that has none in `state`."""
    for name, module in model.named_modules():
        if isinstance(module, AnyBatchNorm) and module.affine:
            state.setdefault(f"{name}.weight", torch.ones_like(module.weight))
            state.setdefault(f"{name}.bias", torch.zeros_like(module.bias))


def require_same_tensors(expected: State, state: State, path: Path) -> None:
    """Raise CheckpointError if the file lacks tensors of the model, has others, or has some of another shape."""
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is not in the model" for name in state if name not in expected]
    problems += [
        f"{name} is {_describe(state[name])}, not {_describe(tensor)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        more = f"; and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
        raise CheckpointError(f"{path} does not fit the model: {'; '.join(problems[:MAX_NAMED])}{more}")


def _describe(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
