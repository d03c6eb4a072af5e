"""Ctrl-C while a command starts: exit code 130, and nothing on the screen."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# A finder of modules that sends Ctrl-C as soon as a module of this name is asked for.
PROGRAM = """
import os, signal, sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.{handler})
sys.meta_path.insert(0, Finder)
sys.argv = ['spos', *{arguments!r}]
from spos_cli.__main__ import main
{before}
main()
"""


def start(module: str, *arguments: str, handler: str = "default_int_handler", before: str = "") -> tuple[int, str]:
    """Return the exit code and stderr of a command that gets Ctrl-C in the import of a module."""
    code = PROGRAM.format(module=module, arguments=arguments, handler=handler, before=before)
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("module", ["spos_cli.cli", "typer", "spos_cli.options", "spos_cli.stages.status"])
def test_the_first_imports_are_interrupted(module: str) -> None:
    assert start(module, "status") == (130, "")


@pytest.mark.parametrize("module", ["torch", "torch.nn", "spos_cli.stages.flops_table"])
def test_the_import_of_pytorch_is_interrupted(module: str) -> None:
    assert start(module, "flops-table") == (130, "")


def test_an_import_that_turns_the_interrupt_into_an_error() -> None:
    """`json.tool` stands for a module whose import is wrapped in `except BaseException`."""
    before = (
        "import spos_cli.cli\ndef app():\n    try: import json.tool\n"
        "    except BaseException as error: raise ImportError('broken') from error\nspos_cli.cli.main = app"
    )
    assert start("json.tool", "status", before=before) == (130, "")


def test_a_moment_between_imports() -> None:
    before = "import spos_cli.cli\nspos_cli.cli.main = lambda: os.kill(os.getpid(), signal.SIGINT)"
    assert start("", "status", before=before) == (130, "")


def test_the_end_of_the_interpreter() -> None:
    before = "import atexit; atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))"
    assert start("", "--version", before=before) == (130, "")


def test_an_ignored_signal_stays_ignored() -> None:
    assert start("typer", "--version", handler="SIG_IGN") == (0, "")
