"""Only one run at a time works in a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spos_cli.errors import RunError
from spos_cli.files import lock

HOLD = """
import sys, time
from pathlib import Path
from spos_cli.files import lock
from spos_cli.errors import RunError
try:
    with lock.hold(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
except RunError as error:
    print(error, flush=True)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_second_run_says_who_holds_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".supernet.lock"
    with holder(path) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        message = rf"is in use by process {first.pid} on .*, since .*; wait until"
        with pytest.raises(RunError, match=message), lock.hold(path):
            pass
        first.kill()  # the system lets the lock go
    assert path.exists()
    with lock.hold(path):
        second = subprocess.run(
            [sys.executable, "-c", HOLD, str(path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"is in use by process {os.getpid()} on" in second.stdout
    assert not path.exists()


def test_only_one_of_many_gets_the_lock_at_a_time(tmp_path: Path) -> None:
    """Four processes acquire and release it over and over; whoever holds it counts up a file."""
    path, counter = tmp_path / "lock", tmp_path / "counter"
    counter.write_text("0")
    code = """
import sys, time
from pathlib import Path
from spos_cli.files import lock
from spos_cli.errors import RunError
done = 0
while done < 50:
    try:
        with lock.hold(Path(sys.argv[1])):
            number = int(Path(sys.argv[2]).read_text())
            time.sleep(0.0005)
            Path(sys.argv[2]).write_text(str(number + 1))
            done += 1
    except RunError:
        pass
"""
    workers = [subprocess.Popen([sys.executable, "-c", code, str(path), str(counter)]) for _ in range(4)]
    assert [worker.wait(120) for worker in workers] == [0] * 4
    assert counter.read_text() == "200"


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """Loader workers outlive a killed run by a few seconds."""
    forking = (
        "import os\n        child = os.fork()\n        if child == 0: time.sleep(30)\n        print(child, flush=True)"
    )
    code = HOLD.replace('print("held", flush=True)', forking)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
    try:
        os.kill(child, 0)  # it is still there
        with lock.hold(tmp_path / "lock"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
