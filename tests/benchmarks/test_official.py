"""The baseline of `make bench` is the official procedure: it computes the same numbers as `spos`."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spos_cli.models.counting import count
from spos_cli.models.skeleton import initialize
from spos_cli.models.supernet import Supernet
from spos_cli.official.golden import WINNER, fill_weights
from spos_cli.search.tree import Tree
from spos_cli.space.architecture import Architecture
from spos_cli.space.sampling import CostBinSampler
from spos_cli.space.search_space import OFFICIAL_SPACE
from tests.benchmarks import official, photographs
from tests.benchmarks.calibration import list_nodes

PATHS = [WINNER, Architecture((0, 1, 2, 3) * 5), Architecture((3,) * 20)]


@pytest.fixture(scope="module")
def models() -> tuple[official.Supernet, Supernet]:
    """Both supernets with the same weights and statistics, without dropout, in float64."""
    ours = Supernet(OFFICIAL_SPACE, dropout=0.0)
    fill_weights(ours)
    theirs = official.load_weights(official.Supernet(), ours.state_dict())
    theirs.dropout.p = 0.0
    return theirs.double(), ours.double()


def make_pictures(number: int, seed: int = 0) -> Tensor:
    """Make random images `(number, 3, 224, 224)` float of whole numbers from 0 to 255."""
    return torch.randint(0, 256, (number, 3, 224, 224), generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("arch", PATHS, ids=str)
def test_logits(models: tuple[official.Supernet, Supernet], arch: Architecture, training: bool) -> None:
    theirs, ours = (model.train(training) for model in models)
    images = make_pictures(2).double()
    before = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]
    with torch.no_grad():
        expected = ours(images.contiguous(memory_format=torch.channels_last), arch)
        torch.testing.assert_close(theirs(images, arch), expected, rtol=0, atol=1e-10 * float(expected.std()))
    for model, state in zip(models, before, strict=True):
        model.load_state_dict(state)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
def test_shuffle(memory: torch.memory_format) -> None:
    features = torch.arange(2 * 6 * 4.0).reshape(2, 6, 2, 2).contiguous(memory_format=memory)
    even, odd = official.shuffle(features)
    assert torch.equal(even, features[:, ::2])
    assert torch.equal(odd, features[:, 1::2])


def test_a_step_does_not_change_other_paths() -> None:
    model = official.Supernet()
    optimizer = official.make_optimizer(model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    loss, top1, top5 = official.train_step(model, optimizer, make_pictures(2), torch.tensor([1, 2]), WINNER)
    assert loss > 0
    assert 0 <= top1 <= top5 <= 100
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    on_path = {
        name
        for name in before
        if not name.startswith("features.") or int(name.split(".")[2]) == WINNER[int(name.split(".")[1])]
    }
    assert changed == on_path


def test_momentum_batchnorm() -> None:
    """A candidate's statistics equal those of `spos` with `calibration_momentum: 0.1`."""
    ours = Supernet(OFFICIAL_SPACE)
    initialize(ours, 0)
    theirs = official.load_weights(official.Supernet(), ours.state_dict())
    data = [make_pictures(4, seed) for seed in range(3)]
    official.calibrate(theirs, WINNER, [(images, torch.zeros(4)) for images in [*data, make_pictures(4, 9)]], 3)
    with torch.no_grad():
        tree = Tree(ours, [WINNER], torch.float32)
        for images in data:
            tree.calibrate(images, 0.1)
        for node in list_nodes(tree.root):
            for branch in node.calibrations:
                for part, mean, variance in zip(branch.parts, branch.means, branch.variances, strict=True):
                    channels = slice(None) if part.unit.outputs is None else part.unit.outputs
                    part.unit.norm.running_mean[channels], part.unit.norm.running_var[channels] = mean, variance
    ours_state, theirs_state = ours.state_dict(), theirs.state_dict()
    statistics = [name for name in ours_state if name.endswith(("running_mean", "running_var"))]
    assert statistics
    for name in statistics:
        torch.testing.assert_close(theirs_state[name], ours_state[name], rtol=1e-3, atol=1e-4)


def test_accuracy() -> None:
    class Fixed(nn.Module):
        """Logits that prefer class 0, then 1, and so on."""

        def forward(self, images: Tensor, path: official.Arch) -> Tensor:
            return -torch.arange(1000.0).repeat(len(images), 1)

    loaded = [(torch.zeros(4, 1), torch.tensor([0, 0, 4, 5])), (torch.zeros(1, 1), torch.tensor([0]))]
    assert official.score(Fixed(), WINNER, loaded, 2) == pytest.approx((60, 80))


def test_costs_and_bins() -> None:
    """The official sampler has the same costs, and draws from the same bins with the same probabilities."""
    table = count(OFFICIAL_SPACE).flops
    sampler = official.RejectionSampler(table.rows, table.fixed, seed=0)
    assert sampler.count(WINNER) == table.of(WINNER) == 322_918_720
    exact = CostBinSampler(table, 290_000_000, 360_000_000, 10_000_000, seed=0)
    theirs, ours = (
        [draw() for _ in range(700)] for draw in (sampler.draw, map(exact.draw, itertools.count()).__next__)
    )
    shares = [
        Counter(min(max(table.of(Architecture(tuple(p))) // 10**7, 28), 36) for p in paths) for paths in (theirs, ours)
    ]
    for millions in range(29, 36):
        assert abs(shares[0][millions] - shares[1][millions]) < 60, shares  # 5 standard errors of a difference
    choices = np.array([list(path) for path in theirs])
    assert choices.min() == 0
    assert choices.max() == 3


def test_input(tmp_path: Path) -> None:
    paths, labels = photographs.write(tmp_path, 4)
    for train in (False, True):
        images, targets = next(official.load_batches(paths, labels, train=train, batch=6))
        assert images.shape == (6, 3, 224, 224)
        assert images.dtype == torch.float32
        assert images.min() >= 0
        assert 1 < images.max() <= 255
        assert set(targets.tolist()) <= set(labels)
