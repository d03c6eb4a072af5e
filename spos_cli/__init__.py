"""Single Path One-Shot neural architecture search (Guo et al., ECCV 2020, arXiv 1904.00420)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spos_cli.run.loaded_network import LoadedNetwork

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def load(weights: str | os.PathLike[str], config: str | None = None) -> LoadedNetwork:
    """Return the network of a `model.pt`, or of official weights, as a `torch.nn.Module` in eval mode.

    `model.preprocess(image)` makes its input of a path, an image of PIL or an array; `model.classes` are the names of
    the classes, and `model.architecture` is its architecture. torch is imported only now.

    Args:
        weights: the file. No code from it is run.
        config: a YAML file or a recipe, for official weights, or for blocks of your own.

    Raises:
        spos_cli.errors.SposError: the file is missing, torn, or not a network.
    """
    from pathlib import Path

    from spos_cli.run.loaded_network import load_network

    return load_network(Path(weights).expanduser(), config)
