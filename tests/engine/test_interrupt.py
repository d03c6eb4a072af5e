"""The vote on a wish to stop: nobody waits for the others, and all stop at the same time."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

import pytest
import torch

from spos_cli.engine.distributed import Processes
from spos_cli.engine.interrupt import StopRequest, StopVote
from tests.engine.gloo import run_together

PATIENCE = 120.0  # seconds


def vote_without_waiting(processes: Processes, folder: Path) -> None:
    """The last process asks only when the others have their answer: they would wait forever for a present one."""
    vote, request = StopVote(processes), StopRequest()
    if processes.rank == processes.world_size - 1:
        end = time.monotonic() + PATIENCE
        while len(list(folder.glob("answered-*"))) < processes.world_size - 1:
            assert time.monotonic() < end, "the others wait"
            time.sleep(0.01)
    answer = vote.ask(request, now=False)
    (folder / f"answered-{processes.rank}").touch()
    assert answer is False
    assert vote.ask(request, now=True) is False


def stop_together(processes: Processes, folder: Path) -> None:
    """A signal of one process stops all of them one question later, among other exchanges."""
    for signalled in range(processes.world_size):
        vote, request, answers = StopVote(processes), StopRequest(), []
        for question in range(6):
            if question == 2 and processes.rank == signalled:
                request.receive(signal.SIGTERM, None)
            total = torch.ones(1)
            assert processes.sum(total) == processes.world_size  # as the gradients of a step
            answers.append(vote.ask(request, now=question == 5))
        assert answers == [False, False, False, True, True, True]


def stop_at_the_last_question(processes: Processes, folder: Path) -> None:
    """A wish is not lost if there is no next question, and one from before is not either."""
    for first in (True, False):
        vote, request = StopVote(processes), StopRequest()
        for question in range(2):
            if processes.rank == 0 and question == 1 - first:
                request.receive(signal.SIGINT, None)
            answer = vote.ask(request, now=question == 1)
        assert answer is True


def fail_with_a_question(processes: Processes, folder: Path) -> None:
    """A process that fails before it has its answer waits for the questions of the others, and can leave."""
    vote = StopVote(processes)
    if processes.rank:
        time.sleep(0.3)
    vote.ask(StopRequest(), now=False)
    with pytest.raises(ValueError, match="a broken image"), contextlib.closing(vote):
        raise ValueError("a broken image")
    assert vote.wait is None


def test_a_question_that_is_lost_with_another_process_does_not_hide_the_error() -> None:
    def wait() -> bool:
        raise RuntimeError("Connection closed by peer")

    vote = StopVote(Processes(0, 1, torch.device("cpu")))
    vote.wait = wait
    with pytest.raises(ValueError, match="a broken image"), contextlib.closing(vote):
        raise ValueError("a broken image")


def test_votes_of_several_processes(tmp_path: Path) -> None:
    run_together(3, [vote_without_waiting, stop_together, stop_at_the_last_question, fail_with_a_question], tmp_path)


@pytest.mark.parametrize("now", [True, False])
def test_one_process_stops_at_once(now: bool) -> None:
    vote, request = StopVote(Processes(0, 1, torch.device("cpu"))), StopRequest()
    assert vote.ask(request, now=now) is False
    request.receive(signal.SIGTERM, None)
    assert vote.ask(request, now=now) is True
