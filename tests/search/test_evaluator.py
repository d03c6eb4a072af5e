"""A score depends on the candidate and the images alone (invariant 1)."""

from __future__ import annotations

import pytest
import torch

from spos_cli.models.skeleton import initialize
from spos_cli.models.supernet import Supernet
from spos_cli.search.evaluator import Evaluator
from spos_cli.space.architecture import Architecture
from tests.engine.test_optim import SPACE

GENERATOR = torch.Generator().manual_seed(0)
CALIBRATION = torch.randint(0, 256, (70, 3, 16, 16), dtype=torch.uint8, generator=GENERATOR)
IMAGES = torch.randint(0, 256, (45, 3, 16, 16), dtype=torch.uint8, generator=GENERATOR)
LABELS = torch.randint(0, SPACE.classes, (45,), generator=GENERATOR)
ARCHS = [Architecture(choices) for choices in [(0, 0, 0, 0), (1, 0, 1, 0), (0, 1, 1, 1), (1, 1, 1, 1)]]


@pytest.fixture
def evaluator() -> Evaluator:
    return make_evaluator(None)


def make_evaluator(momentum: float | None) -> Evaluator:
    supernet = Supernet(SPACE)
    initialize(supernet, 3)
    return Evaluator(
        supernet,
        lambda images: images.float() / 255,
        calibration=(CALIBRATION, 32),
        images=IMAGES,
        labels=LABELS,
        batch=20,
        device=torch.device("cpu"),
        momentum=momentum,
    )


def test_scores_do_not_depend_on_what_was_scored_before(evaluator: Evaluator) -> None:
    forward = {arch: evaluator.score(arch) for arch in ARCHS}
    torch.rand(7)  # nor on the global generator
    backward = {arch: evaluator.score(arch) for arch in reversed(ARCHS)}
    assert forward == backward
    assert len({score.loss for score in forward.values()}) == len(ARCHS)


@pytest.mark.parametrize("momentum", [None, 0.1])
def test_a_score_is_the_count_of_a_network_calibrated_by_hand(momentum: float | None) -> None:
    """With momentum 0.1 as the published code does it: statistics set to 0 and 1, then forward passes in train mode."""
    arch = ARCHS[1]
    score = make_evaluator(momentum).score(arch)
    supernet = Supernet(SPACE, dropout=0.0)
    initialize(supernet, 3)
    for module in supernet.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = momentum
    with torch.no_grad():
        supernet.train()
        for batch in (CALIBRATION[:32], CALIBRATION[32:64]):  # the rest is not a whole batch
            supernet(batch.float() / 255, arch)
        logits = supernet.eval()(IMAGES.float() / 255, arch)
    top5 = (logits.topk(5).indices == LABELS[:, None]).any(1)
    assert score.images == 45
    assert score.top1_count == int((logits.argmax(1) == LABELS).sum())
    assert score.top5_count == int(top5.sum())
    assert score.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, LABELS)), rel=1e-4)


def test_scoring_leaves_the_weights_alone(evaluator: Evaluator) -> None:
    before = {name: parameter.clone() for name, parameter in evaluator.supernet.named_parameters()}
    evaluator.score(ARCHS[0])
    assert all(torch.equal(parameter, before[name]) for name, parameter in evaluator.supernet.named_parameters())
