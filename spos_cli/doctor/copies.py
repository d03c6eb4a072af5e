"""Check for copies of images: in both sets, and within the training images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spos_cli import seeding
from spos_cli.data import inspection
from spos_cli.doctor import image_files
from spos_cli.doctor.finding import Finding, Findings, Status
from spos_cli.doctor.image_files import DECODED_SAMPLE, are_held_out, count_readers
from spos_cli.doctor.setup import Setup
from spos_cli.doctor.wording import examples, of_all
from spos_cli.engine.progress import track
from spos_cli.files.quoting import plural

COMPARED_SAMPLE = (50_000, 2_000)  # training and validation images that are compared without --full
# Share of the validation images that may be training images, too; more of them change the accuracy.
MAX_SHARE_IN_BOTH = 0.001
# Share of the held-out images that may be trained on, too; with more, scores are of what the supernet has memorised.
MAX_SHARE_TRAINED_ON = 0.01

Group = tuple[list[int], ...]  # the indices of equal images: training images, then validation images


def check(setup: Setup) -> Findings:
    """Look for images that are the same to the byte; needs sets that can be opened."""
    train, val = setup.images.train, setup.images.val
    indices = choose(setup)
    total = sum(map(len, indices))
    with track("comparing images", total, "images", quiet=setup.run.as_json) as task:
        sets = list(zip((train, val), indices, strict=True))
        groups = inspection.find_equal(sets, count_readers(), task.advance)
    more = "" if total == len(train) + len(val) else " (--full compares all)"
    return [judge_both(setup, groups, indices, more), judge_training(setup, groups, indices[0], more)]


def judge_both(setup: Setup, groups: list[Group], indices: tuple[NDArray[np.int64], ...], more: str) -> Finding:
    """Report validation images that are training images, too.

    Args:
        groups: equal images among those at `indices` of both sets.
        more: how to compare more images.
    """
    train, val = setup.images.train, setup.images.val
    validation, training = of_all(len(indices[1]), len(val)), of_all(len(indices[0]), len(train))
    compared = f"among {validation} validation and {training} training images{more}"
    pairs = [(trained[0], index) for trained, validated in groups if trained for index in validated]
    if not pairs:
        return Finding("images in both sets", "ok", f"none {compared}")
    names = [f"{val.locate(second)} = {train.locate(first)}" for first, second in pairs]
    status: Status = "fail" if len(pairs) > MAX_SHARE_IN_BOTH * len(indices[1]) else "warn"
    advice = "the accuracy will be too high: remove these images from the training images"
    return Finding("images in both sets", status, f"{len(pairs):,} {compared}: {examples(names, setup.full)}", advice)


def judge_training(setup: Setup, groups: list[Group], indices: NDArray[np.int64], more: str) -> Finding:
    """Report copies within the training images: those held out of which another copy is trained on, and other classes.

    Args:
        groups: equal images, among the training images at `indices` and others.
        more: how to compare more images.
    """
    check, train = "training copies", setup.images.train
    compared = f"among {of_all(len(indices), len(train))} training images{more}"
    copies = [np.array(trained) for trained, _ in groups if len(trained) > 1]
    if not copies:
        return Finding(check, "ok", f"none {compared}")
    is_held_out = are_held_out(setup, range(len(train)))
    held_out = [int(is_held_out[group].sum()) for group in copies]
    # Images of each group that are held out while a copy is trained on.
    leaks = [number if number < len(group) else 0 for number, group in zip(held_out, copies, strict=True)]
    classes = [[train.classes[label] for label in np.unique(train.labels[group])] for group in copies]
    mislabelled = sum(len(group) for group, names in zip(copies, classes, strict=True) if len(names) > 1)
    order = sorted(range(len(copies)), key=lambda n: (not leaks[n], len(classes[n]) == 1))  # the worst first
    names = [describe_group(setup, copies[n], leaks[n] > 0, classes[n]) for n in order]
    seen = [f"{plural(sum(len(group) - 1 for group in copies), 'copy', 'copies')} {compared}"]
    advice = ["remove all but one of each"]
    if sum(leaks):
        seen.append(f"{plural(sum(leaks), 'held-out image')} with a copy that is trained on")
        advice.append("a search would score on images that the supernet was trained on")
    if mislabelled:
        seen.append(f"{mislabelled:,} equal images in different classes")
        advice.append("of those in different classes, keep the one in the right class")
    limit = MAX_SHARE_TRAINED_ON * int(is_held_out[indices].sum())
    status: Status = "fail" if sum(leaks) > limit else "warn"
    return Finding(check, status, f"{', '.join(seen)}: {examples(names, setup.full)}", "; ".join(advice))


def describe_group(setup: Setup, group: NDArray[np.int64], leaks: bool, classes: list[str]) -> str:
    """Name the first two of some equal training images, and say what is wrong with them besides."""
    train = setup.images.train
    first, second, *others = (train.locate(index) for index in group.tolist())
    remarks = ["held out and trained on"] * leaks + [f"in {' and '.join(classes[:2])}"] * (len(classes) > 1)
    names = f"{first} = {second}" + (f" = {len(others):,} more" if others else "")
    return names + (f" ({', '.join(remarks)})" if remarks else "")


def choose(setup: Setup) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the training and of the validation images to compare: all with --full, else a sample.

    Files of the same size are drawn together, since equal images are among these; a sample of single images would
    hardly ever have both of a pair. Images in memory are all compared; of those that have to be decoded, a few are.
    """
    train, val = setup.images.train, setup.images.val
    if setup.full or train.in_memory:
        return np.arange(len(train)), np.arange(len(val))
    if not train.knows_sizes:
        return (
            image_files.choose(setup, "train", DECODED_SAMPLE),
            image_files.choose(setup, "val", DECODED_SAMPLE),
        )
    rng = seeding.generator(setup.config.seed, "doctor copies")
    sizes = np.unique(np.concatenate((train.contents, val.contents)))
    ranks = rng.permutation(len(sizes))
    chosen = []
    for images, number in zip((train, val), COMPARED_SAMPLE, strict=True):
        rank = ranks[np.searchsorted(sizes, images.contents)]
        chosen.append(np.sort(np.lexsort((rng.permutation(len(images)), rank))[:number]))
    return chosen[0], chosen[1]
