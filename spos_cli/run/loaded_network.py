"""A network from a weights file as a torch module: what `spos_cli.load` returns."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spos_cli.config import loading
from spos_cli.config.identity import without_machine
from spos_cli.config.schema import Config
from spos_cli.data.image_files import MAX_ASPECT_RATIO, Decoding, Pixels, decode, read_pil_image
from spos_cli.data.levels import EIGHT_BIT_MODES
from spos_cli.engine import accelerator
from spos_cli.engine.distributed import Processes
from spos_cli.errors import CheckpointError, DataError
from spos_cli.models.network import Network
from spos_cli.run.images import Images
from spos_cli.run.weights_file import Weights, load_state, read_weights
from spos_cli.space.architecture import Architecture

AnyImage = str | os.PathLike[str] | Image.Image | Pixels


class LoadedNetwork(Network):
    """A trained network in eval mode, with what is needed to use it: `model(model.preprocess(image))` are its logits.

    Args:
        weights: of a network.
        config: the settings that it was trained with.

    Attributes:
        classes: their names, in the order of the logits; empty if the file does not name them.

    Raises:
        CheckpointError: the weights do not fit the settings.
    """

    classes: tuple[str, ...]

    def __init__(self, weights: Weights, config: Config) -> None:
        super().__init__(config.space.build(), weights.find_architecture(config), weights.affine, dropout=0.0)
        load_state(self, weights.state, weights.path)
        self.classes = weights.find_classes(config)
        images = Images(config, Processes(0, 1, accelerator.CPU))
        self._crop, self._prepare, self._decoding = images.evaluation, images.preprocess, images.decoding
        self.to(memory_format=torch.channels_last).eval()

    @property
    def architecture(self) -> Architecture:
        """The choices and widths of the layers."""
        return self.arch

    def preprocess(self, image: AnyImage) -> Tensor:
        """Return an image as the network takes it, as in `spos evaluate`: `(1, C, S, S)`, on the network's device.

        Args:
            image: a path, an image of PIL with 8 bits per channel, or an array `(H, W, C) uint8` (RGB).

        Raises:
            DataError: the image cannot be read, or is of another kind.
            ConfigError: the file has more than 8 bits per channel, and the network was trained on images of 8 bits.
        """
        weight = next(self.parameters())
        cropped = self._crop(read_pixels(image, self._decoding))[None].to(weight.device)  # (1, C, S, S) uint8
        prepared: Tensor = self._prepare(cropped)
        return prepared.to(weight.dtype)


def read_pixels(image: AnyImage, decoding: Decoding) -> Pixels:
    """Return an image as `(H, W, C) uint8`: RGB, if the network takes three channels.

    Args:
        image: a path, an image of PIL, or such an array.
        decoding: how files become pixels; an image of PIL is turned upright by its EXIF, too.

    Raises:
        DataError: it cannot be read, is of another kind, has no pixels, or is far too long for its width.
    """
    if isinstance(image, str | os.PathLike):
        return decode(Path(image), decoding)
    if isinstance(image, Image.Image):
        if image.mode not in EIGHT_BIT_MODES:
            raise DataError(f"an image of mode {image.mode} does not have 8 bits per channel; pass its path")
        mode = image.mode
        try:
            image = read_pil_image(image, decoding)
        except ValueError as error:
            raise DataError(f"an image of mode {mode} cannot be used: {error}") from None
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (decoding.channels,):
        kind = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(
            f"an image must be a path, an image of PIL, or (height, width, {decoding.channels}) uint8, got {kind}"
        )
    short, long = sorted(image.shape[:2])
    if short < 1 or long > MAX_ASPECT_RATIO * short:
        raise DataError(f"an image of {image.shape[1]} x {image.shape[0]} pixels cannot be used")
    return image


def load_network(path: Path, config: str | None) -> LoadedNetwork:
    """Return the network of a weights file, of `spos` or of the official code. No code from the file is run.

    Args:
        path: the file.
        config: a YAML file or a recipe: the settings of official weights (None: as without `--config`), and the blocks
            of your own that a file of `spos` may name.

    Raises:
        CheckpointError: the file is missing, torn, or not a network.
        ConfigError: the settings in it are wrong, or name blocks that `config` does not.
    """
    weights = read_weights(path)
    if weights.description is not None:
        raise CheckpointError(f"{path} was exported; load it with its own runtime, or name its model.pt here")
    if weights.kind != "network":
        raise CheckpointError(
            f"{path} is a supernet, not a network; write one of its paths as a network with spos export-arch --weights"
            " FILE --arch ARCH"
        )
    if weights.config is None:
        return LoadedNetwork(weights, loading.load(loading.find_config(config)))
    origin = f"the settings in {path}"
    settings = loading.validate(without_machine(weights.config), origin=origin)
    if settings.own_blocks:
        settings.require_known_blocks(loading.load(loading.find_config(config)).own_blocks, origin)
    return LoadedNetwork(weights, settings)
