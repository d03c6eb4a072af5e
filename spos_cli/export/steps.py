"""The forward pass of an exported network as a list of steps, which can be run or printed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

Values = dict[str, Tensor]  # by name; each is (B, C, H, W)


@dataclass(frozen=True)
class Call:
    """Run a module of the network."""

    output: str
    module: str
    input: str

    def run(self, values: Values, network: nn.Module) -> None:
        """Add the output to the values."""
        values[self.output] = getattr(network, self.module)(values[self.input])

    def __str__(self) -> str:
        return f"{self.output} = self.{self.module}({self.input})"


@dataclass(frozen=True)
class Split:
    """Split the channels of a value into contiguous parts."""

    outputs: tuple[str, ...]
    input: str
    sizes: tuple[int, ...]

    def run(self, values: Values, network: nn.Module) -> None:
        """Add the outputs to the values."""
        values.update(zip(self.outputs, torch.split(values[self.input], list(self.sizes), 1), strict=True))

    def __str__(self) -> str:
        return f"{', '.join(self.outputs)} = torch.split({self.input}, {list(self.sizes)}, 1)"


@dataclass(frozen=True)
class Concatenate:
    """Concatenate values along their channels."""

    output: str
    inputs: tuple[str, ...]

    def run(self, values: Values, network: nn.Module) -> None:
        """Add the output to the values."""
        values[self.output] = torch.cat([values[name] for name in self.inputs], 1)

    def __str__(self) -> str:
        return f"{self.output} = torch.cat(({', '.join(self.inputs)}), 1)"


@dataclass(frozen=True)
class EverySecond:
    """Take every second channel of a value, from `first` (0 or 1) on."""

    output: str
    input: str
    first: int

    def run(self, values: Values, network: nn.Module) -> None:
        """Add the output to the values."""
        values[self.output] = values[self.input][:, self.first :: 2]

    def __str__(self) -> str:
        return f"{self.output} = {self.input}[:, {self.first}::2]"


@dataclass(frozen=True)
class Add:
    """Add two values."""

    output: str
    inputs: tuple[str, str]

    def run(self, values: Values, network: nn.Module) -> None:
        """Add the output to the values."""
        first, second = self.inputs
        values[self.output] = values[first] + values[second]

    def __str__(self) -> str:
        return f"{self.output} = {' + '.join(self.inputs)}"


Step = Call | Split | Concatenate | EverySecond | Add


@dataclass(frozen=True)
class LayerSteps:
    """The steps of one part of a network.

    Attributes:
        title: what the part is, such as `layer 3: shuffle 5x5, stride 2`.
    """

    title: str
    steps: tuple[Step, ...]

    @property
    def modules(self) -> list[str]:
        """The names of the modules that the steps call, in this order."""
        return [step.module for step in self.steps if isinstance(step, Call)]
