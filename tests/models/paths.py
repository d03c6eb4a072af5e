"""Compare paths of a supernet with stand-alone networks that have the same weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from spos_cli.engine.precision import Amp
from spos_cli.models.network import Network
from spos_cli.models.skeleton import initialize
from spos_cli.models.supernet import Supernet
from spos_cli.search.evaluator import CalibrationSet, calibrate_paths
from spos_cli.space.architecture import Architecture
from spos_cli.space.search_space import SearchSpace


def draw_architectures(space: SearchSpace, number: int) -> list[Architecture]:
    """Return the widest and the narrowest architecture of each op, and `number` random ones."""
    rng, layers = np.random.default_rng(0), space.options.by_layer
    ends = [
        Architecture.from_options(
            [o for o in options if o.choice == min(op, options[-1].choice)][end] for options in layers
        )
        for op in range(4)
        for end in (0, -1)
    ]
    return list(dict.fromkeys([*ends, *(space.options.draw(rng) for _ in range(number))]))


def make_supernet(space: SearchSpace, affine: bool) -> Supernet:
    """Make a supernet with weights and statistics that differ in every channel."""
    supernet = Supernet(space, affine, dropout=0.0)
    initialize(supernet, 5)
    with torch.no_grad():
        for name, tensor in supernet.state_dict().items():
            if name.endswith(("running_var", "norm.weight")):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "bias")):
                tensor.uniform_(-0.5, 0.5)
            elif "clipping_levels" in name:  # Some features are above the level, and have gradients for it.
                tensor.uniform_(0.5, 1.5)
    return supernet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def slice_like(tensor: Tensor, other: Tensor) -> Tensor:
    """Return the first channels of a tensor, in the shape of another."""
    return tensor[tuple(slice(size) for size in other.shape)]


def make_network(supernet: Supernet, arch: Architecture, affine: bool) -> tuple[Network, dict[str, str]]:
    """Make the stand-alone network of a path with its weights; also map its tensor names to the supernet's."""
    network = Network(supernet.space, arch, affine, dropout=0.0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    theirs, names = supernet.state_dict(), {}
    for name, tensor in network.state_dict().items():
        part, layer, *rest = name.split(".")
        names[name] = ".".join((part, layer, str(arch[int(layer)]), *rest)) if part == "features" else name
        tensor.copy_(slice_like(theirs[names[name]], tensor))
    return network, names


def check_paths(space: SearchSpace, affine: bool, number: int = 6) -> None:
    """Check that each path equals its network bit by bit: logits, gradients and statistics.

    What a path does not use is unchanged, or has a gradient of zero.
    """
    supernet, images = make_supernet(space, affine), torch.randn(4, 3, 12, 12)
    images = images.contiguous(memory_format=torch.channels_last)
    for arch in draw_architectures(space, number):
        supernet.eval()
        network, names = make_network(supernet, arch, affine)
        assert torch.equal(network.eval()(images), supernet(images, arch))
        supernet.train()
        before = {key: value.clone() for key, value in supernet.state_dict().items()}
        supernet.zero_grad(set_to_none=True)
        ours, theirs = supernet(images, arch), network.train()(images)
        assert torch.equal(ours, theirs)
        for logits in (ours, theirs):
            nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
        gradients = {key: parameter.grad for key, parameter in supernet.named_parameters()}
        for key, parameter in network.named_parameters():
            gradient = gradients.pop(names[key])
            assert gradient is not None
            assert parameter.grad is not None
            assert torch.equal(slice_like(gradient, parameter), parameter.grad), key
            assert gradient.count_nonzero() == parameter.grad.count_nonzero()
        assert all(gradient is None for gradient in gradients.values())
        after, untouched = supernet.state_dict(), dict(before)
        for key, tensor in network.state_dict().items():
            expected = untouched.pop(names[key]).clone()
            slice_like(expected, tensor).copy_(tensor)
            assert torch.equal(after[names[key]], expected), key
        assert all(torch.equal(after[key], tensor) for key, tensor in untouched.items())


def check_candidates(space: SearchSpace, amp: Amp = "off") -> None:
    """Check that candidates are calibrated as in plain PyTorch, and independently of what is scored beside them."""
    supernet = make_supernet(space, affine=True).eval()
    training = torch.randint(0, 256, (40, 3, 12, 12), dtype=torch.uint8)
    images, archs = torch.randn(6, 3, 12, 12), draw_architectures(space, 10)
    before = {key: tensor.clone() for key, tensor in supernet.state_dict().items()}

    def compute_logits(candidates: list[Architecture]) -> dict[Architecture, Tensor]:
        calibration = CalibrationSet(training, 20)
        tree = calibrate_paths(
            supernet, candidates, lambda pixels: pixels.float() / 255, calibration, torch.device("cpu"), amp
        )
        assert tree is not None
        with torch.inference_mode():
            return {candidates[number]: values.clone() for number, values in tree.logits(images)}

    together = compute_logits(archs)
    assert all(torch.equal(tensor, before[key]) for key, tensor in supernet.state_dict().items())
    for arch in archs[::3]:
        assert torch.equal(compute_logits([arch])[arch], together[arch])
        if amp == "bf16":
            continue
        network, _ = make_network(supernet, arch, affine=True)
        network.train()
        for number, part in enumerate(training.split(20), 1):
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 1 / number
            with torch.no_grad():
                network(part.float() / 255)
        expected = network.eval()(images).detach()
        torch.testing.assert_close(together[arch], expected, rtol=1e-3, atol=1e-4)
        if space.bits:  # Nothing is folded, so that no feature is rounded to another level.
            assert torch.equal(together[arch], expected)
