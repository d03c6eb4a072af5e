"""Check that the classes of image sets agree with each other and with the space."""

from __future__ import annotations

from spos_cli.data.image_set import ImageSet, count_classes, list_first
from spos_cli.errors import DataError


def check_classes(train: ImageSet, val: ImageSet, expected: int) -> None:
    """Compare the classes of two sets with each other and with the number that the space expects.

    Raises:
        DataError: they differ, or there is only one class.
    """
    require_classes(train, val)
    if train.classes != val.classes:
        differences, advice = compare_classes(train, val)
        raise DataError(f"{train.name} and {val.name} have different classes: {'; '.join(differences)}; {advice}")
    if len(train.classes) != expected:
        folders = ", or remove the folders that are not classes" if train.class_folder else ""
        raise DataError(
            f"{train.name} has {count_classes(train.classes)} ({list_first(train.classes)}), but space.classes is"
            f" {expected}; set space.classes: {len(train.classes)}{folders}"
        )


def compare_classes(train: ImageSet, val: ImageSet) -> tuple[list[str], str]:
    """Return how the classes of two sets differ, and what to do about it; call it for sets whose classes differ."""
    only_in = {
        "training": sorted(set(train.classes) - set(val.classes)),
        "validation": sorted(set(val.classes) - set(train.classes)),
    }
    differences = [
        f"{count_classes(names)} only in {where}: {list_first(names)}" for where, names in only_in.items() if names
    ]
    if differences:
        folders = " folders" if train.class_folder else "es"
        return differences, f"name the class{folders} of {train.name} and {val.name} alike"
    orders = f"{list_first(train.classes)} in training, {list_first(val.classes)} in validation"
    return [f"the same in another order: {orders}"], "give both sets one order, since a label is a position in it"


def require_classes(*sets: ImageSet) -> None:
    """Refuse sets of one class, for which every network is right.

    Raises:
        DataError: a set has one class. If the classes are deeper in the folders, the message says which setting to use.
    """
    single = [images for images in sets if len(images.classes) < 2]
    if not single:
        return
    problems, advice = zip(*(images.explain_single_class() for images in single), strict=True)
    raise DataError(f"{' and '.join(dict.fromkeys(problems))}; {' and '.join(dict.fromkeys(advice))}")
