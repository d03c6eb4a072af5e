"""What a search works with: its supernet, its evolution, its evaluator and their images."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spos_cli import seeding
from spos_cli.data.image_set import ImageSet
from spos_cli.data.image_store import ImageStore
from spos_cli.data.loaders import BadImages
from spos_cli.data.splits import interleave, spread_classes
from spos_cli.data.transforms import EvalTransform, TrainTransform
from spos_cli.engine.distributed import Processes
from spos_cli.engine.progress import track
from spos_cli.errors import CheckpointError, ConfigError, RunError
from spos_cli.files.digests import file_digest
from spos_cli.models.counting import Costs, count
from spos_cli.models.supernet import Supernet
from spos_cli.run.command import Run
from spos_cli.run.folder import ScoresFolder, name_at_size
from spos_cli.run.images import Images
from spos_cli.run.latency_table import read_latency, uses_latency
from spos_cli.run.own_costs import read_own_tables
from spos_cli.run.weights_file import Weights, read_weights
from spos_cli.search.evaluator import CalibrationSet, Evaluator
from spos_cli.search.evaluator_by_size import EvaluatorBySize
from spos_cli.search.evolution import Evolution
from spos_cli.space.cost_kinds import COST_KINDS
from spos_cli.space.limits import Limit, describe_all, format_limit, get_bounds
from spos_cli.space.search_space import SearchSpace


def read_supernet(path: Path, processes: Processes, train: str) -> tuple[Weights, str]:
    """Read a supernet's file and its digest.

    Args:
        train: the command that trains the run folder's own supernet, for the message; empty for another file.

    Raises:
        RunError: a training is writing the file, or not all processes see the same one.
    """
    try:
        before = file_digest(path) if path.is_file() else ""
        file = read_weights(path)
    except CheckpointError as error:
        if not train:
            raise
        raise CheckpointError(f"{error}; {train} resumes from the checkpoint before it") from None
    after = file_digest(path)
    if processes.any(before != after) or not processes.agree(after):
        raise RunError(
            f"{path} is being written; search when its training has ended, or name a step-*.pt with --weights"
        )
    return file, after


def read_searched_supernet(run: Run, processes: Processes, weights: Path | None) -> tuple[Weights, str]:
    """Read the supernet to score with, and its digest.

    Args:
        weights: its file; None for the one in the run folder.

    Raises:
        RunError: the run folder has none, a training is writing the file, or not all processes see the same one.
    """
    path, train = weights or run.folder.supernet.last, run.command("supernet-train")
    if weights is None and not path.exists():
        raise RunError(f"there is no supernet in {run.folder} yet; run {train} first, or give --weights")
    return read_supernet(path, processes, train if weights is None else "")


def read_costs(run: Run, space: SearchSpace) -> Costs:
    """Count the costs of a space, read its latencies if the search needs them, and all of the user's own costs.

    Raises:
        RunError: the search needs latencies, but there is no table of them; or a table of own costs cannot be read.
        ConfigError: the user's code for a cost fails, or returns something else than costs.
    """
    costs = count(space)
    latency = [read_latency(run)] if uses_latency(run.config.search) else []
    return costs.with_tables([*latency, *read_own_tables(run, space)])


def list_limits(run: Run) -> dict[str, Limit | None]:
    """Return the limits on built-in costs by name: always the one on FLOPs, others where they are set."""
    limits = run.config.search.cost_limits
    return {"flops": None, **{name: limit for name, limit in limits.items() if name in COST_KINDS}}


def describe_limits(run: Run) -> str:
    """Return the limits on candidates in words; empty if there are none.

    They are such as `at or under 330M FLOPs and 3M parameters`, or `at 250M to 330M FLOPs and at most 3M parameters`.
    """
    kinds = run.config.cost_kinds
    limits = [(kinds[name], limit) for name, limit in run.config.search.cost_limits.items()]
    if any(limit.is_range for _, limit in limits):
        return f"at {describe_all(limits)}"
    written = [f"{format_limit(kind, limit)} {kind.label}" for kind, limit in limits]
    return f"at or under {' and '.join(written)}" if written else ""


def make_evolution(run: Run, costs: Costs) -> Evolution:
    """Make the evolution from the settings; a random search is an evolution without parents.

    Within the limit that excludes most of the space, every draw counts; the other limits reject draws.

    Args:
        costs: of the space, as from `read_costs`.
    """
    search = run.config.search
    tightest_first = [(costs.tables[name], limit) for name, limit in search.cost_limits.items()]
    tightest_first.sort(key=lambda pair: pair[0].distribution().share(*get_bounds(pair[1])))
    table, limit = tightest_first[0] if tightest_first else (costs.flops, None)
    return Evolution(
        table=table,
        limit=limit,
        others=tuple(tightest_first[1:]),
        population=search.population,
        generations=search.generations,
        parents=search.parents if search.algorithm == "evolution" else 0,
        mutations=search.mutations,
        crossovers=search.crossovers,
        mutation_probability=search.mutation_probability,
        seed=run.config.seed,
        main=costs.main,
        front_on=costs.tables[search.pareto_cost] if search.objective == "pareto" else None,
        predictor=search.predictor,
    )


def make_evaluator(
    run: Run, folder: ScoresFolder, supernet: Supernet, images: Images, processes: Processes
) -> Evaluator | EvaluatorBySize:
    """Make the evaluator, which scores on held-out training images or, with `search.split: val`, on validation images.

    All processes call it together; the first one decodes the images to files in `folder`, once for each image size.
    """

    def make(side: int) -> Evaluator:
        return make_evaluator_at_size(run, folder, supernet, images.at_size(side), processes)

    sizes = supernet.space.image_sizes
    return EvaluatorBySize({side: make(side) for side in sizes}) if sizes else make(0)


def make_evaluator_at_size(
    run: Run, folder: ScoresFolder, supernet: Supernet, images: Images, processes: Processes
) -> Evaluator:
    """Make the evaluator of the architectures of one image size.

    Args:
        images: at that size; which images they are, and their order, is the same for all sizes.
    """
    search = run.config.search
    if search.split == "holdout":
        image_set, indices = images.train, images.splits[1]
    else:
        image_set, indices = images.val, interleave(images.val)
    # A race looks at the first images, so these must be like all of them.
    indices = spread_classes(indices[: search.images], image_set.labels[indices[: search.images]])
    path = name_decoded(run, folder.scoring_images, images)
    scoring = decode(run, path, image_set, indices, images.evaluation, None, processes)
    calibration = decode_calibration(run, folder.path, images, processes)
    return Evaluator(
        supernet,
        images.preprocess,
        calibration=CalibrationSet(calibration.images, search.calibration_batch_size, search.calibration_momentum),
        images=scoring.images,
        labels=scoring.labels,
        batch=search.batch_size,
        device=processes.device,
        amp=search.amp,
    )


def decode_calibration(run: Run, folder: Path, images: Images, processes: Processes) -> ImageStore:
    """Decode the training images that BatchNorm statistics are computed from, the same for every candidate.

    Args:
        images: at the image size of the candidates; they are decoded to that size.
    """
    path, indices = name_decoded(run, folder / "calibration.u8", images), draw_calibration_indices(run, images)
    transform, seed = images.augmented, run.config.seed
    return decode(run, path, images.to_augment, indices, transform, seed, processes, images.bad_images)


def name_decoded(run: Run, path: Path, images: Images) -> Path:
    """Return the file for decoded images: `path` itself for those of the size `space.image_size` of the run."""
    return path if images.size == run.config.space.image_size else name_at_size(path, images.size)


@contextlib.contextmanager
def calibration_set(run: Run, images: Images, processes: Processes) -> Iterator[CalibrationSet]:
    """Yield the images that a path of the supernet has its statistics from in a search.

    They are those that the run's search has left, or they are decoded into a temporary folder.

    Args:
        images: of the run, at the image size of the path.
    """
    search = run.config.search
    with tempfile.TemporaryDirectory() as folder:
        store = open_calibration(run, images) or decode_calibration(run, Path(folder), images, processes)
        yield CalibrationSet(store.images, search.calibration_batch_size, search.calibration_momentum)


def open_calibration(run: Run, images: Images) -> ImageStore | None:
    """Open the calibration images that the run's search has left; None if there are none with these settings."""
    path = name_decoded(run, run.folder.search.calibration_images, images)
    indices = draw_calibration_indices(run, images)
    if not ImageStore.matches(path, images.to_augment, indices, images.augmented, seed=run.config.seed):
        return None
    return ImageStore.open(path)


def draw_calibration_indices(run: Run, images: Images) -> NDArray[np.int64]:
    """Draw the training images to calibrate on; return their indices `(n,)`.

    Raises:
        ConfigError: there are fewer of them than one calibration batch.
    """
    config, search = run.config, run.config.search
    training, _ = images.splits
    order = seeding.generator(config.seed, "calibration").permutation(len(training))
    indices = training[order[: search.calibration_images]]
    if len(indices) < search.calibration_batch_size:
        raise ConfigError(
            f"search.calibration_batch_size is {search.calibration_batch_size}, but there are {len(indices)}"
            " training images; lower it"
        )
    return indices


def decode(
    run: Run,
    path: Path,
    images: ImageSet,
    indices: NDArray[np.int64],
    transform: EvalTransform | TrainTransform,
    seed: int | None,
    processes: Processes,
    bad_images: BadImages | None = None,
) -> ImageStore:
    """Decode images to a file once, for all candidates and processes.

    Args:
        path: of the file; it is used as it is if it holds the same images already.
        seed: of the transform's draws; None if it draws nothing.
        bad_images: counts and replaces broken images; without it, a broken image is an error.
    """
    if processes.is_main and not ImageStore.matches(path, images, indices, transform, seed=seed):
        with track(f"decoding {path.stem} images", len(indices), "images", quiet=run.as_json) as task:
            ImageStore.build(
                path,
                images,
                indices,
                transform,
                seed=seed,
                workers=run.config.data.workers,
                progress=task.advance,
                bad_images=bad_images,
            )
    processes.barrier()
    return ImageStore.open(path)
