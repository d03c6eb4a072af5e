"""The command line itself: short commands, plain help, one road for limits, shell completion, the version."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from spos_cli import __version__, cli
from tests.conftest import Mistake, Spos

ROOT = Path(__file__).parents[1]
APP = typer.main.get_command(cli.app)
COMMANDS = APP.commands  # type: ignore[attr-defined]
LONGEST = 15  # lines of a command's body
SHARED = (
    *("config", "overrides", "run_dir", "devices", "max_restarts", "seed", "print_config", "tensorboard"),
    *("wandb", "mlflow", "fresh", "extend"),
)


def body_lines(function: ast.FunctionDef) -> int:
    """Count the lines of a function behind its docstring that are not blank."""
    lines = (ROOT / "spos_cli" / "cli.py").read_text(encoding="utf-8").splitlines()
    _, *statements = function.body
    return sum(bool(line.strip()) for one in statements for line in lines[one.lineno - 1 : one.end_lineno])


def test_commands_are_short() -> None:
    tree = ast.parse((ROOT / "spos_cli" / "cli.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert len(functions) >= len(COMMANDS)
    assert {function.name: lines for function in functions if (lines := body_lines(function)) > LONGEST} == {}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_command_does_with_an_example(name: str) -> None:
    command = COMMANDS[name]
    assert f"\n\nExample: spos {name} " in command.help.rstrip() + " "
    for parameter in command.params:
        if parameter.name != "help":
            assert re.fullmatch(r"\S.*[.]", parameter.help, re.DOTALL), (name, parameter.name)


def test_shared_options_have_one_order_and_stand_last() -> None:
    order = [*SHARED, "as_json"]
    for name, command in COMMANDS.items():
        names = [parameter.name for parameter in command.params]
        assert {"config", "overrides", "run_dir", "print_config"} <= set(names), name
        shared = [one for one in names if one in order]
        assert shared == sorted(shared, key=order.index), name
        assert names[-len(shared) :] == shared, name


def values_of(size: str) -> list[tuple[str, ...]]:
    """Return the ways to mistype a limit, for one option and for both."""
    one = [(f"--{name}-limit", size) for name in ("flops", "params")]
    return [*one, (*one[0], *one[1]), (*one[0], "--set", "supernet.lr=no")]


@pytest.mark.parametrize("size", ["abc", "0", "-5M", "1.5", "", "1e30", "330 Mega", "10**6"])
def test_a_mistake_in_a_limit_has_one_message(mistake: Mistake, size: str) -> None:
    for given in values_of(size):
        expected = mistake("search", *given)
        assert f"{given[0]} {size}: search.{given[0][2:].replace('-', '_')}: " in expected
        assert expected.count("is not a size") == sum(argument.endswith("-limit") for argument in given)
        commands = [["export-arch"], ["export-arch", "--weights", "x.pt"]]
        if "--params-limit" not in given:
            commands += [["flops-table"], ["flops-table", "0,0,0,0"]]
        for command in commands:
            assert mistake(*command, *given) == expected


def test_a_limit_that_is_not_given_is_none(spos: Spos) -> None:
    """The limit of a search in the settings is not one of `flops-table`; one that is given is not kept as a setting."""
    setting = ("--set", "search.flops_limit=100K")
    assert "limit" not in spos.here("flops-table", *setting, "--json").stdout
    done = spos.here("flops-table", *setting, "--flops-limit", "90K")
    assert "share at or under 90K" in done.stdout
    assert "next: spos supernet-train --set search.flops_limit=100K\n" in done.stdout
    assert "flops_limit: 100000\n" in (spos.run / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["flops-table", "0,0,0,0", "--import", "x.pkl"], "do not pass architectures with --import"),
        (["flops-table", "0,0,0,0", "--latency"], "do not pass architectures with --latency"),
        (["flops-table", "--latency", "--devices", "4"], "but devices is 4; use --devices 1"),
        (["flops-table", "--runtime", "onnxruntime"], "give it with --latency"),
        (["export-arch", "--quantize", "int8"], "--quantize int8 is for --format onnx and pt2"),
        (["export-arch", "--format", "python", "--quantize", "int8"], "is for --format onnx and pt2"),
        (["export-arch", "--format", "spos"], "--format spos is for weights"),
        (["export-arch", "--weights", "x.pt", "--format", "pkl"], "--format pkl is for architectures"),
        (["audit", "nowhere"], "there is no search in nowhere"),
        (["report", "a", "--run-dir", "b"], "both name the run folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_contradict_each_other(mistake: Mistake, command: list[str], said: str) -> None:
    assert said in mistake(*command)


def started(*arguments: str, **variables: str) -> str:
    """Return what a new process of `spos` prints, as its console script starts it; it must not import torch."""
    code = (
        f"import sys; sys.argv = ['spos', *{arguments!r}]\nfrom spos_cli.cli import main\n"
        "try: main()\nfinally: assert 'torch' not in sys.modules, 'torch was imported'"
    )
    environment = {**os.environ, "TERM": "dumb", "COLUMNS": "120", **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_is_quick_and_offers_shell_completion() -> None:
    text = started("--help")
    assert "--install-completion" in text
    assert [name for name in COMMANDS if name not in text] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_shell_completion_can_be_shown(shell: str) -> None:
    text = started("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_SPOS_COMPLETE" in text
    assert f"complete_{shell}" in text


def test_commands_and_options_are_completed() -> None:
    def completed(line: str) -> list[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        return started(_SPOS_COMPLETE="complete_bash", **words).split()

    assert completed("spos ex") == ["export-arch"]
    assert completed("spos search --flops") == ["--flops-limit"]


def test_the_version_stands_in_one_place() -> None:
    """`spos --version`, the package and what is installed from it have it from `spos_cli/__init__.py`."""
    assert started("--version") == f"spos {__version__}\n"
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in project.split("[project]\n")[1].split("\n[")[0]
    assert project.split("[tool.hatch.version]\n")[1].startswith('path = "spos_cli/__init__.py"\n')
    assert not re.search(r"^version\s*=", project, re.MULTILINE)


def test_make_lists_its_targets() -> None:
    """`make` alone shows each target with a line, and nothing else happens."""
    shown = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = dict(re.findall(r"^  make ([a-z-]+) +(\S.*)$", shown.stdout, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(listed) == targets == set(makefile.split(".PHONY:")[1].split("\n")[0].split())
    assert shown.stdout.count("\n") <= len(targets) + 2
