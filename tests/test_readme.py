"""What the README says is there: its commands, its code and its code map."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from spos_cli import cli, config

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL))
COMMANDS = sorted({line for line in SHELL.splitlines() if line.startswith("spos ")})


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With --help behind it, a command is read to its end, and an option that is not there is an error."""
    monkeypatch.setattr(sys, "argv", [*shlex.split(command), "--help"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0, capsys.readouterr().err


def test_there_are_commands_of_every_kind() -> None:
    names = (
        "supernet-train",
        "flops-table",
        "search",
        "export-arch",
        "retrain",
        "evaluate",
        "report",
        "status",
        "doctor",
    )
    for name in names:
        assert any(command.startswith(f"spos {name}") for command in COMMANDS)
        assert f"| `spos {name}" in TEXT


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", TEXT)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == "322918720"


def test_code_map_is_true() -> None:
    """Every file of the package is in the map, and everything in the map is a file of the package."""
    block = TEXT.split("## Code map")[1].split("Imports point")[0]
    named = set(re.findall(r"\b(\w+\.py)\b", block))
    files = {path.name for path in (ROOT / "spos_cli").rglob("*.py") if path.name != "__init__.py"}
    stages = {path.name for path in (ROOT / "spos_cli" / "stages").glob("*.py")} - {
        "common.py",
        "run_folder.py",
        "weights_file.py",
    }
    assert named == files - stages


def test_links_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_settings_load() -> None:
    (settings,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    space = config.validate(yaml.safe_load(settings)).space.build()
    assert space.widths == (500, 1000, 1500)
    assert space.options.counts == [6, 7, 7, 3, 4, 4, 4]
