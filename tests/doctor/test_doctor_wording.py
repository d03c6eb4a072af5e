"""How numbers and durations are written."""

from __future__ import annotations

import io
import sys

import pytest

from spos_cli.doctor import wording
from spos_cli.doctor.finding import Finding
from spos_cli.run.output import format_bytes
from spos_cli.stages import doctor
from tests.doctor.setups import make_setup


def test_how_times_and_sizes_are_written() -> None:
    assert [wording.estimate(seconds).partition("about ")[2] for seconds in (0.1, 119, 120, 7200, 10**6)] == [
        "1 second",
        "119 seconds",
        "2 minutes",
        "2 hours",
        "12 days",
    ]
    assert [format_bytes(size) for size in (12_345, 35_000_000, 1_234_000_000)] == ["0.0 MB", "35 MB", "1.2 GB"]
    assert [wording.percent(share) for share in (0, 0.0012, 0.5349, 0.9999, 1)] == [
        "0%",
        "0.12%",
        "53%",
        "99.9%",
        "100%",
    ]


@pytest.mark.parametrize(("encoding", "arrow"), [("ascii", "->"), ("cp1252", "->"), ("latin-1", "->"), ("utf-8", "→")])
def test_the_table_in_the_encoding_of_the_terminal(encoding: str, arrow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding=encoding))
    doctor.show(make_setup().run, [[Finding("disk", "warn", "1 GB is free", "make room")]])
    sys.stdout.flush()
    assert f"{arrow} make room" in shown.getvalue().decode(encoding)
