"""A small /dev/shm, as Docker gives to its containers: 64 MB."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PROGRAM, Finished, Spos, environment

pytestmark = pytest.mark.slow

MOUNT = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"', "sh"]
LARGE = ("--set", "data.workers=2", "--set", "supernet.batch_size=512", "--set", "space.image_size=32")
FEW = ("--set", "supernet.steps=6", "--set", "supernet.checkpoint_every=6", "--set", "supernet.log_every=2")


@pytest.fixture
def small() -> None:
    """Only where this user may mount a file system of their own."""
    if shutil.which("unshare") is None or subprocess.run([*MOUNT, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small /dev/shm")


def run(spos: Spos, *arguments: object, code: int = 0) -> Finished:
    return spos(*arguments, code=code, program=(*MOUNT, PROGRAM))


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
    done = subprocess.run(
        [PROGRAM, "doctor", "--json", "--set", "data.workers=1"],
        cwd=spos.folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    (found,) = [one for one in json.loads(done.stdout) if one["check"] == "shared memory"]
    assert found["status"] == "ok"
