"""Write and read an exported network as an ONNX file, and run it with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spos_cli.errors import CheckpointError, ConfigError
from spos_cli.export.description import KEY, Description, parse_description
from spos_cli.export.inference import InferenceNetwork
from spos_cli.export.packages import import_package, shorten
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.quiet import quiet
from spos_cli.files.writing import write_atomically

PURPOSE, INSTALL = "an ONNX file", "spos[onnx]"
INPUT, OUTPUT = "images", "logits"
MAX_MODEL_BYTES = 2**31 - 1  # the limit of protobuf, in which ONNX files are written
TRACED_BATCH = 2  # A batch of one would be taken for a constant.


def require_packages() -> None:
    """Raise ConfigError if a package that writes such files is missing."""
    for name in ("onnxscript", "onnx", "onnxruntime"):
        import_package(name, PURPOSE, INSTALL)


def write(network: InferenceNetwork, description: Description, path: Path) -> None:
    """Export with `torch.onnx.export`; the batch size is dynamic, and the description is part of the metadata.

    Raises:
        ConfigError: a package is missing, or a block of the user's own cannot be exported.
        RunError: the file cannot be written.
    """
    write_model(make_model(network, network.make_example(TRACED_BATCH)), description, path)


def make_model(module: nn.Module, example: Tensor, *, any_batch: bool = True) -> Any:
    """Export a module of one input, and return it as an `onnx.ModelProto`.

    Args:
        example: an input.
        any_batch: whether the first dimension of the input may have any size; the parameter is then called `images`.

    Raises:
        ConfigError: a package is missing, or the module cannot be exported.
    """
    import_package("onnxscript", PURPOSE, INSTALL)
    import_package("onnx", PURPOSE, INSTALL)
    with quiet():
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}} if any_batch else None,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ConfigError(f"the network cannot be written as ONNX: {shorten(error)}") from None
    assert program is not None
    return program.model_proto


def write_model(model: Any, description: Description, path: Path) -> None:
    """Write an ONNX model with the description as its metadata.

    Args:
        model: an `onnx.ModelProto`.
    """
    # The exporter's notes name functions and files of this machine.
    for part in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ):
        del part.metadata_props[:]
    model.metadata_props.add(key=KEY, value=description.to_json())
    model.producer_name = "spos"
    write_atomically(path, model.SerializeToString())


def read_model(path: Path) -> Any:
    """Read an `onnx.ModelProto`, whose tensors are all inside the file.

    Raises:
        CheckpointError: the file is torn, or refers to other files.
    """
    onnx = import_package("onnx", PURPOSE, INSTALL)
    with os_errors_as(CheckpointError, f"cannot read {path}"):
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise CheckpointError(f"{path} is larger than 2 GiB, so it is not an ONNX file")
        content = path.read_bytes()
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception:  # The error's class depends on how protobuf was built.
        raise CheckpointError(f"{path} is not an ONNX file, or is torn") from None
    if any(isinstance(part, onnx.TensorProto) and part.external_data for part in walk_messages(model)):
        raise CheckpointError(f"{path} has tensors in other files, which spos does not read")
    return model


def walk_messages(message: Any) -> Iterator[Any]:
    """Yield a message of protobuf, and all messages in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            parts = (value,) if hasattr(value, "ListFields") else value
            for part in parts:
                yield from walk_messages(part)


def read_description(path: Path) -> Description:
    """Read the description.

    Raises:
        CheckpointError: the file is torn, or was not exported by spos.
    """
    texts = [entry.value for entry in read_model(path).metadata_props if entry.key == KEY]
    return parse_description(texts[0] if texts else "", str(path))


def load(path: Path) -> Callable[[Tensor], Tensor]:
    """Return what computes logits `(B, classes)` of images with ONNX Runtime, on the CPU.

    Raises:
        CheckpointError: ONNX Runtime does not take the file.
    """
    session = open_session(read_model(path), str(path))
    if [one.name for one in session.get_inputs()] != [INPUT] or [one.name for one in session.get_outputs()] != [OUTPUT]:
        raise CheckpointError(f"{path} has other inputs or outputs than {INPUT} and {OUTPUT}")

    def classify(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: images.cpu().contiguous().numpy()})
        return torch.from_numpy(logits)

    return classify


def open_session(model: Any, what: str) -> Any:
    """Return an `onnxruntime.InferenceSession` of an `onnx.ModelProto`, on the CPU, with the threads of PyTorch.

    Args:
        what: the beginning of the message, such as the path of the model.

    Raises:
        ConfigError: ONNX Runtime is missing.
        CheckpointError: it does not take the model.
    """
    runtime = import_package("onnxruntime", PURPOSE, INSTALL)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has an exception of its own for each kind of problem.
        raise CheckpointError(f"{what} cannot be run by ONNX Runtime: {shorten(error)}") from None
