"""Write and read an exported network as a .tflite file of LiteRT, for phones and boards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spos_cli.errors import CheckpointError, ConfigError
from spos_cli.export.description import KEY, Description, parse_description
from spos_cli.export.inference import InferenceNetwork
from spos_cli.export.packages import import_package, shorten
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.quiet import quiet
from spos_cli.files.writing import write_atomically

PURPOSE, INSTALL = "a .tflite file", "litert-torch"
MAGIC = b"TFL3"  # bytes 4 to 8 of a file


def require_packages() -> None:
    """Raise ConfigError if a package that writes such files is missing."""
    for name in ("litert_torch",):
        import_package(name, PURPOSE, INSTALL)


def write(network: InferenceNetwork, description: Description, path: Path) -> None:
    """Convert the network with `litert_torch`. The program takes one image at a time.

    Raises:
        ConfigError: LiteRT is missing, or does not take the network.
        RunError: the file cannot be written.
    """
    converter = import_package("litert_torch", PURPOSE, INSTALL)
    draft = path.with_name(f".{path.name}.litert")
    with quiet():
        try:
            converter.convert(network, (network.make_example(1),)).export(str(draft))
            content = draft.read_bytes()
        except Exception as error:  # The converter raises almost anything.
            raise ConfigError(f"the network cannot be written for LiteRT: {shorten(error)}") from None
        finally:
            draft.unlink(missing_ok=True)
    write_atomically(path, add_description(content, description))


def add_description(content: bytes, description: Description) -> bytes:
    """Return the bytes of a model with the description as its metadata."""
    schema = import_package("ai_edge_litert.schema_py_generated", PURPOSE, INSTALL)
    flatbuffers = import_package("flatbuffers", PURPOSE, INSTALL)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = list(description.to_json().encode())
    entry.name, entry.buffer = KEY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=MAGIC)
    return bytes(builder.Output())


def read_description(path: Path) -> Description:
    """Read the description.

    Raises:
        CheckpointError: the file is torn, or was not exported by spos.
    """
    schema = import_package("ai_edge_litert.schema_py_generated", PURPOSE, INSTALL)
    with os_errors_as(CheckpointError, f"cannot read {path}"):
        content = path.read_bytes()
    if content[4:8] != MAGIC:
        raise CheckpointError(f"{path} is not a file of LiteRT, or is torn")
    try:
        model = schema.Model.GetRootAs(content)
        entries = [model.Metadata(number) for number in range(model.MetadataLength())]
        texts = [model.Buffers(entry.Buffer()).DataAsNumpy() for entry in entries if entry.Name() == KEY.encode()]
        text = bytes(texts[0]) if texts else b""
    except Exception:  # A torn file leads the reader to any place of it.
        raise CheckpointError(f"{path} is not a file of LiteRT, or is torn") from None
    return parse_description(text, str(path))


def load(path: Path) -> Callable[[Tensor], Tensor]:
    """Return what computes logits `(B, classes)` of images, one by one, on the CPU.

    Raises:
        CheckpointError: the file is torn.
    """
    runtime = import_package("ai_edge_litert.interpreter", PURPOSE, INSTALL)
    try:
        interpreter: Any = runtime.Interpreter(model_path=str(path), num_threads=torch.get_num_threads())
        interpreter.allocate_tensors()
        (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    except Exception as error:  # The runtime raises almost anything for a torn file.
        raise CheckpointError(f"{path} cannot be run by LiteRT: {shorten(error)}") from None

    def classify_one(image: Tensor) -> Tensor:
        interpreter.set_tensor(source["index"], image.contiguous().numpy())
        interpreter.invoke()
        return torch.from_numpy(interpreter.get_tensor(target["index"]))

    def classify(images: Tensor) -> Tensor:
        return torch.cat([classify_one(image) for image in torch.split(images.cpu(), 1)])

    return classify
