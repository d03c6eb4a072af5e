"""Compare the images of a run with those that its files were made with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spos_cli.config.identity import value_range
from spos_cli.data import identity
from spos_cli.data.class_checks import require_classes
from spos_cli.data.identity import Identity, TrainedOn
from spos_cli.engine.progress import warn
from spos_cli.errors import CheckpointError, RunError
from spos_cli.run.images import Images


def make_image_record(images: Images, *, val: bool) -> dict[str, Any]:
    """Return what a file keeps about the images that its content depends on, in plain types.

    Args:
        val: whether the content depends on the validation images, too.
    """
    identities = {purpose: identity.to_dict() for purpose, identity in _identities(images, val=val).items()}
    return {**identities, "value_range": value_range(images.config)}


def require_same_images(images: Images, record: Any, what: str, *, val: bool) -> None:
    """Raise RunError if a file was made with other images.

    Args:
        record: the file's, as `make_image_record` makes it.
        what: what the file is, the beginning of the message.
        val: compare the validation images, too.
    """
    identity.require_same(_identities(images, val=val), record, what)
    now, before = value_range(images.config), record.get("value_range")
    # With "auto", all images had 8 bits, which any range leaves as they are.
    if before not in ("auto", now):
        raise RunError(
            f"{what} with data.value_range: {before}, not {now}; use {before}, another --run-dir, or --fresh to start"
            " over"
        )


def require_recorded_classes(images: Images, record: Any, what: str) -> None:
    """Raise RunError if labels meant other classes when a file was made; arguments as for `require_same_images`."""
    before = Identity.read(record.get("training")) if isinstance(record, dict) else None
    if before is None:
        raise RunError(f"{what} of images that it does not name; use another --run-dir, or --fresh to start over")
    if changes := images.train_identity.other_classes(before):
        raise RunError(
            f"{what} of other images ({changes}); restore the names of the classes, use another --run-dir, or"
            " --fresh to start over"
        )


def require_resumable(images: Images, record: Any, what: str) -> None:
    """Raise RunError if a training cannot go on with these images; arguments as for `require_same_images`.

    Other validation images of the same classes cause a warning only: no weight depends on them.
    """
    require_same_images(images, record, what, val=False)
    before = Identity.read(record.get("validation"))
    if before is None or not (changes := images.val_identity.changes(before)):
        return
    if images.val_identity.other_classes(before):
        raise RunError(f"{what} with other validation images ({'; '.join(changes)}); restore those, or use --fresh")
    if images.processes.is_main:
        warn(f"{what} with other validation images ({'; '.join(changes)}): later accuracies are measured on these")


def describe_changes(images: Images, record: dict[str, Any]) -> str:
    """Return what has changed since a record was made, in brackets; empty if names and sizes are the same."""
    changes = identity.describe_changes(_identities(images, val="validation" in record), record)
    return f" ({'; '.join(changes)})" if changes else ""


def compare_with_supernet(images: Images, trained_on: TrainedOn | None, path: Path, *, scoring: bool = False) -> None:
    """Compare the training images with those of a supernet, and warn of what has changed.

    Files may have been added or removed since. If candidates are scored, `images` holds out what was held out then.

    Args:
        trained_on: what the supernet's file says of its images; None if it says nothing, as an official file.
        path: the supernet's file.
        scoring: whether candidates are to be scored on held-out training images.

    Raises:
        RunError: labels would mean other classes, or the supernet may have been trained on images to score on.
    """
    warnings = []
    if trained_on is None:
        warnings.append(f"{path} does not say which images it was trained on, so that cannot be checked")
        if scoring:
            warnings.append("make sure that it was not trained on the images to score on")
    else:
        trained_on.require_same_classes(images.train_identity, path)
        changes = images.train_identity.changes(trained_on.identity, split=False)
        if changes:
            warnings.append(f"the training images are not all those that {path} was trained on ({'; '.join(changes)})")
        if scoring:
            warnings += _hold_out_the_same(images, trained_on, path, changed=bool(changes))
    if warnings and images.processes.is_main:
        warn("; ".join(warnings))


def _hold_out_the_same(images: Images, trained_on: TrainedOn, path: Path, *, changed: bool) -> list[str]:
    """Hold out what was held out of a supernet's training, and return what to warn of."""
    usual_count = len(images.splits[1])
    if np.isin(images.train.names, trained_on.held_out[:, 0]).any():
        images.hold_out_as_in(trained_on)
    held_out = images.splits[1]
    trained_on.require_unseen(images.train, images.train_identity, held_out, path)
    if len(held_out) < usual_count:
        return [f"candidates are scored on {len(held_out):,} images, since no others were held out then"]
    return [f"the {len(held_out):,} images to score on were held out then, too"] if changed else []


def _identities(images: Images, *, val: bool) -> dict[str, Identity]:
    """Return the identities of the images by purpose, as files name them."""
    return {"training": images.train_identity, **({"validation": images.val_identity} if val else {})}


def require_classes_of_network(classes: Sequence[str], images: Images) -> None:
    """Compare the classes of the validation images with those for which a network was trained.

    An official file does not name its classes. The images' classes then count as the network's first ones, and if
    there are fewer, that causes a warning.

    Args:
        classes: of the network; empty if they are not known.

    Raises:
        CheckpointError: the classes differ.
        DataError: the images have only one class.
    """
    require_classes(images.val)
    theirs, expected = images.val.classes, images.config.space.classes
    if classes and tuple(classes) != theirs:
        raise CheckpointError(
            f"the network was trained for {len(classes)} classes ({', '.join(classes[:3])}, ...), the images have"
            f" {len(theirs)} ({', '.join(theirs[:3])}, ...); spos evaluate --classes FILE says which are the same"
        )
    if len(theirs) > expected:
        raise CheckpointError(f"the network was trained for {expected} classes, {images.val.name} has {len(theirs)}")
    if len(theirs) < expected and images.processes.is_main:
        warn(
            f"{images.val.name} has {len(theirs)} of the network's {expected} classes; they count as the first ones in"
            " the order of names, else the accuracy means nothing; spos evaluate --classes FILE says which they are"
        )
