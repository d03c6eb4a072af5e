"""A device that computes other logits than the official code is found."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from spos_cli.doctor import devices
from spos_cli.models import skeleton
from spos_cli.official import golden, self_test
from tests.doctor.setups import expect, make_setup


def corrupt_a_logit(patch: pytest.MonkeyPatch) -> None:
    first = tuple((*row[:7], row[7] + 1000) for row in golden.SUPERNET.first)  # the RMS of the logits is 470,000
    patch.setattr(golden, "SUPERNET", golden.Golden(first, golden.SUPERNET.l2))


def corrupt_the_norm(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(golden, "NETWORK", golden.Golden(golden.NETWORK.first, golden.NETWORK.l2 * 1.001))


def swap_the_halves(patch: pytest.MonkeyPatch) -> None:
    concatenate = skeleton.concatenate
    patch.setattr(skeleton, "concatenate", lambda pieces: concatenate(pieces[::-1]))


def add_a_nan(patch: pytest.MonkeyPatch) -> None:
    fill = golden.fill_weights

    def fill_with_nan(model: torch.nn.Module) -> None:
        fill(model)
        model.state_dict()["first_conv.0.weight"][0, 0, 0, 0] = float("nan")

    patch.setattr(golden, "fill_weights", fill_with_nan)


def break_the_driver(patch: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nmore of it")

    patch.setattr(self_test, "run_self_test", fail)


@pytest.mark.parametrize("plant", [corrupt_a_logit, corrupt_the_norm, swap_the_halves, add_a_nan, break_the_driver])
def test_a_device_that_computes_other_logits(plant: Callable[[pytest.MonkeyPatch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        finding = expect([devices.check_device(torch.device("cpu"))], "self-test on cpu", "fail", "check the driver")
    assert "\n" not in finding.seen


def test_every_gpu_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "run_self_test", lambda device: {"supernet": 1.0 if device.index == 1 else 0.0})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    statuses = {finding.check: finding.status for finding in devices.check(make_setup("devices=cpu"))}
    assert statuses == {
        "self-test on cpu": "ok",
        "self-test on cuda:0": "ok",
        "self-test on cuda:1": "fail",
        "self-test on cuda:2": "ok",
    }
