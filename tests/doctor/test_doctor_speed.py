"""Speed of training and loader: both are measured, and a slow loader is found."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from spos_cli.data.array_set import ArraySet
from spos_cli.doctor import disk, speed
from spos_cli.engine import accelerator
from spos_cli.engine.trainer import Batch, Trainer
from tests.doctor.setups import expect, make_folder_setup, make_setup


@pytest.mark.parametrize("workers", [0, 2])
def test_speed_of_a_healthy_setup(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "LOADER_HEADROOM", 0.0)  # a busy machine may slow either side down
    finding = expect(speed.check(make_setup(f"data.workers={workers}")), "speed", "ok", "supernet-train takes about")
    assert f"with {workers} workers" in finding.seen


def test_compiling_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "LOADER_HEADROOM", 0.0)
    expect(speed.check(make_setup("supernet.compile=blocks")), "speed", "ok", "supernet-train takes about")


@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_a_gpu_gets_batches_from_pinned_memory(monkeypatch: pytest.MonkeyPatch, jitter: float) -> None:
    pinned: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        return tensor

    def update(stream: Iterator[Batch]) -> None:
        assert {id(tensor) for tensor in next(stream) if tensor is not None} == set(map(id, pinned))

    model = SimpleNamespace(train=lambda: None)
    trainer = SimpleNamespace(update=update, model=model, step=0)
    monkeypatch.setattr(speed, "Trainer", lambda *arguments, **options: trainer)
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(accelerator, "synchronize", lambda device: None)
    setup = make_setup(f"data.augmentation.jitter={jitter}")
    setup.device = torch.device("cuda", 0)
    assert speed.measure_training(setup, 4) > 0
    assert len(pinned) == (3 if jitter else 2)


@pytest.mark.parametrize("store", ["none", "ram", "disk"])
def test_cached_images_need_space_and_are_measured(root: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "MEASURED_SECONDS", 0.01)
    cached = make_folder_setup(root, f"data.store={store}")
    assert ("cached images" in disk.check(cached)[0].seen) == (store == "disk")
    assert any("; loader: " in finding.seen for finding in speed.check(cached))
    assert not (cached.run.folder.cache.parent).exists()


@pytest.mark.parametrize(("workers", "phrase"), [(0, "set data.workers=2"), (2, "use smaller images (data.store=disk")])
def test_a_slow_loader(workers: int, phrase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "measure_training", lambda setup, size: 1000.0)
    for load, status in ((1201.0, "ok"), (1199.0, "warn")):
        monkeypatch.setattr(speed, "measure_loader", lambda setup, size, load=load: load)
        expect(speed.check(make_setup(f"data.workers={workers}")), "speed", status, phrase if status == "warn" else "")


def test_both_rates_are_measured() -> None:
    image, update = ArraySet.image, Trainer.update

    def slow_image(self: ArraySet, index: int) -> object:
        time.sleep(0.01)
        return image(self, index)

    def slow_update(self: Trainer, stream: object) -> None:
        time.sleep(0.1)
        update(self, stream)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArraySet, "image", slow_image)
        assert 0 < speed.measure_loader(make_setup(), 8) < 100
        expect(speed.check(make_setup()), "speed", "warn", "the loader slows the training down")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "update", slow_update)
        assert 0 < speed.measure_training(make_setup(), 32) < 320


def test_a_batch_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(self: Trainer, stream: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "update", too_large)
    expect(speed.check(make_setup()), "speed", "fail", "raise supernet.accumulate")


@pytest.mark.parametrize("fault", ["supernet.amp=fp16", "supernet.sampler=flops_bins", "devices=3"])
def test_faults_that_other_checks_report_do_not_stop_the_measurement(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "LOADER_HEADROOM", 0.0)
    expect(speed.check(make_setup(fault)), "speed", "ok", "supernet-train takes about")


def test_unreadable_images_that_only_the_loader_meets(root: Path) -> None:
    for path in root.glob("train/*/*.jpg"):
        path.write_bytes(b"no image")
    expect(speed.check(make_folder_setup(root)), "speed", "fail", "training images cannot be read so far")
