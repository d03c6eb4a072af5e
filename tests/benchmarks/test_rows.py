"""The rows of `make bench`: their names, and that both sides of a comparison do the same work."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
import torch

from spos_cli.data.folder_set import FolderSet
from spos_cli.engine import checkpoint
from spos_cli.models.counting import count
from spos_cli.models.supernet import Supernet
from spos_cli.run.command import Run
from spos_cli.run.training import make_sampler
from spos_cli.space.architecture import Architecture
from tests.benchmarks import feeding, neighbour, photographs, plain, small_images, startup, whole_space
from tests.benchmarks.__main__ import GROUPS, parse_arguments


@pytest.mark.parametrize("name", GROUPS)
def test_each_group_can_be_chosen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--only", name])
    assert parse_arguments().only == [name]


def test_an_unknown_group_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "neighbor"])
    with pytest.raises(SystemExit):
        parse_arguments()
    assert "neighbour" in capsys.readouterr().err


@pytest.mark.parametrize("name", small_images.STEPS)
def test_both_sides_have_the_same_logits(name: str) -> None:
    """The plain supernet computes what ours does, also with its hidden channels sliced, in training and evaluation."""
    config = small_images.load_recipe(name)
    space = config.space.build()
    baseline, ours = (model.double() for model in small_images.make_supernets(config))
    baseline.dropout.p = ours.dropout.p = 0  # type: ignore[union-attr]
    images = torch.randn(4, 3, space.image_size, space.image_size, dtype=torch.float64)
    images = images.contiguous(memory_format=torch.channels_last)
    paths = make_sampler(Run(config), space).paths(3)[:2]
    for training in (True, False):
        for arch in paths:
            assert isinstance(ours, Supernet)
            expected = ours.train(training)(images, arch)
            logits = baseline.train(training)(images, small_images.to_plain_path(space, arch))
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9 * float(expected.detach().std()))


def test_both_sides_train_alike() -> None:
    """A step of the sandwich rule moves the same weights by the same amounts, and leaves the others as they are."""
    name = "cifar10_nas_bench_macro"
    config = small_images.load_recipe(name)
    changes = {"batch_size": 8, "lr": 1.0, "warmup_steps": 0}
    config = config.model_copy(update={"supernet": config.supernet.model_copy(update=changes)})
    paths = [list(make_sampler(Run(config), config.space.build()).paths(0))]
    baseline, ours = small_images.make_supernets(config)
    before = {key: value.detach().clone() for key, value in ours.named_parameters()}
    small_images.make_plain_steps(config, baseline, paths)()
    small_images.make_our_steps(config, ours, paths)()
    theirs = dict(baseline.named_parameters())
    changed = 0
    for key, value in ours.named_parameters():
        moved, moved_there = value.detach() - before[key], theirs[key].detach() - before[key]
        assert bool(moved.any()) == bool(moved_there.any()), key
        torch.testing.assert_close(moved, moved_there, rtol=0.05, atol=0.02 * float(moved_there.abs().max()) + 1e-12)
        changed += bool(moved.any())
    assert changed > 0


@pytest.mark.slow
def test_rows_of_small_images() -> None:
    row = small_images.compare_steps("fashion_mnist_channels", steps=1, rounds=[1])
    assert row.what.startswith("step of fashion_mnist_channels, 28 px, batch 64, ")
    assert row.against == "plain PyTorch loop"
    assert len(row.baseline) == len(row.ours) == 1


def test_a_space_is_scored_alike() -> None:
    space = whole_space.make_space()
    calibration, *batches = (whole_space.make_images(space, number, number) for number in (16, 8, 4))
    ours = Supernet(space).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    baseline = plain.Supernet(small_images.describe_plain_space(space, dropout=0))
    baseline.load_state_dict(ours.state_dict())
    (group,) = whole_space.draw_groups(space, 1)
    scores = whole_space.score_as_tree(ours, group, calibration, batches)
    for arch, logits in list(zip(group, scores, strict=True))[::7]:
        expected = plain.score(baseline, small_images.to_plain_path(space, arch), [calibration], batches)
        for batch_logits, theirs in zip(logits, expected, strict=True):
            torch.testing.assert_close(batch_logits, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def test_samples_of_a_space_cost_as_much_as_the_space() -> None:
    """One by one as well as in groups, of which each is whole; otherwise a ratio of the two sides says nothing."""
    space = whole_space.make_space()
    assert space.size == 3**8
    flops = count(space).flops
    mean = flops.fixed + sum(sum(row) / len(row) for row in flops.rows)
    sample = [Architecture(choices) for choices in whole_space.draw_balanced([3] * 8, whole_space.SAMPLE)]
    groups = whole_space.draw_groups(space, whole_space.GROUPS)
    for archs in (sample, [arch for group in groups for arch in group]):
        assert len(archs) == len(set(archs))
        assert sum(map(flops.of, archs)) / len(archs) == pytest.approx(mean, rel=1e-12)
    whole = [Architecture(choices) for choices in itertools.product(range(3), repeat=8)]
    starts = [whole.index(group[0]) for group in groups]
    assert all(start % 27 == 0 for start in starts)
    assert groups == [whole[start : start + 27] for start in starts]


def test_rows_of_a_whole_space() -> None:
    row = whole_space.compare_scoring(sample=1, groups=1, turns=1, images=(4, 4))
    assert row.what == "scoring a space of 6,561 architectures, extrapolated from 27 as trees and 1 one by one"
    assert row.against.startswith("one by one")


def test_rows_of_the_simulated_gpus(tmp_path: Path) -> None:
    photographs.write(tmp_path, 8)
    row = feeding.simulate(FolderSet(tmp_path), "JPEG", 8, steps=2, turns=1)
    assert row.what == "simulated: one of 8 GPUs is busy, step of 60 ms, from JPEG"
    assert row.size == "8 workers a GPU"
    assert 0 < row.value <= 100


@pytest.mark.slow
def test_rows_beside_a_busy_process() -> None:
    rows = list(neighbour.compare_work(turns=1))
    assert [row.what.split()[1] for row in rows] == ["training", "search", "evaluation", "loading"]
    assert {row.against for row in rows} == {"quiet"}


@pytest.mark.slow
def test_starts(tmp_path: Path) -> None:
    """Each command begins its work, and the official supernet has been trained before."""
    commands = startup.prepare(tmp_path)
    assert [arguments[0] for arguments in commands.values()] == ["supernet-train", "search", "status", "export-arch"]
    last = tmp_path / "imagenet_published" / "supernet" / "last.pt"
    assert checkpoint.load(last)["step"] == startup.TRAINED_STEPS
    written = last.stat().st_mtime_ns
    for arguments in commands.values():
        assert startup.measure_start(arguments) > 0
    assert last.stat().st_mtime_ns == written
    assert list((tmp_path / "scored" / "archs").glob("*/arch.yaml"))
    assert not (tmp_path / "imagenet_channels" / "search" / "result.yaml").exists()
