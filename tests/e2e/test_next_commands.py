"""Every command that is suggested leads to the settings that its folder was made with, wherever it is typed.

The suggestions are taken from what is printed and from `spos status --json`, split as a shell does it, and resolved by
the application's own handling of options (`--print-config`).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from spos_cli.config import loading
from spos_cli.config.identity import portable_settings
from spos_cli.config.schema import Config
from spos_cli.engine import checkpoint
from spos_cli.official.weights import to_published
from spos_cli.search.journal import Journal
from tests.conftest import TINY, Spos

RUN = "my run's 1"  # its folder, below the working folder
SMALL = {
    "supernet": {"steps": 2, "batch_size": 16, "log_every": 1, "checkpoint_every": 1},
    "search": {"population": 4, "generations": 1, "calibration_images": 32, "calibration_batch_size": 16},
    "retrain": {"steps": 2, "batch_size": 16, "log_every": 1, "checkpoint_every": 1, "batchnorm_pass_steps": 1},
    "audit": {"architectures": 3, "steps": 1},
}


class Folder:
    """A run folder with its own settings, in a working folder whose `spos.yaml` has others."""

    def __init__(self, spos: Spos) -> None:
        self.spos = spos
        values = yaml.safe_load(TINY)
        for section, changes in SMALL.items():
            values[section] = {**values.get(section, {}), **changes}
        (spos.folder / "a recipe.yaml").write_text(yaml.safe_dump({**values, "name": "other", "devices": "auto"}))
        self.common = ["--config", "a recipe.yaml", "--run-dir", RUN, "--set", "supernet.lr=0.02"]
        self.more = ["--seed", "10", "--devices", "cpu"]  # which not all commands have

    @property
    def given(self) -> list[str]:
        """How the settings are given to most commands."""
        return [*self.common, *self.more]

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.spos.folder / RUN

    def said(self, *arguments: object) -> str:
        """What a command of this run, with all its options, suggests at its end."""
        return self.suggested(self.spos.here(*arguments, *self.given).stdout)

    @staticmethod
    def suggested(stdout: str) -> str:
        """The one suggestion in what was printed."""
        (line,) = re.findall("^next: (.*)$", stdout, re.MULTILINE)
        return str(line)

    def settings(self, command: str, working: Path | None = None) -> Config:
        """The settings that a command would work with."""
        program, *arguments = shlex.split(command)
        assert program == "spos"
        where = Spos.__new__(Spos)
        where.folder = working or self.spos.folder
        printed = where.here(*(one.replace("FILE", "x.pt") for one in arguments), "--print-config").stdout
        return loading.validate(yaml.safe_load(printed))

    def check(self, command: str, expected: Config, working: Path | None = None) -> None:
        """A command leads to these settings, in this run folder."""
        found = self.settings(command, working)
        assert portable_settings(found) == portable_settings(expected), command
        assert found.devices == expected.devices, command
        if " evaluate " not in command:  # it finds its weights by their path, and knows of no audit
            assert found.audit == expected.audit, command
            assert ((working or self.spos.folder) / found.folder).resolve() == self.path.resolve(), command

    def expected(self, *more: str) -> Config:
        """The settings that were asked for."""
        return self.settings(shlex.join(["spos", "search", *self.given, *more]))

    def status(self, expected: Config, starts: str) -> None:
        """What `spos status` suggests, however it is asked, and from wherever."""
        elsewhere = self.spos.folder / "else where"
        elsewhere.mkdir(exist_ok=True)
        asked: list[tuple[Path, list[str]]] = [
            (self.spos.folder, self.common),
            (self.spos.folder, ["--run-dir", RUN]),
            (self.spos.folder, [RUN]),
            (self.path, ["."]),
            (elsewhere, [f"../{RUN}"]),
            (elsewhere, ["--run-dir", str(self.path)]),
        ]
        for working, arguments in asked:
            here = Spos.__new__(Spos)
            here.folder = working
            result = json.loads(here.here("status", "--json", *arguments).stdout)
            assert result["next"].startswith(f"spos {starts}"), (arguments, result["next"])
            self.check(result["next"], expected, working)
            assert self.suggested(here.here("status", *arguments).stdout) == result["next"]


@pytest.fixture
def folder(spos: Spos) -> Folder:
    """A run of which nothing is there yet."""
    return Folder(spos)


def without(folder: Path, *patterns: str) -> Callable[[], None]:
    """Takes files away, as if a stage had been stopped before they came; the result brings them back."""
    kept = {path: path.read_bytes() for pattern in patterns for path in folder.glob(pattern)}
    assert kept
    for path in kept:
        path.unlink()

    def restore() -> None:
        for path, content in kept.items():
            path.write_bytes(content)

    return restore


@pytest.mark.slow
def test_all_stages(folder: Folder) -> None:
    """Each suggestion is followed, so that what a command leaves is what the next one finds."""
    made = folder.expected()
    for command in (("flops-table",), ("flops-table", "--latency"), ("doctor",)):
        following = folder.said(*command)
        if "--latency" not in command:
            folder.check(following, made)
        else:
            assert " --latency-limit " in following
            folder.check(re.sub("--latency-limit [^ ]* ", "", following), made)
        folder.status(made, "supernet-train")

    following = folder.said("supernet-train")
    folder.check(following, made)
    folder.status(made, "search")
    restore = without(folder.path, "supernet/*.pt")
    folder.status(made, "supernet-train")
    restore()
    folder.spos.here("flops-table", "--run-dir", RUN)  # a question about another space: that of spos.yaml
    folder.status(made, "search")

    limit = ("--set", "search.flops_limit=130000", "--set", "search.objective=pareto")
    made = folder.expected(*limit)
    following = folder.said("search", "--flops-limit", "0.13M", "--objective", "pareto", "--max-restarts", "5")
    assert following.startswith("spos export-arch --pareto ")
    folder.check(following, made)
    folder.status(made, "export-arch --pareto")
    restore = without(folder.path, "search/result.yaml")
    folder.status(made, "search")
    restore()

    following = folder.suggested(folder.spos.here(*shlex.split(following)[1:]).stdout)
    folder.check(following, made)
    folder.status(made, "retrain")
    following = folder.suggested(folder.spos.here(*shlex.split(following)[1:]).stdout)
    folder.check(following, made)
    folder.status(made, "evaluate")
    restore = without(folder.path, "retrain/*/model.pt")
    folder.status(made, "retrain")
    restore()

    folder.common += [*limit, "--set", "audit.steps=2"]
    made = folder.expected()
    folder.more = ["--set", "seed=10", "--devices", "cpu"]  # an audit has the seed of its search
    following = folder.said("audit")
    assert following.startswith("spos report ")
    folder.check(following, made)
    restore = without(folder.path, "audit/result.json")
    folder.status(made, "audit")
    restore()


@pytest.mark.slow
def test_weights_that_were_brought_in(finished: Spos, folder: Folder) -> None:
    state = checkpoint.load(finished.run / "supernet" / "last.pt")["model"]
    checkpoint.save(folder.spos.folder / "theirs.pth.tar", to_published(state))
    folder.spos.here("export-arch", "--weights", "theirs.pth.tar", "--format", "spos", *folder.given)
    made = folder.expected()
    folder.status(made, "search")
    folder.spos.here("flops-table", "--run-dir", RUN)
    folder.status(made, "search")
    shutil.rmtree(folder.path / "supernet")
    (model,) = finished.run.glob("retrain/*/model.pt")
    folder.spos.here("export-arch", "--weights", model, *folder.given)  # to the published form
    checkpoint.save(folder.spos.folder / "net.pth.tar", to_published(checkpoint.load(model)["model"]))
    folder.spos.here("export-arch", "--weights", "net.pth.tar", "--format", "spos", *folder.given)
    folder.status(made, "evaluate")


@pytest.mark.slow
def test_candidates_that_were_brought_in(finished: Spos, folder: Folder) -> None:
    journal = finished.run / "search" / "journal.jsonl"
    following = folder.said("export-arch", "--from", journal)
    folder.check(following, folder.expected())
    folder.status(folder.expected(), "retrain")


@pytest.mark.parametrize(
    ("command", "suggests"),
    [
        (["search"], "supernet-train"),
        (["search", "--weights", "w.pt", "--latency-limit", "9ms"], "flops-table --latency"),
        (["export-arch"], "search"),
        (["retrain"], "export-arch"),
        (["evaluate"], "retrain"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.slow
def test_what_is_to_be_run_first(finished: Spos, folder: Folder, command: list[str], suggests: str) -> None:
    shutil.copy(finished.run / "supernet" / "last.pt", folder.spos.folder / "w.pt")
    said = folder.spos.here(*command, *folder.given, code=2).stderr
    (quoted,) = re.findall(f"run (spos {suggests}.*) first", said)
    more = ["--set", "search.latency_limit=9ms"] if "--latency-limit" in command else []
    folder.check(quoted, folder.expected(*more))


@pytest.mark.slow
def test_a_search_that_may_find_more(finished: Spos, spos: Spos) -> None:
    where = ("--config", "spos.yaml", "--run-dir", finished.run)
    low = min(entry.flops for entry in Journal(finished.run / "search" / "journal.jsonl").read())
    said = spos.here("export-arch", *where, "--flops-limit", low - 1, code=2).stderr
    (quoted,) = re.findall("(spos search --fresh.*) may find some", said)
    settings = Folder(spos).settings(quoted)
    assert (settings.search.flops_limit, settings.folder) == (low - 1, finished.run)


@pytest.mark.parametrize("data", ["im ages", "it's", "a: b", "010"])
def test_images_are_found_from_another_working_folder(spos: Spos, data: str) -> None:
    """A root that is not absolute counts from where the run was begun."""
    elsewhere, asked = spos.folder / "else where", Folder(spos)
    elsewhere.mkdir()
    given = ("--set", "data.source=folder", "--set", f"data.root={json.dumps(data)}", "--run-dir", RUN)
    spos.here("flops-table", *given)
    there = Spos.__new__(Spos)
    there.folder = elsewhere
    for working, arguments in (
        (spos, ["--run-dir", RUN]),
        (spos, [RUN]),
        (there, [f"../{RUN}"]),
        (there, ["--run-dir", f"../{RUN}"]),
        (there, [asked.path]),
    ):
        command = json.loads(working.here("status", "--json", *arguments).stdout)["next"]
        root = asked.settings(command, working.folder).data.root
        assert (working.folder / root).resolve() == spos.folder / data, command
    moved = asked.path.rename(spos.folder / "moved")  # by hand: who can tell from where
    command = json.loads(there.here("status", "--json", moved).stdout)["next"]
    assert asked.settings(command, elsewhere).data.root == data


def test_an_audit_finds_the_images_from_another_working_folder(spos: Spos) -> None:
    search, there = spos.run / "search", Spos.__new__(Spos)
    search.mkdir(parents=True)
    (search / "config.yaml").write_text(TINY.replace("source: digits", "source: folder"))
    there.folder = spos.folder / "else where"
    there.folder.mkdir()
    printed = yaml.safe_load(there.here("audit", "../runs/tiny", "--print-config").stdout)
    assert (printed["data"]["root"], printed["run_dir"]) == (str(spos.folder / "data"), "../runs/tiny")
    own = there.here("audit", "../runs/tiny", "--set", "data.root=x", "--print-config").stdout
    assert yaml.safe_load(own)["data"]["root"] == "x"


def test_a_folder_that_begins_like_an_option(spos: Spos) -> None:
    arch = spos.folder / "-r" / "archs" / "x" / "arch.yaml"
    arch.parent.mkdir(parents=True)
    arch.write_text("architecture: [0, 1, 2, 3]\n")
    (result,) = json.loads(f"[{spos.here('status', '--json', '--run-dir', '-r').stdout}]")
    assert shlex.split(result["next"])[:3] == ["spos", "retrain", "./-r/archs/x/arch.yaml"]
    assert Folder(spos).settings(result["next"]).folder == Path("-r")


def test_torn_settings_are_no_settings(spos: Spos) -> None:
    """Those of the run stand in for those of a stage that cannot be read."""
    run = spos.folder / "r"
    (run / "supernet").mkdir(parents=True)
    (run / "config.yaml").write_text(TINY.replace("name: tiny", "name: first").replace("steps: 100,", "steps: 7,"))
    (run / "supernet" / "config.yaml").write_text("supernet: {steps: [")
    command = json.loads(spos.here("status", "--json", "r").stdout)["next"]
    assert Folder(spos).settings(command).supernet.steps == 7
    assert os.fspath(Folder(spos).settings(command).folder) == "r"


@pytest.mark.slow
def test_a_search_goes_on_with_the_files_that_it_was_begun_with(finished: Spos, spos: Spos) -> None:
    """Another supernet than the run's own, and candidates of another search."""
    theirs = finished.run / "search" / "journal.jsonl"
    spos.here("supernet-train", "--set", "supernet.steps=10")
    given = ("--weights", finished.run / "supernet" / "last.pt", "--from", theirs)
    spos.here("search", *given)
    (spos.run / "search" / "result.yaml").unlink()
    command = json.loads(spos.here("status", "--json").stdout)["next"]
    before = (spos.run / "search" / "journal.jsonl").read_bytes()
    spos.here(*shlex.split(command)[1:])
    assert (spos.run / "search" / "journal.jsonl").read_bytes() == before
    assert str(theirs) in command
