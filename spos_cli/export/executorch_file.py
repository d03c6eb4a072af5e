"""Write and read an exported network as a .pte file of ExecuTorch, for phones and boards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from spos_cli.errors import CheckpointError, ConfigError
from spos_cli.export.description import Description, parse_description
from spos_cli.export.inference import InferenceNetwork
from spos_cli.export.packages import import_package, shorten
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.quiet import quiet
from spos_cli.files.writing import write_atomically

PURPOSE, INSTALL = "a .pte file", "executorch"
METHOD = "description"  # of the program; it returns the description's bytes as a tensor


def require_packages() -> None:
    """Raise ConfigError if a package that writes such files is missing."""
    for name in ("executorch.exir",):
        import_package(name, PURPOSE, INSTALL)


def write(network: InferenceNetwork, description: Description, path: Path) -> None:
    """Lower the network to XNNPACK, ExecuTorch's library for CPUs. The program takes one image at a time.

    Raises:
        ConfigError: ExecuTorch is missing, or does not take the network.
        RunError: the file cannot be written.
    """
    exir = import_package("executorch.exir", PURPOSE, INSTALL)
    xnnpack = import_package("executorch.backends.xnnpack.partition.xnnpack_partitioner", PURPOSE, INSTALL)
    text = torch.frombuffer(bytearray(description.to_json().encode()), dtype=torch.uint8)
    with quiet():
        try:
            program = torch.export.export(network, (network.make_example(1),))
            edge = exir.to_edge_transform_and_lower(
                program, partitioner=[xnnpack.XnnpackPartitioner()], constant_methods={METHOD: text}
            )
            content = edge.to_executorch().buffer
        except Exception as error:  # The exporter raises almost anything.
            raise ConfigError(f"the network cannot be written for ExecuTorch: {shorten(error)}") from None
    write_atomically(path, content)


def read_description(path: Path) -> Description:
    """Read the description.

    Raises:
        CheckpointError: the file is torn, or was not exported by spos.
    """
    program = _load_program(path)
    if METHOD not in program.method_names:
        raise CheckpointError(f"{path} was not exported by spos")
    (text,) = program.load_method(METHOD).execute(())
    return parse_description(bytes(text.numpy()), str(path))


def load(path: Path) -> Callable[[Tensor], Tensor]:
    """Return what computes logits `(B, classes)` of images, one by one, on the CPU.

    Raises:
        CheckpointError: the file is torn.
    """
    program = _load_program(path)
    method = program.load_method("forward")

    def classify(images: Tensor) -> Tensor:
        assert program is not None, "a method must not outlive its program"
        return torch.cat([method.execute((image.contiguous(),))[0].clone() for image in torch.split(images, 1)])

    return classify


def _load_program(path: Path):  # type: ignore[no-untyped-def]  # ExecuTorch has no types.
    runtime = import_package("executorch.runtime", PURPOSE, INSTALL)
    with os_errors_as(CheckpointError, f"cannot read {path}"):
        content = path.read_bytes()
    try:
        return runtime.Runtime.get().load_program(content, verification=runtime.Verification.InternalConsistency)
    except Exception as error:  # The runtime raises a RuntimeError of C++.
        raise CheckpointError(f"{path} is not a program of ExecuTorch, or is torn: {shorten(error)}") from None
