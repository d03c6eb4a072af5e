"""Workers end in time, and hand over the same batches through shared memory and through pipes."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from spos_cli.data.datasets import load
from spos_cli.data.image_store import ImageStore
from spos_cli.data.loaders import training_batches
from spos_cli.errors import DataError
from tests.data.test_loaders import EVAL, IMAGES, INDICES, TRAIN, same, train


def test_workers_end_with_their_consumer() -> None:
    stream = training_batches(IMAGES, INDICES, TRAIN, seed=0, batch_size=4, first_step=0, last_step=10**9, workers=2)
    before = len(multiprocessing.active_children())
    next(stream)
    assert len(multiprocessing.active_children()) == before + 2
    del stream
    assert len(multiprocessing.active_children()) == before


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_end_with_an_error_that_is_kept(image_root: Path, workers: int) -> None:
    images = load("folder", image_root, "train")
    (image_root / "train" / "coffee" / "3.JPEG").write_bytes(b"\xff\xd8 and no more")
    stream = training_batches(
        images, np.arange(20), TRAIN, seed=0, batch_size=8, first_step=0, last_step=9, workers=workers
    )
    before = len(multiprocessing.active_children())
    with pytest.raises(DataError, match=r"^cannot read the image .*coffee/3\.JPEG: [^\n]*$") as kept:
        list(stream)
    assert len(multiprocessing.active_children()) == before, kept


def refuse(tensor: Tensor) -> Tensor:
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


def test_batches_without_room_in_shared_memory_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """So is their memory format. Workers are forked, so they have no room either."""
    plain = train(0, 9)
    monkeypatch.setattr(Tensor, "share_memory_", refuse)
    piped = train(0, 9, workers=2)
    assert same(plain, piped)
    assert [batch[0].stride() for batch in plain] == [batch[0].stride() for batch in piped]
    piped[0][0].add_(1)  # They are as writable as others.


def test_a_store_without_room_in_shared_memory_is_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, workers in (("plain", 0), ("piped", 2)):
        ImageStore.build(tmp_path / name, IMAGES, INDICES, EVAL, workers=workers)
        monkeypatch.setattr(Tensor, "share_memory_", refuse)
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "piped").read_bytes()
