"""Check how pixels are read: rotated images."""

from __future__ import annotations

from spos_cli.data import inspection
from spos_cli.data.datasets import FolderSet
from spos_cli.doctor.finding import Finding, Findings
from spos_cli.doctor.image_files import DECODED_SAMPLE, choose, count_readers, describe_read
from spos_cli.doctor.setup import Setup
from spos_cli.doctor.wording import examples
from spos_cli.engine.progress import track


def check(setup: Setup) -> Findings:
    """Check how the pixels of both sets are read; needs sets that can be opened."""
    return [check_rotation(setup)]


def check_rotation(setup: Setup) -> Finding:
    """Count the images that EXIF says are rotated or mirrored, and say what happens to them."""
    check, sets = "rotated images", {"train": setup.images.train, "val": setup.images.val}
    if not any(isinstance(images, FolderSet) for images in sets.values()):
        return Finding(check, "ok", "none: all images are in memory")
    indices = {split: choose(setup, split, DECODED_SAMPLE) for split in sets}
    rotated: list[str] = []
    with track("reading EXIF", sum(map(len, indices.values())), "images", quiet=setup.run.as_json) as task:
        for split, images in sets.items():
            found = inspection.find_rotated(images, indices[split], count_readers(), task.advance)
            rotated += (f"{inspection.locate(images, index)} ({number})" for index, number in found.items())
    if not rotated:
        return Finding(check, "ok", f"none by EXIF among {describe_read(sets, indices)}")
    seen = f"{len(rotated):,} by EXIF among {describe_read(sets, indices)}: {examples(rotated, setup.full)}"
    if setup.config.data.exif == "apply":
        return Finding(check, "ok", f"{seen}; they are turned upright (data.exif: apply)")
    advice = "set data.exif: apply, unless results must compare with those of the official code"
    return Finding(check, "warn", f"{seen}; they stay as they are stored (data.exif: ignore)", advice)
