"""`spos doctor`: check settings, images, devices, disk and speed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
from rich.table import Table
from rich.text import Text

from spos_cli.doctor import batchnorm, costs, data, devices, disk, processes, speed, teacher
from spos_cli.doctor.finding import Findings
from spos_cli.doctor.setup import Setup
from spos_cli.errors import SposError
from spos_cli.run.command import Run
from spos_cli.run.output import make_console

# In this order: the speed of the loader is measured only if the checks of the images allow it.
GROUPS: tuple[Callable[[Setup], Findings], ...] = (
    processes.check,
    costs.check,
    devices.check,
    batchnorm.check,
    data.check,
    teacher.check,
    disk.check,
    speed.check,
)
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def run(run: Run, full: bool) -> None:
    """Show a table of findings. Nothing is written.

    Args:
        full: read all images, not a sample.

    Raises:
        SposError: a check failed; the table says which.
    """
    setup = Setup(run, full)
    torch.set_num_threads(setup.threads)  # Each process of a training has as many.
    groups = [check(setup) for check in GROUPS]
    findings = [finding for group in groups for finding in group]
    run.result([asdict(finding) for finding in findings])
    if not run.as_json:
        show(run, groups)
    failed = sum(finding.status == "fail" for finding in findings)
    if failed:
        raise SposError(f"{failed} {'check' if failed == 1 else 'checks'} failed; see above")
    run.next("supernet-train")


def show(run: Run, groups: Sequence[Findings]) -> None:
    """Show the table, with a rule between groups, and a line of totals."""
    console = make_console()
    arrow = "->" if console.options.ascii_only else "→"
    table = Table()
    table.add_column("check", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("result, and what to do", overflow="fold")
    for group in groups:
        for finding in group:
            style = STYLES[finding.status]
            text = Text(finding.seen)
            if finding.advice:
                text.append(f"\n{arrow} {finding.advice}", style)
            table.add_row(Text(finding.check), Text(finding.status, style), text)
        table.add_section()
    console.print(table)
    statuses = Counter[str](finding.status for group in groups for finding in group)
    run.say(", ".join(f"{statuses[status]} {status}" for status in STYLES), "bold")
