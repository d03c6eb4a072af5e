"""A score depends only on the candidate and the images (invariant 1)."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from spos_cli.engine.precision import Amp
from spos_cli.models.skeleton import initialize
from spos_cli.models.supernet import Supernet
from spos_cli.search.evaluator import CalibrationSet, Evaluator, calibrate_paths, keep_on_gpu
from spos_cli.search.racing import Race
from spos_cli.space.architecture import Architecture
from tests.engine.test_optim import SPACE

GENERATOR = torch.Generator().manual_seed(0)
CALIBRATION = torch.randint(0, 256, (70, 3, 16, 16), dtype=torch.uint8, generator=GENERATOR)
IMAGES = torch.randint(0, 256, (45, 3, 16, 16), dtype=torch.uint8, generator=GENERATOR)
LABELS = torch.randint(0, SPACE.classes, (45,), generator=GENERATOR)
ALL = [Architecture(choices) for choices in itertools.product(range(2), repeat=4)]
AMPS: tuple[Amp, ...] = ("off", "bf16")


def make_evaluator(momentum: float | None = None, amp: Amp = "off", affine: bool = False) -> Evaluator:
    supernet = Supernet(SPACE, affine)
    initialize(supernet, 3)
    if affine:
        draws = torch.Generator().manual_seed(4)
        for module in supernet.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5, generator=draws)
                torch.nn.init.uniform_(module.bias, -0.5, 0.5, generator=draws)
    return Evaluator(
        supernet,
        lambda images: images.float() / 255,
        calibration=CalibrationSet(CALIBRATION, 32, momentum),
        images=IMAGES,
        labels=LABELS,
        batch=20,
        device=torch.device("cpu"),
        amp=amp,
    )


def logits_of(evaluator: Evaluator, archs: list[Architecture]) -> dict[Architecture, torch.Tensor]:
    """Return the logits of all images, for candidates that are calibrated together."""
    tree = calibrate_paths(
        evaluator.supernet, archs, evaluator.preprocess, evaluator.calibration, evaluator.device, evaluator.amp
    )
    assert tree is not None
    with torch.inference_mode():
        return {archs[number]: logits.clone() for number, logits in tree.logits(IMAGES.float() / 255)}


@pytest.mark.parametrize(("free", "stays"), [(4 * IMAGES.nbytes, True), (4 * IMAGES.nbytes - 1, False)])
def test_images_stay_on_a_gpu_that_has_room_for_them(free: int, stays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**9))
    with FakeTensorMode() as mode:
        images = mode.from_tensor(IMAGES)
        found = keep_on_gpu(images, torch.device("cuda:0"))
        assert (found.device.type == "cuda") is stays
        assert found.shape == images.shape
        assert keep_on_gpu(images, torch.device("cpu")) is images


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_logits_do_not_depend_on_what_is_scored_together(amp: Amp) -> None:
    """To the bit: whether candidates share what they have in common, and whatever came before."""
    evaluator = make_evaluator(amp=amp)
    together = logits_of(evaluator, ALL)
    torch.rand(7)  # nor on the global generator
    assert len(together) == len(ALL)
    for arch in reversed(ALL):
        assert torch.equal(logits_of(evaluator, [arch])[arch], together[arch])
    scores = evaluator.score(ALL)
    assert scores is not None
    for arch, score in zip(ALL, scores, strict=True):
        assert np.array_equal(score.top1, (together[arch].argmax(1) == LABELS).numpy())
        (single,) = evaluator.score([arch]) or []
        assert np.array_equal(single.top1, score.top1)
        assert (single.top5_count, single.images, single.stopped_early) == (score.top5_count, 45, False)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("momentum", [None, 0.1])
def test_logits_are_those_of_a_network_calibrated_by_hand(momentum: float | None, affine: bool) -> None:
    """With momentum 0.1 as in the official code: statistics set to 0 and 1, then forward passes in train mode."""
    evaluator = make_evaluator(momentum, affine=affine)
    supernet = Supernet(SPACE, affine, dropout=0.0)
    supernet.load_state_dict(evaluator.supernet.state_dict())
    ours = logits_of(evaluator, ALL)
    for arch in ALL:
        by_hand = copy.deepcopy(supernet).train()
        with torch.no_grad():
            for number, batch in enumerate((CALIBRATION[:32], CALIBRATION[32:64]), 1):  # the rest is no whole batch
                for module in by_hand.modules():
                    if isinstance(module, torch.nn.BatchNorm2d):
                        module.momentum = momentum or 1 / number
                by_hand(batch.float() / 255, arch)
            logits = by_hand.eval()(IMAGES.float() / 255, arch)
        torch.testing.assert_close(ours[arch], logits, rtol=1e-4, atol=1e-5 * float(logits.std()))


def test_bf16_is_close() -> None:
    exact, rounded = (logits_of(make_evaluator(amp=amp), ALL) for amp in AMPS)
    for arch in ALL:
        difference = (exact[arch] - rounded[arch]).std() / exact[arch].std()
        assert 0 < difference < 0.1


def test_scoring_does_not_change_the_supernet() -> None:
    evaluator = make_evaluator()
    before = {name: tensor.clone() for name, tensor in evaluator.supernet.state_dict().items()}
    evaluator.score(ALL)
    assert all(torch.equal(tensor, before[name]) for name, tensor in evaluator.supernet.state_dict().items())


def test_shared_beginnings_are_computed_once() -> None:
    """A convolution call for each node of the tree, not for each layer of each candidate."""
    counts = []
    for archs in (ALL[:1], ALL[:2], ALL):
        with FlopCounterMode(display=False) as counter:
            logits_of(make_evaluator(), archs)
        counts.append(counter.get_total_flops())
    assert counts[1] - counts[0] < counts[0] / 4  # they differ in the last layer and in the head's statistics
    assert counts[2] < 0.75 * 16 * counts[0]


def test_stops_when_it_is_told_to() -> None:
    told: list[float] = []

    def go_on(done: float) -> bool:
        told.append(done)
        return len(told) < 4

    assert make_evaluator().score(ALL, go_on=go_on) is None
    assert told == [0.25, 0.5, (1 + 20 / 45) / 2, (1 + 40 / 45) / 2]


def test_a_lost_race_ends_early_and_does_not_change_the_others() -> None:
    evaluator = make_evaluator()
    whole = evaluator.score(ALL)
    assert whole is not None
    unbeatable = Race(np.ones(45, bool), 0.01)
    for score, complete in zip(evaluator.score(ALL, unbeatable) or [], whole, strict=True):
        assert (score.images, score.stopped_early) == (20, True)  # the first interim check after a batch
        assert np.array_equal(score.top1, complete.top1[:20])
    (first,) = evaluator.score(ALL[:1]) or []
    # The rival is ahead in the last images only, after all interim checks.
    late = Race(np.where(np.arange(45) < 40, first.top1, True), 0.01)
    assert [score.stopped_early for score in evaluator.score(ALL[:1], late) or []] == [False]
    harmless = Race(np.zeros(45, bool), 0.01)
    scores = evaluator.score(ALL, harmless) or []
    assert [score.images for score in scores] == [45] * 16
    assert all(np.array_equal(one.top1, other.top1) for one, other in zip(scores, whole, strict=True))
