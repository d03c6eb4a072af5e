"""Check that the CPU and each GPU compute the official model's logits."""

from __future__ import annotations

import numpy as np
import torch

from spos_cli.doctor.finding import Finding, Findings
from spos_cli.doctor.setup import Setup
from spos_cli.doctor.wording import first_line
from spos_cli.engine import accelerator
from spos_cli.engine.progress import console
from spos_cli.official import self_test


def check(setup: Setup) -> Findings:
    """Test the CPU and all GPUs of this machine, also those that the settings do not use."""
    gpus = map(accelerator.get_device, range(accelerator.count()))
    with console.status("self-test"):
        return [check_device(device) for device in (accelerator.CPU, *gpus)]


def check_device(device: torch.device) -> Finding:
    """Compare the official model's logits on a device with the official code's."""
    name, version = f"self-test on {device}", f"PyTorch {torch.__version__}"
    advice = f"results of this device cannot be trusted: check the driver, or reinstall {version}"
    try:
        errors = self_test.run_self_test(device)
    except RuntimeError as error:  # The driver does not fit, this PyTorch does not know the GPU, or memory is in use.
        return Finding(name, "fail", f"{version}: {first_line(error)}", advice)
    worst, tolerance = float(np.max(list(errors.values()))), self_test.get_tolerance(device)
    seen = f"{version}: logits of the official model differ by {worst:.0e} of their RMS (allowed: {tolerance:.0e})"
    if not worst <= tolerance:  # True for NaN, too.
        return Finding(name, "fail", seen, advice)
    return Finding(name, "ok", seen)
