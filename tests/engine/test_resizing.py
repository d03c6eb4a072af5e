"""A path of a training step is trained on images of its own size."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from spos_cli.engine.distributed import Processes
from spos_cli.engine.losses import compute_teacher_loss
from spos_cli.engine.mixing import Mixing
from spos_cli.engine.optim import Schedule
from spos_cli.engine.resizing import resize
from spos_cli.engine.trainer import Batch, Trainer
from spos_cli.engine.training_plan import TrainingPlan
from spos_cli.models.blocks import ChoiceBlock
from spos_cli.models.skeleton import build_initialized
from spos_cli.models.supernet import Supernet
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import SearchSpace, Stage
from tests.engine.gloo import run_together

STEPS, BATCH = 4, 8
ALONE = Processes(0, 1, torch.device("cpu"))
SHUFFLE = Choice.from_spec({"shuffle": {"kernel": 3}})
CHOICES = (SHUFFLE, Choice.from_spec({"mbconv": {"kernel": 5, "expand": 2}}))
SPACE = SearchSpace((Stage(1, 8, 2), Stage(1, 16, 2)), CHOICES, 16, 5, 4, 1, 8, image_sizes=(7, 10, 16))
MIXING = Mixing(0.4, 1.0, SPACE.classes, seed=3)


def at(side: int, *choices: int) -> Architecture:
    return Architecture(choices).with_image_size(side)


# By step; the first of each is the teacher of the others.
SANDWICHES = [[at(16, 0, 1), at(7, 1, 1)], [at(16, 1, 0), at(10, 0, 0)], [at(10, 1, 1), at(10, 0, 1)]]


def draw_images(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, 3, 16, 16, generator=generator, dtype=torch.float64)


def batches(first: int, last: int = STEPS, side: int = 0, part: slice = slice(None)) -> Iterator[Batch]:
    for step in range(first, last):
        labels = torch.arange(BATCH) % SPACE.classes
        yield resize(draw_images(step), side)[part], None, labels[part]


def make_supernet(space: SearchSpace = SPACE) -> Supernet:
    return build_initialized(lambda: Supernet(space, dropout=0.0), 0).double()


def make_trainer(
    folder: Path,
    paths: Sequence[Sequence[Architecture]],
    space: SearchSpace = SPACE,
    processes: Processes = ALONE,
    mixing: Mixing | None = None,
    **changes: Any,
) -> Trainer:
    """Make a trainer whose steps have these paths in turn."""
    return Trainer(
        make_supernet(space),
        TrainingPlan(Schedule(0.05, STEPS), BATCH, log_every=1, **changes),
        processes,
        name="test",
        folder=folder,
        identity={"kind": "test"},
        seed=0,
        preprocess=lambda images, colours: images,
        mixing=mixing,
        paths=lambda step: paths[step % len(paths)],
        one_path=len(paths[0]) == 1,
    )


@pytest.mark.parametrize("side", [5, 7, 15, 16, 20])
def test_images_are_resized_with_antialiasing(side: int) -> None:
    """As Pillow's bilinear resize of float pixels, which has a triangle as wide as the scale."""
    images = draw_images(1)[:2].float()
    channels = [Image.fromarray(channel.numpy(), "F") for channel in images.flatten(0, 1)]
    expected = [np.array(one.resize((side, side), Image.Resampling.BILINEAR)) for one in channels]
    resized = resize(images, side)
    torch.testing.assert_close(resized.flatten(0, 1), torch.tensor(np.stack(expected)), rtol=1e-5, atol=1e-5)
    if side == 16:
        assert resized is images
    else:
        assert resized.is_contiguous(memory_format=torch.channels_last)


def test_no_size_changes_nothing() -> None:
    images = draw_images(1)
    assert resize(images, 0) is images


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("side", [7, 10])
def test_steps_at_a_size_are_those_of_the_space_with_that_size_only(tmp_path: Path, side: int, amp: str) -> None:
    """To the bit, on images that were resized before."""
    paths = [[at(side, 0, 1)], [at(side, 1, 1)], [at(side, 1, 0)]]
    training = make_trainer(tmp_path / "sizes", paths, amp=amp)
    training.train(lambda first: batches(first))
    plain = [[path.with_image_size(0) for path in one] for one in paths]
    only = make_trainer(tmp_path / "only", plain, replace(SPACE, image_size=side, image_sizes=()), amp=amp)
    only.train(lambda first: batches(first, side=side))
    expected = only.model.state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in training.model.state_dict().items())


def test_mixed_images_are_resized_after_mixing(tmp_path: Path) -> None:
    """So that the paths of a step see the same mixture, whatever their sizes."""
    path, supernet = at(7, 0, 1), make_supernet().train()
    ((images, _, labels),) = batches(0, 1)
    mixed, targets = MIXING(images, labels, 0, 0)
    logits = supernet(resize(mixed, 7), path)
    make_trainer(tmp_path, [[path]], mixing=MIXING).train(lambda first: batches(first))
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert line["loss"] == pytest.approx(nn.CrossEntropyLoss(label_smoothing=0.1)(logits, targets).item(), rel=1e-6)


def test_each_path_of_a_step_has_its_own_size(tmp_path: Path) -> None:
    """All steps against gradients that are added by hand; the first path teaches the others, whatever their sizes."""
    training, supernet = make_trainer(tmp_path, SANDWICHES), make_supernet().train()
    training.train(lambda first: batches(first))
    optimizer = torch.optim.SGD(supernet.parameters(), 0.0, momentum=0.9, weight_decay=4e-5)
    for step, (images, _, labels) in enumerate(batches(0)):
        teacher, learner = (
            supernet(resize(images, path.image_size), path) for path in SANDWICHES[step % len(SANDWICHES)]
        )
        nn.CrossEntropyLoss(label_smoothing=0.1)(teacher, labels).backward()
        compute_teacher_loss(learner, teacher.detach()).backward()  # type: ignore[no-untyped-call]
        optimizer.param_groups[0]["lr"] = Schedule(0.05, STEPS).lr(step)
        optimizer.step()
        optimizer.zero_grad()
    expected = supernet.state_dict()
    for name, tensor in training.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-10, atol=1e-12)


def train_sizes(processes: Processes, folder: Path) -> None:
    """Train on this process's half of each batch, one path a step, and then sandwiches."""
    rank = processes.rank
    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    for name, paths in (("single", [one[-1:] for one in SANDWICHES]), ("sandwich", SANDWICHES)):
        training = make_trainer(folder / f"{name}-{rank}", paths, processes=processes)
        training.train(lambda first: batches(first, part=half))
        torch.save(training.model.state_dict(), folder / f"{name}-{rank}.pt")


def test_two_processes_train_as_one_with_two_passes(tmp_path: Path) -> None:
    run_together(2, [train_sizes], tmp_path)
    halves = (slice(0, BATCH // 2), slice(BATCH // 2, BATCH))
    for name, paths in (("single", [one[-1:] for one in SANDWICHES]), ("sandwich", SANDWICHES)):
        single = make_trainer(tmp_path / name, paths, accumulate=2)
        single.train(lambda first: ((i[half], None, j[half]) for i, _, j in batches(first) for half in halves))
        one, other = (torch.load(tmp_path / "train_sizes" / f"{name}-{rank}.pt") for rank in range(2))
        for key, parameter in single.model.named_parameters():
            assert one[key].equal(other[key])
            torch.testing.assert_close(parameter.detach(), one[key], rtol=1e-10, atol=1e-12)


def test_a_compiled_block_has_a_graph_for_each_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChoiceBlock, "compile", functools.partialmethod(nn.Module.compile, backend="eager"))
    monkeypatch.setattr("spos_cli.engine.compilation.require_compiler", lambda device: "none, with that backend")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    space = SearchSpace((Stage(1, 8),), (SHUFFLE,), 16, SPACE.classes, 4, 1, 8, image_sizes=(7, 16))
    paths, states = [[at(16, 0)], [at(7, 0)]], []
    for compile in ("off", "blocks"):
        training = make_trainer(tmp_path / compile, paths, space, compile=compile)
        training.train(lambda first: batches(first))
        states.append(training.model.state_dict())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2, "steps 3 and 4 compile nothing"
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-8, atol=1e-10)
