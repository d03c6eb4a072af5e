"""What scores depend on, kept beside their journal: of a search, or of a comparison with the truth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from spos_cli.config.identity import data_identity, portable_settings
from spos_cli.config.schema import Config
from spos_cli.data.image_store import read_manifest
from spos_cli.engine.differences import require_same
from spos_cli.engine.distributed import Processes
from spos_cli.errors import RunError
from spos_cli.files.reading import read_json
from spos_cli.files.writing import write_atomically
from spos_cli.models.counting import Costs
from spos_cli.run.command import Run
from spos_cli.run.folder import ScoresFolder, name_at_size
from spos_cli.run.image_comparison import describe_changes, make_image_record, require_recorded_classes
from spos_cli.run.images import Images
from spos_cli.run.latency_table import digest_latency, uses_latency
from spos_cli.run.own_costs import digest_tables
from spos_cli.search.scoring import remove_waiting_scores
from spos_cli.space.cost_kinds import COST_KINDS

# No score depends on these settings of a search: they say what is drawn, and when a candidate is stopped early.
SCORE_INDEPENDENT_SETTINGS = frozenset(
    (
        *("algorithm", "objective", "pareto_cost", "population", "parents", "mutations", "crossovers"),
        *("mutation_probability", "predictor", "racing"),
        *(f"{name}_limit" for name in COST_KINDS),
        *("limits", "latency_table", "cost_tables"),
    )
)
DECODED_IMAGES = ("scoring.u8", "calibration.u8")  # in the folder of the scores, at the size `space.image_size`


def read_settings(folder: ScoresFolder) -> dict[str, Any]:
    """Read what the scores in a folder depend on.

    Raises:
        RunError: the file is missing or broken.
    """
    settings = read_json(folder.settings)
    kinds = {"supernet": str, "search": dict}
    if not all(isinstance(settings.get(key), kind) for key, kind in kinds.items()):
        raise RunError(
            f"{folder.settings} is missing or broken, so the scores beside it mean nothing; start over with --fresh"
        )
    return settings


def require_same_search(run: Run, supernet_digest: str, costs: Costs) -> dict[str, Any]:
    """Return what the scores of this run's search depend on, but for the images.

    Args:
        costs: of the space; a search with other tables of own costs is another one.

    Raises:
        RunError: there is a journal already, and it was made with other settings.
    """
    ours = _list_settings(run, supernet_digest)
    if uses_latency(run.config.search):
        ours["search"]["latency_table"] = digest_latency(run)[:16]
    if run.config.costs:
        ours["search"]["cost_tables"] = digest_tables(costs.tables[cost.name] for cost in run.config.costs)
    if run.folder.search.journal.exists():
        require_same(ours, read_settings(run.folder.search), f"{run.folder.search} holds a search")
    return ours


def _list_settings(run: Run, supernet_digest: str) -> dict[str, Any]:
    """List what scores depend on, but for the images, and what else a search depends on."""
    settings = portable_settings(run.config)
    return {
        "seed": run.config.seed,
        "supernet": supernet_digest,
        "space": settings["space"],  # Official weights do not say for which image size they are.
        "data": data_identity(run.config),
        "search": {key: value for key, value in settings["search"].items() if key != "generations"},
    }


def require_same_classes(folder: ScoresFolder, images: Images) -> None:
    """Raise RunError if there is a journal already, and it was made with images of other classes."""
    if folder.journal.exists():
        require_recorded_classes(images, read_settings(folder).get("images"), f"{folder} holds scores")


def remember_settings(
    run: Run, supernet_digest: str, costs: Costs, images: Images, processes: Processes
) -> dict[str, Any]:
    """Return what the scores depend on, and write it beside the journal unless the journal exists already.

    Raises:
        RunError: the journal was made with other settings, or with images of other classes.
    """
    return _remember(run, run.folder.search, require_same_search(run, supernet_digest, costs), images, processes)


def remember_truth_settings(run: Run, supernet_digest: str, images: Images, processes: Processes) -> None:
    """Write what the scores of the comparison with the truth depend on, unless its journal exists already.

    Limits and the search's own numbers are missing: a comparison under another limit uses the same scores.

    Raises:
        RunError: the journal was made with other settings, or with images of other classes.
    """
    ours, folder = _list_settings(run, supernet_digest), run.folder.truth
    ours["search"] = {key: value for key, value in ours["search"].items() if key not in SCORE_INDEPENDENT_SETTINGS}
    if folder.journal.exists():
        require_same(ours, read_settings(folder), f"{folder} holds a comparison with the truth")
    _remember(run, folder, ours, images, processes)


def _remember(
    run: Run, folder: ScoresFolder, ours: dict[str, Any], images: Images, processes: Processes
) -> dict[str, Any]:
    """Add the images to what the scores depend on, write all of it unless the journal exists already, and return it."""
    ours["images"] = make_image_record(images, val=run.config.search.split == "val")
    require_same_classes(folder, images)
    has_begun = folder.journal.exists()
    processes.barrier()
    if processes.is_main and not has_begun:
        before = read_json(folder.settings)
        before.pop("pixels", None)
        if before != json.loads(json.dumps(ours)):
            remove_waiting_scores(folder.path)
            _write(folder, ours)
    processes.barrier()
    return ours


def remember_pixels(folder: ScoresFolder, images: Images, processes: Processes) -> None:
    """Write digests of the images that candidates are calibrated and scored on: scores depend on no other images.

    Raises:
        RunError: the journal was made with other pixels.
    """
    settings, names = read_settings(folder), list_decoded_images(images.config)
    pixels = {name: digest_images(folder.path / name) for name in names}
    processes.barrier()
    if not folder.journal.exists():
        if processes.is_main and settings.get("pixels") != pixels:
            remove_waiting_scores(folder.path)
            _write(folder, {**settings, "pixels": pixels})
    elif settings.get("pixels") != pixels:
        changes = describe_changes(images, settings["images"])
        raise RunError(
            f"{folder} holds scores on other images{changes}; restore those, use another --run-dir, or --fresh to start"
            " over"
        )
    processes.barrier()


def is_comparable(run: Run, settings: dict[str, Any], folder: Path) -> bool:
    """Return whether the scores of the search in `folder` can be compared with those of this run.

    They can if all that scores depend on is the same, pixels included. The run's own folder does not count: `--fresh`
    has set its earlier search aside, so its files belong to the new search.

    Args:
        settings: of this run, from `remember_settings`; the decoded images are beside its journal.
    """
    theirs = read_json(folder / "settings.json")
    if folder.resolve() == run.folder.search.path.resolve() or not isinstance(theirs.get("search"), dict):
        return False
    if _comparable_part(settings) != _comparable_part(theirs):
        return False
    for name in list_decoded_images(run.config):
        digest = digest_images(run.folder.search.path / name)
        if digest is None or digest != digest_images(folder / name):
            return False
    return True


def list_decoded_images(config: Config) -> list[str]:
    """List the files of decoded images in the folder of the scores: two for each image size."""
    *smaller, _ = config.space.image_sizes or (config.space.image_size,)
    return [*DECODED_IMAGES, *(name_at_size(Path(name), side).name for side in smaller for name in DECODED_IMAGES)]


def digest_images(path: Path) -> str | None:
    """Return a digest of decoded images and their labels, or None if the file is missing or torn."""
    manifest = read_manifest(path)
    if manifest is None:
        return None
    content = json.dumps([manifest.get(key) for key in ("sha256", "labels", "shape")])
    return hashlib.sha256(content.encode()).hexdigest()


def _comparable_part(settings: dict[str, Any]) -> list[Any]:
    """Return the settings that must be the same for scores to be comparable."""
    search = {**settings["search"], **dict.fromkeys(SCORE_INDEPENDENT_SETTINGS)}
    return [settings.get("supernet"), settings.get("space"), settings.get("data"), search]


def _write(folder: ScoresFolder, settings: dict[str, Any]) -> None:
    write_atomically(folder.settings, (json.dumps(settings, indent=1) + "\n").encode())
