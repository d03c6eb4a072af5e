"""Load the network of a weights file, ready to classify images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spos_cli.engine.distributed import Processes
from spos_cli.engine.precision import Amp, autocast
from spos_cli.errors import ConfigError
from spos_cli.models.counting import count_flops_at
from spos_cli.run.command import Run
from spos_cli.run.exported_files import load_exported
from spos_cli.run.image_comparison import compare_with_supernet
from spos_cli.run.images import Images
from spos_cli.run.search_inputs import calibration_set
from spos_cli.run.weights_file import Weights
from spos_cli.search.evaluator import calibrate_paths
from spos_cli.space.architecture import Architecture, read


@dataclass(frozen=True)
class Classifier:
    """A network that classifies images.

    Attributes:
        forward: from `(B, C, H, W)` float to logits `(B, classes)`, in eval mode.
        preprocess: from `(B, C, H, W) uint8` RGB, on the device, to what `forward` takes.
        device: where the network is.
        architecture: of the network.
        classes: their names; empty if they are not known.
        amp: mixed precision of `forward`.
    """

    forward: Callable[[Tensor], Tensor]
    preprocess: Callable[[Tensor], Tensor]
    device: torch.device
    architecture: Architecture
    classes: tuple[str, ...] = ()
    amp: Amp = "off"

    @torch.inference_mode()
    def classify(self, pixels: Tensor) -> Tensor:
        """Compute logits `(B, classes)` of images `(B, C, H, W) uint8` RGB on the device."""
        with autocast(self.device, self.amp):
            return self.forward(self.preprocess(pixels))


def read_image_size(arch: str | None) -> int:
    """Return the image size of the path that `--arch` names, in pixels; 0 if it names none, or one without a size.

    The settings of a weights file already have the size of its network.
    """
    return 0 if arch is None else read(arch).image_size


def load_classifier(run: Run, weights: Weights, arch: str | None, images: Images, device: torch.device) -> Classifier:
    """Return the network of a weights file, or one path of a supernet.

    Args:
        run: its settings are those of the weights file, if it has any.
        weights: a network, ours, official or exported; or a supernet together with `arch`.
        arch: the path of the supernet, a literal or a file.
        images: of the run, at the path's image size. A path is calibrated on its training images; for a network, none
            are read.
        device: where to compute.

    Raises:
        SposError: the file, the architecture or the images do not allow it.
    """
    if weights.kind != "network" and not images.evaluated_size.is_square:
        raise ConfigError(
            f"{weights.path} works on square images only; --image-size HEIGHTxWIDTH is for the model.pt of a network"
        )
    if weights.kind == "supernet":
        return load_path(run, weights, arch, images, device)
    if arch is not None:
        raise ConfigError(f"{weights.path} is a network and has its architecture in it; do not pass --arch")
    load = load_network if weights.description is None else load_export
    return load(run, weights, images, device)


def load_network(run: Run, weights: Weights, images: Images, device: torch.device) -> Classifier:
    """Return a retrained network. Its images may have another size than those of its training."""
    network = weights.network(run.config, any_size=True)
    weights.require_same_preparation(run.config)
    if images.evaluated_size != (weights.trained_size, weights.trained_size):
        count_flops_at(network.space, network.arch, *images.evaluated_size)  # Fails now, not after all other work.
    classes = weights.find_classes(run.config)
    network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return Classifier(
        forward=network,
        preprocess=images.preprocess,
        device=device,
        architecture=network.arch,
        classes=classes,
        amp=run.config.retrain.amp,
    )


def load_export(run: Run, weights: Weights, images: Images, device: torch.device) -> Classifier:
    """Return an exported network. It runs on the CPU; only its logits come to the device."""
    description = weights.description
    assert description is not None, "the caller asks for it"
    weights.require_space(run.config)
    weights.require_same_preparation(run.config)
    run.config.space.build().validate(description.architecture)
    classify = load_exported(weights.path, description, run.config)

    def forward(inputs: Tensor) -> Tensor:
        return classify(inputs.cpu()).to(device)

    return Classifier(
        forward=forward,
        preprocess=images.preprocess if description.input == "float" else keep_pixels,
        device=device,
        architecture=description.architecture,
        classes=weights.find_classes(run.config),
    )


def keep_pixels(pixels: Tensor) -> Tensor:
    """Return images unchanged, for a network that prepares them itself."""
    return pixels


def load_path(run: Run, weights: Weights, arch: str | None, images: Images, device: torch.device) -> Classifier:
    """Return one path of a supernet, calibrated.

    The images may be others than those of the supernet, but they must have the same classes.
    """
    if arch is None:
        raise ConfigError(f"{weights.path} is a supernet; name the path to evaluate with --arch")
    supernet = weights.supernet(run.config)
    weights.require_same_preparation(run.config)
    architecture = read(arch)
    supernet.space.validate(architecture)
    images.check()
    compare_with_supernet(images, weights.trained_on, weights.path)
    supernet.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    with calibration_set(run, images, Processes(0, 1, device)) as calibration:
        path = calibrate_paths(supernet, [architecture], images.preprocess, calibration, device, run.config.search.amp)
    assert path is not None, "nothing stops it"

    def forward(pixels: Tensor) -> Tensor:
        ((_, logits),) = path.logits(pixels)
        return logits

    return Classifier(
        forward=forward,  # It has a precision of its own.
        preprocess=images.preprocess,
        device=device,
        architecture=architecture,
        classes=() if weights.trained_on is None else tuple(weights.trained_on.identity.classes),
    )
