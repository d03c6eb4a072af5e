"""Which images a run was made with: small enough to keep, and enough to say later what has changed.

An image is known by its class, its name below the class folders and its content, which is the size of its file, or
its pixels where it is in memory. Where the folders are and when a file was written does not matter.
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

from spos_cli.data.datasets import ImageSet, interleave
from spos_cli.errors import RunError

SHOWN = 5  # classes that a message names
ANOTHER = "or train another supernet (spos supernet-train --fresh, or in another --run-dir)"
MEMBERS = re.compile(r"(\d{1,12}) images ([0-9a-f]{16}) ([0-9a-f]{16}) ([0-9a-f]{16})")


@dataclass(frozen=True)
class Members:
    """The images of a class: how many, and digests of their names, of all, and of those that are not held out."""

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
        classes: by name, in the order of their labels.
    """

    classes: dict[str, Members]

    @staticmethod
    def of(images: ImageSet, held_out: NDArray[np.int64] | None = None) -> Identity:
        """Looks at all images; files are not opened.

        Args:
            held_out: indices of those that are not trained on.
        """
        trained = np.ones(len(images), bool)
        if held_out is not None:
            trained[held_out] = False
        order = np.lexsort((images.names, images.labels))
        known, trained = of_each(images)[order], trained[order]
        ends = np.cumsum(np.bincount(images.labels, minlength=len(images.classes))).tolist()
        classes = {}
        for name, begin, end in zip(images.classes, [0, *ends], ends, strict=False):
            part = known[begin:end]
            classes[name] = Members(end - begin, _digest(part[:, 0]), _digest(part), _digest(part[trained[begin:end]]))
        return Identity(classes)

    @staticmethod
    def read(value: Any) -> Identity | None:
        """What `to_dict` has made; None if a file holds something else."""
        if not isinstance(value, dict) or not all(isinstance(text, str) for item in value.items() for text in item):
            return None
        found = {name: MEMBERS.fullmatch(text) for name, text in value.items()}
        members = {name: Members(int(match[1]), match[2], match[3], match[4]) for name, match in found.items() if match}
        return Identity(members) if len(members) == len(found) else None

    def to_dict(self) -> dict[str, str]:
        """A short text for each class."""
        return {name: str(members) for name, members in self.classes.items()}

    @property
    def number(self) -> int:
        """63 bits that tell it from others, for processes to compare."""
        text = "\n".join(f"{name} {members}" for name, members in self.classes.items())
        digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    def changes(self, before: Identity, *, split: bool = True) -> list[str]:
        """What differs from an earlier identity, in words, the first few; empty if nothing does.

        Args:
            split: whether it matters which of them are held out.
        """
        if other := self.other_classes(before):
            return [other]
        pairs = ((name, before.classes[name], now) for name, now in self.classes.items())
        said = [
            f"{name}: {_change(then, now)}"
            for name, then, now in pairs
            if then != (now if split else replace(now, trained=then.trained))
        ]
        more = len(said) - SHOWN
        return [*said[:SHOWN], *([f"and {more:,} more classes"] if more > 0 else [])]

    def other_classes(self, before: Identity) -> str:
        """Which classes only one of two identities has; empty if they are the same."""
        gone = [name for name in before.classes if name not in self.classes]
        new = [name for name in self.classes if name not in before.classes]
        said = [f"only {when}: {_listed(names)}" for when, names in (("before", gone), ("now", new)) if names]
        if not said and list(self.classes) != list(before.classes):
            said = ["the same, in another order"]
        return f"classes {', '.join(said)}" if said else ""


def of_each(images: ImageSet) -> NDArray[np.int64]:
    """`(N, 2)`: the hash of the name, and the content, of each image."""
    return np.stack((images.names, images.contents), 1)


def _digest(values: NDArray[np.int64]) -> str:
    return hashlib.blake2b(values.astype("<i8").tobytes(), digest_size=8).hexdigest()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def _change(then: Members, now: Members) -> str:
    if then.count != now.count:
        return f"{then.count:,} images before, {now.count:,} now"
    if then.names != now.names:
        return f"{now.count:,} images, some under other names"
    if then.images != now.images:
        return f"{now.count:,} images, some of which have been replaced"
    return "others are held out"


def differing(ours: Mapping[str, Identity], theirs: Mapping[str, Any]) -> list[str]:
    """Say what differs from images that a file remembers, by what they are for; arguments as for `require_same`.

    What the file does not name is left out.
    """
    return [
        f"{purpose} images: {'; '.join(changes)}"
        for purpose, now in ours.items()
        if (before := Identity.read(theirs.get(purpose))) is not None and (changes := now.changes(before))
    ]


def require_same(ours: Mapping[str, Identity], theirs: Any, what: str) -> None:
    """Raises RunError if something on the disk was made with other images; `what` begins the message.

    Args:
        ours: by what they are for, such as `training`.
        theirs: the same as `Identity.to_dict` gives it, out of a file.
    """
    if not isinstance(theirs, dict) or any(Identity.read(theirs.get(purpose)) is None for purpose in ours):
        raise RunError(f"{what} with images that it does not name; use another --run-dir, or --fresh to start over")
    if said := differing(ours, theirs):
        raise RunError(
            f"{what} with other images ({'; '.join(said)}); restore those, use another --run-dir, or --fresh to start"
            " over"
        )


@dataclass(frozen=True)
class TrainedOn:
    """What a supernet's file says of its images.

    Attributes:
        identity: of all training images.
        held_out: `(n, 2) int64`, as `of_each` has them, of those that were not trained on.
    """

    identity: Identity
    held_out: NDArray[np.int64]

    @staticmethod
    def content(remembered: dict[str, Any], images: ImageSet, held_out: NDArray[np.int64]) -> dict[str, Any]:
        """What a training keeps in its checkpoints.

        Args:
            remembered: of the images: the identity of all training images under `training`.
        """
        return {
            "images": remembered,
            "held_out": torch.from_numpy(np.ascontiguousarray(of_each(images)[held_out])),
        }

    @staticmethod
    def read(content: Mapping[str, Any]) -> TrainedOn | None:
        """The inverse of `content`; None if that is not in a file.

        Raises:
            ValueError: it is there, but broken.
        """
        if "images" not in content:
            return None
        images, held_out = content["images"], content.get("held_out")
        identity = Identity.read(images.get("training")) if isinstance(images, dict) else None
        if not isinstance(held_out, Tensor) or held_out.dtype != torch.int64 or held_out.shape[1:] != (2,):
            raise ValueError("no held-out images")
        if identity is None:
            raise ValueError("no images")
        return TrainedOn(identity, held_out.numpy())

    def require_same_classes(self, now: Identity, path: object) -> None:
        """Raises RunError if the labels of the supernet in `path` mean other classes than those of the images."""
        if said := now.other_classes(self.identity):
            raise RunError(
                f"{path} was trained on other classes than the images have now ({said}), so labels would mean others;"
                f" give the folders their names again, {ANOTHER}"
            )

    def held_out_of(self, images: ImageSet, per_class: int) -> NDArray[np.int64]:
        """Indices of the images that were held out then and are still there, at most so many of each class.

        They are in the order of `holdout`, which they equal where no image came or went. An image that came since may
        have a place among those that would be held out now; it was not trained on, but nothing was scored on it.
        """
        order = interleave(images)
        order = order[np.isin(images.names[order], self.held_out[:, 0])]
        ranks = np.empty(len(order), np.int64)
        for label in np.unique(images.labels[order]):
            of_class = np.flatnonzero(images.labels[order] == label)
            ranks[of_class] = np.arange(len(of_class))
        kept = ranks < per_class
        return order[kept][np.lexsort((images.labels[order[kept]], ranks[kept]))]

    def require_unseen(self, images: ImageSet, now: Identity, scored: NDArray[np.int64], path: object) -> None:
        """Raises RunError if images that candidates are to be scored on may have been trained on.

        Each must have been held out, under its name. One that has another content by now was repaired, as long as the
        class's images that were trained on are as they were; else they may have been exchanged.

        Args:
            images: all training images as they are now, with the identity `now`.
            scored: indices of those to score on, with the classes in turn.
            path: of the supernet.
        """
        known = of_each(images)
        seen = ~np.isin(images.names[scored], self.held_out[:, 0])
        if seen.any():
            classes = len(np.unique(images.labels[scored]))
            fewer = int(np.flatnonzero(seen)[0]) // classes  # of each class, before the first one
            lower = f"lower data.holdout_per_class to {fewer}, " if fewer else ""
            examples = _listed([images.path(index) for index in scored[seen].tolist()])
            changes = now.changes(self.identity, split=False)
            why = f" ({'; '.join(changes)})" if changes else ""
            raise RunError(
                f"{np.count_nonzero(seen):,} of the {len(scored):,} images to score on were not held out when {path}"
                f" was trained: {examples}{why}; {lower}restore the images, {ANOTHER}"
            )
        content = dict(self.held_out.tolist())
        replaced = scored[[content[name] != value for name, value in known[scored].tolist()]]
        ours = np.isin(images.names, self.held_out[:, 0])
        trained = Identity.of(images, np.flatnonzero(ours)).classes
        for index in replaced.tolist():
            name = images.classes[int(images.labels[index])]
            if trained[name].trained != self.identity.classes[name].trained:
                raise RunError(
                    f"since {path} was trained, images of {name} have been replaced, some to score on, such as"
                    f" {images.path(index)}, and others that it was trained on; they may have been exchanged, so"
                    f" restore them, {ANOTHER}"
                )
