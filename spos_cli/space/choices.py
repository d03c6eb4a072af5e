"""The ops that a choice block may be, and their parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spos_cli.errors import ConfigError
from spos_cli.files.quoting import quote_value

MAX_CHOICES, MAX_KERNEL, MAX_EXPAND = 64, 31, 64
MAX_NAME, MAX_NUMBER = 64, 10**9  # Characters of a name, and size of any number, in a file.

# The ops that `models.blocks` can build, and the parameters that each must have.
OPS: dict[str, tuple[str, ...]] = {
    "shuffle": ("kernel",),
    "shuffle_xception": (),
    "mbconv": ("expand", "kernel"),
    "skip": (),
    "identity": (),
}
# Parameters that an op may have as well, and their values; the first one is used where the parameter is missing.
OPTIONAL: dict[str, dict[str, tuple[str, ...]]] = {"mbconv": {"activation": ("relu6", "relu", "hswish")}}
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
    parameters: tuple[tuple[str, int | str], ...] = ()

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
                if all(_is_word(value) or (type(value) is int and abs(value) <= MAX_NUMBER) for _, value in pairs):
                    return Choice(op, pairs)
        raise ConfigError(f"choices: cannot read {quote_value(spec)}; write an op such as shuffle: {{kernel: 5}}")

    def to_spec(self) -> str | dict[str, dict[str, int | str]]:
        """Return the choice as the YAML file writes it."""
        return {self.op: dict(self.parameters)} if self.parameters else self.op

    @property
    def is_own(self) -> bool:
        """Whether this is the user's own block, which is imported when it is built."""
        return ":" in self.op

    @property
    def is_scalable(self) -> bool:
        """Whether widths scale the hidden channels of this op."""
        return self.op in SHUFFLE_OPS or (self.op == "mbconv" and dict(self.parameters)["expand"] != 1)

    def __str__(self) -> str:
        return " ".join([self.op, *(f"{key}={value}" for key, value in self.parameters)])

    @property
    def name(self) -> str:
        """A short label for tables: `shuffle 5x5`, `mbconv 3x3 x6`, `mbconv 3x3 x6 relu`."""
        parameters = dict(self.parameters)
        kernel, expand, activation = (parameters.get(name) for name in ("kernel", "expand", "activation"))
        if self.is_own:
            return " ".join([self.op.partition(":")[2], *(f"{name}={value}" for name, value in self.parameters)])
        parts = [f"{kernel}x{kernel}" if kernel else "", f"x{expand}" if expand else "", str(activation or "")]
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
    parameters, optional = dict(choice.parameters), OPTIONAL.get(choice.op, {})
    if tuple(name for name in parameters if name not in optional) != OPS[choice.op]:
        takes = ", ".join(OPS[choice.op]) or "no parameters"
        if optional:
            takes += f" and optionally {', '.join(optional)}"
        raise ConfigError(f"choices: {choice.op} takes {takes}, not {', '.join(parameters) or 'none'}")
    for name, values in optional.items():
        if parameters.get(name, values[0]) not in values:
            raise ConfigError(f"choices: {choice}: {name} must be {', '.join(values[:-1])} or {values[-1]}")
    for name in OPS[choice.op]:
        if isinstance(parameters[name], str):
            raise ConfigError(f"choices: {choice}: {name} must be a whole number")
    kernel, expand = (int(parameters.get(name, 1)) for name in ("kernel", "expand"))
    if kernel % 2 == 0 or not 1 <= kernel <= MAX_KERNEL:
        raise ConfigError(f"choices: {choice}: kernel must be an odd number from 1 to {MAX_KERNEL}")
    if not 1 <= expand <= MAX_EXPAND:
        raise ConfigError(f"choices: {choice}: expand must be from 1 to {MAX_EXPAND}")


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier() and len(value) <= MAX_NAME
