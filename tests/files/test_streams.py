"""Stdout and stderr that fail: a full disk, a reader that has gone, a closed stream, another encoding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from spos_cli.exits import LONG_COMMANDS
from tests.conftest import PROGRAM, Spos

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
TEXT = "é → 🦊"
FULL = "cannot write to stdout: No space left on device"


def run_python(code: str, redirection: str = "", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run code that ends as a command does, in a new process whose output a shell redirects."""
    program = (
        "import sys\nfrom spos_cli.exits import run_and_exit\nfrom spos_cli.files import streams\n"
        f"def app():\n    {code}\nrun_and_exit(app)"
    )
    command = ["bash", "-c", f'"$0" -c "$1" {redirection}', sys.executable, program]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "latin-1", "utf-8"])
def test_letters_that_an_encoding_lacks_are_escaped(encoding: str) -> None:
    done = run_python(f"print({TEXT!a}); print({TEXT!a}, file=sys.stderr)", PYTHONIOENCODING=encoding)
    expected = TEXT.encode(encoding, "backslashreplace") + b"\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, expected)


def test_letters_in_the_locale_c() -> None:
    done = run_python(f"print({TEXT!a})", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="")
    assert (done.returncode, done.stdout) == (0, TEXT.encode("ascii", "backslashreplace") + b"\n")


@pytest.mark.parametrize("lines", [1, 10_000])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_result_that_does_not_arrive_is_an_error(lines: int, unbuffered: str) -> None:
    done = run_python(f"print('x' * 80 * {lines})", "> /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr.decode()) == (2, f"error: {FULL}\n")


@pytest.mark.parametrize("redirection", ["> /dev/full", "> /dev/full 2>&1", ">&-", ">&- 2>&-", "> >(true)"])
def test_what_is_said_may_be_lost(redirection: str, tmp_path: Path) -> None:
    end = tmp_path / "end"
    code = (
        "streams.ignore_failed_writes()\n    for n in range(3000): print(n, flush=n % 100 == 0);"
        f" print(n, file=sys.stderr)\n    open({str(end)!r}, 'x')"
    )
    assert run_python(code, redirection).returncode == 0
    assert end.exists()


def test_json_arrives_or_is_an_error() -> None:
    code = "streams.ignore_failed_writes(); print('lost', flush=True)\n    with streams.require_stdout(): print('{}')"
    done = run_python(code, "> /dev/full")
    assert (done.returncode, done.stderr.decode()) == (2, f"error: {FULL}\n")


def test_a_reader_that_has_gone_ends_a_command_without_a_message() -> None:
    done = run_python("while True: print('x' * 80)", "| head -n 1; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_stream_that_does_not_block_gets_all() -> None:
    code = "import os; os.set_blocking(1, False)\n    for n in range(3000): print('x' * 80)"
    done = run_python(code, "| (sleep 0.3; wc -c)")
    assert (done.returncode, int(done.stdout)) == (0, 3000 * 81)


def start(spos: Spos, redirection: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command of `spos` whose output a shell redirects."""
    command = ["bash", "-c", f'"$0" "$@" {redirection}', str(PROGRAM), *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=spos.folder, env=environment, capture_output=True, check=False, timeout=240)


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["cpu", "2"])
def test_a_training_outlives_its_log(spos: Spos, devices: str) -> None:
    steps = ("--set", "retrain.steps=4", "--set", "retrain.evaluate_every=2", "--devices", devices)
    done = start(spos, "> /dev/full 2>&1", "retrain", "0,0,0,0", *steps)
    assert done.returncode == 0
    assert len(list(spos.run.glob("retrain/*/model.pt"))) == 1


def test_commands_without_results_in_files_say_that_stdout_failed(spos: Spos) -> None:
    assert {"supernet-train", "search", "retrain", "audit"} == set(LONG_COMMANDS)
    for command in (["status"], ["status", "--json"], ["retrain", "--print-config"]):
        done = start(spos, "> /dev/full", *command)
        assert (done.returncode, done.stderr.decode()) == (2, f"error: {FULL}\n"), command


def test_settings_are_printed_in_another_encoding(spos: Spos) -> None:
    given = ("--set", "name=图é")
    for encoding in ("ascii", "cp1252", "utf-8"):
        done = start(spos, "", "search", "--print-config", *given, PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        assert yaml.safe_load(done.stdout.decode(encoding))["name"] == "图é"
