"""`spos export-arch --format onnx` and its like: write a network for use without `spos`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from spos_cli.config.identity import portable_settings
from spos_cli.config.schema import Config
from spos_cli.engine.distributed import Processes
from spos_cli.engine.progress import warn
from spos_cli.errors import CheckpointError, ConfigError, DataError, RunError
from spos_cli.export import (
    executorch_file,
    litert_file,
    onnx_file,
    pt2_file,
    python_file,
    quantization,
    safetensors_file,
)
from spos_cli.export.description import Description
from spos_cli.export.inference import InferenceNetwork, InputKind
from spos_cli.export.quantized import describe_bits
from spos_cli.export.verification import Classify, Comparison, compare, measure_latencies
from spos_cli.files.digests import file_digest
from spos_cli.files.quoting import quote_path
from spos_cli.files.writing import write_atomically
from spos_cli.models.network import Network
from spos_cli.run.calibrated_path import build_calibrated_path
from spos_cli.run.classifier import keep_pixels, read_image_size
from spos_cli.run.command import Run
from spos_cli.run.exported_files import load_exported
from spos_cli.run.folder import RunFolder
from spos_cli.run.images import Images
from spos_cli.run.output import format_bytes
from spos_cli.run.preparation import make_normalisation
from spos_cli.run.quantization_cost import (
    QuantizationCost,
    load_calibration_pixels,
    measure_cost,
    require_images,
)
from spos_cli.run.weights_file import Weights
from spos_cli.space.bits import format_bits

Write = Callable[[InferenceNetwork, Description, Path], None]
COMPARED_IMAGES, BATCH = 256, 64
# What keeps the order of the additions, on which features near a level depend; other runtimes fuse layers.
QUANTIZED_BLOCKS_FORMATS = ("pt2", "safetensors")
MAX_POINTS_LOST = 1.0  # of top-1, without a warning


@dataclass(frozen=True)
class Format:
    """A format of exported networks.

    Attributes:
        suffix: of its files.
        write: what writes a file.
        runtime: what runs it, for people.
        require_packages: raises ConfigError if a package is missing.
    """

    suffix: str
    write: Write
    runtime: str
    require_packages: Callable[[], None] = lambda: None


# What writes a quantized file; the last argument has calibration images as the file takes them.
QUANTIZERS: dict[str, Callable[[InferenceNetwork, Description, Path, Iterable[Tensor]], None]] = {
    "onnx": quantization.write_onnx,
    "pt2": quantization.write_pt2,
}
FORMATS = {
    "onnx": Format(".onnx", onnx_file.write, "ONNX Runtime", onnx_file.require_packages),
    "pt2": Format(".pt2", pt2_file.write, "PyTorch (.pt2)"),
    "safetensors": Format(".safetensors", safetensors_file.write, "PyTorch", safetensors_file.require_packages),
    "python": Format(".py", python_file.write, "PyTorch", safetensors_file.require_packages),
    "executorch": Format(".pte", executorch_file.write, "ExecuTorch", executorch_file.require_packages),
    "litert": Format(".tflite", litert_file.write, "LiteRT", litert_file.require_packages),
}


def export(
    run: Run,
    weights: Weights,
    arch: str | None,
    form: str,
    folder: RunFolder,
    output: Path | None,
    input_kind: InputKind,
    *,
    int8: bool,
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
        int8: quantize to 8 bits, and say what that costs; the form is one of `QUANTIZERS`.

    Raises:
        CheckpointError: the file does not compute what the network does, or the weights are of another space.
        ConfigError: a package is missing, or the options do not go together.
        RunError: the output exists, or cannot be written.
        DataError: there are no images to quantize with.
    """
    FORMATS[form].require_packages()  # It fails before any work.
    images = Images(run.config.at_size(read_image_size(arch)), Processes(0, 1, torch.device("cpu")))
    network, classes = build_network(run, weights, arch, images)
    require_kept_bits(network, form, int8=int8)
    output = choose_output(folder, network, output, form, make_ending(images, weights, network, int8=int8))
    if int8:
        require_images(images, classes)
    inference = InferenceNetwork(network, run.config.data.preset, input_kind, images.normalisation)
    description = describe_network(images.config, weights, network, classes, input_kind, int8)
    run.say(f"writing {output}")
    with tempfile.TemporaryDirectory() as drafts:
        draft = Path(drafts) / output.name
        try:
            if network.arch.bits:
                write_bits(network, name_bits_file(draft))
            if int8:
                quantize(run, network, inference, description, images, draft, output, form)
            else:
                pixels = list(load_pixels(run, images))
                FORMATS[form].write(inference, description, draft)
                classify = load_file(run, draft, description, form)
                check(run, images, network, classify, draft, pixels, input_kind, output, form)
        except CheckpointError as error:
            reason = str(error).replace(str(draft), "it")
            if form in ("onnx", "pt2"):
                reason += f"; a newer PyTorch may have a better exporter (this is {torch.__version__})"
            raise CheckpointError(f"{output} was not written: {reason}") from None
        for file in list_files(output, network):
            write_atomically(file, draft.with_name(file.name).read_bytes())
    if form != "python":
        run.next(f"evaluate --weights {quote_path(output)}")


def write_bits(network: Network, path: Path) -> None:
    """Write the bits and clipping levels of a network as JSON, for programs that run it with few bits."""
    content = {"architecture": network.arch.to_list(), "layers": describe_bits(network)}
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def load_file(run: Run, path: Path, description: Description, form: str) -> Classify:
    """Return what runs a file that was just written; a Python file is our own code."""
    return python_file.load(path) if form == "python" else load_exported(path, description, run.config)


def require_kept_bits(network: Network, form: str, *, int8: bool) -> None:
    """Raise ConfigError if the blocks of a network are quantized, and a file would not compute what they do."""
    if not network.arch.bits:
        return
    if int8:
        kinds = ", ".join(map(format_bits, sorted(set(network.arch.bits) - {0})))
        raise ConfigError(f"the network has bits of its own ({kinds}), which int8 would replace; leave out --quantize")
    if form not in QUANTIZED_BLOCKS_FORMATS:
        allowed = " or ".join(QUANTIZED_BLOCKS_FORMATS)
        raise ConfigError(f"--format {form} cannot keep the bits of this network; use --format {allowed}")


def require_supernet(arch: str | None, weights: Path | None) -> None:
    """Raise ConfigError if a path is named without its supernet."""
    if arch is not None and weights is None:
        raise ConfigError("--arch is for a path of a supernet; name the supernet with --weights")


def build_network(run: Run, weights: Weights, arch: str | None, images: Images) -> tuple[Network, tuple[str, ...]]:
    """Return the network to export, in eval mode, and the names of its classes."""
    if weights.kind == "supernet":
        if arch is None:
            raise ConfigError(f"{weights.path} is a supernet; name the path to export with --arch")
        return build_calibrated_path(run, weights, arch, images), images.train.classes
    if arch is not None:
        raise ConfigError(f"{weights.path} is a network and has its architecture in it; do not pass --arch")
    weights.require_same_preparation(run.config)
    return weights.network(run.config, any_size=True).eval(), weights.find_classes(run.config)


def describe_network(
    config: Config, weights: Weights, network: Network, classes: Sequence[str], input_kind: InputKind, int8: bool
) -> Description:
    """Return what the file says of its network.

    Args:
        config: the settings at the network's image size.
    """
    preset = config.data.preset
    mean, std = make_normalisation(config) if preset == "standard" else ((), ())
    return Description(
        architecture=network.arch,
        classes=tuple(classes),
        preset=preset,
        mean=mean,
        std=std,
        image_size=config.space.image_size,
        input=input_kind,
        quantized=int8,
        source=file_digest(weights.path),
        config=portable_settings(config),
        trained_size=weights.find_trained_size(network.arch),
    )


def make_ending(images: Images, weights: Weights, network: Network, *, int8: bool) -> str:
    """Return the end of a file's default name, before the suffix: another image size, and 8 bits."""
    trained = weights.find_trained_size(network.arch)
    return ("" if trained in (None, images.size) else f"-{images.size}px") + ("-int8" if int8 else "")


def choose_output(folder: RunFolder, network: Network, output: Path | None, form: str, ending: str) -> Path:
    """Return the file to write.

    Args:
        ending: of its default name, before the suffix.

    Raises:
        ConfigError: its name has another suffix than the format, or cannot be imported.
        RunError: it exists.
    """
    suffix = FORMATS[form].suffix
    # An id may begin with a digit, which a module's name must not.
    name = f"{'network_' if form == 'python' else ''}{network.arch.id}{ending}{suffix}"
    output = output or folder.exported / name
    if output.suffix != suffix:
        raise ConfigError(f"--output is {output}, but this format needs a name that ends in {suffix}")
    if form == "python" and not output.stem.isidentifier():
        raise ConfigError(f"--output is {output}, which Python cannot import; use letters, digits and _ only")
    for path in list_files(output, network):
        if path.exists():
            raise RunError(f"{path} already exists; name another file with --output")
    return output


def list_files(output: Path, network: Network) -> list[Path]:
    """Return the files of an export: the output, for a Python file also its tensors, and bits of quantized blocks."""
    tensors = [output.with_suffix(".safetensors")] if output.suffix == ".py" else []
    return [output, *tensors, *([name_bits_file(output)] if network.arch.bits else [])]


def name_bits_file(output: Path) -> Path:
    """Return the file with the bits of a network, beside the network."""
    return output.with_name(f"{output.name}.bits.json")


def load_pixels(run: Run, images: Images) -> Iterator[Tensor]:
    """Yield some validation images `(B, C, S, S) uint8`, the last one alone; random ones where there are none."""
    count, size, channels = 0, images.size, run.config.space.stem.in_channels
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
            yield torch.randint(256, (batch, channels, size, size), dtype=torch.uint8, generator=generator)


def check(
    run: Run,
    images: Images,
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
        images: of the run; they say how images are prepared.
        classify: runs the file.
        draft: the file.
        pixels: images `(B, C, S, S) uint8`.
        output: the name that the file gets afterwards.

    Raises:
        CheckpointError: they differ by more than rounding.
    """
    prepared = [images.preprocess(batch) for batch in pixels]
    inputs = pixels if input_kind == "uint8" else prepared
    comparison = compare(network, classify, zip(prepared, inputs, strict=True))
    if not comparison.is_equal:
        raise CheckpointError(
            f"its logits differ from the network's by up to {comparison.largest_difference:.3g}, and the largest logit"
            f" is {comparison.largest_logit:.3g}; please report this, with the versions of the packages"
        )
    one = pixels[-1]
    latencies = measure_latencies([lambda: network(images.preprocess(one)), lambda: classify(inputs[-1])])
    names = [str(file) for file in list_files(output, network)]
    size = sum(file.stat().st_size for file in list_files(draft, network))
    show(run, comparison, latencies, names, size, form)


def show(run: Run, comparison: Comparison, latencies: list[float], names: list[str], size: int, form: str) -> None:
    """Show what was written, and how it compares with the network.

    Args:
        latencies: of one image in milliseconds, ours first.
        names: of the files.
        size: of all of them, in bytes.
    """
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


def quantize(
    run: Run,
    network: Network,
    inference: InferenceNetwork,
    description: Description,
    images: Images,
    draft: Path,
    output: Path,
    form: str,
) -> None:
    """Write a quantized file, measure what it costs on all validation images, and show that.

    Args:
        network: before the quantization; `inference` is made of it.
        draft: the file to write, which gets the name `output` afterwards.

    Raises:
        CheckpointError: the file gives logits that are not finite.
        DataError: an image is unreadable.
    """
    prepare = images.preprocess if description.input == "float" else keep_pixels
    pixels = load_calibration_pixels(run, images)
    QUANTIZERS[form](inference, description, draft, map(prepare, pixels))
    classify = load_exported(draft, description, run.config)
    cost = measure_cost(run, network, classify, images, prepare)
    if not cost.comparison.is_finite:
        raise CheckpointError("its logits are not finite; please report this, with the versions of the packages")
    # The file of the same format without quantization, to compare with.
    with tempfile.TemporaryDirectory() as folder:
        float_draft, not_quantized = Path(folder) / draft.name, replace(description, quantized=False)
        FORMATS[form].write(inference, not_quantized, float_draft)
        float_classify = load_exported(float_draft, not_quantized, run.config)
        one = prepare(pixels[0][:1])
        latencies = measure_latencies([lambda: float_classify(one), lambda: classify(one)])
        sizes = [float_draft.stat().st_size, draft.stat().st_size]
    show_cost(run, cost, sizes, latencies, sum(map(len, pixels)), output, form)


def show_cost(
    run: Run,
    cost: QuantizationCost,
    sizes: Sequence[int],
    latencies: Sequence[float],
    calibration_images: int,
    output: Path,
    form: str,
) -> None:
    """Show a quantized file beside the one of the same format that is not quantized.

    Args:
        sizes: of both files in bytes, the quantized one last.
        latencies: of one image with both, in milliseconds.
    """
    comparison = cost.comparison
    run.result(
        {
            "files": [str(output)],
            "bytes": sizes[1],
            "images": comparison.images,
            "calibration_images": calibration_images,
            "largest_difference": comparison.largest_difference,
            "largest_logit": comparison.largest_logit,
            "agreement": comparison.agreement,
            "top1": {"float": cost.before.top1, "int8": cost.after.top1},
            "points_lost": cost.points_lost,
            "float_bytes": sizes[0],
            "milliseconds": {"float": latencies[0], "int8": latencies[1]},
        }
    )
    rows = [
        ("top-1", *(f"{accuracy.top1:.2%}" for accuracy in (cost.before, cost.after))),
        ("size", *map(format_bytes, sizes)),
        (f"latency of one image, {FORMATS[form].runtime}", *(f"{latency:.2f} ms" for latency in latencies)),
    ]
    run.say(f"written to {output}")
    run.show("quantized and compared with the file without --quantize", ["what:", "float", "int8"], rows)
    change = "loses" if cost.points_lost >= 0 else "gains"
    run.say(
        f"int8 {change} {abs(cost.points_lost):.2f} points of top-1 on {comparison.images:,} validation images, and"
        f" names the same class on {comparison.agreement:.2%} of them; calibrated on {calibration_images} training"
        " images"
    )
    if cost.points_lost > MAX_POINTS_LOST:
        warn(
            f"int8 loses {cost.points_lost:.2f} points of top-1, more than {MAX_POINTS_LOST:g}; where that is too much,"
            " export without --quantize"
        )
