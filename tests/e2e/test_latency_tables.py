"""Latencies measured elsewhere: from the template to a search under a limit, as with a measured table."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from tests.conftest import Mistake, Spos

OPTIONS = range(4)  # choices of each layer of the tiny space


def microseconds(layer: int, choice: int) -> int:
    return 100 * (layer + 1) + 37 * (choice * (layer + 2) % 4)


def latency_of(arch: list[int]) -> int:
    """Return the latency of an architecture by the table that `fill` writes."""
    return 1500 + sum(microseconds(layer, choice) for layer, choice in enumerate(arch))


def fill(template: Path, device: str = "Pixel 8") -> None:
    """Fill in a template, as a script would that has measured every op."""
    lines = []
    for line in template.read_text().splitlines():
        layer, choice, *_ = line.split(",") if line.endswith(",") else ("", "")
        if line == "# device:":
            line += f" {device}"
        elif layer == "fixed":
            line += "1.5"
        elif layer:
            line += f"{microseconds(int(layer), int(choice)) / 1000}"
        lines.append(line)
    template.write_text("\n".join(lines) + "\n")


def import_table(spos: Spos, *options: object, device: str = "Pixel 8") -> None:
    """Write a template, fill it in and import it."""
    template = spos.folder / "phone.csv"
    template.unlink(missing_ok=True)
    spos.here("flops-table", "--latency-template", "phone.csv", *options)
    fill(template, device)
    spos.here("flops-table", "--import-latency", "phone.csv", *options)


def test_from_the_template_to_the_table(spos: Spos, mistake: Mistake) -> None:
    done = spos.here("flops-table", "--latency-template", "phone.csv")
    assert "next: spos flops-table --import-latency phone.csv\n" in done.stdout
    message = mistake("flops-table", "--import-latency", "phone.csv")
    assert "phone.csv:5: the row fixed: milliseconds is empty" in message
    assert not (spos.run / "latency_table.json").exists()
    fill(spos.folder / "phone.csv")
    assert "phone.csv already exists" in mistake("flops-table", "--latency-template", "phone.csv")
    done = spos.here("flops-table", "--import-latency", "phone.csv")
    for phrase in ("Pixel 8", "not compared", "1.5ms", "0: 100us", "next: spos search --latency-limit 2."):
        assert phrase in done.stdout
    table = json.loads((spos.run / "latency_table.json").read_text())
    assert table["fixed"] == 1500
    assert table["table"] == [[microseconds(layer, choice) for choice in OPTIONS] for layer in range(4)]
    assert table["conditions"] == {"device": "Pixel 8", "imported": True}
    assert json.loads(spos.here("flops-table", "--import-latency", "phone.csv", "--json").stdout) == table
    assert "device Pixel 8, imported" in spos.here("status").stdout


@pytest.mark.slow
def test_a_search_under_a_limit(finished: Spos, spos: Spos) -> None:
    """It keeps the limit, and is not resumed with the table of another device."""
    import_table(spos)
    search = ("search", "--weights", finished.run / "supernet" / "last.pt", "--latency-limit", "2640us")
    assert "at or under 2.64ms" in spos.here(*search).stdout
    lines = (spos.run / "search" / "journal.jsonl").read_text().splitlines()
    latencies = [latency_of(json.loads(line)["architecture"]) for line in lines]
    assert len(latencies) == 18
    assert max(latencies) <= 2640
    everything = [latency_of(list(arch)) for arch in itertools.product(OPTIONS, repeat=4)]
    assert sum(latency <= 2640 for latency in everything) < 200  # of 256
    import_table(spos)  # The same latencies of the same device are the same table.
    spos.here(*search)
    import_table(spos, device="Pixel 9")
    assert "holds a search with other settings (search.latency_table:" in spos.here(*search, code=2).stderr


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        (("--latency", "--import-latency", "x.csv"), "--import-latency and --latency do different things"),
        (("--import", "x.pkl", "--latency-template", "x.csv"), "--import and --latency-template do different things"),
        (("0,0,0,0", "--import-latency", "x.csv"), "do not pass architectures with --import-latency"),
        (("--import-latency", "x.csv"), "cannot read x.csv: No such file"),
        (("--latency-template", "."), "already exists"),
        (("--latency-template", "spos.yaml/x.csv"), "cannot write spos.yaml/x.csv"),
    ],
)
def test_mistakes(mistake: Mistake, options: tuple[str, ...], phrase: str) -> None:
    assert phrase in mistake("flops-table", *options)
