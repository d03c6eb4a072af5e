"""A teacher: its loss against formulas, the images it sees, and trainings with it, in one process and in two."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spos_cli.data.transforms import compose_jitter, preprocess
from spos_cli.engine import checkpoint
from spos_cli.engine.distributed import Processes
from spos_cli.engine.losses import compute_teacher_loss
from spos_cli.engine.mixing import Mixing
from spos_cli.engine.optim import Schedule
from spos_cli.engine.teacher import Teacher
from spos_cli.engine.trainer import Batch, Trainer
from spos_cli.engine.training_plan import TrainingPlan
from spos_cli.errors import RunError
from spos_cli.models.network import Network
from spos_cli.models.skeleton import initialize
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import SearchSpace, Stage
from tests.engine.gloo import run_together

ONE_PROCESS = Processes(0, 1, torch.device("cpu"))
STEPS, BATCH, SIZE, CLASSES = 6, 8, 8, 3
SPACE = SearchSpace(
    stages=(Stage(2, 12),),
    choices=(Choice.from_spec({"shuffle": {"kernel": 3}}),),
    image_size=SIZE,
    classes=CLASSES,
    stem_channels=8,
    stem_stride=1,
    head_channels=16,
)
MIXINGS = {
    "none": None,
    "mixup": Mixing(0.4, None, CLASSES, seed=3),
    "cutmix": Mixing(None, 1.0, CLASSES, seed=3),
    "both": Mixing(0.4, 1.0, CLASSES, seed=3),
}


class Watching(nn.Module):
    """A network with BatchNorm that remembers its input, and in which mode it worked."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.main = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
            self.head = nn.Linear(6, CLASSES)
        self.seen: list[Tensor] = []
        self.modes: set[tuple[bool, bool, torch.dtype]] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.clone())
        logits: Tensor = self.head(self.main(images).flatten(1))
        self.modes.add((torch.is_inference_mode_enabled(), self.training, logits.dtype))
        return logits


def make_teacher(
    module: nn.Module | None = None, size: int = SIZE, preset: Any = "standard", weight: float = 0.5, **changes: Any
) -> Teacher:
    prepare = None if preset == "standard" else functools.partial(preprocess, preset)
    module = Watching().eval() if module is None else module
    return Teacher(module, size, prepare, weight=weight, identity={"digest": "of the teacher"}, **changes)


def make_trainer(
    folder: Path,
    teacher: Teacher | None,
    processes: Processes = ONE_PROCESS,
    mixing: Mixing | None = MIXINGS["both"],
    dropout: float = 0.2,
    **changes: Any,
) -> Trainer:
    network = Network(SPACE, Architecture((0, 0)), dropout=dropout)
    initialize(network, 0)
    plan = TrainingPlan(Schedule(0.05, STEPS), BATCH, **{"log_every": 1, "checkpoint_every": 2, **changes})
    return Trainer(
        network,
        plan,
        processes,
        name="test",
        folder=folder,
        identity={"kind": "test", "teacher": teacher and teacher.identity},
        seed=0,
        preprocess=functools.partial(preprocess, "standard"),
        mixing=mixing,
        teacher=teacher,
    )


def make_batches(first: int, last: int = STEPS, shift: int = 0, rank: int = 0, parts: int = 1) -> Iterator[Batch]:
    """Yield batches as the loader does, with colours; `shift` changes every label."""
    for step in range(first, last):
        for part in range(parts):
            rng = np.random.default_rng([step, rank, part])
            images = torch.from_numpy(rng.integers(0, 256, (BATCH, 3, SIZE, SIZE), np.uint8))
            jitter = [compose_jitter(list(rng.uniform(0.6, 1.4, 3)), 2) for _ in range(BATCH)]
            labels = torch.from_numpy((rng.integers(0, CLASSES, BATCH) + shift) % CLASSES)
            yield images, torch.tensor(jitter, dtype=torch.float32), labels


def train(folder: Path, teacher: Teacher | None, shift: int = 0, **changes: Any) -> Trainer:
    trainer = make_trainer(folder, teacher, **changes)
    trainer.train(lambda first: make_batches(first, shift=shift))
    return trainer


def fingerprint(module: nn.Module) -> str:
    return checkpoint.fingerprint(module.state_dict())


# The loss


def make_logits(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3 * torch.randn(7, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def softmax(values: Any) -> Any:
    powers = np.exp(values - values.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_soft_loss_is_that_of_the_formula(temperature: float) -> None:
    ours, theirs = make_logits(0), make_logits(1)
    p, q = (softmax(logits.numpy() / temperature) for logits in (theirs, ours))
    expected = temperature**2 * (p * np.log(p / q)).sum(1).mean()
    assert float(compute_teacher_loss(ours, theirs, "soft", temperature)) == pytest.approx(expected, rel=1e-12)
    assert float(compute_teacher_loss(theirs, theirs, "soft", temperature)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_of_the_soft_loss_is_that_of_hinton(temperature: float) -> None:
    """Section 2: 1/T * (q - p) for each image, here times T^2 and averaged over the images."""
    ours, theirs = make_logits(0).requires_grad_(), make_logits(1)
    compute_teacher_loss(ours, theirs, "soft", temperature).backward()
    q, p = ((logits / temperature).softmax(1) for logits in (ours.detach(), theirs))
    torch.testing.assert_close(ours.grad, temperature * (q - p) / len(ours))


def test_a_high_temperature_matches_logits() -> None:
    """Its limit, in the same section: the mean square of the difference of centred logits, by 2 classes."""
    ours, theirs = make_logits(0), make_logits(1)
    difference = (ours - ours.mean(1, keepdim=True)) - (theirs - theirs.mean(1, keepdim=True))
    expected = difference.square().sum(1).mean() / (2 * ours.shape[1])
    torch.testing.assert_close(compute_teacher_loss(ours, theirs, "soft", 1000.0), expected, rtol=1e-2, atol=0)


def test_the_hard_loss_is_cross_entropy_with_the_top_class() -> None:
    ours, theirs = make_logits(0), make_logits(1)
    q, top = softmax(ours.numpy()), theirs.numpy().argmax(1)
    expected = -np.log(q[np.arange(len(top)), top]).mean()
    assert float(compute_teacher_loss(ours, theirs, "hard")) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_the_loss_of_half_precision_is_computed_in_single_precision(kind: Any) -> None:
    ours, theirs = make_logits(0, torch.bfloat16), make_logits(1, torch.bfloat16)
    expected = compute_teacher_loss(ours.float(), theirs.float(), kind, 2.0)
    assert torch.equal(compute_teacher_loss(ours, theirs, kind, 2.0), expected)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_whole_loss_is_the_weighted_mean(weight: float) -> None:
    ours, theirs, label_loss = make_logits(0), make_logits(1), torch.tensor(1.5, dtype=torch.float64)
    whole = make_teacher(weight=weight, temperature=3.0).add_loss(label_loss, ours, theirs)
    expected = (1 - weight) * label_loss + weight * compute_teacher_loss(ours, theirs, "soft", 3.0)
    torch.testing.assert_close(whole, expected)


# What the teacher sees


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("size", [SIZE, 5, 12])
@pytest.mark.parametrize("preset", ["standard", "spos"])
def test_the_teacher_sees_the_mixed_images_in_its_own_preset_and_size(
    tmp_path: Path, preset: Any, size: int, mixing: str
) -> None:
    teacher = make_teacher(size=size, preset=preset)
    trainer = make_trainer(tmp_path, teacher, mixing=MIXINGS[mixing], accumulate=2)
    inputs: list[Tensor] = []
    trainer.model.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0].clone()))
    trainer.train(lambda first: make_batches(first, parts=2))
    assert isinstance(teacher.module, Watching)
    assert len(teacher.module.seen) == len(inputs) == 2 * STEPS
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for seen, own in zip(teacher.module.seen, inputs, strict=True):
        expected = own if preset == "standard" else (own * std + mean).flip(1)
        if size != SIZE:
            expected = F.interpolate(expected, (size, size), mode="bilinear", antialias=True)
        torch.testing.assert_close(seen, expected, rtol=1e-5, atol=2e-4 if preset == "spos" else 1e-5)
    assert len({checkpoint.fingerprint(own) for own in inputs}) == len(inputs)


def test_a_teacher_that_changes_its_input_in_place_leaves_ours_alone(tmp_path: Path) -> None:
    class InPlace(Watching):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.mul_(0).add_(1))

    changing = train(tmp_path / "a", make_teacher(InPlace().eval(), weight=0))
    assert fingerprint(changing.model) == fingerprint(train(tmp_path / "b", None).model)


def test_the_teacher_works_in_inference_mode_and_mixed_precision(tmp_path: Path) -> None:
    for amp, dtype in (("off", torch.float32), ("bf16", torch.bfloat16)):
        teacher = make_teacher()
        train(tmp_path / amp, teacher, amp=amp)
        assert isinstance(teacher.module, Watching)
        assert teacher.module.modes == {(True, False, dtype)}


# Trainings


@pytest.mark.parametrize("loss", ["soft", "hard"])
def test_weight_0_is_no_teacher_and_weight_1_ignores_labels(tmp_path: Path, loss: Any) -> None:
    none = train(tmp_path / "none", None)
    zero = train(tmp_path / "zero", make_teacher(weight=0, loss=loss))
    states = [checkpoint.load(tmp_path / name / "last.pt") for name in ("none", "zero")]
    for part in ("model", "optimizer"):
        assert checkpoint.fingerprint(states[0][part]) == checkpoint.fingerprint(states[1][part])
    assert fingerprint(none.model) == fingerprint(zero.model)
    ours, others = (
        train(tmp_path / f"one-{shift}", make_teacher(weight=1, loss=loss), shift, mixing=None) for shift in (0, 1)
    )
    assert fingerprint(ours.model) == fingerprint(others.model)
    assert fingerprint(ours.model) != fingerprint(train(tmp_path / "half", make_teacher(loss=loss), mixing=None).model)


def test_the_teacher_is_never_trained_or_saved(tmp_path: Path) -> None:
    teacher = make_teacher()
    before = fingerprint(teacher.module)
    with_teacher, without = train(tmp_path / "with", teacher, ema_decay=0.9), train(tmp_path / "none", None)
    assert fingerprint(teacher.module) == before, "BatchNorm statistics included"
    assert all(parameter.grad is None for parameter in teacher.module.parameters())
    names, others = (set(checkpoint.load(tmp_path / name / "last.pt")["model"]) for name in ("with", "none"))
    assert names == others
    assert len(with_teacher.optimizer.param_groups) == len(without.optimizer.param_groups)
    counts = [
        sum(len(group["params"]) for group in trainer.optimizer.param_groups) for trainer in (with_teacher, without)
    ]
    assert counts[0] == counts[1]


def test_a_student_learns_what_its_teacher_says(tmp_path: Path) -> None:
    """With the teacher only, the loss falls; the log has the whole loss."""
    trainer = make_trainer(tmp_path, make_teacher(weight=1, temperature=2.0), mixing=None)
    trainer.plan = TrainingPlan(Schedule(0.05, 60), BATCH, log_every=1)
    trainer.train(lambda first: make_batches(first, 60))
    losses = trainer.metrics.history.loss
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3])


def test_a_killed_training_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    train(tmp_path / "whole", make_teacher(preset="spos", size=6), accumulate=1)
    first = make_trainer(tmp_path / "killed", make_teacher(preset="spos", size=6))
    with pytest.raises(StopIteration):
        first.train(lambda step: make_batches(step, 5))
    resumed = make_trainer(tmp_path / "killed", make_teacher(preset="spos", size=6))
    resumed.resume()
    assert resumed.step == 4
    resumed.train(make_batches)
    for name in ("last.pt", "step-00000004.pt"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(RunError, match="teacher"):
        make_trainer(tmp_path / "killed", None).resume()


def train_with_a_teacher(processes: Processes, folder: Path) -> None:
    trainer = make_trainer(folder, make_teacher(preset="spos", size=6), processes, dropout=0)
    trainer.train(lambda first: make_batches(first, rank=processes.rank))
    torch.save(trainer.model.state_dict(), folder / f"{processes.rank}.pt")


def test_two_processes_train_as_one_with_two_passes(tmp_path: Path) -> None:
    run_together(2, (train_with_a_teacher,), tmp_path)
    ours, theirs = (torch.load(tmp_path / "train_with_a_teacher" / f"{rank}.pt") for rank in (0, 1))
    one = make_trainer(tmp_path / "one", make_teacher(preset="spos", size=6), accumulate=2, dropout=0)

    def alternate(first: int) -> Iterator[Batch]:
        for both in zip(make_batches(first), make_batches(first, rank=1), strict=True):
            yield from both

    one.train(alternate)
    for name, parameter in one.model.named_parameters():
        assert torch.equal(ours[name], theirs[name]), name
        torch.testing.assert_close(ours[name], parameter.detach(), rtol=1e-4, atol=1e-5)
