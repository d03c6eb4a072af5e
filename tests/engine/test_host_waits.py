"""Between two lines of metrics, a training step never makes the CPU wait for a result of the device."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from spos_cli.engine.distributed import Processes
from spos_cli.engine.optim import Schedule
from spos_cli.engine.trainer import Batch, Trainer
from spos_cli.engine.training_plan import TrainingPlan
from spos_cli.models.counting import count
from spos_cli.models.skeleton import initialize
from spos_cli.models.supernet import Supernet
from spos_cli.space.sampling import SandwichSampler, UniformSampler
from tests.engine.test_optim import SPACE

STEPS, BATCH, LOG_EVERY = 7, 4, 3
# What needs a value, or a size that depends on values: on a GPU, the CPU would wait for all work that is under way.
# PyTorch's own operations, and methods of tensors.
WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.masked_select.default,
    *(torch.Tensor.tolist, torch.Tensor.item, torch.Tensor.cpu, torch.Tensor.numpy),
    *(torch.Tensor.__bool__, torch.Tensor.__int__, torch.Tensor.__float__, torch.Tensor.__index__),
}


class Counts:
    """The operations of PyTorch, and those that would wait for the device, by step.

    Args:
        on_cpu: tensors that are on the CPU in every training, so reading them waits for nothing.
    """

    def __init__(self, on_cpu: Sequence[Tensor]) -> None:
        self.on_cpu = {tensor.data_ptr() for tensor in on_cpu}
        self.step = 0
        self.waits: Counter[int] = Counter()
        self.operations: Counter[int] = Counter()

    def add(self, function: Any, arguments: Sequence[Any]) -> None:
        """Count one operation or method."""
        self.operations[self.step] += isinstance(function, torch._ops.OpOverload)
        self.waits[self.step] += function in WAITING and arguments[0].data_ptr() not in self.on_cpu


class CountOperations(TorchDispatchMode):
    """Counts operations, those of the backward pass included."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts.add(func, args)
        return func(*args, **kwargs or {})


class CountMethods(TorchFunctionMode):
    """Counts methods of tensors, of which some read values without an operation."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts.add(func, args)
        return func(*args, **kwargs or {})


def make_batches(counts: Counts) -> Iterator[Batch]:
    """Yield batches; a step begins when it asks for one."""
    generator = torch.Generator().manual_seed(0)
    for step in itertools.count():
        counts.step = step
        images = torch.randint(0, 256, (BATCH, 3, 16, 16), dtype=torch.uint8, generator=generator)
        yield images, None, torch.randint(0, SPACE.classes, (BATCH,), generator=generator)


def scale(images: Tensor, colours: Tensor | None) -> Tensor:
    """Make images `(B, C, H, W)` float."""
    return images.float() / 255


@pytest.mark.parametrize("sampler", ["uniform", "sandwich"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"ema_decay": 0.9, "clip_grad_norm": 1.0, "amp": "bf16"}, {"optimizer": "nesterov"}],
    ids=str,
)
def test_no_step_waits_for_the_device(tmp_path: Path, sampler: str, changes: dict[str, Any]) -> None:
    model = Supernet(SPACE, dropout=0.2)
    initialize(model, 0)
    drawn = UniformSampler(SPACE.options, 0) if sampler == "uniform" else SandwichSampler(count(SPACE).flops, 0)
    training = Trainer(
        model,
        TrainingPlan(Schedule(0.05, STEPS), BATCH, log_every=LOG_EVERY, checkpoint_every=STEPS, **changes),
        Processes(0, 1, torch.device("cpu")),
        name="test",
        folder=tmp_path,
        identity={},
        seed=0,
        preprocess=scale,
        paths=drawn.paths,
        one_path=sampler == "uniform",
    )
    counts = Counts([training.ema.n_averaged] if training.ema else [])
    with CountOperations(counts), CountMethods(counts):
        training.train(lambda first: make_batches(counts))
    logged = {step - 1 for step in range(1, STEPS + 1) if step % LOG_EVERY == 0 or step == STEPS}
    assert set(counts.operations) == set(range(STEPS))
    assert {step for step, waits in counts.waits.items() if waits} == logged  # There it shows that waits are counted.
    assert min(counts.operations.values()) > 100
