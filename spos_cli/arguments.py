"""The arguments and options of single commands; those that commands share are in `options`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

FolderArgument = Annotated[
    Path | None, typer.Argument(metavar="RUN_DIR", help="Folder of the run. Default: runs/<name>.")
]
JournalOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Scored candidates: a journal.jsonl, or a checkpoint.pth.tar of the official search.",
    ),
]
InitOption = Annotated[
    Path | None,
    typer.Option(
        "--init", metavar="FILE", help="Weights to begin with: a supernet, or a model.pt of the same architecture."
    ),
]
FlopsLimitOption = Annotated[
    str | None,
    typer.Option("--flops-limit", metavar="LIMIT", help="Maximum FLOPs, such as 330M, or a range, 250M-330M."),
]
ParamsLimitOption = Annotated[
    str | None,
    typer.Option(
        "--params-limit", metavar="LIMIT", help="Maximum number of parameters, such as 3M, or a range, 2M-3M."
    ),
]
BitopsLimitOption = Annotated[
    str | None,
    typer.Option("--bitops-limit", metavar="LIMIT", help="Maximum BitOPs, such as 6G, or a range, with space.bits."),
]

OwnLimitOption = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=LIMIT",
        help="Limit on a cost of your own, such as energy=12.5, or a range, energy=8-12.5. Repeatable.",
    ),
]
ParetoCostOption = Annotated[
    str | None,
    typer.Option(
        "--pareto-cost",
        metavar="NAME",
        help="Cost of the Pareto front: flops, params, bitops, latency by flops-table, or a cost of your own.",
    ),
]

# Of export-arch, to choose among scored candidates.
TopOption = Annotated[
    int | None, typer.Option("--top", min=1, metavar="K", help="Export the best K candidates. Default: 1.")
]
PreferOption = Annotated[
    Literal["best", "smallest"],
    typer.Option("--prefer", help="smallest: the cheapest candidate that is statistically tied with the best."),
]
ParetoOption = Annotated[bool, typer.Option("--pareto", help="Export the whole Pareto front (a cost against top-1).")]

# Of export-arch, to convert weights.
ConvertedWeightsOption = Annotated[
    Path | None,
    typer.Option("--weights", metavar="FILE", help="Convert this weights file, and export no architecture."),
]
ExportFormatOption = Annotated[
    Literal["yaml", "pkl", "published", "spos", "onnx", "pt2", "safetensors", "python", "executorch", "litert"] | None,
    typer.Option(
        "--format",
        help="yaml (default), or pkl to write the official arch.pkl as well."
        " With --weights: published (default), which the official code loads; spos; or a format for use without"
        " spos: onnx, pt2 (torch.export), safetensors, python (needs only PyTorch), executorch or litert.",
    ),
]
ExportOutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="With --weights: the file to write.")
]
ExportedPathOption = Annotated[
    str | None,
    typer.Option("--arch", metavar="ARCH", help="With --weights of a supernet: write this path as a network."),
]
RawInputOption = Annotated[
    bool,
    typer.Option("--raw-input", help="onnx, pt2, ...: the file takes prepared float images instead of RGB uint8."),
]
QuantizeOption = Annotated[
    Literal["int8"] | None,
    typer.Option(
        "--quantize",
        help="onnx, pt2: int8 for weights and activations of 8 bits, and say what that costs. Needs the run's images.",
    ),
]

# Of flops-table.
LatencyOption = Annotated[bool, typer.Option("--latency", help="Measure latencies on this device instead of FLOPs.")]
LatencyBatchOption = Annotated[int, typer.Option("--latency-batch", min=1, help="Images per measured call.")]
RuntimeOption = Annotated[
    Literal["torch", "onnxruntime", "onnxruntime-int8"] | None,
    typer.Option(
        "--runtime",
        help="With --latency: torch (default), or onnxruntime for networks as exported, on the CPU; -int8 with 8 bits.",
    ),
]
ImportTableOption = Annotated[
    Path | None,
    typer.Option("--import", metavar="FILE", help="Compare an official op_flops_dict.pkl with our FLOPs."),
]
CostTemplateOption = Annotated[
    str | None,
    typer.Option(
        "--cost-template",
        metavar="NAME",
        help="Write the CSV file of a cost of your own, as its table names it, to fill in.",
    ),
]
LatencyTemplateOption = Annotated[
    Path | None,
    typer.Option(
        "--latency-template",
        metavar="FILE",
        help="Write a CSV file in which to fill in latencies that you measure elsewhere, as on a phone.",
    ),
]
ImportLatencyOption = Annotated[
    Path | None,
    typer.Option("--import-latency", metavar="FILE", help="Make a filled template the latency table of the run."),
]

# Of search.
LatencyLimitOption = Annotated[
    str | None,
    typer.Option(
        "--latency-limit",
        metavar="LIMIT",
        help="Maximum latency, such as 12ms, or a range, by the table that spos flops-table measures or imports.",
    ),
]
ObjectiveOption = Annotated[
    Literal["accuracy", "pareto"] | None,
    typer.Option(
        "--objective", help="accuracy: the best top-1 (default); pareto: the whole front (a cost against top-1)."
    ),
]

NetworkWeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="A retrained model.pt or a supernet, ours or official. Default: the run folder's model.",
    ),
]

ImageSizeOption = Annotated[
    str | None,
    typer.Option(
        "--image-size",
        metavar="SIZE",
        help="Size of the images that the network is used on: side, or HEIGHTxWIDTH. Default: as it was trained.",
    ),
]

ClassesOption = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        metavar="FILE",
        help="Which class of the network each class of the images is: folder: class in each line (text, YAML or CSV).",
    ),
]
