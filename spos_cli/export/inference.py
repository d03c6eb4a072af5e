"""The network as it is exported: convolutions with biases, without BatchNorm and channel shuffles."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from spos_cli.data.transforms import IMAGENET, Normalisation, PresetName
from spos_cli.export.quantized import list_modules
from spos_cli.export.steps import Add, Call, Concatenate, EverySecond, LayerSteps, Split, Step, Values
from spos_cli.models import activations
from spos_cli.models.blocks import (
    ChoiceBlock,
    Identity,
    OwnBlock,
    ResidualBlock,
    ResNetBlock,
    Skip,
    TwoBranchBlock,
)
from spos_cli.models.layers import Branch, ChannelSelection, SqueezeExcitation, Unit, select_values
from spos_cli.models.network import Network
from spos_cli.models.routing import BlockChannels, Routing, make_routing
from spos_cli.space.choices import Choice
from spos_cli.space.layer import Layer

InputKind = Literal["uint8", "float"]  # RGB values from 0 to 255, or images as `data.transforms.preprocess` makes them


class InferenceNetwork(nn.Module):
    """A network for inference: BatchNorm is folded into the convolutions, and channels are in the order of their use.

    Its logits are those of the network, but for rounding. It consists of modules of `torch.nn` (and blocks of the
    user's own), so that any exporter and any compiler can take it. A network with quantized blocks also has modules of
    `export.quantized`, and nothing is folded there.

    Args:
        network: in eval mode, on the CPU; it is not changed.
        preset: how images are prepared.
        input_kind: `uint8` prepares images in the network itself.
        normalisation: of images, with preset `standard`.

    Attributes:
        layers: what the forward pass does, layer by layer. The steps call modules of this network by their names.
        own_blocks: of the user's own blocks, by name: the import path, and the arguments that make the block.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        network: Network,
        preset: PresetName,
        input_kind: InputKind = "uint8",
        normalisation: Normalisation = IMAGENET,
    ) -> None:
        super().__init__()
        self.preset, self.input_kind, self.image_size = preset, input_kind, network.space.image_size
        self.in_channels, self.normalisation = network.space.in_channels, normalisation
        is_reversed, is_quantized = preset == "spos" and input_kind == "uint8", bool(network.arch.bits)
        # The order of the additions is part of a quantized network.
        self.flips_colours = is_reversed and is_quantized
        builder = _Builder(network, reverse_colours=is_reversed and not is_quantized)
        self.layers, self.own_blocks = builder.layers, builder.own_blocks
        for name, module in builder.parts.items():
            self.add_module(name, module)
        self.head_linear = None
        if network.head_linear is not None:
            linear, activation = network.head_linear.children()
            self.head_linear = nn.Sequential(copy_linear(linear), type(activation)())
        (linear,) = network.classifier.children()
        self.classifier = copy_linear(linear)
        if self.is_normalised:
            for name, values in zip(("pixel_mean", "pixel_std"), normalisation, strict=True):
                self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1) * 255)
        self.eval()

    @property
    def is_normalised(self) -> bool:
        """Whether the forward pass begins with mean and deviation."""
        return self.preset == "standard" and self.input_kind == "uint8"

    def make_example(self, batch: int) -> Tensor:
        """Return images as `forward` takes them, all black or zero: `(batch, C, S, S)`."""
        kind = torch.uint8 if self.input_kind == "uint8" else torch.float32
        return torch.zeros((batch, self.in_channels, self.image_size, self.image_size), dtype=kind)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits `(B, classes)`.

        Args:
            images: `(B, C, S, S)`: uint8 (RGB with three channels), or prepared float.
        """
        features = images.float() if self.input_kind == "uint8" else images
        if self.flips_colours:
            features = features.flip(1)
        if self.is_normalised:
            features = (features - self.pixel_mean) / self.pixel_std
        values: Values = {"images": features}
        for layer in self.layers:
            for step in layer.steps:
                step.run(values, self)
        features = values["features"].mean((2, 3))  # (B, head_channels)
        if self.head_linear is not None:
            features = self.head_linear(features)  # (B, head_linear)
        logits: Tensor = self.classifier(features)
        return logits


class _Builder:
    """Follows the forward pass of a network, and writes down its steps and modules."""

    def __init__(self, network: Network, *, reverse_colours: bool) -> None:
        self.reverse_colours, self.folds = reverse_colours, not network.arch.bits
        self.parts: dict[str, nn.Module] = {}
        self.layers: list[LayerSteps] = []
        self.own_blocks: dict[str, tuple[str, str]] = {}
        routing = make_routing(network.space, torch.device("cpu"))
        stem, *channels, head = routing.channels
        # By layer: the names of the values that wait for it.
        waiting: dict[int, list[str]] = {}
        steps: list[Step] = [self.call_branch("stem", network.first_conv, "images", None, stem.outputs[0])]
        self.finish("stem", steps, ("stem",), routing, 0, waiting)
        for index, (block, layer_channels) in enumerate(zip(network.features, channels, strict=True)):
            layer, option = network.space.layers[index], network.arch.options[index]
            name = f"layer{index}"
            steps = []
            source = self.join(f"{name}_in", waiting.pop(index), steps)
            assert isinstance(block, ChoiceBlock)
            outputs = self.run_block(name, block, source, layer_channels, steps)
            choice = layer.choices[option.choice]
            if isinstance(block, OwnBlock):
                self.own_blocks[name] = choice.op, format_arguments(choice, layer, network.affine)
            title = f"layer {index}: {choice}" + (", stride 2" if layer.stride == 2 else "")
            self.finish(title, steps, outputs, routing, index + 1, waiting)
        steps = []
        source = self.join("head_in", waiting.pop(len(channels)), steps)
        steps.append(self.call_branch("head", network.conv_last, source, head.inputs, None, output="features"))
        self.layers.append(LayerSteps("head", tuple(steps)))

    def finish(
        self,
        title: str,
        steps: list[Step],
        outputs: Sequence[str],
        routing: Routing,
        position: int,
        waiting: dict[int, list[str]],
    ) -> None:
        """Split the outputs of a position for the layers that work on them, and end its steps."""
        for output, split in zip(outputs, routing.splits[position], strict=True):
            names = [output]
            if len(split.sizes) > 1:
                names = [f"{output}_to{consumer}" for consumer in split.consumers]
                steps.append(Split(tuple(names), output, tuple(split.sizes)))
            for name, consumer in zip(names, split.consumers, strict=True):
                waiting.setdefault(consumer, []).append(name)
        self.layers.append(LayerSteps(title, tuple(steps)))

    def join(self, output: str, names: list[str], steps: list[Step]) -> str:
        """Return the name of the concatenated values."""
        if len(names) == 1:
            return names[0]
        steps.append(Concatenate(output, tuple(names)))
        return output

    def run_block(
        self, name: str, block: ChoiceBlock, source: str, channels: BlockChannels, steps: list[Step]
    ) -> tuple[str, ...]:
        """Add the steps of a block, and return the names of its outputs."""
        if isinstance(block, TwoBranchBlock):
            return self.run_two_branches(name, block, source, channels, steps)
        if isinstance(block, ResNetBlock):
            return self.run_resnet_block(name, block, source, steps)
        if isinstance(block, ResidualBlock):
            branch = f"{name}_branch" if block.residual else name
            steps.append(self.call_branch(branch, block.layers, source))
            if block.residual:
                steps.append(Add(name, (source, branch)))
            return (name,)
        if isinstance(block, Skip) and block.layers is not None:
            steps.append(self.call_branch(name, block.layers, source))
            return (name,)
        if isinstance(block, OwnBlock):
            self.parts[name] = copy.deepcopy(block.block).requires_grad_(False)
            steps.append(Call(name, name, source))
            return (name,)
        assert isinstance(block, Skip | Identity)
        return (source,)

    def run_resnet_block(self, name: str, block: ResNetBlock, source: str, steps: list[Step]) -> tuple[str, ...]:
        """Add the steps of a ResNet block; see its `forward`."""
        branch, shortcut, total = f"{name}_branch", f"{name}_shortcut", f"{name}_sum"
        steps.append(self.call_branch(branch, block.layers, source))
        if block.shortcut is None:
            shortcut = source
        else:
            steps.append(self.call_branch(shortcut, block.shortcut, source))
        self.parts[name] = nn.Sequential(nn.ReLU())
        steps += [Add(total, (shortcut, branch)), Call(name, name, total)]
        return (name,)

    def run_two_branches(
        self, name: str, block: TwoBranchBlock, source: str, channels: BlockChannels, steps: list[Step]
    ) -> tuple[str, ...]:
        """Add the steps of a ShuffleNetV2 block; see its `forward`."""
        main, projection = f"{name}_main", f"{name}_projection"
        if block.split:
            # In the official order: the projection comes first.
            named = [main] if block.stride == 1 else [projection, main]
            for output, (branch, outputs) in zip(named, block.list_branches(channels), strict=True):
                steps.append(self.call_branch(output, branch, source, channels.inputs, outputs))
            return tuple(named)
        passed, worked = projection, source
        if block.stride == 2:
            steps.append(self.call_branch(projection, block.branch_proj, source))
        else:
            passed, worked = f"{name}_passed", f"{name}_worked"
            steps += [EverySecond(passed, source, 0), EverySecond(worked, source, 1)]
        steps += [self.call_branch(main, block.branch_main, worked), Concatenate(name, (passed, main))]
        return (name,)

    def call_branch(
        self,
        name: str,
        branch: Branch,
        source: str,
        inputs: ChannelSelection = None,
        outputs: ChannelSelection = None,
        *,
        output: str | None = None,
    ) -> Call:
        """Add a branch to the modules, and return the step that calls it."""
        reverse_inputs = name == "stem" and self.reverse_colours
        modules = fold_branch(branch, inputs, outputs, reverse_inputs=reverse_inputs, folds=self.folds)
        self.parts[name] = nn.Sequential(*modules)
        return Call(output or name, name, source)


def format_arguments(choice: Choice, layer: Layer, affine: bool) -> str:
    """Return the arguments of the class of a user's own block, see `models.blocks.OwnBlock`."""
    parameters = "".join(f", {name}={value!r}" for name, value in choice.parameters)
    return f"{layer.in_channels}, {layer.out_channels}, {layer.stride}, {affine}{parameters}"


def fold_branch(
    branch: Branch,
    inputs: ChannelSelection = None,
    outputs: ChannelSelection = None,
    *,
    reverse_inputs: bool = False,
    folds: bool = True,
) -> list[nn.Module]:
    """Return the convolutions of a branch, with BatchNorm folded into them, and what follows each of them.

    Args:
        folds: if false, BatchNorm is kept, as a network with quantized blocks needs it.
    """
    modules: list[nn.Module] = []
    for unit in branch.list_units(inputs, outputs):
        modules += [fold_unit(unit, reverse_inputs=reverse_inputs)] if folds else list_modules(unit)
        modules += [
            kind(inplace=True) for kind, function in activations.FUNCTIONS.items() if function is unit.activation
        ]
        if unit.shuffle is not None:
            modules.append(nn.ChannelShuffle(unit.shuffle.groups))
        if unit.gate is not None:
            modules.append(copy_gate(unit.gate, unit.outputs, unit.squeezed))
    return modules


class Gate(nn.Sequential):
    """Multiply features by what the modules compute of the means of their channels (squeeze and excitation)."""

    def forward(self, features: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to the same shape."""
        gates = features.mean((2, 3), keepdim=True)  # (B, C, 1, 1), as below
        for module in self:
            gates = module(gates)
        return features * gates


@torch.no_grad()
def copy_gate(gate: SqueezeExcitation, channels: ChannelSelection, squeezed: int | None) -> Gate:
    """Return a gate for the selected channels."""
    weights = gate.select_weights(channels, squeezed)
    squeezed, width = weights.squeeze.shape[:2]
    squeeze, excite = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)
    squeeze.weight, squeeze.bias = _freeze(weights.squeeze), _freeze(weights.squeeze_bias)
    excite.weight, excite.bias = _freeze(weights.excite), _freeze(weights.excite_bias)
    return Gate(squeeze, type(gate.activation)(), excite, type(gate.gate)())


def copy_linear(linear: nn.Module) -> nn.Linear:
    """Return a linear layer with parameters of its own."""
    assert isinstance(linear, nn.Linear)
    has_bias = linear.bias is not None
    result = nn.Linear(linear.in_features, linear.out_features, has_bias)
    result.weight = _freeze(linear.weight)
    if has_bias:
        result.bias = _freeze(linear.bias)
    return result


@torch.no_grad()
def fold_unit(unit: Unit, *, reverse_inputs: bool = False) -> nn.Conv2d:
    """Return a convolution with bias that does what a convolution and its BatchNorm do in eval mode.

    Args:
        reverse_inputs: take the input channels in reverse order, as RGB for BGR.
    """
    convolution, norm = unit.convolution, unit.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = (select_values(values, unit.outputs).double() for values in (norm.running_mean, norm.running_var))
    learned = norm.select_scale_and_shift(unit.outputs)
    scale, shift = (None, None) if learned is None else (values.double() for values in learned)
    weight = convolution.select_weight(unit.inputs, unit.outputs).double()  # (out, in / groups, k, k)
    fused, bias = fuse_conv_bn_weights(weight, None, mean, variance, norm.eps, scale, shift)
    out_channels, in_per_group, kernel, _ = weight.shape
    groups = out_channels if convolution.is_depthwise else convolution.groups
    result = nn.Conv2d(
        in_per_group * groups,
        out_channels,
        kernel,
        convolution.stride[0],
        kernel // 2,  # All convolutions of the spaces keep the size.
        groups=groups,
    )
    result.weight, result.bias = _freeze(fused.flip(1) if reverse_inputs else fused), _freeze(bias)
    return result


def _freeze(values: Tensor) -> nn.Parameter:
    """Return a parameter of its own in single precision, without a gradient."""
    return nn.Parameter(values.detach().float().clone(memory_format=torch.contiguous_format), requires_grad=False)
