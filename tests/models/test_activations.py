"""Activations without copies compute what PyTorch's own do, and keep less for the backward pass."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from spos_cli.models.activations import FUNCTIONS, MODULES, make_activation
from spos_cli.models.layers import Branch, make_convolution

BORDERS = torch.tensor([-math.inf, -1.0, -0.0, 0.0, 1e-30, 3.0, 6.0, math.nextafter(6.0, 7.0), 9.0, math.inf, math.nan])


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_results_and_gradients_are_those_of_pytorch(name: str, dtype: torch.dtype) -> None:
    """To the bit, also at the borders of ReLU6, and for features that the caller's graph has made."""
    values = torch.cat((BORDERS, torch.linspace(-8, 8, 101))).to(dtype)
    weights = torch.linspace(-1, 1, len(values), dtype=dtype)
    results = []
    for apply in (MODULES[name](), FUNCTIONS[type(make_activation(name))]):
        leaf = values.clone().requires_grad_()
        result = apply(leaf * 1)
        (gradient,) = torch.autograd.grad(result, leaf, weights)
        results.append((result.detach(), gradient, apply(values.clone())))
    for ours, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


def count_kept_maps(model: nn.Module, images: Tensor) -> int:
    """Count the different feature maps, as large as the images or larger, that a forward pass keeps."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.numel() >= images.numel():
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images)
    return len(kept)


@pytest.mark.parametrize(("activation", "maps"), [("relu", 5), ("relu6", 5), ("hswish", 6), ("silu", 6)])
def test_feature_maps_that_are_kept(activation: str, maps: int) -> None:
    """Images, results of the convolutions, what the second one sees, and what the activations' gradients need."""
    units = [make_convolution(8, 8, affine=False, kernel=3, activation=activation) for _ in range(2)]
    model = Branch(*(module for unit in units for module in unit)).train()
    images = torch.randn(4, 8, 16, 16, requires_grad=True)
    assert count_kept_maps(model, images) == maps


@pytest.mark.parametrize("name", MODULES)
def test_without_gradients_they_work_in_place(name: str) -> None:
    features = torch.randn(1000)
    with torch.no_grad():
        assert FUNCTIONS[MODULES[name]](features).data_ptr() == features.data_ptr()
