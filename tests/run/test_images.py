"""The images of a run: their cache, the calibration images of a search, and several processes."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs

from spos_cli.config import loading
from spos_cli.config.identity import portable_settings
from spos_cli.config.schema import Config
from spos_cli.data import cache
from spos_cli.data.cache import CachedSet, ResizedSet
from spos_cli.engine.distributed import Processes
from spos_cli.errors import ConfigError, DataError, RunError
from spos_cli.run.command import Run
from spos_cli.run.images import Images
from spos_cli.run.search_inputs import decode_calibration, open_calibration

ONE_PROCESS = Processes(0, 1, torch.device("cpu"))
SPACE: dict[str, Any] = {
    "image_size": 16,
    "classes": 2,
    "stem": {"channels": 8},
    "stages": [{"blocks": 1, "channels": 16}],
    "head_channels": 16,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of 12 JPEGs of 50 x 40 pixels."""
    for split, (name, photo) in itertools.product(
        ("train", "val"), {"cat": photographs.chelsea(), "cup": photographs.coffee()}.items()
    ):
        folder = tmp_path / "data" / split / name
        folder.mkdir(parents=True)
        for number in range(12):
            Image.fromarray(photo[10 * number :][:40, :50]).save(folder / f"{number}.jpg")
    return tmp_path


def settings(root: Path, *overrides: str) -> Config:
    values: dict[str, Any] = {
        "run_dir": str(root / "run"),
        "space": copy.deepcopy(SPACE),
        "data": {"root": str(root / "data"), "holdout_per_class": 2, "workers": 0, "bad_images": 1},
        "supernet": {"batch_size": 4, "steps": 10},
        "search": {"calibration_images": 10, "calibration_batch_size": 5},
    }
    return loading.validate(values, overrides)


def batches(images: Images) -> list[Any]:
    return list(images.batches(images.splits[0], images.config.supernet, 0, 10))


def equal(one: list[Any], other: list[Any]) -> bool:
    pairs = [pair for x, y in zip(one, other, strict=True) for pair in zip(x, y, strict=True)]
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


def test_disk_and_ram_hold_the_same_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    write = cache.write

    def counted(path: Path, *arguments: Any, **options: Any) -> None:
        written.append(path)
        write(path, *arguments, **options)

    monkeypatch.setattr(cache, "write", counted)
    ram, disk, again = (Images(settings(root, f"data.store={kind}"), ONE_PROCESS) for kind in ("ram", "disk", "disk"))
    expected = batches(ram)
    assert all(equal(batches(images), expected) for images in (disk, again))
    path = root / "run" / "store" / "train.u8"
    assert written == [path], "the second command used it again"
    assert isinstance(again.cached, CachedSet)
    assert path.stat().st_size == 20 * 18 * 22 * 3  # short side 16 * 256 / 224, of images of 50 x 40
    content = bytearray(path.read_bytes())
    content[77] ^= 4
    path.write_bytes(content)
    assert equal(batches(Images(settings(root, "data.store=disk"), ONE_PROCESS)), expected)
    assert len(written) == 2
    assert not equal(batches(Images(settings(root), ONE_PROCESS)), expected), "full images are cropped"
    assert [entry.name for entry in (root / "run").iterdir()] == ["store"]


STRONG = ("retrain.augmentation.policy=strong", "retrain.augmentation.grayscale=0.5", "retrain.batch_size=4")


def test_a_retraining_has_augmentation_of_its_own(root: Path) -> None:
    """The same from each kind of cache; the supernet and the calibration keep theirs."""
    images = Images(settings(root, *STRONG), ONE_PROCESS)
    assert equal(batches(images), batches(Images(settings(root), ONE_PROCESS)))
    assert images.augmented.augmentation == Images(settings(root), ONE_PROCESS).augmented.augmentation

    def retrain(*overrides: str) -> list[Any]:
        one = Images(settings(root, "retrain.batch_size=4", *overrides), ONE_PROCESS)
        return list(one.batches(one.splits[0], one.config.retrain, 0, 10))

    plain, strong = retrain(), retrain(*STRONG)
    assert equal(plain, batches(images))
    assert not equal(strong, plain)
    assert {colours for _, colours, _ in strong} == {None}, "strong has no jitter"
    ram, disk = (retrain(*STRONG, f"data.store={kind}") for kind in ("ram", "disk"))
    assert equal(ram, disk)
    assert not equal(ram, strong), "full images are cropped"


def test_nothing_is_cached_without_data_store_or_with_images_in_memory(root: Path) -> None:
    assert not isinstance(Images(settings(root), ONE_PROCESS).cached, ResizedSet)
    space = ("space.classes=10", "data.source=digits", "space.image_size=8")
    images = Images(settings(root, "data.store=disk", *space), ONE_PROCESS)
    assert images.cached is images.train
    assert not (root / "run").exists()


def test_several_processes_cannot_each_hold_the_images(root: Path) -> None:
    images = Images(settings(root, "data.store=ram"), ONE_PROCESS)
    images.check()
    images.processes = Processes(0, 2, torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"2 processes would hold the images once each; use data\.store: disk"):
        _ = images.cached


def test_ram_and_disk_are_the_same_settings_to_a_result() -> None:
    ram, disk, none = (
        portable_settings(loading.validate({}, [f"data.store={kind}"])) for kind in ("ram", "disk", "none")
    )
    assert ram == disk != none


@pytest.mark.parametrize("store", ["none", "disk"])
def test_a_search_leaves_its_calibration_images_to_evaluate(root: Path, store: str) -> None:
    run = Run(settings(root, f"data.store={store}"), as_json=True)
    images = Images(run.config, ONE_PROCESS)
    assert open_calibration(run, images) is None
    left = decode_calibration(run, run.folder.search.path, images, ONE_PROCESS)
    assert not (root / "run" / "store").exists(), "a few images are not worth a cache of all"
    kept = open_calibration(run, images)
    assert kept is not None
    assert torch.equal(kept.images, left.images)
    other = Run(settings(root, f"data.store={'disk' if store == 'none' else 'none'}"))
    assert open_calibration(other, Images(other.config, ONE_PROCESS)) is None, "the cache has images of another size"
    path = run.folder.search.calibration_images
    content = np.fromfile(path, np.uint8)
    content[123] ^= 1
    content.tofile(path)
    assert open_calibration(run, images) is None


def test_a_cache_that_another_process_fills_is_an_error(root: Path) -> None:
    code = "import sys; from pathlib import Path; from spos_cli.files import lock\nwith lock.hold(Path(sys.argv[1])):"
    code += " print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(root / "run" / ".store.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="is in use by process"):
            _ = Images(settings(root, "data.store=disk"), ONE_PROCESS).cached
        other.communicate("\n")
    _ = Images(settings(root, "data.store=disk"), ONE_PROCESS).cached


class Two(Processes):
    """The first of two processes. The other one may see other images."""

    difference = (0, 0)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack((values, values + torch.tensor(self.difference)))


@pytest.mark.parametrize(("other", "phrase"), [((1, 0), r"\(24 in "), ((5, -1), r"\(24 and 23 in ")])
def test_all_processes_see_the_same_images(
    root: Path, monkeypatch: pytest.MonkeyPatch, other: tuple[int, int], phrase: str
) -> None:
    monkeypatch.setattr(Processes, "barrier", lambda self: None)
    two = Two(0, 2, torch.device("cpu"))
    Images(settings(root), two).check()
    monkeypatch.setattr(Two, "difference", other)
    with pytest.raises(DataError, match=f"do not see the same training images {phrase}.*all machines need the same"):
        Images(settings(root), two).check()
    with pytest.raises(DataError, match="do not see the same validation images"):
        Images(settings(root), two).require_same_everywhere(train=False)
