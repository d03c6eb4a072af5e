"""Read exported networks, each format with its own runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from spos_cli.config.schema import Config
from spos_cli.errors import CheckpointError, ConfigError
from spos_cli.export import executorch_file, litert_file, onnx_file, pt2_file, safetensors_file
from spos_cli.export.description import Description
from spos_cli.export.inference import InferenceNetwork
from spos_cli.export.packages import shorten
from spos_cli.models.network import Network

READERS: dict[str, Callable[[Path], Description]] = {
    ".onnx": onnx_file.read_description,
    ".pt2": pt2_file.read_description,
    ".safetensors": safetensors_file.read_description,
    ".pte": executorch_file.read_description,
    ".tflite": litert_file.read_description,
}
# A safetensors file has tensors only: `load_exported` builds its network.
RUNTIMES: dict[str, Callable[[Path], Callable[[Tensor], Tensor]]] = {
    ".onnx": onnx_file.load,
    ".pt2": pt2_file.load,
    ".pte": executorch_file.load,
    ".tflite": litert_file.load,
}


def is_exported(path: Path) -> bool:
    """Tell by its name whether a file is an exported network.

    Raises:
        ConfigError: it is a Python file, which is never run here.
    """
    if path.suffix == ".py":
        raise ConfigError(f"{path} is code, which spos does not run; name {path.with_suffix('.safetensors')} beside it")
    return path.suffix in READERS


def read_description(path: Path) -> Description:
    """Return what an exported file says of its network.

    Raises:
        CheckpointError: the file is missing, torn, of another tool, or could run code.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    return READERS[path.suffix](path)


def _report_failures(classify: Callable[[Tensor], Tensor], path: Path) -> Callable[[Tensor], Tensor]:
    """Return the same function, whose errors name the file; each runtime has exceptions of its own."""

    def run(images: Tensor) -> Tensor:
        try:
            return classify(images)
        except Exception as error:
            shape = " x ".join(map(str, images.shape))
            kind = str(images.dtype).removeprefix("torch.")
            raise CheckpointError(f"{path} cannot be run on {shape} {kind}: {shorten(error)}") from None

    return run


def load_exported(path: Path, description: Description, config: Config) -> Callable[[Tensor], Tensor]:
    """Return what computes logits `(B, classes)` of images as the file takes them, on the CPU.

    Args:
        config: the settings in the description, checked.

    Raises:
        CheckpointError: the file is torn, or its runtime does not take it.
    """
    if path.suffix in RUNTIMES:
        return _report_failures(RUNTIMES[path.suffix](path), path)
    network = Network(config.space.build(), description.architecture, dropout=0.0)
    inference = InferenceNetwork(network.eval(), description.preset, description.input, description.normalisation)
    safetensors_file.load(inference, path)
    return inference
