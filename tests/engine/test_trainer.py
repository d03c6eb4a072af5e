"""The training loop: what a step does in one process and in two, and what stops it."""

from __future__ import annotations

import copy
import functools
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spos_cli import seeding
from spos_cli.engine.compilation import compile_blocks, require_compiler
from spos_cli.engine.differences import require_same
from spos_cli.engine.distributed import Processes
from spos_cli.engine.interrupt import Interrupted
from spos_cli.engine.mixing import Mixing
from spos_cli.engine.optim import Schedule
from spos_cli.engine.trainer import Batch, Trainer
from spos_cli.engine.training_plan import TrainingPlan
from spos_cli.errors import ConfigError, RunError, TrainingError
from spos_cli.models.blocks import ChoiceBlock
from spos_cli.models.counting import count
from spos_cli.models.skeleton import initialize
from spos_cli.models.supernet import Supernet
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.options import Options
from spos_cli.space.sampling import Sampler, SandwichSampler, UniformSampler
from spos_cli.space.search_space import SearchSpace, Stage
from tests.conftest import Spos
from tests.engine.gloo import run_together
from tests.engine.test_optim import SPACE

ALONE = Processes(0, 1, torch.device("cpu"))
STEPS, BATCH = 6, 8
OPTIONS = Options.without_widths([2] * SPACE.num_layers)
SAMPLER, SANDWICH = UniformSampler(OPTIONS, seed=1), SandwichSampler(count(SPACE).flops, 5)


def batches(first: int, last: int, part: slice = slice(None)) -> Iterator[Batch]:
    """A function of the step; `part` is a process's share of it."""
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(BATCH, 3, 16, 16, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, SPACE.classes, (BATCH,), generator=generator)
        yield images[part], None, labels[part]


def trainer(
    folder: Path,
    processes: Processes = ALONE,
    sampler: Sampler = SAMPLER,
    mixing: Mixing | None = None,
    **changes: Any,
) -> Trainer:
    model = Supernet(SPACE, dropout=0.2)
    initialize(model, 0)
    fields = {"batch_size": BATCH, "log_every": 1, "checkpoint_every": 2, **changes}
    return Trainer(
        model.double(),
        TrainingPlan(Schedule(0.05, STEPS), **fields),
        processes,
        name="test",
        folder=folder,
        identity={"kind": "test", "recipe": {"lr": 0.05}},
        seed=0,
        preprocess=lambda images, colours: images,
        mixing=mixing,
        paths=sampler.paths,
        one_path=len(sampler.paths(0)) == 1,
    )


MIXING = Mixing(0.4, 1.0, SPACE.classes, seed=3)


@pytest.mark.parametrize("mixing", [None, MIXING], ids=["plain", "mixed"])
def test_resumed_is_the_same_as_uninterrupted(tmp_path: Path, mixing: Mixing | None) -> None:
    """Dropout, momentum and the moving average too, whatever the global generator does in between."""
    whole = trainer(tmp_path / "whole", ema_decay=0.9, mixing=mixing)
    whole.train(lambda first: batches(first, STEPS))

    class Stop(Exception):
        pass

    def stopping(first: int) -> Iterator[Batch]:
        yield from batches(first, 5)  # the checkpoint before is of step 4
        raise Stop

    broken = trainer(tmp_path / "broken", ema_decay=0.9, mixing=mixing)
    with pytest.raises(Stop):
        broken.train(stopping)
    torch.manual_seed(12345)
    resumed = trainer(tmp_path / "broken", ema_decay=0.9, mixing=mixing)
    resumed.resume()
    assert resumed.step == 4
    resumed.train(lambda first: batches(first, STEPS))
    for name in ("last.pt", "step-00000004.pt"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    steps = [json.loads(line)["step"] for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_mixed_images_are_trained_on_soft_targets_and_counted_by_the_larger_weight(tmp_path: Path) -> None:
    """The first lines of the metrics against forward passes by hand; mixing does not change the dropout masks."""
    training = trainer(tmp_path / "mixed", mixing=MIXING)
    model = Supernet(SPACE, dropout=0.2)
    initialize(model, 0)
    model.double().train()
    ((images, _, labels),) = batches(0, 1)
    torch.manual_seed(seeding.torch_seed(0, "dropout", 0, 0))
    mixed, targets = MIXING(images, labels, 0, 0)
    logits = model(mixed, SAMPLER.paths(0)[0])
    training.train(lambda first: batches(first, STEPS))
    line = json.loads((tmp_path / "mixed" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["loss"] == pytest.approx(nn.CrossEntropyLoss(label_smoothing=0.1)(logits, targets).item(), rel=1e-6)
    larger = torch.where(targets.gather(1, labels[:, None])[:, 0] >= 0.5, labels, labels.roll(1))
    assert line["top1"] == pytest.approx((logits.argmax(1) == larger).double().mean().item())
    assert line["images"] == BATCH


def test_other_settings_are_refused_with_their_differences(tmp_path: Path) -> None:
    first = trainer(tmp_path)
    first.train(lambda step: batches(step, STEPS))
    second = trainer(tmp_path)
    second.identity = {"kind": "test", "recipe": {"lr": 0.1}}
    with pytest.raises(RunError, match=r"recipe\.lr: 0\.1, was 0\.05"):
        second.resume()


def test_a_loss_that_is_not_finite_names_its_step_and_saves_nothing(tmp_path: Path) -> None:
    def poisoned(first: int) -> Iterator[Batch]:
        for step, (images, _, labels) in enumerate(batches(first, STEPS)):
            yield (images * float("nan") if step == 4 else images), None, labels

    training = trainer(tmp_path, log_every=3)
    with pytest.raises(TrainingError, match="not finite at step 5;"):
        training.train(poisoned)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000002.pt", "step-00000004.pt"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """The loss of a step is from before its update, so the last update shows in the weights only."""
    training = trainer(tmp_path, checkpoint_every=1)
    training.plan = replace(training.plan, schedule=Schedule(1e300, STEPS))
    with pytest.raises(TrainingError, match="not finite"):
        training.train(lambda first: batches(first, STEPS))
    for path in tmp_path.glob("*.pt"):
        state = torch.load(path, weights_only=True)["model"]
        assert all(tensor.isfinite().all() for tensor in state.values())


def test_a_signal_does_not_save_bad_numbers(tmp_path: Path) -> None:
    def poisoned(first: int) -> Iterator[Batch]:
        for images, _, labels in batches(first, STEPS):
            os.kill(os.getpid(), signal.SIGTERM)
            yield images * float("nan"), None, labels

    training = trainer(tmp_path, log_every=100, checkpoint_every=100)
    with pytest.raises(TrainingError, match="not finite at step 1;"):
        training.train(poisoned)
    assert not list(tmp_path.glob("*.pt"))


def test_a_signal_at_the_last_step_is_not_forgotten(tmp_path: Path) -> None:
    def last(first: int) -> Iterator[Batch]:
        for step, batch in enumerate(batches(first, STEPS), 1):
            if step == STEPS:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with pytest.raises(Interrupted):
        trainer(tmp_path).train(last)
    resumed = trainer(tmp_path)
    resumed.resume()
    assert resumed.step == STEPS


def test_metrics_of_a_run_that_was_killed_before_its_first_checkpoint_are_cut(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 9}\n{"step": 2, "lo')
    training = trainer(tmp_path)
    training.resume()
    training.train(lambda first: batches(first, STEPS))
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_accumulation_without_batchnorm_is_the_whole_batch(tmp_path: Path) -> None:
    def train(folder: str, accumulate: int) -> Tensor:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, SPACE.classes)).double()
        torch.manual_seed(0)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.01)
        training = Trainer(
            model,
            TrainingPlan(Schedule(0.05, STEPS), BATCH, accumulate=accumulate, clip_grad_norm=0.5),
            ALONE,
            name="test",
            folder=tmp_path / folder,
            identity={},
            seed=0,
            preprocess=lambda images, colours: images,
        )
        size = BATCH // accumulate
        parts = [slice(begin, begin + size) for begin in range(0, BATCH, size)]
        training.train(
            lambda first: (
                (images[part], None, labels[part]) for images, _, labels in batches(first, STEPS) for part in parts
            )
        )
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    torch.testing.assert_close(train("whole", 1), train("parts", 4), rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of two processes over gloo, a folder for each work: one pair does all of it, since it starts slowly."""
    folder = tmp_path_factory.mktemp("two")
    run_together(2, WORK, folder)
    return folder


def train_half(processes: Processes, folder: Path) -> None:
    rank = processes.rank
    training = trainer(folder / str(rank), processes)
    training.model.dropout.p = 0.0  # type: ignore[union-attr]
    part = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    training.train(lambda first: batches(first, STEPS, part))
    torch.save(training.model.state_dict(), folder / f"{rank}.pt")
    unused = [name for name, parameter in training.model.named_parameters() if parameter.grad is not None]
    assert not unused


def learn_from_labels(number: int, logits: Tensor, labels: Tensor, first_logits: Tensor) -> Tensor:
    """Return the loss of a step's path against the labels."""
    return nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)


def learn_from_first_path(number: int, logits: Tensor, labels: Tensor, first_logits: Tensor) -> Tensor:
    """Return the loss of a step's path: the divergence from the first one's predictions, by the definition."""
    if number == 0:
        return learn_from_labels(number, logits, labels, first_logits)
    teacher = first_logits.detach().softmax(1)
    return (teacher * (teacher.log() - logits.log_softmax(1))).sum(1).mean()


def compare_by_hand(
    folder: Path,
    paths: Callable[[int], list[Architecture]],
    loss: Callable[[int, Tensor, Tensor, Tensor], Tensor] = learn_from_labels,
) -> None:
    """Compare two processes' weights in a folder with one process that adds the gradients of both halves itself.

    BatchNorm sees half a batch either way.
    """
    first, second = (torch.load(folder / f"{rank}.pt") for rank in range(2))
    model = Supernet(SPACE, dropout=0.0)
    initialize(model, 0)
    model.double().train()
    optimizer = torch.optim.SGD(model.parameters(), 0.0, momentum=0.9, weight_decay=4e-5)
    for step, (images, _, labels) in enumerate(batches(0, STEPS)):
        for part in (slice(0, BATCH // 2), slice(BATCH // 2, BATCH)):
            logits = [model(images[part], path) for path in paths(step)]
            for number, ours in enumerate(logits):
                (loss(number, ours, labels[part], logits[0]) / 2).backward(retain_graph=True)
        optimizer.param_groups[0]["lr"] = Schedule(0.05, STEPS).lr(step)
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(first[name], parameter.detach(), rtol=1e-10, atol=1e-12)
        assert torch.equal(first[name], second[name])


def test_two_processes_average_the_gradients_of_both_halves(two: Path) -> None:
    compare_by_hand(two / "train_half", SAMPLER.paths)


def stop_on_one(processes: Processes, folder: Path) -> None:
    """Only the second process has bad numbers; both must stop."""
    training = trainer(folder, processes)
    bad = float("nan") if processes.rank == 1 else 1.0
    with pytest.raises(TrainingError, match="not finite at step 1;"):
        training.train(lambda first: ((images * bad, None, labels) for images, _, labels in batches(first, STEPS)))
    (folder / f"stopped-{processes.rank}").touch()


def drift_apart(processes: Processes, folder: Path) -> None:
    """A bit flips in one process after the first checkpoint; the loss tells nothing."""
    training = trainer(folder, processes)

    def flipping(first: int) -> Iterator[Batch]:
        for step, batch in enumerate(batches(first, STEPS)):
            if step == 3 and not processes.is_main:
                next(training.model.parameters()).data[0] += 1e-9
            yield batch

    with pytest.raises(TrainingError, match="different weights after step 4;"):
        training.train(flipping)


def test_weights_that_drift_apart_are_not_saved(two: Path) -> None:
    assert [path.name for path in (two / "drift_apart").glob("step-*")] == ["step-00000002.pt"]


def test_bad_numbers_on_one_process_stop_both(two: Path) -> None:
    assert len(list((two / "stop_on_one").glob("stopped-*"))) == 2
    assert not list((two / "stop_on_one").glob("step-*"))


def mix(processes: Processes, folder: Path) -> None:
    rank = processes.rank
    training = trainer(folder / str(rank), processes, mixing=MIXING)
    training.model.dropout.p = 0.0  # type: ignore[union-attr]
    part = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    training.train(lambda first: batches(first, STEPS, part))
    torch.save(training.model.state_dict(), folder / f"{rank}.pt")


def test_two_processes_mix_as_one_process_of_two_passes(two: Path, tmp_path: Path) -> None:
    first, second = (torch.load(two / "mix" / f"{rank}.pt") for rank in range(2))
    single, plain = (trainer(tmp_path / str(mixing), mixing=mixing, accumulate=2) for mixing in (MIXING, None))
    halves = [slice(0, BATCH // 2), slice(BATCH // 2, BATCH)]
    for training in (single, plain):
        training.model.dropout.p = 0.0  # type: ignore[union-attr]
        training.train(lambda first: ((i[part], None, j[part]) for i, _, j in batches(first, STEPS) for part in halves))
    for name, parameter in single.model.named_parameters():
        torch.testing.assert_close(first[name], parameter.detach(), rtol=1e-10, atol=1e-12)
        assert torch.equal(first[name], second[name])
    assert not torch.allclose(next(single.model.parameters()), next(plain.model.parameters()))


def accumulate(processes: Processes, folder: Path) -> None:
    rank = processes.rank
    training = trainer(folder / str(rank), processes, accumulate=2)
    training.model.dropout.p = 0.0  # type: ignore[union-attr]
    quarter = BATCH // 4
    parts = [slice((2 * m + rank) * quarter, (2 * m + rank + 1) * quarter) for m in range(2)]
    training.train(lambda first: ((i[part], None, j[part]) for i, _, j in batches(first, STEPS) for part in parts))
    torch.save(training.model.state_dict(), folder / f"{rank}.pt")


def test_accumulated_gradients_are_averaged_once(two: Path, tmp_path: Path) -> None:
    """Two processes of two passes each against one process of four."""
    first, second = (torch.load(two / "accumulate" / f"{rank}.pt") for rank in range(2))
    single = trainer(tmp_path / "single", accumulate=4)
    single.model.dropout.p = 0.0  # type: ignore[union-attr]
    quarters = [slice(begin, begin + BATCH // 4) for begin in range(0, BATCH, BATCH // 4)]
    single.train(lambda first: ((i[part], None, j[part]) for i, _, j in batches(first, STEPS) for part in quarters))
    for name, parameter in single.model.named_parameters():
        torch.testing.assert_close(first[name], parameter.detach(), rtol=1e-10, atol=1e-12)
        assert torch.equal(first[name], second[name])


@pytest.mark.slow
def test_compiled_blocks_train_alike(tmp_path: Path) -> None:
    space = SearchSpace((Stage(2, 8),), (Choice("shuffle", (("kernel", 3),)),), 8, SPACE.classes, 4, 1, 8)
    states = []
    for compile in ("off", "blocks"):
        model = Supernet(space, dropout=0.0)
        initialize(model, 0)
        training = Trainer(
            model.double(),
            TrainingPlan(Schedule(0.05, STEPS), BATCH, compile=compile),  # type: ignore[arg-type]
            ALONE,
            name="test",
            folder=tmp_path / compile,
            identity={},
            seed=0,
            preprocess=lambda images, colours: images,
            paths=lambda step: [Architecture((0, 0))],
        )
        training.train(lambda first: batches(first, STEPS))
        states.append(model.state_dict())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("device", "language"), [("cpu", r"C\+\+"), ("cuda", "C")])
def test_compiling_without_a_compiler_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, language: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match=f"needs a {language} compiler"):
        compile_blocks(Supernet(SPACE), torch.device(device))


@pytest.mark.parametrize(("device", "variable", "usual"), [("cpu", "CXX", "clang++"), ("cuda", "CC", "clang")])
def test_the_compiler_that_is_named_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, variable: str, usual: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(variable, raising=False)
    for name in (usual, "own"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert require_compiler(torch.device(device)) == usual
    monkeypatch.setenv(variable, "own -O1")
    assert require_compiler(torch.device(device)) == "own -O1"
    monkeypatch.setenv(variable, "nothing")
    with pytest.raises(ConfigError, match=f"name it in {variable}"):
        require_compiler(torch.device(device))


def train_paths(sampler: Sampler, processes: Processes, folder: Path, **changes: Any) -> None:
    """Train on this process's half of each batch, without dropout, and save the weights."""
    rank = processes.rank
    training = trainer(folder / str(rank), processes, sampler, **changes)
    training.model.dropout.p = 0.0  # type: ignore[union-attr]
    training.train(lambda first: batches(first, STEPS, slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)))
    torch.save(training.model.state_dict(), folder / f"{rank}.pt")


def train_sandwiches(processes: Processes, folder: Path) -> None:
    train_paths(SANDWICH, processes, folder)


def test_the_largest_path_of_a_sandwich_teaches_the_others(two: Path, tmp_path: Path) -> None:
    """Two processes, one that adds their gradients by hand, and one of two batches a step, each with its teacher."""
    compare_by_hand(two / "train_sandwiches", SANDWICH.paths, learn_from_first_path)
    single = trainer(tmp_path, sampler=SANDWICH, accumulate=2)
    single.model.dropout.p = 0.0  # type: ignore[union-attr]
    halves = (slice(0, BATCH // 2), slice(BATCH // 2, BATCH))
    single.train(lambda first: ((i[half], None, j[half]) for i, _, j in batches(first, STEPS) for half in halves))
    expected = torch.load(two / "train_sandwiches" / "0.pt")
    for name, parameter in single.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-10, atol=1e-12)


def test_the_metrics_of_a_sandwich_are_against_the_labels(tmp_path: Path) -> None:
    """The loss and the top-1 of the first step are means over its four paths, also of those that learn otherwise."""
    training = trainer(tmp_path, sampler=SANDWICH)
    training.model.dropout.p = 0.0  # type: ignore[union-attr]
    images, _, labels = next(batches(0, 1))
    before = copy.deepcopy(training.model)
    logits = [before(images, path) for path in SANDWICH.paths(0)]
    losses = [learn_from_labels(0, ours, labels, ours) for ours in logits]
    training.train(lambda first: batches(first, STEPS))
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert line["loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-6)
    assert line["top1"] == pytest.approx(sum((ours.argmax(1) == labels).double().mean().item() for ours in logits) / 4)


def test_settings_that_were_switched_on_or_off_differ() -> None:
    """Those that are off are not written down, in ours or in theirs."""
    off, on = (
        {"kind": "x", "recipe": {"supernet": {"lr": 1}}},
        {"kind": "x", "recipe": {"supernet": {"lr": 1, "amp": 2}}},
    )
    require_same(off, {**off, "model": "not compared", "step": 3}, "it was trained")
    for ours, theirs in ((off, on), (on, off)):
        with pytest.raises(RunError, match=r"recipe\.supernet\.amp"):
            require_same(ours, theirs, "it was trained")


def test_steps_of_several_paths_count_each_image_once(tmp_path: Path) -> None:
    trainer(tmp_path, sampler=SANDWICH).train(lambda first: batches(first, STEPS))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [BATCH] * STEPS
    assert all(0 <= line["top1"] <= 1 for line in lines)


def test_validations_and_the_last_batchnorm_pass_compile_nothing(spos: Spos, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block of the path is compiled once, for the training."""

    monkeypatch.setattr(ChoiceBlock, "compile", functools.partialmethod(nn.Module.compile, backend="eager"))
    monkeypatch.setattr("spos_cli.engine.compilation.require_compiler", lambda device: "none, with that backend")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    changes = {"steps": 4, "evaluate_every": 2, "compile": "blocks", "ema_decay": "null", "batchnorm_pass_steps": 2}
    spos.here("retrain", "0,1,2,3", *(f"--set=retrain.{name}={value}" for name, value in changes.items()))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4


# Both processes do these in this order.
WORK = (train_half, stop_on_one, drift_apart, accumulate, mix, train_sandwiches)
