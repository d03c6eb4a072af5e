"""`spos export-arch --format onnx` and its like: write a network for use without `spos`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spos_cli.config.identity import portable_settings
from spos_cli.data.transforms import preprocess
from spos_cli.engine.distributed import Processes
from spos_cli.errors import CheckpointError, ConfigError, DataError, RunError
from spos_cli.export import executorch_file, litert_file, onnx_file, pt2_file, python_file, safetensors_file
from spos_cli.export.description import Description
from spos_cli.export.inference import InferenceNetwork, InputKind
from spos_cli.export.verification import Classify, Comparison, compare, measure_latencies
from spos_cli.files.digests import file_digest
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.quoting import quote_path
from spos_cli.models.network import Network
from spos_cli.run.calibrated_path import build_calibrated_path
from spos_cli.run.command import Run
from spos_cli.run.exported_files import load_exported
from spos_cli.run.folder import RunFolder
from spos_cli.run.images import Images
from spos_cli.run.output import format_bytes
from spos_cli.run.weights_file import Weights

Write = Callable[[InferenceNetwork, Description, Path], None]
COMPARED_IMAGES, BATCH = 256, 64


@dataclass(frozen=True)
class Format:
    """A format of exported networks.

    Attributes:
        suffix: of its files.
        write: what writes a file.
        runtime: what runs it, for people.
    """

    suffix: str
    write: Write
    runtime: str


FORMATS = {
    "onnx": Format(".onnx", onnx_file.write, "ONNX Runtime"),
    "pt2": Format(".pt2", pt2_file.write, "torch.export"),
    "safetensors": Format(".safetensors", safetensors_file.write, "PyTorch"),
    "python": Format(".py", python_file.write, "PyTorch"),
    "executorch": Format(".pte", executorch_file.write, "ExecuTorch"),
    "litert": Format(".tflite", litert_file.write, "LiteRT"),
}


def export(
    run: Run,
    weights: Weights,
    arch: str | None,
    form: str,
    folder: RunFolder,
    output: Path | None,
    input_kind: InputKind,
) -> None:
    """Write a network in another format, and compare the file with the network before it gets its name.

    Args:
        run: its settings are those of the weights file.
        weights: a network, or a supernet together with `arch`.
        arch: the path of the supernet, which is calibrated first; a literal or a file.
        form: a key of `FORMATS`.
        folder: of the run, for the file.
        output: the file to write, which must not exist; None: one in `exported/` of the run folder.
        input_kind: what the file takes.

    Raises:
        CheckpointError: the file does not compute what the network does, or the weights are of another space.
        ConfigError: a package is missing, or the options do not go together.
        RunError: the output exists, or cannot be written.
    """
    images = Images(run.config, Processes(0, 1, torch.device("cpu")))
    network, classes = build_network(run, weights, arch, images)
    output = choose_output(folder, network, output, FORMATS[form])
    inference = InferenceNetwork(network, run.config.data.preset, input_kind)
    description = Description(
        architecture=network.arch,
        classes=tuple(classes),
        preset=run.config.data.preset,
        image_size=run.config.space.image_size,
        input=input_kind,
        quantized=False,
        source=file_digest(weights.path),
        config=portable_settings(run.config),
    )
    pixels = list(load_pixels(run, images))
    with os_errors_as(RunError, f"cannot write {output}"):
        output.parent.mkdir(parents=True, exist_ok=True)
        drafts = Path(tempfile.mkdtemp(prefix=".export-", dir=output.parent))
    try:
        draft = drafts / output.name
        run.say(f"writing {output}")
        FORMATS[form].write(inference, description, draft)
        classify = python_file.load(draft) if form == "python" else load_exported(draft, description, run.config)
        check(run, network, classify, draft, pixels, input_kind, output, form)
        with os_errors_as(RunError, f"cannot write {output}"):
            for file in sorted(drafts.iterdir()):
                file.replace(output.parent / file.name)
    finally:
        shutil.rmtree(drafts, ignore_errors=True)
    if form != "python":
        run.next(f"evaluate --weights {quote_path(output)}")


def build_network(run: Run, weights: Weights, arch: str | None, images: Images) -> tuple[Network, tuple[str, ...]]:
    """Return the network to export, in eval mode, and the names of its classes."""
    if weights.kind == "supernet":
        if arch is None:
            raise ConfigError(f"{weights.path} is a supernet; name the path to export with --arch")
        return build_calibrated_path(run, weights, arch, images), images.train.classes
    if arch is not None:
        raise ConfigError(f"{weights.path} is a network and has its architecture in it; do not pass --arch")
    return weights.network(run.config).eval(), weights.classes


def choose_output(folder: RunFolder, network: Network, output: Path | None, form: Format) -> Path:
    """Return the file to write.

    Raises:
        ConfigError: its name has another suffix than the format.
        RunError: it exists.
    """
    output = output or folder.exported / f"{network.arch.id}{form.suffix}"
    if output.suffix != form.suffix:
        raise ConfigError(f"--output is {output}, but this format needs a name that ends in {form.suffix}")
    for path in {output, output.with_suffix(".safetensors")} if form.suffix == ".py" else {output}:
        if path.exists():
            raise RunError(f"{path} already exists; name another file with --output")
    return output


def load_pixels(run: Run, images: Images) -> Iterator[Tensor]:
    """Yield some validation images `(B, 3, S, S) uint8`, the last one alone; random ones where there are none."""
    count, size = 0, run.config.space.image_size
    try:
        for pixels, _, _ in images.val_batches(BATCH):
            yield pixels
            count += len(pixels)
            if count >= COMPARED_IMAGES:
                break
        yield pixels[:1]
    except DataError as error:
        run.say(f"comparing on random images, since there are no validation images: {error}")
        generator = torch.Generator().manual_seed(run.config.seed)
        for batch in (BATCH, 1):
            yield torch.randint(256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)


def check(
    run: Run,
    network: Network,
    classify: Classify,
    draft: Path,
    pixels: list[Tensor],
    input_kind: InputKind,
    output: Path,
    form: str,
) -> None:
    """Compare a file with its network, and show the result.

    Args:
        classify: runs the file.
        draft: the file.
        pixels: images `(B, 3, S, S) uint8`.
        output: the name that the file gets afterwards.

    Raises:
        CheckpointError: they differ by more than rounding.
    """
    prepared = [run_preprocess(run, batch) for batch in pixels]
    inputs = pixels if input_kind == "uint8" else prepared
    comparison = compare(network, classify, zip(prepared, inputs, strict=True))
    if not comparison.is_equal:
        raise CheckpointError(
            f"{output} was not written: its logits differ from the network's by up to"
            f" {comparison.largest_difference:.3g}, and the largest logit is {comparison.largest_logit:.3g}; please"
            " report this, with the versions of the packages"
        )
    one = pixels[-1]
    latencies = measure_latencies([lambda: network(run_preprocess(run, one)), lambda: classify(inputs[-1])])
    show(run, comparison, latencies, draft, output, form)


def run_preprocess(run: Run, pixels: Tensor) -> Tensor:
    """Return images as the network takes them."""
    return preprocess(run.config.data.preset, pixels)


def show(run: Run, comparison: Comparison, latencies: list[float], draft: Path, output: Path, form: str) -> None:
    """Show what was written, and how it compares with the network."""
    files = sorted(draft.parent.iterdir())
    size = sum(file.stat().st_size for file in files)
    names = [str(output.parent / file.name) for file in files]
    ours, theirs = latencies
    run.result(
        {
            "files": names,
            "bytes": size,
            "images": comparison.images,
            "largest_difference": comparison.largest_difference,
            "largest_logit": comparison.largest_logit,
            "agreement": comparison.agreement,
            "milliseconds": {"spos": ours, form: theirs},
        }
    )
    rows = [
        ("written to", " and ".join(names)),
        ("size", format_bytes(size)),
        ("images compared", comparison.images),
        ("largest difference of a logit", f"{comparison.largest_difference:.2g} of {comparison.largest_logit:.3g}"),
        ("same top-1 class", f"{comparison.agreement:.2%}"),
        ("latency of one image, spos", f"{ours:.2f} ms"),
        (f"latency of one image, {FORMATS[form].runtime}", f"{theirs:.2f} ms"),
    ]
    run.show("exported and compared with the network", ["what:", "value:"], rows)
