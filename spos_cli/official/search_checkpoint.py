"""The published search's `checkpoint.pth.tar` as entries of a journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spos_cli.errors import ArchitectureError, CheckpointError
from spos_cli.files.quoting import quote_value
from spos_cli.search.journal import Entry
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable
from spos_cli.space.search_space import SearchSpace

IMAGES = 8000  # 40 batches of 200 validation images, the published search's setting


def is_search(content: Mapping[str, Any]) -> bool:
    """Whether the content of a file is that of a published search."""
    return isinstance(content.get("vis_dict"), dict)


def entries_of(
    content: Mapping[str, Any], space: SearchSpace, flops: CostTable, params: CostTable, name: str
) -> list[Entry]:
    """The candidates that a published search has scored, in the order in which it met them.

    Those that it only drew, or found over its limit, have no score and are left out.

    Args:
        content: of the file: `vis_dict` maps tuples of choices to `flops`, `err` (top-1 and top-5 error, 0 to 1)
            and `visited`.
        space: that the candidates have to be of.
        flops, params: its costs.
        name: of the file, for messages.

    Raises:
        CheckpointError: a candidate is not of this space, has other FLOPs here, or has a broken score.
    """
    entries = []
    for choices, info in content["vis_dict"].items():
        if not isinstance(info, dict):
            raise CheckpointError(f"{name}: the candidate {quote_value(choices)} has no record but {quote_value(info)}")
        if "err" in info:
            entries.append(_entry(choices, info, space, flops, params, name))
    return entries


def _entry(
    choices: Any, info: Mapping[str, Any], space: SearchSpace, flops: CostTable, params: CostTable, name: str
) -> Entry:
    if not isinstance(choices, tuple) or not all(type(choice) is int for choice in choices):
        raise CheckpointError(f"{name}: the candidate {quote_value(choices)} is not a tuple of choices")
    arch = Architecture(choices)
    try:
        space.validate(arch)
    except ArchitectureError as error:
        raise CheckpointError(f"{name}: the candidate {arch} is not of this space: {error}") from None
    try:
        top1, top5 = (1 - float(error) for error in info["err"])
    except (TypeError, ValueError):
        top1 = top5 = -1.0
    if not (0 <= top1 <= 1 and 0 <= top5 <= 1):
        raise CheckpointError(
            f"{name}: the candidate {arch} has the errors {quote_value(info['err'])}, expected two of 0 to 1"
        )
    theirs = info.get("flops")
    if theirs is not None and theirs != flops.of(arch):
        raise CheckpointError(
            f"{name}: the candidate {arch} has {quote_value(theirs)} FLOPs there and {flops.of(arch):,} here, so it is"
            " of another space"
        )
    return Entry(arch, flops.of(arch), params.of(arch), top1, top5, IMAGES, 0, "imported")
