"""Check BatchNorm in each stage: scale and shift, and images per statistic."""

from __future__ import annotations

from typing import Any

from spos_cli.config.training import TrainingConfig
from spos_cli.doctor.finding import Finding, Findings, judge
from spos_cli.doctor.setup import Setup
from spos_cli.files.quoting import plural

MIN_IMAGES = 16  # images per batch of one process; fewer give poor statistics
MIN_CALIBRATION_BATCHES = 5


def check(setup: Setup) -> Findings:
    """Check BatchNorm in the supernet's training, in the search and in retraining."""
    return [check_supernet(setup), check_search(setup), check_retrain(setup)]


def check_supernet(setup: Setup) -> Finding:
    """Check the supernet's training; the official code trains it without scale and shift."""
    training = setup.config.supernet
    advice = ["set supernet.affine=false, as in the official code"] if training.affine else []
    advice += advise_small_batch(setup, "supernet", training)
    return judge("BatchNorm: supernet", describe(setup, training), advice)


def check_search(setup: Setup) -> Finding:
    """Check the search, which recomputes the statistics of each candidate from training images (paper, section 3.4)."""
    search = setup.config.search
    size, images = search.calibration_batch_size, search.calibration_images
    available = len(setup.images.splits[0]) if setup.can_load else images
    batches = min(images, available) // size
    momentum = search.calibration_momentum
    estimator = "the plain average" if momentum is None else f"an average with momentum {momentum:g}"
    number = plural(batches, "batch", "batches")
    seen = f"statistics recomputed for each candidate: {estimator} over {number} of {size:,} training images"
    advice = []
    if batches < MIN_CALIBRATION_BATCHES <= available // size:
        advice.append(f"raise search.calibration_images to {MIN_CALIBRATION_BATCHES * size:,} or more")
    elif batches < MIN_CALIBRATION_BATCHES:
        smaller = max(2, available // MIN_CALIBRATION_BATCHES)  # One image may be too few for any variance.
        advice.append(f"lower search.calibration_batch_size to {smaller:,}: only {available:,} images are trained on")
    if size < MIN_IMAGES:
        advice.append(f"raise search.calibration_batch_size to {MIN_IMAGES} or more")
    return judge("BatchNorm: search", seen, advice)


def check_retrain(setup: Setup) -> Finding:
    """Check retraining; the official code trains with scale and shift, and recomputes the statistics at the end."""
    training = setup.config.retrain
    steps = training.batchnorm_pass_steps
    final = "one epoch" if steps is None else plural(steps, "batch", "batches") if steps else "none"
    advice = []
    if not training.affine:
        # https://github.com/microsoft/nni/issues/2883
        advice.append(
            "set retrain.affine=true, as in the official code (NNI's example trains without them and does not reach"
            " the paper's accuracy)"
        )
    advice += advise_small_batch(setup, "retrain", training)
    return judge("BatchNorm: retrain", f"{describe(setup, training)}; final pass to recompute them: {final}", advice)


def describe(setup: Setup, training: Any) -> str:
    """Describe scale and shift, and how many images the statistics are computed from."""
    affine = "learned scale and shift" if training.affine else "no scale and shift"
    return f"{affine}; statistics of {setup.batch_per_process(training):,} images per batch"


def advise_small_batch(setup: Setup, section: str, training: TrainingConfig) -> list[str]:
    """Return advice if a pass of one process, over which BatchNorm computes its statistics, has too few images."""
    if setup.batch_per_process(training) >= MIN_IMAGES:
        return []
    return [
        f"fewer than {MIN_IMAGES} images give poor statistics: raise {section}.batch_size, or lower --devices or"
        f" {section}.accumulate"
    ]
