"""DistributedDataParallel with paths: only the right gradients are sent, and they are correct.

The oracle adds the gradients of all processes in a single process, in plain PyTorch.
"""

from __future__ import annotations

import functools
import gc
import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from spos_cli import seeding
from spos_cli.engine import parallel
from spos_cli.engine.compilation import compile_blocks
from spos_cli.engine.distributed import Processes
from spos_cli.engine.optim import Schedule
from spos_cli.engine.trainer import Batch, Trainer
from spos_cli.engine.training_plan import TrainingPlan
from spos_cli.models.blocks import ChoiceBlock
from spos_cli.models.network import Network
from spos_cli.models.skeleton import build_initialized
from spos_cli.models.supernet import Supernet
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.options import Options
from spos_cli.space.sampling import UniformSampler
from spos_cli.space.search_space import SearchSpace, Stage
from tests.engine.gloo import run_together
from tests.engine.test_optim import SPACE

STEPS, IMAGES_PER_PROCESS = 6, 4
SAMPLER = UniformSampler(Options.without_widths([2] * SPACE.num_layers), seed=1)
RESNET = tuple(map(Choice.from_spec, ({"basic": {"kernel": 3}}, "identity")))
# With 4 or 8 bits, no channel is constant. BatchNorm would divide the last bits of such a channel by its deviation, 0.
QUANTIZED = SearchSpace((Stage(2, 16), Stage(2, 32)), RESNET, 16, 5, 8, 1, 16, bits=(14, 24, 48, 88))
INVERTED = Choice.from_spec({"mbconv": {"kernel": 3, "expand": 2}})
# With output widths, processes send the gradients of all channels, although a path uses the first ones.
WIDE = SearchSpace((Stage(2, 16), Stage(2, 32)), (INVERTED, Choice("skip")), 16, 5, 8, 1, 16, output_widths=(500, 1250))
SEARCHED = {
    name: (space, UniformSampler(space.options, seed=1)) for name, space in (("bits", QUANTIZED), ("wide", WIDE))
}
OWN_BLOCKS = ("Frozen", "StochasticDepth", "OneOfTwo")


def make_own_space(name: str) -> SearchSpace:
    choices = tuple(map(Choice.from_spec, ({"shuffle": {"kernel": 3}}, f"tests.engine.own_blocks:{name}")))
    return SearchSpace((Stage(2, 16), Stage(2, 32)), choices, 16, 5, 8, 1, 16)


def batches(world_size: int, rank: int, first: int, last: int = STEPS) -> Iterator[Batch]:
    """Yield a process's share of the batches, which depend on the step alone."""
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(world_size * IMAGES_PER_PROCESS, 3, 16, 16, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 5, (world_size * IMAGES_PER_PROCESS,), generator=generator)
        part = slice(rank * IMAGES_PER_PROCESS, (rank + 1) * IMAGES_PER_PROCESS)
        yield images[part], None, labels[part]


def make_trainer(
    processes: Processes,
    folder: Path,
    space: SearchSpace = SPACE,
    arch: Architecture | None = None,
    sampler: UniformSampler = SAMPLER,
) -> Trainer:
    """Make a trainer of a supernet, or of the stand-alone network `arch`."""
    build = (lambda: Supernet(space, dropout=0.0)) if arch is None else (lambda: Network(space, arch, dropout=0.0))
    return Trainer(
        build_initialized(build, 0).double(),
        TrainingPlan(Schedule(0.05, STEPS), processes.world_size * IMAGES_PER_PROCESS, log_every=1, checkpoint_every=2),
        processes,
        name="test",
        folder=folder,
        identity={"kind": "test"},
        seed=0,
        preprocess=lambda images, colours: images,
        paths=sampler.paths if arch is None else None,
    )


def train(processes: Processes, trainer: Trainer, last: int = STEPS) -> None:
    trainer.train(lambda first: batches(processes.world_size, processes.rank, first, last))


def train_own_blocks(processes: Processes, folder: Path) -> None:
    for name in OWN_BLOCKS:
        trainer = make_trainer(processes, folder / f"{name}-{processes.rank}", make_own_space(name))
        train(processes, trainer)
        torch.save(trainer.model.state_dict(), folder / f"{name}-{processes.rank}.pt")


def train_searched_spaces(processes: Processes, folder: Path) -> None:
    for name, (space, sampler) in SEARCHED.items():
        trainer = make_trainer(processes, folder / f"{name}-{processes.rank}", space, sampler=sampler)
        train(processes, trainer)
        torch.save(trainer.model.state_dict(), folder / f"{name}-{processes.rank}.pt")


def resume(processes: Processes, folder: Path) -> None:
    """Train without a break; and killed after step 3, with a checkpoint of step 2."""
    for kind, arch in (("supernet", None), ("network", Architecture((0, 1, 0, 1)))):
        train(processes, make_trainer(processes, folder / kind / "whole", arch=arch))
        killed = make_trainer(processes, folder / kind / "killed", arch=arch)
        stream = batches(processes.world_size, processes.rank, 0)
        for step in (1, 2, 3):
            killed.update(stream)
            killed.step = step
            if step == 2:
                killed.save()
        resumed = make_trainer(processes, folder / kind / "killed", arch=arch)
        resumed.resume()
        assert resumed.step == 2
        train(processes, resumed)


def count_bytes(processes: Processes, folder: Path) -> None:
    """Count the bytes that are handed over for summing in a step, with and without compression."""
    sent: dict[str, int] = {}
    path = Architecture((0, 1, 0, 1))
    reduce = dist.all_reduce
    for name, compression, one_path in (("path", "off", True), ("bf16", "bf16", True), ("all", "off", False)):
        model = build_initialized(lambda: Supernet(SPACE, dropout=0.0), 0).double()
        wrapped = parallel.wrap(model, processes, compression, one_path=one_path)  # type: ignore[arg-type]
        assert isinstance(wrapped, DistributedDataParallel)
        if compression == "off":
            wrapped.register_comm_hook(None, default_hooks.allreduce_hook)  # the default, but in Python
        sent[name] = 0

        def counting(tensor: torch.Tensor, *rest: Any, name: str = name, **options: Any) -> Any:
            sent[name] += tensor.numel() * tensor.element_size()
            return reduce(tensor, *rest, **options)

        (images, _, _) = next(batches(processes.world_size, processes.rank, 0))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dist, "all_reduce", counting)
            wrapped(images, path).sum().backward()
    on_path = [model.first_conv, *model.select_blocks(path), model.conv_last, model.classifier]
    unused = [p for p in model.parameters() if not any(p is q for block in on_path for q in block.parameters())]
    assert unused
    assert all(parameter.grad is None for parameter in unused)
    sent["expected"] = 8 * sum(p.numel() for block in on_path for p in block.parameters())
    sent["supernet"] = 8 * sum(p.numel() for p in model.parameters())
    if processes.is_main:
        (folder / "sent.json").write_text(json.dumps(sent))


def train_compiled(processes: Processes, folder: Path) -> None:
    """Train with blocks compiled one by one; the `eager` backend does not change the arithmetic."""
    spaces = {"": (SPACE, SAMPLER), **{f"{name}-": pair for name, pair in SEARCHED.items()}}
    for name in (f"{prefix}{mode}" for prefix in spaces for mode in ("off", "blocks")):
        space, sampler = spaces[name.removesuffix("off").removesuffix("blocks")]
        trainer = make_trainer(processes, folder / f"{name}-{processes.rank}", space, sampler=sampler)
        if name.endswith("blocks"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ChoiceBlock, "compile", functools.partialmethod(nn.Module.compile, backend="eager"))
                patch.setattr("spos_cli.engine.compilation.require_compiler", lambda device: "none, with that backend")
                compile_blocks(trainer.model, processes.device)
        train(processes, trainer)
        torch.save(trainer.model.state_dict(), folder / f"{name}-{processes.rank}.pt")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2


def release_model(processes: Processes, folder: Path) -> None:
    """Check that a model is freed after its training."""
    trainer = make_trainer(processes, folder / str(processes.rank))
    train(processes, trainer)
    reference = weakref.ref(trainer.model)
    del trainer
    gc.collect()
    assert reference() is None


WORKS: tuple[Callable[[Processes, Path], None], ...] = (
    train_own_blocks,
    train_searched_spaces,
    resume,
    count_bytes,
    release_model,
    train_compiled,
)


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """The number of processes, and the folder of their results."""
    folder = tmp_path_factory.mktemp("together")
    run_together(request.param, WORKS, folder)
    return request.param, folder


@pytest.mark.parametrize("name", OWN_BLOCKS)
def test_own_blocks_are_trained_as_in_one_process(together: tuple[int, Path], name: str) -> None:
    """Each process draws what its block uses; the gradient is the mean over all processes."""
    world_size, folder = together
    states = [torch.load(folder / "train_own_blocks" / f"{name}-{rank}.pt") for rank in range(world_size)]
    model = build_initialized(lambda: Supernet(make_own_space(name), dropout=0.0), 0).double().train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.0, momentum=0.9, weight_decay=4e-5)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    shares = [list(batches(world_size, rank, 0)) for rank in range(world_size)]
    used: set[tuple[str, ...]] = set()
    for step in range(STEPS):
        (path,) = SAMPLER.paths(step)
        for rank in range(world_size):
            before = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
            torch.manual_seed(seeding.torch_seed(0, "dropout", step, rank))
            images, _, labels = shares[rank][step]
            (criterion(model(images, path), labels) / world_size).backward()
            after = {n: p.grad for n, p in model.named_parameters()}
            used.add((str(step), *(n for n, g in after.items() if g is not None and not _is_same(g, before[n]))))
        optimizer.param_groups[0]["lr"] = Schedule(0.05, STEPS).lr(step)
        optimizer.step()
        optimizer.zero_grad()
    if name != "Frozen":
        assert len(used) > STEPS, "in no step the processes used different parameters, so the test shows nothing"
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(states[0][key], parameter.detach(), rtol=1e-10, atol=1e-12)
        assert all(torch.equal(states[0][key], state[key]) for state in states)


@pytest.mark.parametrize("name", SEARCHED)
def test_searched_spaces_are_trained_as_in_one_process(together: tuple[int, Path], name: str) -> None:
    """A step updates the clipping levels of its path's bits only, although other levels are in the same blocks."""
    world_size, folder = together
    space, sampler = SEARCHED[name]
    states = [torch.load(folder / "train_searched_spaces" / f"{name}-{rank}.pt") for rank in range(world_size)]
    model = build_initialized(lambda: Supernet(space, dropout=0.0), 0).double().train()
    optimizer = torch.optim.SGD(model.parameters(), 0.0, momentum=0.9, weight_decay=4e-5)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    shares = [list(batches(world_size, rank, 0)) for rank in range(world_size)]
    for step in range(STEPS):
        (path,) = sampler.paths(step)
        for rank in range(world_size):
            images, _, labels = shares[rank][step]
            (criterion(model(images, path), labels) / world_size).backward()
        optimizer.param_groups[0]["lr"] = Schedule(0.05, STEPS).lr(step)
        optimizer.step()
        optimizer.zero_grad()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(states[0][key], parameter.detach(), rtol=1e-10, atol=1e-12)
        assert all(torch.equal(states[0][key], state[key]) for state in states)


def _is_same(gradient: torch.Tensor, before: torch.Tensor | None) -> bool:
    return before is not None and torch.equal(gradient, before)


@pytest.mark.parametrize("kind", ["supernet", "network"])
def test_a_resumed_training_ends_in_the_same_bytes(together: tuple[int, Path], kind: str) -> None:
    """The order of summation matters with three processes, not with two."""
    _, folder = together
    for name in ("last.pt", "step-00000004.pt"):
        whole, killed = (folder / "resume" / kind / run / name for run in ("whole", "killed"))
        assert whole.read_bytes() == killed.read_bytes()


def test_only_the_gradients_of_the_path_are_sent(together: tuple[int, Path]) -> None:
    """With float64, bf16 has a quarter of the bytes. PyTorch 2.6 cannot skip blocks and sends everything."""
    _, folder = together
    sent = json.loads((folder / "count_bytes" / "sent.json").read_text())
    expected = sent["expected" if parallel.SKIP_UNUSED in parallel.SUPPORTED_ARGUMENTS else "supernet"]
    assert sent["path"] == expected
    assert sent["bf16"] == expected / 4
    assert sent["all"] == sent["supernet"]
    assert sent["expected"] < 0.8 * sent["supernet"]  # two choices a layer


@pytest.mark.parametrize("prefix", ["", *(f"{name}-" for name in SEARCHED)])
def test_compiled_blocks_train_to_the_same_weights(together: tuple[int, Path], prefix: str) -> None:
    world_size, folder = together
    for rank in range(world_size):
        files = (folder / "train_compiled" / f"{prefix}{mode}-{rank}.pt" for mode in ("off", "blocks"))
        off, blocks = map(torch.load, files)
        for key, tensor in off.items():
            torch.testing.assert_close(blocks[key], tensor, rtol=1e-10, atol=1e-12)


def test_a_model_does_not_outlive_its_training(together: tuple[int, Path]) -> None:
    """An audit trains a dozen models in one process. `release_model` has checked it in each process."""
    assert (together[1] / "release_model").is_dir()


def test_older_pytorch_sends_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older versions lack the arguments; DistributedDataParallel itself is a fake here."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(parallel, "DistributedDataParallel", lambda model, **options: given.update(options))
    two = Processes(0, 2, torch.device("cpu"))
    monkeypatch.setattr(parallel, "SUPPORTED_ARGUMENTS", {"find_unused_parameters", "broadcast_buffers"})
    parallel.wrap(Supernet(SPACE), two)
    assert given == {"find_unused_parameters": True, "broadcast_buffers": False}
    monkeypatch.setattr(parallel, "SUPPORTED_ARGUMENTS", {"skip_all_reduce_unused_params", "forward_sync_buffers"})
    parallel.wrap(Supernet(SPACE), two)
    assert given["bucket_cap_mb"] < 1
