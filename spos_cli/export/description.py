"""What an exported file says of its network: architecture, classes, preparation, settings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from spos_cli.data.transforms import Normalisation, PresetName
from spos_cli.errors import ArchitectureError, CheckpointError
from spos_cli.export.inference import InputKind
from spos_cli.space.architecture import Architecture

KEY = "spos"  # the name of the description in a file
FORMAT = "spos-export-1"
MAX_CHARACTERS = 64 * 2**20  # of a description
FIELD_TYPES = {
    "architecture": list,
    "classes": list,
    "preset": str,
    "mean": list,
    "std": list,
    "image_size": int,
    "input": str,
    "quantized": bool,
    "source": str,
    "config": dict,
}


@dataclass(frozen=True)
class Description:
    """What is written into each exported file, as JSON.

    Attributes:
        architecture: of the network.
        classes: names, in the order of the logits; empty if they are not known.
        preset: how images are prepared.
        mean, std: of each channel, of pixels scaled to 0-1; empty for preset `spos`, which does not normalise.
        image_size: side of the images, in pixels.
        input: `uint8` if the file takes RGB values from 0 to 255, `float` if it takes prepared images.
        quantized: whether weights and activations have 8 bits.
        source: SHA-256 of the weights file that was exported, in hex.
        config: portable settings of the run.
        trained_size: side of the images that the network was trained on, in pixels; None if that is not known.
    """

    architecture: Architecture
    classes: tuple[str, ...]
    preset: PresetName
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    input: InputKind
    quantized: bool
    source: str
    config: dict[str, Any]
    trained_size: int | None = None

    @property
    def normalisation(self) -> Normalisation:
        """Mean and deviation of the channels."""
        return Normalisation(self.mean, self.std)

    def to_json(self) -> str:
        """Return the text that is written."""
        values = asdict(self) | {"architecture": self.architecture.to_list(), "classes": list(self.classes)}
        return json.dumps({"format": FORMAT, **values})


def parse_description(text: str | bytes, what: str) -> Description:
    """Read the text of `Description.to_json`.

    Args:
        what: names the file in messages.

    Raises:
        CheckpointError: the text is not a description.
    """
    problem = CheckpointError(f"{what} was not exported by spos, or its description is broken")
    try:
        values = json.loads(text) if len(text) <= MAX_CHARACTERS else None
    except (ValueError, RecursionError):
        raise problem from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise problem
    fits = all(type(values.get(name)) is kind for name, kind in FIELD_TYPES.items())
    fits = fits and type(values.get("trained_size")) in (int, type(None))
    if not fits or values["input"] not in ("uint8", "float") or values["preset"] not in ("spos", "standard"):
        raise problem
    if not _fits_preset(values["preset"], values["mean"], values["std"]):
        raise problem
    if not values["architecture"] or not all(isinstance(name, str) for name in values["classes"]):
        raise problem
    try:
        architecture = Architecture.from_list(values["architecture"])
    except ArchitectureError:
        raise problem from None
    fields = {name: values[name] for name in FIELD_TYPES}
    tuples = {name: tuple(values[name]) for name in ("classes", "mean", "std")}
    return Description(**fields | tuples | {"architecture": architecture}, trained_size=values.get("trained_size"))


def _fits_preset(preset: PresetName, mean: list[Any], std: list[Any]) -> bool:
    """Tell whether a preset that normalises has mean and deviation of each channel, and another one has none."""
    are_numbers = all(isinstance(number, float) for number in (*mean, *std))
    return are_numbers and len(mean) == len(std) and bool(mean) == (preset == "standard")
