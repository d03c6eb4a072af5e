"""Images that change during a run: what is compared, what is an error, and what stays correct."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from spos_cli.data import file_images, image_files
from spos_cli.data.image_store import ImageStore
from spos_cli.engine import checkpoint
from tests.conftest import Finished, Spos
from tests.forks import Fork, environment, finish_all, free_port, make_environment

CLASSES = ("cat", "dog", "fox")
SETTINGS = """
name: t
devices: cpu
threads: 1
space:
  image_size: 16
  classes: 3
  stem: {channels: 8, stride: 2}
  stages: [{blocks: 1, channels: 16, stride: 2}, {blocks: 1, channels: 32, stride: 2}]
  head_channels: 32
data: {root: D, workers: 0, holdout_per_class: 10}
supernet: {steps: 15, batch_size: 6, lr: 0.05, sampler: uniform, log_every: 5, checkpoint_every: 5}
search: {flops_limit: null, population: 4, generations: 1, parents: 2, mutations: 1, crossovers: 1,
         calibration_images: 12, calibration_batch_size: 6, batch_size: 6}
retrain: {steps: 4, batch_size: 6, lr: 0.05, log_every: 2, checkpoint_every: 2, evaluate_every: 2,
          batchnorm_pass_steps: 1}
audit: {seeds: 1, architectures: 3, steps: 2}
"""


class Run:
    """A trained supernet, and what is known of it from outside.

    Attributes:
        trained: digests of all files that its training has read, whatever their names were.
        scored: the files on which the last search has scored.
    """

    def __init__(self, spos: Spos, trained: set[bytes]) -> None:
        self.spos, self.trained = spos, trained
        self.scored: list[Path] = []
        (spos.folder / "spos.yaml").write_text(SETTINGS)

    def __call__(self, *command: object, code: int = 0) -> Finished:
        return self.spos.here(*command, code=code)

    @property
    def data(self) -> Path:
        return self.spos.folder / "D"

    @property
    def weights(self) -> Path:
        return self.spos.folder / "runs" / "t" / "supernet" / "last.pt"

    @property
    def journal(self) -> Path:
        return self.spos.folder / "runs" / "t" / "search" / "journal.jsonl"

    @property
    def scored_and_trained(self) -> list[Path]:
        """Images on which candidates were scored although the supernet was trained on them. There must be none."""
        return [path for path in self.scored if digest(path) in self.trained]

    def of(self, name: str, *, held_out: bool) -> list[Path]:
        """Return the training images of a class."""
        return [path for path in sorted((self.data / "train" / name).iterdir()) if self.is_held_out(path) == held_out]

    def is_held_out(self, path: Path) -> bool:
        return digest(path) not in self.trained

    def rename(self, old: str, new: str) -> None:
        for split in ("train", "val"):
            (self.data / split / old).rename(self.data / split / new)

    def copy_first(self, name: str) -> list[Path]:
        """Copy the first image of each class, on which the supernet was trained, to another name."""
        copies = [self.data / "train" / label / name for label in CLASSES]
        for copy in copies:
            shutil.copyfile(self.of(copy.parent.name, held_out=False)[0], copy)
        return copies


def digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def draw(root: Path, classes: tuple[str, ...] = CLASSES, train: int = 40) -> None:
    """Draw images of one colour per class, with noise: no two are the same, and few files have the same size."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", 4)):
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 60, (18, 20, 3)).astype(np.uint8)
                pixels[..., label % 3] += 120
                Image.fromarray(pixels).save(folder / f"{index:02}.jpg")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A supernet of 3 classes with 30 images each; 10 more of each are held out. Not to be changed.

    Its fifteen steps of six images are one epoch.
    """
    seen: set[bytes] = set()
    decode = image_files.decode

    def decoding(path: Path, *arguments: Any) -> Any:
        seen.add(digest(path))
        return decode(path, *arguments)

    run = Run(Spos(tmp_path_factory.mktemp("trained")), seen)
    draw(run.data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_images, "decode", decoding)
        run("supernet-train")
    assert len(seen) == 90
    assert [len(run.of(name, held_out=True)) for name in CLASSES] == [10, 10, 10]
    return run


@pytest.fixture
def run(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of it."""
    shutil.copytree(trained.spos.folder, tmp_path, dirs_exist_ok=True)
    run, build = Run(Spos(tmp_path), trained.trained), ImageStore.build

    def building(path: Path, images: Any, indices: Any, *arguments: Any, **options: Any) -> None:
        if path.name == "scoring.u8":
            run.scored = [Path(images.name, images.path(index)) for index in indices.tolist()]
            run.scored = [tmp_path / path for path in run.scored]
        build(path, images, indices, *arguments, **options)

    monkeypatch.setattr(ImageStore, "build", staticmethod(building))
    return run


# Another file, another seed, another data.holdout_per_class


@pytest.mark.parametrize("name", ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
def test_another_file_does_not_bring_in_images_that_were_trained_on(run: Run, name: str) -> None:
    """By its name it may be one that would be held out now. Candidates are scored on what was held out then."""
    run("search", "--run-dir", "before", "--weights", run.weights)
    before = run.scored
    run.copy_first(name)
    done = run("search")
    assert "cat: 40 images before, 41 now" in done.stderr
    assert "30 to score on were held out then" in done.stderr.replace("images ", "")
    assert run.scored == before
    assert len(set(run.scored)) == 30
    assert not run.scored_and_trained


def test_another_seed_scores_on_the_same_held_out_images(run: Run) -> None:
    run("search")
    scored = run.scored
    run("search", "--seed", 5, "--run-dir", "r4", "--weights", run.weights)
    assert run.scored == scored
    assert len(set(scored)) == 30
    assert not run.scored_and_trained


@pytest.mark.parametrize(("per_class", "scored"), [(20, 30), (10, 30), (5, 15)])
def test_no_more_images_are_scored_on_than_the_supernet_left(run: Run, per_class: int, scored: int) -> None:
    command = ("search", "--run-dir", "r5", "--weights", run.weights, "--set", f"data.holdout_per_class={per_class}")
    message = run(*command).stderr
    assert ("scored on 30 images, since no others were held out then" in message) == (per_class > 10)
    assert len(set(run.scored)) == scored
    assert not run.scored_and_trained


def test_a_supernet_that_was_trained_on_all_images_is_not_scored_on_some(run: Run) -> None:
    everything = ("--set", "data.holdout_per_class=0", "--set", "search.split=val")
    run("supernet-train", "--run-dir", "r6", *everything)
    message = run("search", "--run-dir", "r7", "--weights", "r6/supernet/last.pt", code=2).stderr
    assert "30 of the 30 images" in message
    assert "lower" not in message
    run("search", "--run-dir", "r6", *everything)


def test_one_journal_is_of_one_set_of_images(run: Run) -> None:
    run("search")
    before, result = run.journal.read_bytes(), run.journal.with_name("result.yaml").read_bytes()
    more = ("--set", "search.generations=2")
    for name, label in (("c.jpg", "cat"), ("d.jpg", "dog")):
        copies = run.copy_first(name)
        message = run("search", *more, code=2).stderr
        assert f"{label}: 40 images before, 41 now" in message
        for copy in copies:
            copy.unlink()
    assert (run.journal.read_bytes(), run.journal.with_name("result.yaml").read_bytes()) == (before, result)
    run("search", *more)
    assert run.journal.read_bytes().startswith(before)
    assert len(run.journal.read_bytes()) > len(before)


def test_images_that_are_moved_and_copied_are_the_same(run: Run) -> None:
    """On another disk, files have other times: images are decoded again, and the search resumes."""
    run("search")
    before = run.journal.read_bytes()
    run.data.rename(run.spos.folder / "E")
    for number, path in enumerate(run.spos.folder.glob("E/*/*/*.jpg")):
        os.utime(path, ns=(number, 10**18 + number))
    done = run("search", "--set", "search.generations=2", "--set", "data.root=E")
    assert "trained on" not in done.stderr
    assert run.journal.read_bytes().startswith(before)


def test_a_broken_image_to_score_on_can_be_repaired(run: Run) -> None:
    """The supernet was not trained on it, so nothing else has to be repeated."""
    broken = run.of("dog", held_out=True)[3]
    content = broken.read_bytes()
    broken.write_bytes(content[:300])
    run.weights.unlink()
    shutil.rmtree(run.weights.parent)
    run("supernet-train")
    assert broken.name in run("search", code=2).stderr
    broken.write_bytes(content)
    assert "dog: 40 images, some of which have been replaced" in run("search").stderr
    assert len(set(run.scored)) == 30
    assert not run.scored_and_trained


def test_a_broken_image_to_score_on_can_be_removed(run: Run) -> None:
    run.of("dog", held_out=True)[3].unlink()
    message = run("search").stderr
    assert "dog: 40 images before, 39 now" in message
    assert "scored on 29 images" in message
    assert len(set(run.scored)) == 29
    assert not run.scored_and_trained


def test_files_of_the_same_size_that_were_exchanged_are_an_error(run: Run) -> None:
    """All bitmaps have the same size, so only their pixels tell that they differ."""
    for path in run.data.rglob("*.jpg"):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    run("supernet-train", "--run-dir", "b")
    run("search", "--run-dir", "b")
    journal = run.spos.folder / "b" / "search" / "journal.jsonl"
    before = journal.read_bytes()
    for path in run.data.rglob("*.bmp"):
        ImageOps.invert(Image.open(path)).save(path)
    message = run("search", "--run-dir", "b", "--set", "search.generations=2", code=2).stderr
    assert "holds scores on other images" in message
    assert journal.read_bytes() == before


def test_another_preparation_than_that_of_the_supernet_is_an_error(run: Run) -> None:
    message = run("search", "--set", "data.preset=standard", code=2).stderr
    assert "data.preset: spos, not standard" in message
    assert not run.journal.exists()


def test_images_that_may_have_been_exchanged_are_an_error(run: Run) -> None:
    """As after renumbering: each name still exists, but it means another image."""
    one, other = run.of("fox", held_out=True)[0], run.of("fox", held_out=False)[0]
    content = one.read_bytes(), other.read_bytes()
    one.write_bytes(content[1])
    other.write_bytes(content[0])
    message = run("search", code=2).stderr
    assert f"fox/{one.name}" in message
    assert "exchanged" in message
    assert not run.journal.exists()


def test_a_training_resumes_on_the_same_images_only(run: Run) -> None:
    """It then ends in the same bytes."""
    whole, folder = run.weights.read_bytes(), run.weights.parent
    for name in ("last.pt", "step-00000015.pt"):
        (folder / name).unlink()
    shutil.copyfile(folder / "step-00000010.pt", folder / "last.pt")
    victim = run.data / "train" / "dog" / "07.jpg"
    content = victim.read_bytes()
    victim.unlink()
    assert "dog: 40 images before, 39 now" in run("supernet-train", code=2).stderr
    victim.with_name("7.jpg").write_bytes(content)
    assert "dog: 40 images, some under other names" in run("supernet-train", code=2).stderr
    victim.with_name("7.jpg").unlink()
    victim.write_bytes(content + b"more")
    assert "dog: 40 images, some of which have been replaced" in run("supernet-train", code=2).stderr
    victim.write_bytes(content)
    (run.data / "val" / "dog" / "00.jpg").unlink()  # A supernet does not depend on those.
    run.data.rename(run.spos.folder / "E")
    shutil.copytree(run.spos.folder / "E", run.data, copy_function=shutil.copyfile)  # The files get other times.
    run("supernet-train")
    assert run.weights.read_bytes() == whole


# Classes


def test_classes_that_were_renamed(run: Run) -> None:
    """`wolf` would be the last of the three, so all labels would change."""
    path = ("evaluate", "--weights", run.weights, "--arch", "0,0", "--json")
    top1 = json.loads(run(*path).stdout)["top1"]
    run.rename("cat", "wolf")
    for command in (path, ("search",), ("supernet-train",)):
        message = run(*command, code=2).stderr
        assert "only before: cat, only now: wolf" in message
    assert not run.journal.exists()
    run.rename("wolf", "cat")
    assert json.loads(run(*path).stdout)["top1"] == top1
    run("search")
    run.rename("cat", "wolf")
    for command in (("search",), ("audit",)):
        assert "only before: cat, only now: wolf" in run(*command, code=2).stderr


def test_a_path_is_evaluated_on_other_images_of_the_same_classes(run: Run) -> None:
    draw(run.spos.folder / "E", train=20)
    command = ("evaluate", "--weights", run.weights, "--arch", "0,0", "--json", "--set", "data.root=E")
    done = run(*command, "--set", "data.holdout_per_class=5")
    assert json.loads(done.stdout)["images"] == 12
    assert "cat: 40 images before, 20 now" in done.stderr


def test_a_retraining_resumes_on_the_same_images_only(run: Run) -> None:
    """Weights depend on the training images. Only the accuracy depends on the validation images: a warning."""
    run("retrain", "0,0")
    model = next(run.spos.folder.glob("runs/t/retrain/*/model.pt"))
    whole = model.read_bytes()
    run.rename("cat", "wolf")
    assert "only now: wolf" in run("retrain", "0,0", code=2).stderr
    run.rename("wolf", "cat")
    extra = run.data / "val" / "fox" / "new.jpg"
    shutil.copyfile(run.data / "val" / "fox" / "00.jpg", extra)
    assert "validation images (fox: 4 images before, 5 now)" in run("retrain", "0,0").stderr
    extra.unlink()
    run("retrain", "0,0")
    assert model.read_bytes() == whole


def test_a_retraining_resumes_after_a_validation_image_is_repaired(run: Run) -> None:
    broken = run.data / "val" / "fox" / "03.jpg"
    content = broken.read_bytes()
    broken.write_bytes(b"")
    assert "val/fox/03.jpg" in run("retrain", "0,0", code=2).stderr
    broken.write_bytes(content)
    done = run("retrain", "0,0")
    assert "resuming at step 2" in done.stderr
    assert list(run.spos.folder.glob("runs/t/retrain/*/model.pt"))


def test_validation_images_that_candidates_are_scored_on(run: Run) -> None:
    val = ("search", "--set", "search.split=val")
    run(*val)
    before = run.journal.read_bytes()
    (run.data / "val" / "fox" / "00.jpg").unlink()
    assert "validation images: fox: 4 images before, 3 now" in run(*val, code=2).stderr
    assert run.journal.read_bytes() == before
    run("search", "--run-dir", "other", "--weights", run.weights)  # Held-out images are others.


def test_an_audit_needs_the_images_of_its_search(run: Run) -> None:
    run("search")
    added = run.copy_first("c.jpg")
    assert "training images: cat: 40 images before, 41 now" in run("audit", code=2).stderr
    for copy in added:
        copy.unlink()
    run("audit")
    found = run.journal.parents[1] / "audit" / "result.json"
    before = found.read_bytes()
    (run.data / "val" / "fox" / "00.jpg").unlink()
    assert "validation images: fox: 4 images before, 3 now" in run("audit", code=2).stderr
    assert found.read_bytes() == before


# The cache of decoded images


def test_cached_images_follow_their_files(run: Run) -> None:
    torn = run.of("cat", held_out=False)[:2]
    whole = [path.read_bytes() for path in torn]
    for path in torn:
        path.write_bytes(path.read_bytes()[:300])
    options = ("--set", "data.store=disk", "--set", "retrain.steps=30")
    message = run("retrain", "0,0", "--run-dir", "r7", *options).stderr
    assert all(f"train/cat/{path.name}" in message for path in torn)
    for path, content in zip(torn, whole, strict=True):
        path.write_bytes(content)
    assert "cannot read" not in run("retrain", "0,1", "--run-dir", "r7", *options).stderr
    run("retrain", "0,1", "--run-dir", "r8", *options)
    bytes_of = [
        {path.read_bytes() for path in (run.spos.folder / folder).glob("retrain/*/model.pt")} for folder in ("r7", "r8")
    ]
    assert len(bytes_of[1]) == 1
    assert bytes_of[1] < bytes_of[0]


# Several processes, and official files


@pytest.mark.slow
def test_several_processes_end_with_one_error(run: Run) -> None:
    copies = run.copy_first("c.jpg")
    for done in run.spos.together("supernet-train", code=2):
        assert done.stderr.count("error") == 1
        assert "cat: 40 images before, 41 now" in done.stderr
    for copy in copies:
        copy.unlink()
    run.rename("cat", "wolf")
    for command in (("search",), ("evaluate", "--weights", run.weights, "--arch", "0,0")):
        for done in run.spos.together(*command, code=2):
            assert done.stderr.count("error") == 1
            assert "only before: cat, only now: wolf" in done.stderr
    run.rename("wolf", "cat")
    run.spos.together("search")


@pytest.mark.slow
def test_machines_that_do_not_have_the_same_images(run: Run, tmp_path: Path) -> None:
    """Two machines share the run folder, but each has its images on its own disk."""
    folders, port = [tmp_path, tmp_path / "second"], free_port()
    folders[1].mkdir()
    shutil.copytree(run.data, folders[1] / "D")
    run.of("cat", held_out=False)[0].unlink()
    command = ["supernet-train", "--config", str(tmp_path / "spos.yaml"), "--run-dir", str(tmp_path / "shared")]
    alone = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    machines = [
        Fork(command, folder, environment() | make_environment(rank, 2, port) | alone)
        for rank, folder in enumerate(folders)
    ]
    for done in finish_all(machines, 120):
        message = done.stderr
        assert done.returncode == 2, message
        assert "do not see the same training images (119 and 120 in D/train)" in message
        assert message.count("error:") == 1
        assert "Traceback" not in message
    assert not list(tmp_path.glob("shared/supernet/*.pt"))


def test_an_official_supernet_does_not_name_its_images(run: Run) -> None:
    run("export-arch", "--weights", run.weights, "--format", "published", "--output", "official.tar")
    done = run("search", "--run-dir", "r9", "--weights", "official.tar")
    assert "official.tar does not say which images it was trained on" in done.stderr
    assert "cannot be checked" in run("evaluate", "--weights", "official.tar", "--arch", "0,0").stderr


@pytest.mark.parametrize("wrong", [3, {}, {"training": {"cat": "40"}}, {"training": {"cat": 3}}, {"training": []}])
def test_a_file_whose_record_of_images_is_broken(run: Run, wrong: Any) -> None:
    content = checkpoint.load(run.weights)
    for name in ("images", "held_out"):
        checkpoint.save(run.spos.folder / "odd.pt", {**content, name: wrong})
        message = run("search", "--run-dir", "r9", "--weights", "odd.pt", code=2).stderr
        assert "is not a weights file of spos" in message
    run("search")
    settings = run.journal.with_name("settings.json")
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "images": wrong}))
    assert "does not name" in run("search", code=2).stderr
