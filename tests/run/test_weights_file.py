"""Which weights a file holds for the commands that read it."""

from __future__ import annotations

import pytest
import torch

from spos_cli.config.loading import load
from spos_cli.engine import checkpoint
from spos_cli.errors import CheckpointError
from spos_cli.run.weights_file import read_weights
from tests.conftest import Spos


def test_the_moving_average_of_a_supernet_is_what_is_read(spos: Spos) -> None:
    """Against the average of the weights of every step, computed by hand."""
    settings = {"steps": 5, "ema_decay": 0.3, "checkpoint_every": 1, "keep_checkpoints": 5}
    spos.here("supernet-train", *(f"--set=supernet.{name}={value}" for name, value in settings.items()))
    folder, expected = spos.run / "supernet", {}
    for step in range(5):
        model = checkpoint.load(folder / f"step-{step + 1:08d}.pt")["model"]
        decay = min(0.3, (1 + step) / (10 + step)) if step else 0.0
        expected = {
            name: decay * expected.get(name, torch.zeros(())) + (1 - decay) * tensor for name, tensor in model.items()
        }
    weights = read_weights(folder / "last.pt")
    supernet = weights.supernet(load(spos.folder / "spos.yaml"))
    for name, tensor in supernet.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)
        else:
            assert tensor == model[name]
    assert not torch.allclose(supernet.classifier[0].weight, model["classifier.0.weight"], rtol=1e-2)
    # A broken average is an error.
    content = checkpoint.load(folder / "last.pt")
    for broken, message in ((3, "its moving average is broken"), ({"module.x": torch.zeros(1)}, "does not fit")):
        checkpoint.save(folder / "broken.pt", {**content, "ema": broken})
        with pytest.raises(CheckpointError, match=message):
            read_weights(folder / "broken.pt").supernet(load(spos.folder / "spos.yaml"))
