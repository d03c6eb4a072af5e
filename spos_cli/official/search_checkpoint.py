"""Read the official search's `checkpoint.pth.tar` as entries of a journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spos_cli.errors import ArchitectureError, CheckpointError
from spos_cli.files.quoting import quote_value
from spos_cli.search.journal import Entry
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable
from spos_cli.space.search_space import SearchSpace

IMAGES_PER_CANDIDATE = 8000  # The official search scores on 40 batches of 200 validation images.


def is_search(content: Mapping[str, Any]) -> bool:
    """Return whether the content of a file is an official search checkpoint."""
    return isinstance(content.get("vis_dict"), dict)


def read_entries(
    content: Mapping[str, Any], space: SearchSpace, flops: CostTable, params: CostTable, name: str
) -> list[Entry]:
    """Return the candidates that an official search has scored, in the order in which it drew them.

    Candidates without a score, which were only drawn or were over the limit, are skipped.

    Args:
        content: of the file. `vis_dict` maps tuples of choices to `flops`, `err` (top-1 and top-5 error, 0 to 1) and
            `visited`.
        space: the space that all candidates must belong to.
        flops, params: costs of the space.
        name: of the file, for messages.

    Raises:
        CheckpointError: a candidate is not in this space, has other FLOPs here, or has an invalid score.
    """
    entries = []
    for choices, info in content["vis_dict"].items():
        if not isinstance(info, dict):
            raise CheckpointError(
                f"{name}: the candidate {quote_value(choices)} has {quote_value(info)} instead of a record"
            )
        if "err" in info:
            entries.append(_read_entry(choices, info, space, flops, params, name))
    return entries


def _read_entry(
    choices: Any, info: Mapping[str, Any], space: SearchSpace, flops: CostTable, params: CostTable, name: str
) -> Entry:
    """Return the entry of one scored candidate; raise CheckpointError as `read_entries` does."""
    if not isinstance(choices, tuple) or not all(type(choice) is int for choice in choices):
        raise CheckpointError(f"{name}: the candidate {quote_value(choices)} is not a tuple of choices")
    arch = Architecture(choices)
    try:
        space.validate(arch)
    except ArchitectureError as error:
        raise CheckpointError(f"{name}: the candidate {arch} is not in this space: {error}") from None
    try:
        top1, top5 = (1 - float(error) for error in info["err"])
    except (TypeError, ValueError):
        top1 = top5 = -1.0  # is refused below
    if not (0 <= top1 <= 1 and 0 <= top5 <= 1):
        raise CheckpointError(
            f"{name}: the candidate {arch} has the errors {quote_value(info['err'])}, expected two from 0 to 1"
        )
    theirs = info.get("flops")
    if theirs is not None and theirs != flops.of(arch):
        raise CheckpointError(
            f"{name}: the candidate {arch} has {quote_value(theirs)} FLOPs there and {flops.of(arch):,} here, so it is"
            " from another space"
        )
    return Entry(arch, flops.of(arch), params.of(arch), top1, top5, IMAGES_PER_CANDIDATE, 0, "imported")
