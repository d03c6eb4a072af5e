"""`spos export-arch`: write the best architectures of a search, or weights in another form, into files."""

from __future__ import annotations

import pickle
import shlex
from pathlib import Path
from typing import Any, Literal

import yaml

from spos_cli.engine import checkpoint
from spos_cli.errors import ConfigError, LimitError, RunError
from spos_cli.models.counting import count
from spos_cli.models.published_table import PICKLE_PROTOCOL
from spos_cli.models.weights import to_published
from spos_cli.search.journal import Entry, Journal, ranking
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import format_cost
from spos_cli.stages.common import Run, read_settings
from spos_cli.stages.search import read_candidates
from spos_cli.stages.weights_file import Weights, network_content, read_weights, supernet_content

ArchFormat = Literal["yaml", "pkl"]
WeightsFormat = Literal["published", "spos"]


def arch_format(form: str | None) -> ArchFormat:
    """The `--format` of architectures; raises ConfigError if it is one of weights."""
    if form is None or form == "yaml":
        return "yaml"
    if form == "pkl":
        return "pkl"
    raise ConfigError(f"--format {form} is for weights; name them with --weights, or use yaml or pkl")


def weights_format(form: str | None) -> WeightsFormat:
    """The `--format` of weights; raises ConfigError if it is one of architectures."""
    if form is None or form == "published":
        return "published"
    if form == "spos":
        return "spos"
    raise ConfigError(f"--format {form} is for architectures; weights are written as published or spos")


def run(run: Run, top: int, limit: int | None, source: Path | None, form: ArchFormat) -> None:
    """Leaves `archs/<id>/arch.yaml` for the best `top`; nothing is scored again.

    Args:
        top: how many.
        limit: FLOPs; only candidates at or under it are considered.
        source: a journal, or a published search's checkpoint; by default the run folder's journal.
        form: `pkl` writes the published `arch.pkl`, a pickled tuple, beside each.

    Raises:
        RunError: there is no search here, or it is of another space.
        LimitError: no scored candidate is under the limit.
    """
    space = run.config.space.build()
    if source is not None:
        entries, supernet = read_candidates(source, space, count(space)), None
    else:
        entries = Journal(run.search_folder / "journal.jsonl").read()
        supernet = read_settings(run)["supernet"] if entries else None
    if not entries:
        raise RunError(f"there are no scored candidates in {source or run.search_folder}; run spos search first")
    for entry in entries:
        space.validate(entry.architecture)
    best = ranking(entries, limit)[:top]
    if not best:
        least, most = min(entry.flops for entry in entries), max(entry.flops for entry in entries)
        raise LimitError(
            f"no scored candidate has at most {format_cost(limit or 0)} FLOPs; they have {format_cost(least)} to"
            f" {format_cost(most)}. Search again with spos search --fresh --flops-limit {format_cost(limit or 0)}"
        )
    origin = {"supernet": supernet, "space": space.to_dict()}
    paths = [write(run, entry, origin, form) for entry in best]
    rows = [
        (rank, path, format_cost(entry.flops), format_cost(entry.params), f"{entry.top1:.2%}")
        for rank, (entry, path) in enumerate(zip(best, paths, strict=True), 1)
    ]
    run.show("exported", ["rank", "file:", "FLOPs", "params", "one-shot top-1"], rows)
    run.result([{"file": str(path), **entry.to_dict()} for entry, path in zip(best, paths, strict=True)])
    run.next(f"retrain {shlex.quote(paths[0])}")


def write(run: Run, entry: Entry, origin: dict[str, Any], form: ArchFormat) -> str:
    """Writes one `arch.yaml`, with what the search was made on, and returns its path, or that of the `arch.pkl`."""
    content = {
        "architecture": entry.architecture.to_list(),
        "flops": entry.flops,
        "params": entry.params,
        "fitness": {"top1": entry.top1, "top5": entry.top5, "images": entry.images},
        "found": {"generation": entry.generation, "origin": entry.origin},
        **origin,
    }
    path = run.archs_folder / entry.architecture.id / "arch.yaml"
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)
    checkpoint.write_atomically(path, text.encode())
    if form == "pkl":
        path = path.with_name("arch.pkl")
        checkpoint.write_atomically(path, pickle.dumps(tuple(entry.architecture.to_list()), PICKLE_PROTOCOL))
    return str(path)


def export_weights(run: Run, path: Path, form: WeightsFormat, output: Path | None) -> None:
    """Writes a weights file in another form; every tensor keeps its bytes.

    Args:
        path: of a supernet's checkpoint or a network, ours or published.
        form: `published` is what the published scripts load with `strict=True`; `spos` is what ours do.
        output: the file to write; by default one in the run folder, which must not be there yet.

    Raises:
        CheckpointError: the file is torn, foreign, or of another space.
        RunError: there is a file already.
    """
    weights = read_weights(path)
    if weights.kind == "supernet":
        weights.supernet(run.config)  # fails if it is of another space
        architecture = None
        ours = run.supernet_folder / "last.pt"
    else:
        architecture = weights.network(run.config).arch
        ours = run.retrain_folder / architecture.id / "model.pt"
    if form == "published":
        name = "supernet" if architecture is None else architecture.id
        output = output or run.folder / "published" / f"{name}.pth.tar"
    elif weights.config is not None:
        raise ConfigError(f"{path} is a weights file of spos already")
    else:
        output = output or ours
    if output.exists():
        raise RunError(f"there is a file {output} already; name another with --output")
    if form == "published":
        checkpoint.write_atomically(output, checkpoint.serialize(to_published(weights.state)))
    else:
        checkpoint.save(output, our_content(run, weights, architecture))
    run.show(
        "exported",
        ["what:", "value:"],
        [
            ("weights", path),
            ("kind", weights.kind),
            ("architecture", architecture or "all of the space"),
            ("tensors", len(weights.state)),
            ("written to", output),
        ],
    )
    run.result({"file": str(output), "kind": weights.kind, "architecture": architecture and architecture.to_list()})


def our_content(run: Run, weights: Weights, architecture: Architecture | None) -> dict[str, Any]:
    """A published file's tensors with the settings of this run, which the file does not have."""
    if architecture is None:
        return supernet_content(run.config, weights.state)
    return network_content(run.config, architecture, weights.state, weights.classes, {})
