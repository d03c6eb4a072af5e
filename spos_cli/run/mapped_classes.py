"""Measure a network on images with other classes than its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spos_cli.data.class_map import RelabelledSet, read_class_map
from spos_cli.engine.distributed import Processes
from spos_cli.engine.metrics import Accuracy, AccuracyMeter
from spos_cli.errors import ConfigError
from spos_cli.run.images import Images
from spos_cli.run.weights_file import Weights


def map_classes(images: Images, path: Path, weights: Weights) -> SubsetMeter:
    """Give the validation images classes of the network, as a file says.

    Args:
        images: of the run; its validation images are replaced.
        path: see `read_class_map`.

    Returns:
        What measures the accuracy among the classes of the images.

    Raises:
        ConfigError: the file cannot be read or does not fit the network, or the weights are a supernet.
        DataError: a class of the images is not in the file.
    """
    if weights.kind == "supernet":
        raise ConfigError(
            f"--classes is for a network, but {weights.path} is a supernet; write a path of it as a network with spos"
            " export-arch --weights FILE --arch ARCH"
        )
    _ = images.val_identity  # It stays that of the images with their own classes, by which a training knew them.
    names, number = weights.find_classes(images.config), images.config.space.classes
    images.val = RelabelledSet(images.val, read_class_map(path), names, number)
    return SubsetMeter(images.val, images.processes.device)


class SubsetMeter:
    """Measures the accuracy among the classes of the images only: the other outputs of the network do not count.

    So it is measured where the images have some of the network's classes, as in ImageNet-A and ImageNet-R (Hendrycks et
    al., arXiv 1907.07174 and 2006.16241).

    Args:
        images: with the network's classes.
        device: of the logits.
    """

    def __init__(self, images: RelabelledSet, device: torch.device) -> None:
        present, positions = np.unique(images.labels, return_inverse=True)
        self.outputs = torch.from_numpy(present).to(device)  # (classes of the images,)
        self.labels = torch.from_numpy(positions.reshape(-1))  # (N,): indices into `outputs`
        self._meter = AccuracyMeter(device)

    def add(self, indices: Tensor, logits: Tensor) -> None:
        """Count one batch: `indices (B,)` of the images, `logits (B, classes)` on the device."""
        self._meter.add(logits[:, self.outputs], self.labels[indices].to(logits.device))

    def total(self, processes: Processes) -> Accuracy:
        """Return the counts of all processes."""
        return self._meter.total(processes)
