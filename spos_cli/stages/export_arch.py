"""`spos export-arch`: write the best scored architectures, convert weights, or write a supernet's path."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from spos_cli.engine import checkpoint
from spos_cli.engine.distributed import Processes
from spos_cli.engine.progress import warn
from spos_cli.errors import ConfigError, RunError, SposError
from spos_cli.files.quoting import quote_path
from spos_cli.files.writing import write_atomically
from spos_cli.models.counting import Costs, count
from spos_cli.official.flops_table import PICKLE_PROTOCOL
from spos_cli.official.weights import to_official
from spos_cli.run.calibrated_path import build_calibrated_path
from spos_cli.run.candidates import read_candidates
from spos_cli.run.command import Run
from spos_cli.run.images import Images
from spos_cli.run.latency_table import read_latency
from spos_cli.run.own_costs import read_own_table, read_own_tables
from spos_cli.run.search_settings import read_settings
from spos_cli.run.weights_file import Weights, make_network_content, make_supernet_content, read_weights
from spos_cli.search.journal import Entry, Journal
from spos_cli.search.questions import Question, answer, describe_idle_limits
from spos_cli.search.results import format_interval, is_counted, round_interval
from spos_cli.space.architecture import Architecture, read
from spos_cli.space.search_space import SearchSpace

ArchFormat = Literal["yaml", "pkl"]
WeightsFormat = Literal["published", "spos"]
NETWORK_FORMATS = ("onnx", "pt2", "safetensors", "python", "executorch", "litert")  # for use without spos
QUANTIZED_FORMATS = ("onnx", "pt2")


def parse_arch_format(form: str | None) -> ArchFormat:
    """Return the `--format` of architectures; raise ConfigError if it is a format of weights."""
    if form is None or form == "yaml":
        return "yaml"
    if form == "pkl":
        return "pkl"
    raise ConfigError(f"--format {form} is for weights; name them with --weights, or use yaml or pkl")


def parse_weights_format(form: str | None) -> WeightsFormat:
    """Return the `--format` of weights; raise ConfigError if it is a format of architectures."""
    if form is None or form == "published":
        return "published"
    if form == "spos":
        return "spos"
    raise ConfigError(
        f"--format {form} is for architectures; those of weights are published, spos, {', '.join(NETWORK_FORMATS)}"
    )


def require_one_purpose(
    weights: Path | None,
    arch: str | None,
    form: str | None,
    question: Question,
    journal: Path | None,
    output: Path | None,
    raw_input: bool,
    quantize: str | None,
    image_size: str | None,
) -> None:
    """Raise ConfigError if options are for something else than what is exported.

    Args:
        weights, arch, form: if one of them asks for weights, no question about scored candidates may be asked.
        output: is for weights; architectures have their places.
        raw_input: is for files that can have the preparation of images in them.
        quantize: is for `QUANTIZED_FORMATS`.
        image_size: is for `NETWORK_FORMATS`.
    """
    is_network = form in NETWORK_FORMATS
    if quantize is not None and form not in QUANTIZED_FORMATS:
        raise ConfigError(f"--quantize {quantize} is for --format {' and '.join(QUANTIZED_FORMATS)}")
    for name, is_given in (("--raw-input", raw_input), ("--image-size", image_size is not None)):
        if is_given and not is_network:
            raise ConfigError(f"{name} is for --format {', '.join(NETWORK_FORMATS)}")
    exports_weights = weights is not None or arch is not None or is_network
    if output is not None and not exports_weights:
        raise ConfigError("--output is for --weights; architectures are written to archs/<id>/ of the run folder")
    if exports_weights and (question != Question() or journal is not None):
        what = f"--format {form}" if is_network else "--weights"
        raise ConfigError(
            f"{what} exports weights, but --top, --flops-limit, --params-limit, --bitops-limit, --prefer, --pareto,"
            " --pareto-cost and --from choose among scored candidates; give one or the other"
        )


def export_architectures(run: Run, question: Question, journal: Path | None, form: ArchFormat) -> None:
    """Write `archs/<id>/arch.yaml` for each candidate that the question asks for. Nothing is scored again.

    Args:
        journal: a journal, or the checkpoint of an official search; None: the journal in the run folder.
        form: `pkl` also writes the official `arch.pkl`, a pickled tuple, beside each.

    Raises:
        RunError: there is no search, it is of another space, or there is no table of latencies for the front.
        LimitError: no scored candidate is under the limits.
    """
    space, path, own_limits = run.config.space.build(), journal or run.folder.search.journal, question.limits
    # Read the candidates of the named file, or of the search in this run.
    entries, supernet = read_entries(run, journal), None
    if journal is None:
        settings = read_settings(run.folder.search)
        supernet, question = settings["supernet"], question.within(settings["search"])
    if "bitops" in question.needed_costs and not space.bits:
        raise ConfigError("BitOPs are of spaces with bits, but space.bits is empty; ask for another cost")
    entries = add_costs(run, entries, question.needed_costs)
    # Choose those that the question asks for.
    count_costs = partial(count_known_costs, run, space)
    for text in describe_idle_limits(own_limits, entries, count_costs):
        warn(text)
    bits, kinds = path.with_name("outcomes.bits"), run.config.cost_kinds
    chosen, notes = answer(question, entries, bits, count_costs, kinds, run.command)
    if journal is None and not any(map(is_counted, chosen)):
        notes.append("this search has scored no candidate yet: these scores are from the search that it begins with")
    # Write a file for each.
    origin = {"supernet": supernet, "space": space.to_dict()}
    files = [write_architecture(run, entry, origin, form) for entry in chosen]
    run.record_config_unless_begun()
    show_exported(run, "number" if question.front else "rank", chosen, files)
    for note in notes:
        warn(note)
    run.result([{"file": str(file), **entry.to_dict()} for entry, file in zip(chosen, files, strict=True)])
    best = files[-1] if question.front else files[0]
    run.next(f"retrain {quote_path(best)}")


def read_entries(run: Run, journal: Path | None) -> list[Entry]:
    """Return the scored candidates of a journal or an official search; None: of the journal in the run folder.

    Raises:
        RunError: there are no candidates, or they are of another space.
    """
    space = run.config.space.build()
    if journal is None:
        entries = Journal(run.folder.search.journal).read_of(space)
    else:
        entries = read_candidates(journal, space, count(space))
    if not entries:
        raise RunError(
            f"there are no scored candidates in {journal or run.folder.search}; run {run.command('search')} first"
        )
    return entries


def add_costs(run: Run, entries: list[Entry], names: Collection[str]) -> list[Entry]:
    """Return candidates with the costs of these names, by the tables of the run where their search had none.

    Raises:
        RunError: there is no such table, or it cannot be read.
    """
    missing = {name for name in names if not all(name in entry.known_costs for entry in entries)}
    if not missing:
        return entries
    tables = [read_latency(run)] if "latency" in missing else []
    space = run.config.space.build()
    tables += [read_own_table(run, cost, space) for cost in run.config.costs if cost.name in missing]
    if unread := missing - {table.name for table in tables}:
        raise RunError(f"the candidates have no {min(unread)}, and costs does not name it; add it to costs")
    new = [{table.name: table.of(entry.architecture) for table in tables} for entry in entries]
    return [replace(entry, costs={**entry.costs, **costs}) for entry, costs in zip(entries, new, strict=True)]


def count_known_costs(run: Run, space: SearchSpace) -> Costs:
    """Return the costs of a space, for messages: those of the user as far as their tables can be read."""
    costs = count(space)
    with contextlib.suppress(SposError):
        costs = costs.with_tables(read_own_tables(run, space))
    return costs


def write_architecture(run: Run, entry: Entry, origin: dict[str, Any], form: ArchFormat) -> Path:
    """Write the `arch.yaml` of a candidate, and with `pkl` also its `arch.pkl`.

    Args:
        origin: the supernet and the space of the search.

    Returns:
        The path of `arch.pkl` if it is written, else of `arch.yaml`.
    """
    content = {
        "architecture": entry.architecture.to_list(),
        "flops": entry.flops,
        "params": entry.params,
        **({"costs": entry.costs_of_files} if entry.costs else {}),
        "fitness": {
            **({} if entry.balanced is None else {"balanced": entry.balanced}),
            "top1": entry.top1,
            "top5": entry.top5,
            "images": entry.images,
            "interval": round_interval(entry),
        },
        "found": {
            "generation": entry.generation,
            "origin": entry.origin,
            **({"earlier": True} if entry.earlier else {}),
        },
        **origin,
    }
    path = run.folder.arch(entry.architecture.id)
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)
    write_atomically(path, text.encode())
    if form == "pkl":
        path = path.with_name("arch.pkl")
        write_atomically(path, pickle.dumps(tuple(entry.architecture.to_list()), PICKLE_PROTOCOL))
    return path


def show_exported(run: Run, numbering: str, entries: Sequence[Entry], files: Sequence[Path]) -> None:
    """Show the exported candidates with their scores, in a table whose first column is titled `numbering`."""
    rows, kinds = (
        [],
        [kind for name, kind in run.config.cost_kinds.items() if any(name in one.known_costs for one in entries)],
    )
    for number, (entry, file) in enumerate(zip(entries, files, strict=True), 1):
        costs = [kind.format_cell(entry.known_costs.get(kind.name)) for kind in kinds]
        rows.append((number, file, *costs, f"{entry.score:.2%}", format_interval(entry.interval)))
    titles = [kind.title for kind in kinds]
    score = f"one-shot {entries[0].score_name}" if entries else "one-shot top-1"
    run.show("exported", [numbering, "file:", *titles, score, "95 % interval"], rows)


def export_weights(run: Run, path: Path, form: WeightsFormat, output: Path | None) -> None:
    """Convert a weights file. Every tensor keeps its bytes.

    Args:
        path: a checkpoint of a supernet, or a network, ours or official.
        form: `published` is the official form, which the official scripts load with `strict=True`; `spos` is ours.
        output: the file to write, which must not exist; None: a file in the run folder.

    Raises:
        CheckpointError: the file is torn, foreign, or of another space.
        RunError: the output exists.
    """
    weights = read_weights(path)
    # Building the model checks that the weights are of this space.
    if weights.kind == "supernet":
        weights.supernet(run.config)
        architecture, stage = None, run.folder.supernet
        usual_output = stage.last
    else:
        architecture = weights.find_architecture(run.config)
        weights.network(run.config.at_size(architecture.image_size))
        stage = run.folder.retrain(architecture.id)
        usual_output = stage.model
    if form == "published" and run.config.space.bits:
        raise ConfigError("the official form does not keep the bits of blocks; for a network, use --format pt2")
    if form == "published":
        name = "supernet" if architecture is None else architecture.id
        output = output or run.folder.root / "published" / f"{name}.pth.tar"
    elif weights.config is not None:
        raise ConfigError(f"{path} is already a weights file of spos")
    else:
        output = output or usual_output
    if output.exists():
        raise RunError(f"{output} already exists; name another file with --output")
    if form == "published":
        write_atomically(output, checkpoint.serialize(to_official(weights.state)))
    else:
        checkpoint.save(output, add_settings(run, weights, architecture))
    # Later commands look for settings beside the weights, as a training would have written them.
    if output == usual_output and form == "spos":
        run.record_config(stage, Processes(0, 1, torch.device("cpu")))
    elif run.folder.root in output.parents:
        run.record_config_unless_begun()
    facts = [
        ("weights", path),
        ("kind", weights.kind),
        ("architecture", architecture or "all of the space"),
        ("tensors", len(weights.state)),
        ("written to", output),
    ]
    run.show("exported", ["what:", "value:"], facts)
    run.result({"file": str(output), "kind": weights.kind, "architecture": architecture and architecture.to_list()})


def export_path(run: Run, path: Path | None, arch: str, form: str | None, output: Path | None) -> None:
    """Write one path of a supernet as a network, `archs/<id>/model.pt`, with calibrated BatchNorm statistics.

    The statistics are those that the path has in a search.

    Args:
        path: the supernet's checkpoint, ours or official.
        arch: a literal or a file.
        form: the format asked for; only ours is possible.
        output: the file to write, which must not exist; None: `archs/<id>/model.pt`.

    Raises:
        ConfigError: no supernet is named, or another format.
        CheckpointError: the file is not a supernet, or is of another space.
        RunError: the output exists.
    """
    if path is None:
        raise ConfigError("--arch is for a path of a supernet; name the supernet with --weights")
    if form not in (None, "spos"):
        raise ConfigError(f"--arch writes a model.pt, so --format must be spos, not {form}")
    architecture = read(arch)
    output = output or run.folder.arch(architecture.id).with_name("model.pt")
    if output.exists():
        raise RunError(f"{output} already exists; name another file with --output")
    images = Images(run.config.at_size(architecture.image_size), Processes(0, 1, torch.device("cpu")))
    network = build_calibrated_path(run, read_weights(path), arch, images)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    checkpoint.save(output, make_network_content(run.config, architecture, state, images.train.classes, {}))
    facts = [("weights", path), ("architecture", architecture), ("written to", output)]
    run.show("exported", ["what:", "value:"], facts)
    run.result({"file": str(output), "kind": "network", "architecture": architecture.to_list()})
    run.next(f"evaluate --weights {quote_path(output)}")


def add_settings(run: Run, weights: Weights, architecture: Architecture | None) -> dict[str, Any]:
    """Return the content of our weights file for official weights: their tensors, with the settings of this run.

    Args:
        architecture: of a network; None for a supernet.
    """
    if architecture is None:
        return make_supernet_content(run.config, weights.state)
    return make_network_content(run.config, architecture, weights.state, weights.classes, {})
