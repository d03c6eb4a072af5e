"""Write and read an exported network as a .pt2 file of `torch.export`.

`torch.export.load` may run code from a file: it unpickles some tensors, evaluates formulas of sizes, runs guards, and
makes code of names. So a file is looked through first, and is loaded only if it has no pickles, formulas and guards,
plain names, and PyTorch's own operators.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spos_cli.errors import CheckpointError, ConfigError
from spos_cli.export.description import KEY, MAX_CHARACTERS, Description, parse_description
from spos_cli.export.inference import InferenceNetwork
from spos_cli.export.onnx_file import TRACED_BATCH
from spos_cli.export.packages import import_package, shorten
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.quiet import quiet
from spos_cli.files.writing import write_atomically

DESCRIPTION_FILE = f"{KEY}.json"
MAX_JSON_BYTES = MAX_CHARACTERS
# Content of an archive that is not code: the graph, tensors as plain bytes, and notes on both.
PLAIN_FILES = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\S+|version|data/weights/weight_\d+|data/constants/tensor_\d+"
    r"|(data/weights|data/constants|models)/\w+\.json|extra/[\w.]+|data/sample_inputs/\w+\.pt"
)
# What trained networks consist of; there are operators of PyTorch that write files.
OPERATORS = re.compile(
    r"torch\.ops\.aten\.("
    r"_assert_tensor_metadata|adaptive_avg_pool2d|adaptive_max_pool2d|add_?|amax|avg_pool2d|batch_norm|bmm|cat"
    r"|channel_shuffle|chunk"
    r"|clamp_?|clone|constant_pad_nd|contiguous|conv1d|conv2d|conv_transpose2d|detach|div_?|elu|exp|expand|flatten|flip|gelu"
    r"|group_norm|hardsigmoid_?|hardswish_?|hardtanh_?|index_select|layer_norm|leaky_relu_?|linear|matmul|max_pool2d"
    r"|mean|minimum|mish|mul_?|narrow|neg|ones_like|pad|permute|pow|relu6?_?|reshape|round|rsqrt|select|sigmoid_?|silu_?"
    r"|slice|softmax"
    r"|split|split_with_sizes|sqrt|squeeze|stack|sub_?|sum|sym_size|tanh_?|to|transpose|unsqueeze|upsample_bilinear2d"
    r"|upsample_nearest2d|view|zeros_like)\.\w+"
    r"|torch\.ops\.(quantized_decomposed|torchao)\.(de)?quantize\w*\.\w+"
    r"|_operator\.(getitem|add|sub|mul|floordiv)"
)
# A size is a number or a symbol, such as that of the batch size: Symbol('s77', positive=True, integer=True).
SIZE = re.compile(r"\d+|[us]\d+|Symbol\('[us]\d+'(, (positive|nonnegative|integer)=True)*\)")
# Without parentheses, quotes and line breaks, no text can call anything.
TEXT = re.compile(r"[\w.,;:@$<>+\[\]-]*", re.ASCII)
CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")  # in the description of inputs and outputs


def write(network: InferenceNetwork, description: Description, path: Path) -> None:
    """Export with `torch.export`; the batch size is dynamic, and the description is an extra file.

    Raises:
        ConfigError: a block of the user's own cannot be exported.
        RunError: the file cannot be written.
    """
    write_program(trace(network, network.make_example(TRACED_BATCH)), description, path)


def trace(network: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """Return a network as a program, for any batch size.

    Args:
        network: the parameter of its forward pass is called `images`.
        example: more than one image.

    Raises:
        ConfigError: a block of the user's own cannot be exported.
    """
    with quiet():
        try:
            return torch.export.export(
                network,
                (example,),
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                strict=False,
            )
        except Exception as error:  # PyTorch raises almost anything here.
            raise ConfigError(f"the network cannot be exported by torch.export: {shorten(error)}") from None


def write_program(program: torch.export.ExportedProgram, description: Description, path: Path) -> None:
    """Write a program with its description."""
    for node in program.graph.nodes:  # Its notes name functions and files of this machine.
        for note in ("stack_trace", "from_node", "source_fn_stack", "torch_fn"):
            node.meta.pop(note, None)
    content = io.BytesIO()
    with quiet():
        torch.export.save(program, content, extra_files={DESCRIPTION_FILE: description.to_json()})
    write_atomically(path, content.getvalue())


def read_description(path: Path) -> Description:
    """Read the description; nothing else is read.

    Raises:
        CheckpointError: the file is torn, or was not exported by spos.
    """
    with _open(path) as archive:
        for name in archive.namelist():
            if name.partition("/")[2] == f"extra/{DESCRIPTION_FILE}":
                return parse_description(_read(archive, name, path), str(path))
    raise CheckpointError(f"{path} was not exported by spos")


def load(path: Path) -> Callable[[Tensor], Tensor]:
    """Return what computes logits `(B, classes)` of images, on the CPU.

    Raises:
        CheckpointError: the file is torn, or could run code.
        ConfigError: the file is quantized, and torchao is missing, which has its operators.
    """
    require_plain(path)
    if read_description(path).quantized:
        import_torchao()
    with quiet():
        try:
            module = torch.export.load(path).module()
        except Exception:  # PyTorch raises almost anything for a file that it does not understand.
            raise CheckpointError(f"{path} cannot be loaded by this PyTorch") from None

    def classify(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = module(images)
        return logits

    return classify


def import_torchao(module: str = "quantize_pt2e") -> Any:
    """Import a module of `torchao.quantization.pt2e`, and with it the operators of quantized programs.

    Raises:
        ConfigError: torchao is not installed, or does not fit the installed PyTorch.
    """
    with quiet():
        return import_package(f"torchao.quantization.pt2e.{module}", "a quantized .pt2 file", "spos[torchao]")


def require_plain(path: Path) -> None:
    """Raise CheckpointError if loading a file could run code from it, or if it is torn."""
    with _open(path) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names):  # PyTorch may read another one of them than was looked at.
            raise CheckpointError(f"{path} is not loaded: it has several files of one name, so it may run code")
        for name in names:
            inner = name.partition("/")[2]
            if not PLAIN_FILES.fullmatch(inner):
                raise CheckpointError(f"{path} is not loaded: {inner[:60]!r} in it may run code")
            if inner.startswith("data/sample_inputs/"):
                _require_plain_tensors(archive, name, path)
            elif inner.endswith(".json") and not inner.startswith("extra/"):
                _require_plain_json(_read(archive, name, path), path)


def _require_plain_tensors(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    """Raise CheckpointError if a file of example inputs has more than tensors in it."""
    try:
        torch.load(io.BytesIO(_read(archive, name, path)), weights_only=True)
    except Exception:  # PyTorch raises almost anything for a file that it does not understand.
        raise CheckpointError(f"{path} is not loaded: its example inputs may run code") from None


def _require_plain_json(content: bytes, path: Path) -> None:
    """Raise CheckpointError if a graph, or notes on tensors, have more in them than data."""
    try:
        values = list(_walk(json.loads(content)))
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is torn") from None
    for key, value in values:
        if not (_is_plain(key, value) and TEXT.fullmatch(key)):
            raise CheckpointError(f"{path} is not loaded: {key[:60]} {str(value)[:60]!r} in it may run code")


def _is_plain(key: str, value: Any) -> bool:
    """Return whether a value of a graph can only be data."""
    if key in ("use_pickle", "guards_code"):
        return not value
    if key in ("in_spec", "out_spec"):
        return _is_plain_spec(value)
    if not isinstance(value, str):
        return key not in ("expr_str", "target")
    pattern = {"expr_str": SIZE, "target": OPERATORS}.get(key, TEXT)
    return pattern.fullmatch(value) is not None


def _is_plain_spec(text: Any) -> bool:
    """Return whether the description of inputs or outputs has plain containers only; it may name any class."""
    try:
        parts = [value for _, value in _walk({"": json.loads(text)}) if isinstance(value, dict)]
    except (ValueError, TypeError, RecursionError):
        return False
    return all(
        set(part) == {"type", "context", "children_spec"}
        and part["type"] in CONTAINERS
        and part["context"] in (None, "null", "[]")
        for part in parts
    )


def _walk(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value in a JSON value, at any depth, with the key that it, or the list around it, belongs to."""
    for name, inner in value.items() if isinstance(value, dict) else ((key, one) for one in value):
        yield name, inner
        if isinstance(inner, dict | list):
            yield from _walk(inner, name)


def _open(path: Path) -> zipfile.ZipFile:
    with os_errors_as(CheckpointError, f"cannot read {path}"):
        try:
            return zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError):
            raise CheckpointError(f"{path} is not a file of torch.export.save, or is torn") from None


def _read(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    with os_errors_as(CheckpointError, f"cannot read {path}"):
        try:
            if archive.getinfo(name).file_size > MAX_JSON_BYTES:
                raise CheckpointError(f"{path} is not loaded: {name[:60]!r} in it is too large")
            return archive.read(name)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError):
            raise CheckpointError(f"{path} is torn") from None
