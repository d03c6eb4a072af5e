"""Check the teacher of the retraining, which would otherwise first be read after the search."""

from __future__ import annotations

from spos_cli.doctor.finding import Finding, Findings, attempt
from spos_cli.doctor.setup import Setup
from spos_cli.files.quoting import plural
from spos_cli.models.counting import count_parameters
from spos_cli.run.teacher import read_teacher


def check(setup: Setup) -> Findings:
    """Read the teacher, and let it classify a batch of noise; nothing without a teacher, or without images."""
    if setup.config.retrain.teacher is None or setup.images_error is not None:
        return []
    return [attempt("teacher", lambda: check_teacher(setup), "change retrain.teacher")]


def check_teacher(setup: Setup) -> Finding:
    """Check that the teacher can be read and has the classes of the images.

    Raises:
        SposError: `retrain` could not use it.
    """
    teacher, settings = read_teacher(setup.config, setup.images, setup.images.processes), setup.config.retrain.teacher
    assert teacher is not None, "a teacher in the settings"
    assert settings is not None
    parameters = plural(count_parameters(teacher.module), "parameter")
    return Finding("teacher", "ok", f"{settings.weights}: {parameters}, images of {teacher.image_size} px")
