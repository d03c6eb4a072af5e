"""Remember the images of a run in little space, and say later what has changed.

An image is identified by its class, its name below the class folder and its content: the size of its file, or its
pixels if it is in memory. Where the folders are and when a file was written does not matter.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spos_cli.data.image_set import ImageSet
from spos_cli.data.splits import count_held_out, interleave, rank_in_class
from spos_cli.errors import RunError
from spos_cli.files.quoting import plural

MAX_LISTED = 5  # classes, or images, that a message lists
OR_TRAIN_ANOTHER = "or train another supernet (spos supernet-train --fresh, or in another --run-dir)"
MEMBERS_PATTERN = re.compile(r"(\d{1,12}) images ([0-9a-f]{16}) ([0-9a-f]{16}) ([0-9a-f]{16})")


@dataclass(frozen=True)
class Members:
    """The images of a class.

    Attributes:
        count: how many there are.
        names: a digest of their names.
        images: a digest of their names and contents.
        trained: the same for those that are not held out.
    """

    count: int
    names: str
    images: str
    trained: str

    def __str__(self) -> str:
        return f"{self.count} images {self.names} {self.images} {self.trained}"


@dataclass(frozen=True)
class Identity:
    """What a run remembers of an image set.

    Attributes:
        classes: the images of each class, by name, in the order of labels.
    """

    classes: dict[str, Members]

    @staticmethod
    def of(images: ImageSet, held_out: NDArray[np.int64] | None = None) -> Identity:
        """Make the identity of all images, without opening files.

        Args:
            images: the set.
            held_out: indices of the images that are not trained on.
        """
        is_trained = np.ones(len(images), bool)
        if held_out is not None:
            is_trained[held_out] = False
        order = np.lexsort((images.names, images.labels))
        numbers, is_trained = identify_each(images)[order], is_trained[order]
        ends = np.cumsum(np.bincount(images.labels, minlength=len(images.classes))).tolist()
        classes = {}
        for name, begin, end in zip(images.classes, [0, *ends], ends, strict=False):
            part = numbers[begin:end]
            trained = part[is_trained[begin:end]]
            classes[name] = Members(end - begin, _digest(part[:, 0]), _digest(part), _digest(trained))
        return Identity(classes)

    @staticmethod
    def read(value: Any) -> Identity | None:
        """Return the identity that `to_dict` has written; None if a file holds something else."""
        if not isinstance(value, dict) or not all(isinstance(text, str) for item in value.items() for text in item):
            return None
        classes = {}
        for name, text in value.items():
            match = MEMBERS_PATTERN.fullmatch(text)
            if match is None:
                return None
            classes[name] = Members(int(match[1]), match[2], match[3], match[4])
        return Identity(classes)

    def to_dict(self) -> dict[str, str]:
        """Return a short text for each class."""
        return {name: str(members) for name, members in self.classes.items()}

    @property
    def number(self) -> int:
        """A hash of 63 bits, for processes to compare."""
        text = "\n".join(f"{name} {members}" for name, members in self.classes.items())
        digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    def changes(self, before: Identity, *, split: bool = True) -> list[str]:
        """List in words what differs from an earlier identity, for the first few classes; empty if nothing does.

        Args:
            before: the earlier identity.
            split: also compare which images are held out.
        """
        if other := self.other_classes(before):
            return [other]
        pairs = ((name, before.classes[name], now) for name, now in self.classes.items())
        changes = [
            f"{name}: {_describe_change(then, now)}"
            for name, then, now in pairs
            if then != (now if split else replace(now, trained=then.trained))
        ]
        more = len(changes) - MAX_LISTED
        return [*changes[:MAX_LISTED], *([f"and {more:,} more classes"] if more > 0 else [])]

    def other_classes(self, before: Identity) -> str:
        """Say which classes only one of two identities has; empty if they have the same."""
        gone = [name for name in before.classes if name not in self.classes]
        new = [name for name in self.classes if name not in before.classes]
        changes = [f"only {when}: {_list_first(names)}" for when, names in (("before", gone), ("now", new)) if names]
        if not changes and list(self.classes) != list(before.classes):
            changes = ["the same, in another order"]
        return f"classes {', '.join(changes)}" if changes else ""


def identify_each(images: ImageSet) -> NDArray[np.int64]:
    """Return the hash of the name, and the content, of each image, `(N, 2)`."""
    return np.stack((images.names, images.contents), 1)


def digest_images(images: ImageSet, indices: NDArray[np.int64]) -> str:
    """Return a digest of the names and contents of some images, whatever their order."""
    numbers = identify_each(images)[indices]
    return _digest(numbers[np.lexsort((numbers[:, 1], numbers[:, 0]))])


def _digest(values: NDArray[np.int64]) -> str:
    return hashlib.blake2b(values.astype("<i8").tobytes(), digest_size=8).hexdigest()


def _list_first(names: Sequence[str]) -> str:
    """List the first names of many."""
    more = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _describe_change(then: Members, now: Members) -> str:
    """Say how the images of a class differ."""
    if then.count != now.count:
        return f"{plural(then.count, 'image')} before, {now.count:,} now"
    if then.names != now.names:
        return f"{plural(now.count, 'image')}, some under other names"
    if then.images != now.images:
        return f"{plural(now.count, 'image')}, some of which have been replaced"
    return "other images are held out"


def describe_changes(ours: Mapping[str, Identity], theirs: Mapping[str, Any]) -> list[str]:
    """Say what has changed since a file remembered the images; arguments as for `require_same`.

    Images that the file does not name are left out.
    """
    return [
        f"{purpose} images: {'; '.join(changes)}"
        for purpose, now in ours.items()
        if (before := Identity.read(theirs.get(purpose))) is not None and (changes := now.changes(before))
    ]


def require_same(ours: Mapping[str, Identity], theirs: Any, what: str) -> None:
    """Raise RunError if a file was made with other images; `what` begins the message.

    Args:
        ours: the identities by purpose, such as `training`.
        theirs: the same from the file, as `Identity.to_dict` wrote them.
        what: such as `supernet.pt was trained`.
    """
    if not isinstance(theirs, dict) or any(Identity.read(theirs.get(purpose)) is None for purpose in ours):
        raise RunError(f"{what} with images that it does not name; use another --run-dir, or --fresh to start over")
    if changes := describe_changes(ours, theirs):
        raise RunError(
            f"{what} with other images ({'; '.join(changes)}); restore those, use another --run-dir, or --fresh to"
            " start over"
        )


@dataclass(frozen=True)
class TrainedOn:
    """The images that a supernet was trained on, as its file remembers them.

    Attributes:
        identity: of all training images.
        held_out: `(n, 2) int64`: `identify_each` of the images that were not trained on.
    """

    identity: Identity
    held_out: NDArray[np.int64]

    @staticmethod
    def content(remembered: dict[str, Any], images: ImageSet, held_out: NDArray[np.int64]) -> dict[str, Any]:
        """Return what a training writes about its images into its checkpoints.

        Args:
            remembered: what the file says of the images; the identity of all training images is under `training`.
            images: all training images.
            held_out: indices of those that are not trained on.
        """
        return {
            "images": remembered,
            "held_out": torch.from_numpy(np.ascontiguousarray(identify_each(images)[held_out])),
        }

    @staticmethod
    def read(content: Mapping[str, Any]) -> TrainedOn | None:
        """Read what `content` has written; None if a file says nothing of its images.

        Raises:
            ValueError: what it says is damaged.
        """
        if "images" not in content:
            return None
        images, held_out = content["images"], content.get("held_out")
        identity = Identity.read(images.get("training")) if isinstance(images, dict) else None
        if not isinstance(held_out, Tensor) or held_out.dtype != torch.int64 or held_out.shape[1:] != (2,):
            raise ValueError("it does not list its held-out images")
        if identity is None:
            raise ValueError("it does not name its training images")
        return TrainedOn(identity, held_out.numpy())

    def require_same_classes(self, now: Identity, path: object) -> None:
        """Raise RunError if the labels of the supernet in `path` stand for other classes than the images have now."""
        if changes := now.other_classes(self.identity):
            raise RunError(
                f"{path} was trained on other classes than the images have now ({changes}), so its labels would stand"
                f" for other classes; restore the names of the classes, {OR_TRAIN_ANOTHER}"
            )

    def held_out_of(self, images: ImageSet, per_class: int | None, share: float | None = None) -> NDArray[np.int64]:
        """Return the indices of images that were held out then and still exist, of each class at most as many as given.

        They are in the order of `holdout`, and equal to it if no image was added or removed. An image that was added
        since may be one that `holdout` would choose now; it was not trained on, but it is left out here.

        Args:
            images: all training images as they are now.
            per_class, share: see `count_held_out`; the share is of the images that a class had then.
        """
        order = interleave(images)
        order = order[np.isin(images.names[order], self.held_out[:, 0])]
        counts = [self.identity.classes[name].count if name in self.identity.classes else 0 for name in images.classes]
        numbers = count_held_out(np.array(counts, np.int64), per_class, share)
        kept = order[rank_in_class(images.labels[order]) < numbers[images.labels[order]]]
        labels = images.labels[kept]
        return kept[np.lexsort((labels, rank_in_class(labels)))]

    def require_unseen(self, images: ImageSet, now: Identity, scored: NDArray[np.int64], path: object) -> None:
        """Raise RunError if candidates would be scored on images that the supernet may have been trained on.

        Each must have been held out, under its name. If its content has changed since, it counts as repaired as long
        as the images of its class that were trained on are unchanged; otherwise they may have been exchanged.

        Args:
            images: all training images as they are now.
            now: their identity.
            scored: indices of the images to score on.
            path: the supernet's file.
        """
        changes = now.changes(self.identity, split=False)
        why = f" ({'; '.join(changes)})" if changes else ""
        if changes and images.known_by_position:
            raise RunError(
                f"{images.name} has other images than when {path} was trained{why}, and without paths they are known by"
                " position only, so it cannot be told which were held out then; restore the images and their order,"
                f" {OR_TRAIN_ANOTHER}"
            )
        seen = ~np.isin(images.names[scored], self.held_out[:, 0])
        if seen.any():
            examples = _list_first([images.path(index) for index in scored[seen].tolist()])
            raise RunError(
                f"{np.count_nonzero(seen):,} of the {len(scored):,} images to score on were not held out when {path}"
                f" was trained: {examples}{why}; restore the images, {OR_TRAIN_ANOTHER}"
            )
        contents = dict(self.held_out.tolist())
        replaced = scored[[contents[name] != content for name, content in identify_each(images)[scored].tolist()]]
        held_out = np.flatnonzero(np.isin(images.names, self.held_out[:, 0]))
        classes_now = Identity.of(images, held_out).classes
        for index in replaced.tolist():
            name = images.classes[int(images.labels[index])]
            if classes_now[name].trained != self.identity.classes[name].trained:
                raise RunError(
                    f"since {path} was trained, images of {name} have been replaced: images to score on, such as"
                    f" {images.path(index)}, and images that it was trained on; they may have been exchanged, so"
                    f" restore them, {OR_TRAIN_ANOTHER}"
                )
