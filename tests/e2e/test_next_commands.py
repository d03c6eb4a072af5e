"""Every suggested command leads to the settings of its run folder, in whichever working folder it is typed.

The suggestions are those that commands print and those of `spos status --json`. They are split as a shell does it, and
resolved by the program itself (`--print-config`).
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
from spos_cli.official.weights import to_official
from spos_cli.search.journal import Journal
from spos_cli.space.limits import Limit
from tests.conftest import TINY, Spos

RUN = "my run's 1"  # the run folder, below the working folder
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
        self.more = ["--seed", "10", "--devices", "cpu"]  # Some commands do not have these.

    @property
    def options(self) -> list[str]:
        """The options of most commands."""
        return [*self.common, *self.more]

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.spos.folder / RUN

    def suggestion_of(self, *arguments: object) -> str:
        """Run a command with all options, and return its suggestion."""
        return self.find_suggestion(self.spos.here(*arguments, *self.options).stdout)

    @staticmethod
    def find_suggestion(stdout: str) -> str:
        """Return the only suggestion in a printed text."""
        (line,) = re.findall("^next: (.*)$", stdout, re.MULTILINE)
        return str(line)

    def settings(self, command: str, working: Path | None = None) -> Config:
        """Return the settings that a command would use."""
        program, *arguments = shlex.split(command)
        assert program == "spos"
        where = Spos.__new__(Spos)
        where.folder = working or self.spos.folder
        printed = where.here(*(one.replace("FILE", "x.pt") for one in arguments), "--print-config").stdout
        return loading.validate(yaml.safe_load(printed))

    def check(self, command: str, expected: Config, working: Path | None = None) -> None:
        """Check that a command leads to these settings, in this run folder."""
        found = self.settings(command, working)
        assert portable_settings(found) == portable_settings(expected), command
        assert found.devices == expected.devices, command
        if " evaluate " not in command:  # The settings of a weights file have no run folder and no audit.
            assert found.audit == expected.audit, command
            assert ((working or self.spos.folder) / found.folder).resolve() == self.path.resolve(), command

    def expected(self, *more: str) -> Config:
        """Return the settings that the options lead to."""
        return self.settings(shlex.join(["spos", "search", *self.options, *more]))

    def status(self, expected: Config, starts: str) -> None:
        """Check what `spos status` suggests, for each way to name the run, from several working folders."""
        elsewhere = self.spos.folder / "else where"
        elsewhere.mkdir(exist_ok=True)
        calls: list[tuple[Path, list[str]]] = [
            (self.spos.folder, self.common),
            (self.spos.folder, ["--run-dir", RUN]),
            (self.spos.folder, [RUN]),
            (self.path, ["."]),
            (elsewhere, [f"../{RUN}"]),
            (elsewhere, ["--run-dir", str(self.path)]),
        ]
        for working, arguments in calls:
            here = Spos.__new__(Spos)
            here.folder = working
            result = json.loads(here.here("status", "--json", *arguments).stdout)
            assert result["next"].startswith(f"spos {starts}"), (arguments, result["next"])
            self.check(result["next"], expected, working)
            assert self.find_suggestion(here.here("status", *arguments).stdout) == result["next"]


@pytest.fixture
def folder(spos: Spos) -> Folder:
    """A run without any files yet."""
    return Folder(spos)


def remove(folder: Path, *patterns: str) -> Callable[[], None]:
    """Remove files, as if a stage had been stopped before it wrote them. The result restores them."""
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
    """Follow each suggestion, so that each command finds the files of the one before it."""
    settings = folder.expected()
    for command in (("flops-table",), ("flops-table", "--latency"), ("doctor",)):
        following = folder.suggestion_of(*command)
        if "--latency" not in command:
            folder.check(following, settings)
        else:
            assert " --latency-limit " in following
            folder.check(re.sub("--latency-limit [^ ]* ", "", following), settings)
        folder.status(settings, "supernet-train")

    following = folder.suggestion_of("supernet-train")
    folder.check(following, settings)
    folder.status(settings, "search")
    restore = remove(folder.path, "supernet/*.pt")
    folder.status(settings, "supernet-train")
    restore()
    folder.spos.here("flops-table", "--run-dir", RUN)  # a question about another space: that of spos.yaml
    folder.status(settings, "search")

    limit = ("--set", "search.flops_limit=130000", "--set", "search.objective=pareto")
    settings = folder.expected(*limit)
    following = folder.suggestion_of("search", "--flops-limit", "0.13M", "--objective", "pareto", "--max-restarts", "5")
    assert following.startswith("spos export-arch --pareto ")
    folder.check(following, settings)
    folder.status(settings, "export-arch --pareto")
    restore = remove(folder.path, "search/result.yaml")
    folder.status(settings, "search")
    restore()

    following = folder.find_suggestion(folder.spos.here(*shlex.split(following)[1:]).stdout)
    folder.check(following, settings)
    folder.status(settings, "retrain")
    following = folder.find_suggestion(folder.spos.here(*shlex.split(following)[1:]).stdout)
    folder.check(following, settings)
    folder.status(settings, "evaluate")
    restore = remove(folder.path, "retrain/*/model.pt")
    folder.status(settings, "retrain")
    restore()

    folder.common += [*limit, "--set", "audit.steps=2"]
    settings = folder.expected()
    folder.more = ["--set", "seed=10", "--devices", "cpu"]  # an audit has the seed of its search
    following = folder.suggestion_of("audit")
    assert following.startswith("spos report ")
    folder.check(following, settings)
    restore = remove(folder.path, "audit/result.json")
    folder.status(settings, "audit")
    restore()


@pytest.mark.slow
def test_official_weights(finished: Spos, folder: Folder) -> None:
    state = checkpoint.load(finished.run / "supernet" / "last.pt")["model"]
    checkpoint.save(folder.spos.folder / "theirs.pth.tar", to_official(state))
    folder.spos.here("export-arch", "--weights", "theirs.pth.tar", "--format", "spos", *folder.options)
    settings = folder.expected()
    folder.status(settings, "search")
    folder.spos.here("flops-table", "--run-dir", RUN)
    folder.status(settings, "search")
    shutil.rmtree(folder.path / "supernet")
    (model,) = finished.run.glob("retrain/*/model.pt")
    folder.spos.here("export-arch", "--weights", model, *folder.options)  # to the official form
    checkpoint.save(folder.spos.folder / "net.pth.tar", to_official(checkpoint.load(model)["model"]))
    folder.spos.here("export-arch", "--weights", "net.pth.tar", "--format", "spos", *folder.options)
    folder.status(settings, "evaluate")


@pytest.mark.slow
def test_candidates_of_another_search(finished: Spos, folder: Folder) -> None:
    journal = finished.run / "search" / "journal.jsonl"
    following = folder.suggestion_of("export-arch", "--from", journal)
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
def test_the_command_to_run_first(finished: Spos, folder: Folder, command: list[str], suggests: str) -> None:
    shutil.copy(finished.run / "supernet" / "last.pt", folder.spos.folder / "w.pt")
    message = folder.spos.here(*command, *folder.options, code=2).stderr
    (quoted,) = re.findall(f"run (spos {suggests}.*) first", message)
    more = ["--set", "search.latency_limit=9ms"] if "--latency-limit" in command else []
    folder.check(quoted, folder.expected(*more))


@pytest.mark.slow
def test_a_search_that_may_find_more(finished: Spos, spos: Spos) -> None:
    where = ("--config", "spos.yaml", "--run-dir", finished.run)
    low = min(entry.flops for entry in Journal(finished.run / "search" / "journal.jsonl").read())
    message = spos.here("export-arch", *where, "--flops-limit", low - 1, code=2).stderr
    (quoted,) = re.findall("(spos search --fresh.*) may find some", message)
    settings = Folder(spos).settings(quoted)
    assert (settings.search.flops_limit, settings.folder) == (Limit(low - 1), finished.run)


@pytest.mark.parametrize("data", ["im ages", "it's", "a: b", "010"])
def test_images_are_found_from_another_working_folder(spos: Spos, data: str) -> None:
    """A relative root counts from the working folder in which the run began."""
    elsewhere, run = spos.folder / "else where", Folder(spos)
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
        (there, [run.path]),
    ):
        command = json.loads(working.here("status", "--json", *arguments).stdout)["next"]
        root = run.settings(command, working.folder).data.root
        assert (working.folder / root).resolve() == spos.folder / data, command
    moved = run.path.rename(spos.folder / "moved")  # by hand, so nothing says from where
    command = json.loads(there.here("status", "--json", moved).stdout)["next"]
    assert run.settings(command, elsewhere).data.root == data


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


def test_torn_settings_are_ignored(spos: Spos) -> None:
    """Those of the run replace those of a stage that cannot be read."""
    run = spos.folder / "r"
    (run / "supernet").mkdir(parents=True)
    (run / "config.yaml").write_text(TINY.replace("name: tiny", "name: first").replace("steps: 100,", "steps: 7,"))
    (run / "supernet" / "config.yaml").write_text("supernet: {steps: [")
    command = json.loads(spos.here("status", "--json", "r").stdout)["next"]
    assert Folder(spos).settings(command).supernet.steps == 7
    assert os.fspath(Folder(spos).settings(command).folder) == "r"


@pytest.mark.slow
def test_a_search_resumes_with_the_files_that_it_began_with(finished: Spos, spos: Spos) -> None:
    """Here another supernet than the run's own, and candidates of another search."""
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
