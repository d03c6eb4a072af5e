"""Write the report of a run into its folder."""

from __future__ import annotations

from pathlib import Path

from spos_cli.files.writing import write_atomically
from spos_cli.report.page import make_page, read_plotly_js
from spos_cli.report.reading import read_findings
from spos_cli.run.folder import RunFolder


def write_report(run: RunFolder) -> Path:
    """Read what a run has left and write `search/report.html`, unless the same page is there already.

    Raises:
        RunError: there is nothing to report, plotly is not installed, or a file cannot be read or written.
    """
    read_plotly_js()  # fails before any work
    content, path = make_page(read_findings(run)).encode(), run.search.report
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)
    return path
