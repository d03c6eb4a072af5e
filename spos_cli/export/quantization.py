"""Quantize networks to 8 bits, with ONNX Runtime or torchao.

Both quantize statically: the ranges of activations come from calibration images, not from the image that is classified.
Each output channel of a convolution has a scale of its own, and activations are unsigned. The graphs keep operators of
float between quantize and dequantize nodes (QDQ), and a runtime replaces each such group by one operator on integers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spos_cli.errors import ConfigError
from spos_cli.export import onnx_file, pt2_file
from spos_cli.export.description import Description
from spos_cli.export.inference import InferenceNetwork
from spos_cli.export.onnx_file import TRACED_BATCH
from spos_cli.export.packages import import_package, shorten
from spos_cli.files.quiet import quiet


def write_onnx(network: InferenceNetwork, description: Description, path: Path, batches: Iterable[Tensor]) -> None:
    """Write a quantized network as an ONNX file.

    Args:
        batches: calibration images as the network takes them, `(B, C, S, S)` each.

    Raises:
        ConfigError: a package is missing, or the network cannot be exported or quantized.
        RunError: the file cannot be written.
    """
    model = onnx_file.make_model(network, network.make_example(TRACED_BATCH))
    onnx_file.write_model(quantize_model(model, batches), description, path)


def quantize_model(model: Any, batches: Iterable[Tensor]) -> Any:
    """Return an `onnx.ModelProto` that is quantized with `onnxruntime.quantization.quantize_static`.

    Weights use 7 of their 8 bits. x86 CPUs without VNNI add two products in 16 bits, and would cut off the sum of two
    large ones: at most 2 * 255 * 127 with 8 bits, but 2 * 255 * 64 with 7, which is below 2**15.

    Args:
        batches: inputs of the model.

    Raises:
        ConfigError: a package is missing, or the model cannot be quantized.
    """
    tools = import_package("onnxruntime.quantization", onnx_file.PURPOSE, onnx_file.INSTALL)
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "model.onnx"
        try:
            tools.quantize_static(
                model,
                path,
                _CalibrationReader(batches),
                quant_format=tools.QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=tools.QuantType.QUInt8,
                weight_type=tools.QuantType.QInt8,
                calibrate_method=tools.CalibrationMethod.MinMax,
                # Among logits of 8 bits, several could be the largest one.
                extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
            )
        except Exception as error:  # ONNX Runtime has an exception of its own for each kind of problem.
            raise ConfigError(f"the network cannot be quantized by ONNX Runtime: {shorten(error)}") from None
        return onnx_file.read_model(path)


class _CalibrationReader:
    """Calibration images as ONNX Runtime asks for them."""

    def __init__(self, batches: Iterable[Tensor]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next inputs by name; None at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {onnx_file.INPUT: batch.contiguous().numpy()}


def write_pt2(network: InferenceNetwork, description: Description, path: Path, batches: Iterable[Tensor]) -> None:
    """Write a quantized network as a .pt2 file.

    Args:
        batches: calibration images as the network takes them, `(B, C, S, S)` each.

    Raises:
        ConfigError: torchao is missing, or the network cannot be exported or quantized.
        RunError: the file cannot be written.
    """
    pt2_file.write_program(quantize_program(network, batches), description, path)


@torch.no_grad()
def quantize_program(network: InferenceNetwork, batches: Iterable[Tensor]) -> torch.export.ExportedProgram:
    """Return a network as a program that is quantized with torchao, for the operators of x86 CPUs.

    Args:
        batches: images as the network takes them.

    Raises:
        ConfigError: torchao is missing, or the network cannot be exported or quantized.
    """
    tools, x86 = pt2_file.import_torchao(), pt2_file.import_torchao("quantizer.x86_inductor_quantizer")
    example = network.make_example(TRACED_BATCH)
    program = pt2_file.trace(network, example)
    with quiet():
        try:
            quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
            observed = tools.prepare_pt2e(program.module(), quantizer)
            for batch in batches:
                observed(batch)
            quantized = tools.convert_pt2e(observed)
        except Exception as error:  # torchao raises almost anything here.
            raise ConfigError(f"the network cannot be quantized by torchao: {shorten(error)}") from None
    delete_unused_tensors(quantized)
    return pt2_file.trace(quantized, example)


def delete_unused_tensors(module: torch.fx.GraphModule) -> None:
    """Delete parameters and buffers that the graph does not use, such as the weights before they were quantized."""
    used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    tensors = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    for name in tensors:
        if name not in used:
            owner, _, attribute = name.rpartition(".")
            delattr(module.get_submodule(owner), attribute)
