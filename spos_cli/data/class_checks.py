"""Check that the classes of image sets agree with each other and with the space."""

from __future__ import annotations

from pathlib import Path

from spos_cli.data.folder_set import FolderSet, list_folders
from spos_cli.data.image_set import MAX_LISTED, ImageSet, count_classes, list_first
from spos_cli.errors import DataError

MAX_NESTED_FOLDERS = 20  # that hold one folder each; a link may lead back to itself


def check_classes(train: ImageSet, val: ImageSet, expected: int) -> None:
    """Compare the classes of two sets with each other and with the number that the space expects.

    Raises:
        DataError: they differ, or there is only one class.
    """
    require_classes(train, val)
    if train.classes != val.classes:
        only_train = sorted(set(train.classes) - set(val.classes))[:MAX_LISTED]
        only_val = sorted(set(val.classes) - set(train.classes))[:MAX_LISTED]
        raise DataError(
            f"{train.name} and {val.name} have different classes: only in the first {only_train}, only in the second"
            f" {only_val}"
        )
    if len(train.classes) != expected:
        folders = ", or remove the folders that are not classes" if isinstance(train, FolderSet) else ""
        raise DataError(
            f"{train.name} has {count_classes(train.classes)} ({list_first(train.classes)}), but space.classes is"
            f" {expected}; set space.classes: {len(train.classes)}{folders}"
        )


def require_classes(*sets: ImageSet) -> None:
    """Refuse sets of one class, for which every network is right.

    Raises:
        DataError: a set has one class. If the classes are deeper in the folders, the message says which setting to use.
    """
    single = [images for images in sets if len(images.classes) < 2]
    if not single:
        return
    problems, advice = [], []
    for images in single:
        nested, inner = _skip_nested_folders(images.folder) if isinstance(images, FolderSet) else ("", [])
        if isinstance(images, FolderSet) and inner:
            problems.append(f"{images.name} holds only one folder, {nested}, which holds {list_first(inner)}")
            advice.append(f"set {images.setting}/{nested}" if images.setting else f"name {images.folder / nested}")
        else:
            problems.append(f"{images.name} has only 1 class ({list_first(images.classes)})")
            advice.append(f"put the images of each class into {images.name}/<class>/, of two classes or more")
    raise DataError(f"{' and '.join(problems)}; {' and '.join(dict.fromkeys(advice))}")


def _skip_nested_folders(folder: Path) -> tuple[str, list[str]]:
    """Follow folders that hold one folder only; return the path of the last one, and the folders in it."""
    nested = Path()
    for _ in range(MAX_NESTED_FOLDERS):
        inner = list_folders(folder / nested)
        if len(inner) != 1:
            return nested.as_posix(), inner
        nested /= inner[0]
    return "", []
