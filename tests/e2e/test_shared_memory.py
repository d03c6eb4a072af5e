"""A small /dev/shm, as Docker gives to its containers: 64 MB."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Finished, Spos

pytestmark = pytest.mark.slow

MOUNT = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"]
LARGE = ("--set", "data.workers=2", "--set", "supernet.batch_size=512", "--set", "space.image_size=32")
FEW = ("--set", "supernet.steps=6", "--set", "supernet.checkpoint_every=6", "--set", "supernet.log_every=2")


@pytest.fixture
def small() -> None:
    """Only where this user may mount a file system of their own."""
    command = ["unshare", "--mount", *MOUNT]
    if shutil.which("unshare") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small /dev/shm")


def run(spos: Spos, *arguments: object) -> Finished:
    """Run a command that sees the small /dev/shm: a fork that mounts it first."""
    (spos.folder / "sitecustomize.py").write_text(f"""
import ctypes, subprocess
CLONE_NEWNS = 0x20000  # from <linux/sched.h>
assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run({MOUNT!r}, check=True)
from spos_cli.doctor import speed
speed.MEASURED_SECONDS = 0.01
""")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(spos.folder), prepend=os.pathsep)
        return spos(*arguments)


@pytest.mark.usefixtures("small")
def test_a_training_goes_on_and_says_why_it_is_slower(spos: Spos, tmp_path: Path) -> None:
    """Two batches ahead of each of two workers are 6 MB."""
    done = run(spos, "supernet-train", *LARGE, *FEW)
    assert "/dev/shm has 1.0 MB" in done.stderr
    assert "--shm-size" in done.stderr
    assert done.stderr.count("Traceback") == 0
    plain = Spos(tmp_path / "plain")
    plain("supernet-train", *FEW, *LARGE)
    assert (spos.run / "supernet/last.pt").read_bytes() == (plain.run / "supernet/last.pt").read_bytes()


@pytest.mark.usefixtures("small")
def test_doctor_sees_it(spos: Spos) -> None:
    done = run(spos, "doctor", "--json", *LARGE)
    (found,) = [one for one in json.loads(done.stdout) if one["check"] == "shared memory"]
    assert found["status"] == "warn"
    assert "data.workers" in found["advice"]


def test_doctor_finds_room_for_small_batches(spos: Spos) -> None:
    done = spos.here("doctor", "--json", "--set", "data.workers=1")
    (found,) = [one for one in json.loads(done.stdout) if one["check"] == "shared memory"]
    assert found["status"] == "ok"
