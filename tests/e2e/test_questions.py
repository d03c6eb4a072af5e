"""Many questions of `export-arch` to one journal. Nothing is computed; there is not even a supernet."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

from spos_cli import cli
from spos_cli.config import loading
from spos_cli.models.counting import count
from spos_cli.search.journal import Entry, Journal
from spos_cli.search.outcomes import OutcomesFile
from spos_cli.search.results import pareto, ranking, with_costs
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable
from spos_cli.space.cost_kinds import LATENCY
from tests.conftest import Mistake, Spos
from tests.search.test_ties import tied

IMAGES, COUNT = 400, 60
Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def entries(spos: Spos) -> list[Entry]:
    """Write the journal, outcomes and settings of a search, and nothing else; return the lines of the journal."""
    rng, folder = np.random.default_rng(0), spos.run / "search"
    journal, bitmaps = Journal(folder / "journal.jsonl"), OutcomesFile(folder / "outcomes.bits", IMAGES)
    numbers = rng.choice(256, COUNT, replace=False)
    luck = rng.random(IMAGES)
    for row, number in enumerate(numbers.tolist()):
        arch = Architecture((number // 64, number // 16 % 4, number // 4 % 4, number % 4))
        flops, share = int(rng.integers(1000, 2000)), rng.uniform(0.5, 0.7)
        right = np.where(rng.random(IMAGES) < 0.8, luck, rng.random(IMAGES)) < share
        entry = Entry(arch, flops, 5000 - flops, float(right.mean()), 1.0, IMAGES, row // 6, "random")
        if row == 5:
            right = np.ones(40, bool)
            entry = replace(entry, flops=900, top1=1.0, images=40, partial=True)
        journal.append(entry)
        bitmaps.write(row, right)
    (folder / "settings.json").write_text(json.dumps({"supernet": "some", "search": {}}))
    return journal.read()


class Operations(TorchDispatchMode):
    """Count what PyTorch computes."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], tuple[int, int]]]:
    """Count the calls of modules, and the operations on tensors, so far."""
    calls, original = [], torch.nn.Module.__call__
    monkeypatch.setattr(
        torch.nn.Module, "__call__", lambda self, *a, **k: (calls.append(self), original(self, *a, **k))[1]
    )
    with Operations() as operations:
        yield lambda: (len(calls), operations.count)


@pytest.fixture
def ask(spos: Spos, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ask:
    """Run `spos export-arch --json` in this process; return what it prints, and find `note` on stderr."""

    def call(*arguments: object, note: str = "") -> list[dict[str, Any]]:
        monkeypatch.chdir(spos.folder)
        monkeypatch.setattr(sys, "argv", ["spos", "export-arch", "--json", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        printed = capfd.readouterr()
        assert stopped.value.code == 0, printed.err
        assert note in printed.err
        found: list[dict[str, Any]] = json.loads(printed.out)
        for one in found:
            content = yaml.safe_load(Path(one["file"]).read_text())
            low, high = content["fitness"]["interval"]
            assert low < one["top1"] <= high <= 1
        return found

    return call


def archs(found: list[dict[str, Any]] | list[Entry]) -> list[list[int]]:
    return [entry.architecture.to_list() if isinstance(entry, Entry) else entry["architecture"] for entry in found]


def smallest(entries: list[Entry], bits: Path) -> list[Entry]:
    """Return the candidates that are statistically tied with the best, one comparison at a time, cheapest first."""
    bitmaps, complete = OutcomesFile(bits, IMAGES), [entry for entry in ranking(entries) if not entry.partial]
    every = [entry.architecture for entry in Journal(bits.with_name("journal.jsonl")).read()]
    outcomes = [bitmaps.read(every.index(entry.architecture)) for entry in complete]
    alike = [entry for entry, row in zip(complete, outcomes, strict=True) if tied(outcomes[0], row)]  # type: ignore[arg-type]
    return sorted(alike, key=lambda entry: entry.flops)


def test_questions_to_one_journal(
    spos: Spos, entries: list[Entry], ask: Ask, computed: Callable[[], tuple[int, int]]
) -> None:
    """Each is answered from the journal and the outcomes, without a forward pass."""
    bits = spos.run / "search" / "outcomes.bits"
    flops, params = 1500, 3700
    small = [entry for entry in entries if entry.flops <= flops]
    both = [entry for entry in small if entry.params <= params]
    assert 0 < len(both) < len(small) < len(entries)

    assert archs(ask()) == archs(ranking(entries)[:1])
    assert archs(ask("--top", 5)) == archs(ranking(entries)[:5])
    assert archs(ask("--top", 99)) == archs(ranking(entries))
    assert archs(ask("--flops-limit", flops)) == archs(ranking(small)[:1])
    assert archs(ask("--flops-limit", 999, note="1 of these stopped early")) == archs(
        [entry for entry in entries if entry.partial]
    )
    assert archs(ask("--flops-limit", flops, "--params-limit", params, "--top", 3)) == archs(ranking(both)[:3])

    alike = smallest(entries, bits)
    assert 5 < len(alike) < COUNT - 5
    assert alike[0] != ranking(entries)[0]
    note = f"from {len(alike)} that are statistically tied with the best, cheapest first"
    assert archs(ask("--prefer", "smallest", note=note)) == archs(alike[:1])
    assert archs(ask("--prefer", "smallest", "--top", 3)) == archs(alike[:3])
    assert archs(ask("--prefer", "smallest", "--params-limit", params)) == archs(
        smallest([entry for entry in entries if entry.params <= params], bits)[:1]
    )

    front = pareto(entries)
    assert len(front) > 3
    assert archs(ask("--pareto")) == archs(front)
    assert archs(ask("--pareto", "--flops-limit", flops)) == archs(pareto(small))
    assert archs(ask("--pareto", "--pareto-cost", "flops")) == archs(front)
    of_params = pareto(entries, "params")
    assert archs(ask("--pareto", "--pareto-cost", "params")) == archs(of_params) != archs(front)

    assert computed() == (0, 0)
    torch.nn.Linear(2, 2)(torch.zeros(1, 2))
    assert all(computed())  # A computation would have been counted.


def test_a_front_over_latency_without_another_search(
    spos: Spos, entries: list[Entry], ask: Ask, mistake: Mistake
) -> None:
    """Without latencies in the journal, they are those of the run's table; with them, the table does not count."""
    space = loading.load(spos.folder / "spos.yaml").space.build()
    table = CostTable(LATENCY, 3000, [[100 + 37 * (layer * choice % 5) for choice in range(4)] for layer in range(4)])
    content = {"space": space.digest, "fixed": table.fixed, "table": table.rows}
    (spos.run / "latency_table.json").write_text(json.dumps(content))
    found = ask("--pareto", "--pareto-cost", "latency")
    assert archs(found) == archs(pareto(with_costs(entries, {"latency": table}), "latency")) != archs(pareto(entries))
    assert [one["costs"]["latency"] for one in found] == [
        table.of(Architecture(tuple(one["architecture"]))) for one in found
    ]
    assert yaml.safe_load(Path(found[0]["file"]).read_text())["costs"] == found[0]["costs"]

    timed = [replace(entry, costs={"latency": 9000 - entry.flops}) for entry in entries]
    (spos.run / "search" / "journal.jsonl").write_text("".join(entry.to_line() for entry in timed))
    assert archs(ask("--pareto", "--pareto-cost", "latency")) == archs(pareto(timed, "latency"))
    # The search's own front and limits count where the question does not name others.
    limit = sorted(9000 - entry.flops for entry in entries)[len(entries) // 2]
    search = {"pareto_cost": "latency", "latency_limit": limit}
    (spos.run / "search" / "settings.json").write_text(json.dumps({"supernet": "some", "search": search}))
    under = [entry for entry in timed if 9000 - entry.flops <= limit]
    assert archs(ask("--pareto")) == archs(pareto(under, "latency"))
    assert archs(ask("--pareto", "--pareto-cost", "params")) == archs(pareto(under, "params"))
    assert archs(ask("--top", 3)) == archs(ranking(under)[:3])
    search["latency_limit"] = 12
    (spos.run / "search" / "settings.json").write_text(json.dumps({"supernet": "some", "search": search}))
    message = mistake("export-arch", "--pareto")
    assert "no scored candidate has at most 12us of latency; they have 7.0" in message
    assert "search --fresh --latency-limit 12us may find some" in message


def test_without_outcomes_the_best_is_exported_and_no_tie_claimed(spos: Spos, entries: list[Entry], ask: Ask) -> None:
    (spos.run / "search" / "outcomes.bits").unlink()
    note = (
        "outcomes.bits is missing, or does not have the outcomes of the best, so ties are unknown; exporting the best"
    )
    assert archs(ask("--prefer", "smallest", "--top", 3, note=note)) == archs(ranking(entries)[:1])


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (("--flops-limit", "899"), "no scored candidate has at most 899 FLOPs; they have 900 to "),
        (("--params-limit", "2K"), "no scored candidate has at most 2K parameters; they have 3."),
        (("--flops-limit", "1100", "--params-limit", "3100"), " of them at most 1.1K) and 3."),
        (("--pareto", "--top", "3"), "do not pass --top with it"),
        (("--pareto", "--prefer", "smallest"), "do not pass --prefer smallest with it"),
        (("--pareto-cost", "params"), "pass --pareto, too"),
        (("--pareto", "--pareto-cost", "latency"), "run spos flops-table --latency first, or import latencies"),
        (("--pareto", "--flops-limit", "999"), "no candidate was scored to the end"),
    ],
)
def test_a_question_without_an_answer(
    entries: list[Entry], mistake: Mistake, arguments: tuple[str, ...], phrase: str
) -> None:
    assert phrase in mistake("export-arch", *arguments)


def test_a_journal_from_elsewhere(spos: Spos, entries: list[Entry], ask: Ask, mistake: Mistake) -> None:
    journal = spos.run / "search" / "journal.jsonl"
    place = ("--from", journal, "--run-dir", "elsewhere")
    assert "journal.jsonl:1 is a candidate of another space: it has 1," in mistake("export-arch", *place)
    costs = count(loading.load(spos.folder / "spos.yaml").space.build())
    known = [
        replace(entry, flops=costs.flops.of(entry.architecture), params=costs.params.of(entry.architecture))
        for entry in entries
    ]
    journal.write_text("".join(entry.to_line() for entry in known))
    assert archs(ask("--pareto", *place)) == archs(pareto(known))
    bits = journal.with_name("outcomes.bits")
    assert archs(ask("--prefer", "smallest", *place)) == archs(smallest(known, bits)[:1])


def test_imported_scores_are_exported_only_if_there_are_no_others(spos: Spos, entries: list[Entry], ask: Ask) -> None:
    """Imported scores were found on other images. The limits are those of the search."""
    folder, foreign = spos.run / "search", ranking(entries)[:3]
    limit = sorted(entry.flops for entry in foreign)[1]
    imported = [replace(entry, origin="imported", top1=1.0 - 0.01 * n) for n, entry in enumerate(foreign)]
    again = replace(foreign[0], origin="rescored")
    own = [again, *(entry for entry in entries if entry not in foreign)]
    journal = folder / "journal.jsonl"
    journal.write_text("".join(entry.to_line() for entry in (*imported, *own)))
    found = ask("--top", 3)
    assert archs(found) == archs(ranking(own)[:3])
    assert (found[0]["top1"], found[0]["origin"]) == (again.top1, "rescored")
    assert archs(ask("--pareto")) == archs(pareto(own))
    assert again.architecture.to_list() in archs(ask("--pareto"))

    settings = {"supernet": "some", "search": {"flops_limit": limit, "params_limit": None}}
    (folder / "settings.json").write_text(json.dumps(settings))
    journal.write_text("".join(entry.to_line() for entry in imported))
    note = "this search has scored no candidate yet"
    allowed = [entry for entry in imported if entry.flops <= limit]
    assert archs(ask("--top", 3, note=note)) == archs(ranking(allowed)[:3])
    assert archs(ask("--pareto", note=note)) == archs(pareto(allowed))
    assert archs(ask("--flops-limit", 2 * limit, note=note)) == archs(ranking(imported)[:1])


def test_only_a_limit_that_the_space_can_keep_leads_to_another_search(
    spos: Spos, entries: list[Entry], mistake: Mistake
) -> None:
    journal = spos.run / "search" / "journal.jsonl"
    journal.write_text("".join(replace(entry, flops=1000 * entry.flops).to_line() for entry in entries))
    message = mistake("export-arch", "--flops-limit", "800K")
    assert "they have 900K to " in message
    assert message.endswith("; spos search --fresh --flops-limit 800000 may find some\n")
    message = mistake("export-arch", "--flops-limit", "800K", "--params-limit", "100")
    assert "no architecture of the space has less than " in message
    assert message.endswith(" parameters\n")
