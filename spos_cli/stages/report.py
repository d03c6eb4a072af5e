"""`spos report`: write what a run has found to one page."""

from __future__ import annotations

import json
from pathlib import Path

from rich.text import Text

from spos_cli.report.writing import write_report
from spos_cli.run.folder import RunFolder
from spos_cli.run.output import make_console


def run(folder: Path, as_json: bool) -> None:
    """Write `search/report.html` in a run folder, and print its path. Nothing is scored.

    Raises:
        RunError: there is nothing to report, plotly is not installed, or a file cannot be read or written.
    """
    path = write_report(RunFolder(folder))
    if as_json:
        print(json.dumps({"file": str(path)}))
    else:
        make_console().print(Text(f"report: {path}"), soft_wrap=True)
