"""The ops that a choice block may be, and their parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spos_cli.errors import ConfigError
from spos_cli.files.quoting import quote_value

MAX_CHOICES, MAX_KERNEL, MAX_EXPAND, MAX_GROUPS = 64, 31, 64, 64
MIN_SE = 0.001
MAX_NAME, MAX_NUMBER = 64, 10**9  # Characters of a name, and size of any number, in a file.

Value = int | float | str  # of a parameter
ACTIVATIONS = ("relu6", "relu", "hswish", "silu")
NON_NEGATIVE_ACTIVATIONS = ("relu", "relu6")


@dataclass(frozen=True)
class Op:
    """What is known of an op that `models.blocks` can build.

    Attributes:
        required: the parameters that it must have, sorted.
        optional: those that it may have as well.
        count_hidden: its hidden channels, of input and output channels and `expand`; None if it has none.
        adds_input: whether it adds its input to its output where both have the same shape.
        takes_bits: whether weights and activations may have few bits: its convolutions never see negative features,
            if its input has none.
        has_output_widths: whether it can work on the first of its input channels, and return the first of its output
            channels.
    """

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    count_hidden: Callable[[int, int, int], int] | None = None
    adds_input: bool = False
    takes_bits: bool = False
    has_output_widths: bool = False


def _count_expanded(inputs: int, _: int, expand: int) -> int:
    """Return the hidden channels of an inverted residual."""
    return inputs * expand


OPS: dict[str, Op] = {
    "shuffle": Op(("kernel",), ("activation", "se"), lambda _, outputs, __: outputs // 2),
    "shuffle_xception": Op((), ("activation", "se"), lambda _, outputs, __: outputs // 2),
    "mbconv": Op(
        ("expand", "kernel"),
        ("activation", "groups", "se"),
        _count_expanded,
        True,
        has_output_widths=True,
    ),
    "fused_mbconv": Op(
        ("expand", "kernel"),
        ("activation", "se"),
        _count_expanded,
        True,
        has_output_widths=True,
    ),
    "basic": Op(("kernel",), (), lambda _, outputs, __: outputs, True, takes_bits=True, has_output_widths=True),
    "bottleneck": Op(
        ("kernel",), (), lambda _, outputs, __: max(1, outputs // 4), True, takes_bits=True, has_output_widths=True
    ),
    "skip": Op(has_output_widths=True),
    "identity": Op(has_output_widths=True),
}
SHUFFLE_OPS = ("shuffle", "shuffle_xception")  # With stride 1 they work on half of the channels; the others pass by.
IDENTITY, SKIP = "identity", "skip"
OWN_CODE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)  # package.module:name


@dataclass(frozen=True)
class Choice:
    """One op of a choice block, as data; `models.blocks` builds it.

    Attributes:
        op: its name, such as `shuffle`, or `package.module:Class` for the user's own block.
        parameters: `(name, value)` pairs, sorted by name.
    """

    op: str
    parameters: tuple[tuple[str, Value], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", tuple(sorted(self.parameters)))

    @staticmethod
    def from_spec(spec: str | Mapping[str, Any]) -> Choice:
        """Read `shuffle_xception` or `{shuffle: {kernel: 5}}`.

        Raises:
            ConfigError: the specification is neither.
        """
        if isinstance(spec, str):
            spec = {spec: {}}
        if isinstance(spec, Mapping) and len(spec) == 1:
            op, parameters = next(iter(spec.items()))
            known = _is_word(op) or (isinstance(op, str) and len(op) <= 4 * MAX_NAME and OWN_CODE.fullmatch(op))
            if isinstance(parameters, Mapping) and known and all(map(_is_word, parameters)):
                pairs = tuple(parameters.items())
                if all(_is_word(value) or _is_number(value) for _, value in pairs):
                    return Choice(op, pairs)
        raise ConfigError(f"choices: cannot read {quote_value(spec)}; write an op such as shuffle: {{kernel: 5}}")

    def to_spec(self) -> str | dict[str, dict[str, Value]]:
        """Return the choice as the YAML file writes it."""
        return {self.op: dict(self.parameters)} if self.parameters else self.op

    @property
    def is_own(self) -> bool:
        """Whether this is the user's own block, which is imported when it is built."""
        return ":" in self.op

    @property
    def is_scalable(self) -> bool:
        """Whether widths scale the hidden channels of this op."""
        has_hidden = self.op in OPS and OPS[self.op].count_hidden is not None
        # With groups, the first hidden channels would all be of the first group.
        return has_hidden and dict(self.parameters).get("expand") != 1 and "groups" not in dict(self.parameters)

    @property
    def is_quantizable(self) -> bool:
        """Whether the weights and activations of this op can have few bits."""
        return self.op in OPS and OPS[self.op].takes_bits

    @property
    def has_output_widths(self) -> bool:
        """Whether the output channels of this op can be searched. With groups, the first would all be of one group."""
        return self.op in OPS and OPS[self.op].has_output_widths and "groups" not in dict(self.parameters)

    def __str__(self) -> str:
        return " ".join([self.op, *(f"{key}={value}" for key, value in self.parameters)])

    @property
    def name(self) -> str:
        """A short label for tables: `shuffle 5x5`, `mbconv 3x3 x6`, `mbconv 3x3 x6 relu se 0.25`."""
        parameters = dict(self.parameters)
        kernel, expand, activation = (parameters.get(name) for name in ("kernel", "expand", "activation"))
        if self.is_own:
            return " ".join([self.op.partition(":")[2], *(f"{name}={value}" for name, value in self.parameters)])
        parts = [f"{kernel}x{kernel}" if kernel else "", f"x{expand}" if expand else "", str(activation or "")]
        parts += [f"{name} {parameters[name]}" for name in ("groups", "se") if name in parameters]
        return " ".join([self.op, *filter(None, parts)])


def check_choices(choices: tuple[Choice, ...]) -> None:
    """Raise ConfigError if an op cannot be built, is listed twice, or is in the wrong position."""
    if not 1 <= len(choices) <= MAX_CHOICES:
        raise ConfigError(f"the number of choices is {len(choices)}; it must be from 1 to {MAX_CHOICES}")
    for choice in choices:
        _check_op(choice)
    if len(set(choices)) < len(choices):
        raise ConfigError(f"a choice is listed twice: {', '.join(map(str, choices))}")
    if any(choice.op == IDENTITY for choice in choices[:-1]):
        raise ConfigError("choices: identity must be last, because blocks that change the size do not have it")


def _check_op(choice: Choice) -> None:
    """Raise ConfigError if there is no such op, or if it does not have these parameters."""
    if choice.is_own:
        return
    if choice.op not in OPS:
        raise ConfigError(
            f"choices: there is no op {choice.op!r}; the ops are {', '.join(OPS)}, or package.module:Class for your own"
        )
    parameters, op = dict(choice.parameters), OPS[choice.op]
    if tuple(name for name in parameters if name not in op.optional) != op.required:
        required, optional = ", ".join(op.required), f"optionally {', '.join(op.optional)}" if op.optional else ""
        takes = " and ".join(filter(None, (required, optional))) or "no parameters"
        raise ConfigError(f"choices: {choice.op} takes {takes}, not {', '.join(parameters) or 'none'}")
    if parameters.get("activation", ACTIVATIONS[0]) not in ACTIVATIONS:
        raise ConfigError(f"choices: {choice}: activation must be {', '.join(ACTIVATIONS[:-1])} or {ACTIVATIONS[-1]}")
    share = parameters.get("se", 1)
    if isinstance(share, str) or not MIN_SE <= share <= 1:
        raise ConfigError(f"choices: {choice}: se must be a number from {MIN_SE} to 1, such as 0.25")
    groups = parameters.get("groups", 2)
    if type(groups) is not int or not 2 <= groups <= MAX_GROUPS:
        raise ConfigError(f"choices: {choice}: groups must be a whole number from 2 to {MAX_GROUPS}")
    for name in op.required:
        if type(parameters[name]) is not int:
            raise ConfigError(f"choices: {choice}: {name} must be a whole number")
    kernel, expand = (int(parameters.get(name, 1)) for name in ("kernel", "expand"))
    if kernel % 2 == 0 or not 1 <= kernel <= MAX_KERNEL:
        raise ConfigError(f"choices: {choice}: kernel must be an odd number from 1 to {MAX_KERNEL}")
    if not 1 <= expand <= MAX_EXPAND:
        raise ConfigError(f"choices: {choice}: expand must be from 1 to {MAX_EXPAND}")


def _is_number(value: object) -> bool:
    """Return whether a value is a number that is not too large; a bool and NaN are not."""
    return type(value) in (int, float) and abs(value) <= MAX_NUMBER  # type: ignore[arg-type]


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier() and len(value) <= MAX_NAME
