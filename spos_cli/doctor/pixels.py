"""Check pixels: rotated images, mean and deviation."""

from __future__ import annotations

from collections.abc import Sequence

from spos_cli.data import inspection
from spos_cli.doctor.finding import Finding, Findings
from spos_cli.doctor.image_files import DECODED_SAMPLE, choose, count_readers, describe_read, draw_sample
from spos_cli.doctor.setup import Setup
from spos_cli.doctor.wording import examples, of_all
from spos_cli.engine.progress import track

MEASURED_SAMPLE, MEASURED_SAMPLE_FULL = 200, 10_000  # training images for mean and deviation, without and with --full


def check(setup: Setup) -> Findings:
    """Check how the pixels of both sets are read; needs sets that can be opened."""
    return [check_rotation(setup), measure_normalisation(setup)]


def check_rotation(setup: Setup) -> Finding:
    """Count the images that EXIF says are rotated or mirrored, and say what happens to them."""
    check, sets = "rotated images", {"train": setup.images.train, "val": setup.images.val}
    if all(images.in_memory for images in sets.values()):
        return Finding(check, "ok", "none: all images are in memory")
    indices = {split: choose(setup, split, DECODED_SAMPLE) for split in sets}
    rotated: list[str] = []
    with track("reading EXIF", sum(map(len, indices.values())), "images", quiet=setup.run.as_json) as task:
        for split, images in sets.items():
            found = inspection.find_rotated(images, indices[split], count_readers(), task.advance)
            rotated += (f"{images.locate(index)} ({number})" for index, number in found.items())
    if not rotated:
        return Finding(check, "ok", f"none by EXIF among {describe_read(sets, indices)}")
    is_applied = setup.config.data.exif == "apply"  # Then there is nothing to do, so a few examples are enough.
    names = examples(rotated, setup.full and not is_applied)
    seen = f"{len(rotated):,} by EXIF among {describe_read(sets, indices)}: {names}"
    if is_applied:
        return Finding(check, "ok", f"{seen}; they are turned upright (data.exif: apply)")
    advice = "set data.exif: apply, unless results must compare with those of the official code"
    return Finding(check, "warn", f"{seen}; they stay as they are stored (data.exif: ignore)", advice)


def measure_normalisation(setup: Setup) -> Finding:
    """Measure mean and deviation of training images, to be copied into the settings."""
    check, images = "mean and deviation", setup.images.train
    sample = draw_sample(setup, "train", images, MEASURED_SAMPLE_FULL if setup.full else MEASURED_SAMPLE)
    with track("measuring pixels", len(sample), "images", quiet=setup.run.as_json) as task:
        measured = inspection.measure_normalisation(
            images, sample, setup.images.evaluation, count_readers(), task.advance
        )
    if measured is None:
        return Finding(check, "warn", "not measured: no image of the sample can be read", "fix the images first")
    values = ", ".join(f"data.{name}: {write(numbers)}" for name, numbers in measured._asdict().items())
    data, used = setup.config.data, setup.images.normalisation
    if data.preset == "spos":
        state = "not used, since preset spos does not normalise"
    else:
        state = f"used: data.mean: {write(used.mean)}, data.std: {write(used.std)}"
    return Finding(check, "ok", f"{values} in {of_all(len(sample), len(images))} training images; {state}")


def write(numbers: Sequence[float]) -> str:
    """Write numbers as a list of YAML, with three decimals."""
    return f"[{', '.join(f'{number:.3f}' for number in numbers)}]"
