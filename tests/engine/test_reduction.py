"""How gradients are averaged, apart from what two processes make of it (`test_trainer`)."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from spos_cli.engine.distributed import Processes
from spos_cli.engine.reduction import GradientAverage


def test_a_model_does_not_outlive_its_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "copy_from_main", lambda self, tensors: None)
    model = nn.Linear(2, 2)
    average = GradientAverage(model, Processes(0, 2, torch.device("cpu")))
    model(torch.ones(1, 2)).sum().backward()
    kept = [weakref.ref(model.weight), weakref.ref(average)]
    del model, average
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


def test_a_model_can_be_used_when_its_average_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "copy_from_main", lambda self, tensors: None)
    model = nn.Linear(2, 2)
    GradientAverage(model, Processes(0, 2, torch.device("cpu")))
    gc.collect()
    model(torch.ones(1, 2)).sum().backward()
    assert model.weight.grad is not None
