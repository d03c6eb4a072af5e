"""Everything at once that a training may be made of: killed, resumed, with other workers, in one process and in two."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from spos_cli.data.array_set import ArraySet
from spos_cli.data.augmentation import Augmentation
from spos_cli.data.loaders import training_batches
from spos_cli.data.transforms import TrainTransform, preprocess
from spos_cli.engine import checkpoint
from spos_cli.engine.distributed import Processes
from spos_cli.engine.losses import weigh_classes
from spos_cli.engine.mixing import Mixing
from spos_cli.engine.optim import OptimizerKind, Schedule
from spos_cli.engine.trainer import Batch, Trainer
from spos_cli.engine.training_plan import TrainingPlan
from spos_cli.models.network import Network
from spos_cli.models.skeleton import initialize
from spos_cli.models.supernet import Supernet
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.sampling import UniformSampler
from spos_cli.space.search_space import SearchSpace, Stage
from tests.engine.gloo import run_together

ONE_PROCESS = Processes(0, 1, torch.device("cpu"))
STEPS, BATCH = 6, 12
LABELS = np.repeat(np.arange(3), (20, 7, 3))
IMAGES = ArraySet("uneven", ("a", "b", "c"), np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8), LABELS)
SPACE = SearchSpace(
    stages=(Stage(2, 12), Stage(2, 16)),
    choices=(Choice.from_spec({"mbconv": {"kernel": 3, "expand": 2}}), Choice.from_spec({"shuffle": {"kernel": 3}})),
    image_size=8,
    classes=3,
    stem_channels=8,
    stem_stride=1,
    head_channels=16,
)
SAMPLER = UniformSampler(SPACE.options, seed=1)
OPTIMIZERS = get_args(OptimizerKind)
MODELS = ("supernet", "network")


class Killed(Exception):
    """What ends a training in the middle of a step."""


def make_trainer(folder: Path, processes: Processes, optimizer: Any, model: str) -> Trainer:
    network: nn.Module
    if model == "supernet":
        network = Supernet(SPACE, affine=True, dropout=0.2)
    else:
        network = Network(SPACE, Architecture((0,) * 4), dropout=0.2, stochastic_depth=0.5)
        assert [module.p for module in network.modules() if isinstance(module, StochasticDepth)] == [0.125, 0.375]
    initialize(network, 0)
    plan = TrainingPlan(
        Schedule(0.02, STEPS, "step", warmup_steps=2, lowest=0.004, step_every=2, step_factor=0.5),
        BATCH,
        accumulate=2,
        optimizer=optimizer,
        weight_decay=0.01,
        loss="bce",
        class_weights=weigh_classes(LABELS, IMAGES.classes, [1, 2, 3]),
        clip_grad_norm=0.5,
        ema_decay=0.9,
        log_every=1,
        checkpoint_every=2,
    )
    return Trainer(
        network,
        plan,
        processes,
        name="test",
        folder=folder,
        identity={"kind": "test"},
        seed=0,
        preprocess=functools.partial(preprocess, "standard"),
        mixing=Mixing(0.2, 1.0, SPACE.classes, seed=0),
        paths=SAMPLER.paths if model == "supernet" else None,
    )


def batches(processes: Processes, first: int, last: int, workers: int) -> Iterator[Batch]:
    return training_batches(
        IMAGES,
        np.arange(len(IMAGES)),
        TrainTransform("standard", 8, Augmentation("padded", padding=1, trivial_augment=True, erasing=0.3)),
        seed=3,
        batch_size=BATCH,
        first_step=first,
        last_step=last,
        rank=processes.rank,
        world_size=processes.world_size,
        accumulate=2,
        workers=workers,
        sampling="balanced",
    )


def train_whole_and_killed(processes: Processes, folder: Path, optimizer: str, model: str, workers: int = 1) -> None:
    """Train without a break, and with a kill in step 6 after the checkpoint of step 4, then with other workers."""
    whole = make_trainer(folder / "whole", processes, optimizer, model)
    whole.train(lambda first: batches(processes, first, STEPS, workers=0))

    def stop(first: int) -> Iterator[Batch]:
        yield from batches(processes, first, 5, workers)
        raise Killed

    killed = make_trainer(folder / "killed", processes, optimizer, model)
    with pytest.raises(Killed):
        killed.train(stop)
    torch.manual_seed(12345)
    resumed = make_trainer(folder / "killed", processes, optimizer, model)
    resumed.resume()
    assert resumed.step == 4
    resumed.train(lambda first: batches(processes, first, STEPS, workers))


def require_same(folder: Path) -> None:
    """Require that both trainings left the same bytes, and that weights have changed."""
    for name in ("last.pt", "step-00000004.pt"):
        assert (folder / "killed" / name).read_bytes() == (folder / "whole" / name).read_bytes()
    earlier, later = (checkpoint.load(folder / "whole" / name) for name in ("step-00000004.pt", "last.pt"))
    assert checkpoint.fingerprint(earlier["model"]) != checkpoint.fingerprint(later["model"])
    assert checkpoint.fingerprint(later["model"]) != checkpoint.fingerprint(later["ema"])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_process(tmp_path: Path, optimizer: str, model: str) -> None:
    train_whole_and_killed(ONE_PROCESS, tmp_path, optimizer, model)
    require_same(tmp_path)


def train_all(processes: Processes, folder: Path) -> None:
    """Train each model with each optimizer, in two processes; once with workers, which start slowly."""
    for optimizer in OPTIMIZERS:
        for model in MODELS:
            workers = int((optimizer, model) == ("adamw", "network"))
            train_whole_and_killed(processes, folder / optimizer / model, optimizer, model, workers)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of two processes, a folder for each training: they start slowly."""
    folder = tmp_path_factory.mktemp("two")
    run_together(2, (train_all,), folder)
    return folder / "train_all"


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_processes(two: Path, optimizer: str, model: str) -> None:
    """That both have the same weights is checked at each checkpoint."""
    require_same(two / optimizer / model)
