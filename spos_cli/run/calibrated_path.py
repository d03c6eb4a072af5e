"""Make a path of a supernet a network with BatchNorm statistics of its own."""

from __future__ import annotations

import torch

from spos_cli.engine.calibration import calibrate
from spos_cli.engine.distributed import Processes
from spos_cli.models.network import Network
from spos_cli.run.command import Run
from spos_cli.run.image_comparison import compare_with_supernet
from spos_cli.run.images import Images
from spos_cli.run.inherited_weights import Inherited
from spos_cli.run.search_inputs import calibration_set
from spos_cli.run.weights_file import Weights
from spos_cli.space.architecture import read


@torch.no_grad()
def build_calibrated_path(run: Run, weights: Weights, arch: str, images: Images) -> Network:
    """Return a path of a supernet, in eval mode, with the statistics that it has in a search.

    Args:
        weights: of the supernet.
        arch: a literal or a file.
        images: of the run, at the path's image size; they are read here.

    Raises:
        CheckpointError: the file is not a supernet, or is of another space.
        DataError: images are missing, broken, or of other classes.
    """
    config, one_process = run.config, Processes(0, 1, torch.device("cpu"))
    architecture = read(arch)
    supernet = weights.supernet(config)
    weights.require_same_preparation(config)
    supernet.space.validate(architecture)
    space = config.at_size(architecture.image_size).space.build()
    network = Network(space, architecture, weights.affine, dropout=0.0)
    images.check()
    compare_with_supernet(images, weights.trained_on, weights.path)
    Inherited(weights, "").fill(network, config, images.train.classes)
    with calibration_set(run, images, one_process) as calibration:
        batches = torch.split(calibration.images, calibration.batch)[: calibration.batches]
        network.to(memory_format=torch.channels_last).eval()
        calibrate(network, map(images.preprocess, batches), momentum=calibration.momentum)
    return network
