"""Check augmentation, classes and the split of the search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spos_cli.data.class_checks import compare_classes, require_classes
from spos_cli.data.image_set import ImageSet
from spos_cli.doctor import copies, image_files, pixels
from spos_cli.doctor.finding import Finding, Findings, attempt, from_error, judge
from spos_cli.doctor.setup import Setup
from spos_cli.doctor.wording import examples, percent
from spos_cli.files.quoting import plural

MAX_CLASS_RATIO = 10  # images of the largest class to images of the smallest
COMPARE_BALANCED = (
    "top-1 mostly measures the large ones, so compare networks by the balanced accuracy, which spos evaluate shows"
)


def check(setup: Setup) -> Findings:
    """Check augmentation, classes, the search's split, the image files and their pixels, and copies of images."""
    augmentation = attempt("augmentation", lambda: check_augmentation(setup))
    if setup.images_error is not None:
        rest = Finding("other image checks", "warn", "not run: the images cannot be opened", "fix the images first")
        return [augmentation, from_error("images", setup.images_error), rest]
    train, val = setup.images.train, setup.images.val
    return [
        augmentation,
        check_class_sizes("training images", train, advise_training(setup)),
        check_class_sizes("validation images", val, [COMPARE_BALANCED]),
        attempt("classes", lambda: check_classes(train, val, setup.space.classes)),
        attempt("search split", lambda: check_split(setup)),
        *image_files.check(setup),
        *pixels.check(setup),
        *copies.check(setup),
    ]


def check_augmentation(setup: Setup) -> Finding:
    """Check that training images can be augmented as the settings say."""
    images = setup.images
    chosen, retraining = (one.augmentation for one in (images.augmented, images.augmented_for_retraining))
    seen = f"preset {setup.config.data.preset}, {chosen.describe()}"
    if retraining != chosen:
        seen += f"; retraining: {retraining.describe()}"
    return Finding("augmentation", "ok", seen)


def check_class_sizes(check: str, images: ImageSet, advice: Sequence[str]) -> Finding:
    """Compare the numbers of images of the classes.

    Args:
        advice: what to do if they differ much; empty if that was done.
    """
    sizes = np.bincount(images.labels, minlength=len(images.classes))
    smallest, largest = int(sizes.argmin()), int(sizes.argmax())
    least, most = int(sizes[smallest]), int(sizes[largest])
    seen = f"{len(images):,} in {plural(len(images.classes), 'class', 'classes')}"
    if least == most:
        return Finding(check, "ok", f"{seen}, {least:,} per class")
    seen += f", from {least:,} (class {images.classes[smallest]}) to {most:,} (class {images.classes[largest]})"
    if most > MAX_CLASS_RATIO * least and advice:
        problem = f"class sizes differ by more than a factor of {MAX_CLASS_RATIO}: check the small classes"
        return Finding(check, "warn", seen, "; ".join([problem, *advice]))
    return Finding(check, "ok", seen)


def advise_training(setup: Setup) -> list[str]:
    """Return the settings for classes of very different sizes that are not set yet."""
    config, advice = setup.config, []
    for name, training in (("supernet", config.supernet), ("retrain", config.retrain)):
        if training.class_weights is None and training.sampling == "uniform":
            advice.append(f"set {name}.class_weights=balanced, or {name}.sampling=balanced")
    is_uneven = config.search.split == "val" or config.data.holdout_share is not None
    if is_uneven and config.search.fitness == "top1":  # The same number of each class is balanced by itself.
        advice.append("set search.fitness=balanced")
    return advice


def check_classes(train: ImageSet, val: ImageSet, expected: int) -> Finding:
    """Check that both sets have the same classes, more than one, and as many as the space.

    Raises:
        DataError: a set has one class only.
    """
    require_classes(train, val)
    if train.classes != val.classes:
        differences, advice = compare_classes(train, val)
        return Finding("classes", "fail", "; ".join(differences), advice)
    if len(train.classes) != expected:
        seen = f"{plural(len(train.classes), 'class', 'classes')} ({examples(train.classes)})"
        advice = f"set space.classes={len(train.classes)}"
        advice += ", or remove the folders that are not classes" if train.class_folder else ""
        return Finding("classes", "fail", f"{seen}, but space.classes is {expected}", advice)
    return Finding("classes", "ok", f"the same {expected:,} classes in training and validation, as in space.classes")


def check_split(setup: Setup) -> Finding:
    """Check what candidates are scored on, and how many images are left to train on.

    Raises:
        DataError: the training images cannot be divided so.
    """
    search, per_class, share = setup.config.search, setup.config.data.holdout_per_class, setup.config.data.holdout_share
    training, held_out = setup.images.splits
    amount = f"{per_class} per class" if share is None else f"{percent(share)} of each class"
    seen = f"{len(held_out):,} training images are held out ({amount}), {len(training):,} are trained on"
    if len(training) < search.calibration_batch_size:
        lower = f"lower search.calibration_batch_size from {search.calibration_batch_size} to at most {len(training)}"
        return Finding("search split", "fail", f"{seen}, fewer than one calibration batch", lower)
    advice = []
    smallest = int(np.bincount(setup.images.train.labels).min())
    if share is not None and share > 0.5:
        advice.append("more than half of the training images are held out: lower data.holdout_share to at most 0.5")
    if per_class is not None and per_class > smallest / 2:
        advice.append(
            f"more than half of the smallest class ({smallest} images) is held out: lower data.holdout_per_class to at"
            f" most {smallest // 2}"
        )
    if search.split == "val":
        seen = f"candidates are scored on the validation set; {seen}"
        advice.append(
            "the accuracy on the validation set will be too high: set search.split=holdout, or say that the search"
            " used it"
        )
    return judge("search split", seen, advice)
