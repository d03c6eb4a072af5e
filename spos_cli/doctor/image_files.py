"""Check image files: other, unreadable, value range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from spos_cli import seeding
from spos_cli.data import inspection, levels
from spos_cli.data.folder_set import advise_conversion, describe_kinds
from spos_cli.data.image_files import UNREADABLE, get_extension
from spos_cli.data.image_set import ImageSet
from spos_cli.doctor.finding import Finding, Findings, judge
from spos_cli.doctor.setup import Setup
from spos_cli.doctor.wording import examples, of_all
from spos_cli.engine import distributed
from spos_cli.engine.progress import track
from spos_cli.errors import DataError
from spos_cli.files.quoting import plural

DECODED_SAMPLE = 200  # images of each set that are decoded without --full


def check(setup: Setup) -> Findings:
    """Check the image files of both sets; needs sets that can be opened."""
    return [
        check_other_files(setup),
        check_unreadable(setup),
        check_values(setup),
    ]


def check_other_files(setup: Setup) -> Finding:
    """Look for files in the image folders that no command uses."""
    sets = (setup.images.train, setup.images.val)
    folders = [images.class_folder for images in sets if images.class_folder]
    notes = [note for images in sets if not images.class_folder for note in images.list_notes()]
    if notes:
        advice = "save images as .jpg or .png, and leave all other files out"
        return Finding("other files", "warn", "; ".join(notes), advice)
    if not folders:
        where = "in memory" if all(images.in_memory for images in sets) else "in no class folders"
        return Finding("other files", "ok", f"not checked, since all images are {where}")
    files = [file for folder in folders for file in inspection.find_other_files(folder)]
    if not files:
        return Finding("other files", "ok", "none: every file is an image in a class folder")
    kinds = Counter(get_extension(file) or "without an extension" for file in files)
    seen = f"{plural(len(files), 'file')} that no command uses ({describe_kinds(kinds)}): {examples(files, setup.full)}"
    advice = "save images as .jpg or .png in a class folder, and remove all other files" + advise_conversion(kinds)
    return Finding("other files", "warn", seen, advice)


def check_unreadable(setup: Setup) -> Finding:
    """Look for files that cannot be decoded: a training tolerates a few, everything else ends with an error."""
    sets = {"train": setup.images.train, "val": setup.images.val}
    if all(images.in_memory for images in sets.values()):
        return Finding("unreadable images", "ok", "not checked, since all images are in memory")
    indices = {split: choose(setup, split, DECODED_SAMPLE) for split in sets}
    problems: dict[str, dict[int, str]] = {}
    with track("reading images", sum(map(len, indices.values())), "images", quiet=setup.run.as_json) as task:
        for split, images in sets.items():
            problems[split] = inspection.find_unreadable(images, indices[split], count_readers(), task.advance)
    names = [problem.removeprefix(UNREADABLE) for split in problems.values() for problem in split.values()]
    if not names:
        return Finding("unreadable images", "ok", f"none among {describe_read(sets, indices)}")
    seen = f"{len(names):,} among {describe_read(sets, indices)}: {examples(names, setup.full)}"
    allowed = setup.config.data.bad_images
    # As many as this sample makes likely in all training images.
    expected = len(problems["train"]) * len(sets["train"]) / len(indices["train"])
    are_scored = are_held_out(setup, problems["train"])  # The search scores on all held-out images.
    setup.has_fatal_images = bool(problems["val"]) or bool(are_scored.any()) or expected > allowed
    if setup.has_fatal_images:
        advice = "remove or replace them: a command that reads one of them ends with an error"
        return Finding("unreadable images", "fail", seen, advice)
    advice = f"remove or replace them; each training tolerates up to {allowed:,} (data.bad_images)"
    return Finding("unreadable images", "warn", seen, advice)


def check_values(setup: Setup) -> Finding:
    """Check that values have 8 bits per channel, or that `data.value_range` fits those that have more."""
    check, value_range = "value range", setup.config.data.value_range
    sets = {"train": setup.images.train, "val": setup.images.val}
    if all(images.in_memory for images in sets.values()):
        return Finding(check, "ok", "8 bits per channel: all images are in memory")
    indices = {split: choose(setup, split, DECODED_SAMPLE) for split in sets}
    deep: list[levels.Measured] = []
    with track("measuring values", sum(map(len, indices.values())), "images", quiet=setup.run.as_json) as task:
        for split, images in sets.items():
            deep += inspection.measure_values(images, indices[split], count_readers(), task.advance)
    if not deep:
        return Finding(check, "ok", f"8 bits per channel in {describe_read(sets, indices)}")
    seen = f"{len(deep):,} among {describe_read(sets, indices)}: {levels.describe(deep)}, such as {deep[0].path}"
    refused = [image for image in deep if not levels.fits(image.depth, value_range)]
    if refused:
        setup.has_fatal_images = True
        of_one_depth = [image for image in refused if image.depth == refused[0].depth]
        return Finding(check, "fail", seen, levels.advise(of_one_depth))
    return judge(check, seen, levels.list_doubts(deep, value_range))


def describe_read(sets: dict[str, ImageSet], indices: dict[str, NDArray[np.int64]]) -> str:
    """Write how many images of both sets were read."""
    number, total = sum(map(len, indices.values())), sum(map(len, sets.values()))
    return f"{of_all(number, total)} images" + ("" if number == total else " (--full reads all)")


def are_held_out(setup: Setup, indices: Collection[int]) -> NDArray[np.bool_]:
    """Tell which of these training images are held out; none if the images cannot be divided."""
    try:
        return np.isin(np.fromiter(indices, np.int64, len(indices)), setup.images.splits[1])
    except DataError:  # check_split reports it.
        return np.zeros(len(indices), bool)


def choose(setup: Setup, split: str, sample_size: int) -> NDArray[np.int64]:
    """Return the indices of the images of a set to look at: all with --full, else a sample."""
    images = setup.images.train if split == "train" else setup.images.val
    return np.arange(len(images)) if setup.full else draw_sample(setup, split, images, sample_size)


def draw_sample(setup: Setup, split: str, images: ImageSet, size: int) -> NDArray[np.int64]:
    """Draw the indices of some images by the seed, in ascending order; of all if there are no more than `size`."""
    rng = seeding.generator(setup.config.seed, f"doctor {split}")
    return np.sort(rng.permutation(len(images))[:size])


def count_readers() -> int:
    """Return how many processes read images; 0 for this one alone."""
    cores = distributed.count_usable_cores()
    return cores if cores > 1 else 0
