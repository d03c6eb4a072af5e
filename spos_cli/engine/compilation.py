"""Compile the choice blocks of a model with PyTorch's compiler."""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from typing import Literal

import torch
from torch import nn

from spos_cli.errors import ConfigError
from spos_cli.models.blocks import ChoiceBlock

Compile = Literal["off", "blocks"]

MAX_GRAPHS = 4096  # that PyTorch may compile for one piece of code; all blocks of a kind share their code
# The compiler that PyTorch calls: its language, the variable that names it, and the commands tried without it.
COMPILERS = {"cpu": ("C++", "CXX", ("g++", "clang++")), "gpu": ("C", "CC", ("gcc", "clang"))}


def compile_blocks(model: nn.Module, device: torch.device) -> None:
    """Let PyTorch compile each choice block when it is first used: one graph per block serves all paths.

    In a space with image sizes, a block has a graph for each size that it is used at, compiled when that size first
    comes.

    Raises:
        ConfigError: there is no compiler.
    """
    require_compiler(device)
    # Blocks of one kind share their code, and PyTorch stops compiling a piece of code after eight times.
    settings = torch._dynamo.config
    kind = "recompile" if hasattr(settings, "recompile_limit") else "cache_size"  # the name in PyTorch 2.6
    for name in (f"{kind}_limit", f"accumulated_{kind}_limit"):
        setattr(settings, name, max(getattr(settings, name), MAX_GRAPHS))
    # PyTorch's compiler itself reads `.grad` of a block's input, and warns of that.
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
    for module in model.modules():
        if isinstance(module, ChoiceBlock):
            module.compile(dynamic=False)


def require_compiler(device: torch.device) -> str:
    """Return the command of the compiler that PyTorch needs to compile blocks for a device.

    Raises:
        ConfigError: there is none.
    """
    language, variable, usual = COMPILERS["cpu" if device.type == "cpu" else "gpu"]
    commands = (os.environ[variable],) if variable in os.environ else usual
    for command in commands:
        if shutil.which(command.partition(" ")[0]):
            return command
    raise ConfigError(
        f"compile: blocks needs a {language} compiler on a {'CPU' if device.type == 'cpu' else 'GPU'}, such as"
        f" {usual[0]}, but none was found; install one, name it in {variable}, or set compile: off"
    )


def run_eagerly() -> contextlib.AbstractContextManager[object]:
    """Run compiled blocks without their graphs, within the block.

    An evaluation has another mode and other batch sizes. PyTorch would compile every block again for each of them.
    """
    stance: contextlib.AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
