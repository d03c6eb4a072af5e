"""Write and read the tensors of an exported network as a safetensors file."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from spos_cli.errors import CheckpointError
from spos_cli.export.description import KEY, Description, parse_description
from spos_cli.export.inference import InferenceNetwork
from spos_cli.export.packages import import_package
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.writing import write_atomically

PURPOSE, INSTALL = "a safetensors file", "spos[safetensors]"


def require_packages() -> None:
    """Raise ConfigError if a package that writes such files is missing."""
    for name in ("safetensors.torch",):
        import_package(name, PURPOSE, INSTALL)


def write(network: InferenceNetwork, description: Description, path: Path) -> None:
    """Write all tensors, and the description into the header.

    Raises:
        RunError: the file cannot be written.
    """
    safetensors = import_package("safetensors.torch", PURPOSE, INSTALL)
    tensors = {name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}
    write_atomically(path, safetensors.save(tensors, {KEY: description.to_json()}))


def read_description(path: Path) -> Description:
    """Read the description; no tensor is read.

    Raises:
        CheckpointError: the file is torn, or was not exported by spos.
    """
    safetensors = import_package("safetensors", PURPOSE, INSTALL)
    with os_errors_as(CheckpointError, f"cannot read {path}"):
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
        except safetensors.SafetensorError:
            raise CheckpointError(f"{path} is not a safetensors file, or is torn") from None
    return parse_description(metadata.get(KEY, ""), str(path))


def load(network: nn.Module, path: Path) -> None:
    """Load the tensors of a file into a network of the same architecture.

    Raises:
        CheckpointError: tensors are missing, unexpected, of another shape, or not finite.
    """
    safetensors = import_package("safetensors.torch", PURPOSE, INSTALL)
    with os_errors_as(CheckpointError, f"cannot read {path}"):
        state = safetensors.load_file(path)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise CheckpointError(f"{path} does not fit its architecture: {' '.join(lines[1:2]).strip():.200}") from None
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite")
