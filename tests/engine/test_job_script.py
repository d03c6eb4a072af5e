"""The job script of the page about clusters, with a made-up SLURM."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "spos_cli" / "engine" / "README.md"
PATIENCE = 30  # seconds

# Ends with $CODE; at SIGTERM, after a moment in which it saves, with $STOPPED.
FAKE_SPOS = """#!/bin/bash
echo "$(basename "$0") $*" >> "$LOG"
trap 'sleep 0.5; echo saved >> "$LOG"; exit "$STOPPED"' TERM
touch "$LOG.started"
if [ "$CODE" ]; then exit "$CODE"; fi
while :; do sleep 0.05; done
"""
FAKE_SRUN = """#!/bin/bash
exec "$@"
"""
FAKE_SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf 'node7\\nnode8\\n'; else echo "scontrol $*" >> "$LOG"; fi
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


class Job:
    """The script with fake programs.

    Args:
        code: what spos ends with; None: it works until it is stopped.
        stopped: what it ends with at SIGTERM.
    """

    def __init__(self, folder: Path, code: int | None, stopped: int = 143, nodes: int = 1) -> None:
        (script,) = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        self.script, self.log = folder / "spos.sbatch", folder / "log"
        self.script.write_text(script)
        programs = {"spos": FAKE_SPOS, "torchrun": FAKE_SPOS, "srun": FAKE_SRUN, "scontrol": FAKE_SCONTROL}
        for name, text in programs.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        environment = {
            **os.environ,
            "SLURM_JOB_ID": "55",
            "SLURM_NNODES": str(nodes),
            "SLURM_GPUS_ON_NODE": "8",
            "SLURM_JOB_NODELIST": "node[7-8]",
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "LOG": str(self.log),
            "CODE": "" if code is None else str(code),
            "STOPPED": str(stopped),
        }
        command = ["bash", str(self.script), "supernet-train", "--set", "a b"]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def stop(self) -> None:
        """Send SIGTERM to the script alone, as SLURM does, as soon as spos works."""
        end = time.monotonic() + PATIENCE
        while not self.log.with_name("log.started").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        self.process.send_signal(signal.SIGTERM)

    def finish(self) -> tuple[int, list[str]]:
        """Return the exit code, and what the programs have done."""
        _, said = self.process.communicate(timeout=PATIENCE)
        assert said == ""
        return self.process.returncode, self.log.read_text().splitlines()


def test_the_syntax_is_right(tmp_path: Path) -> None:
    job = Job(tmp_path, 0)
    job.finish()
    done = subprocess.run(["bash", "-n", str(job.script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = job.script.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    assert "#SBATCH --signal=B:TERM@120" in {line.partition("  ")[0] for line in lines}


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_a_job_that_ends_by_itself_is_not_queued_again(tmp_path: Path, code: int) -> None:
    assert Job(tmp_path, code).finish() == (code, ["spos supernet-train --set a b"])


def test_a_stopped_job_saves_and_is_queued_again(tmp_path: Path) -> None:
    job = Job(tmp_path, None)
    job.stop()
    assert job.finish() == (143, ["spos supernet-train --set a b", "saved", "scontrol requeue 55"])


@pytest.mark.parametrize("code", [0, 2])
def test_a_job_that_is_done_or_wrong_when_it_is_stopped_is_not_queued_again(tmp_path: Path, code: int) -> None:
    job = Job(tmp_path, None, stopped=code)
    job.stop()
    assert job.finish() == (code, ["spos supernet-train --set a b", "saved"])


def test_several_nodes_meet_at_the_first(tmp_path: Path) -> None:
    """A stopped torchrun ends with 1."""
    job = Job(tmp_path, None, stopped=1, nodes=2)
    job.stop()
    code, (command, *rest) = job.finish()
    assert command == (
        "torchrun --nnodes 2 --nproc-per-node 8 --max-restarts 3 --rdzv-backend c10d --rdzv-id 55"
        " --rdzv-endpoint node7:29400 -m spos_cli supernet-train --set a b"
    )
    assert (code, rest) == (1, ["saved", "scontrol requeue 55"])
