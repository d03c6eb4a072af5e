"""Whether the device computes what it should: golden logits, training steps, both trainings, scores."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from spos_cli.data.datasets import load
from spos_cli.data.transforms import preprocess
from spos_cli.engine import accelerator
from spos_cli.engine.distributed import Processes
from spos_cli.engine.optim import Schedule
from spos_cli.engine.precision import Amp, autocast
from spos_cli.engine.trainer import Batch, Compile, Recipe, Trainer, require_compiler
from spos_cli.errors import ConfigError
from spos_cli.models.blocks import ChoiceBlock
from spos_cli.models.network import Network
from spos_cli.models.skeleton import Skeleton, initialized
from spos_cli.models.supernet import Supernet
from spos_cli.official import golden
from spos_cli.search.evaluator import Calibration, Evaluator, Score
from spos_cli.space.architecture import Architecture
from spos_cli.space.search_space import PUBLISHED, Choice, SearchSpace, Stage
from tests.gpu.checks import Check, Needs, Place, Wrong, an_accelerator, nothing, within

GOLDEN = Path(__file__).parents[1] / "official" / "golden" / "supernet_training.json"


def tf32(place: Place) -> str | None:
    """Tells why a device has no TF32."""
    return None if accelerator.has_tf32(place.device) else "needs an NVIDIA GPU with TF32 (A100 or later)"


def bf16(place: Place) -> str | None:
    """Tells why a device has no bf16; CPUs have it, if only emulated."""
    fast = not place.is_real or accelerator.has_fast(place.device, "bf16")
    return None if fast else "this device has no bf16"


def compiler(place: Place) -> str | None:
    """Tells why blocks cannot be compiled."""
    try:
        require_compiler(place.device)
    except ConfigError as error:
        return str(error)
    return bf16(place)


@dataclass(frozen=True)
class Precision:
    """How convolutions are computed, and how far the results may be from those of float32 on a CPU.

    Attributes:
        logits: largest difference of golden logits, in their RMS.
        first: relative difference of the first golden training loss.
        losses: the same of the others: BatchNorm over eight images amplifies any rounding from step to step.
        change: relative difference of what two steps of a small training change in the weights.
        score: images of 2,000 that a candidate may get right or wrong otherwise.
        needs: what the device has to have.
    """

    name: str
    amp: Amp
    tf32: bool
    logits: float
    first: float
    losses: float
    change: float
    score: float
    needs: Needs = nothing


# No GPU was at hand, so these are about three times what a CPU showed, or more where orders of sums matter.
PRECISIONS = (
    # Another order of sums. On the CPU: logits 1e-6, first loss 1e-5, other losses 0.015, change of weights 6e-6.
    Precision("float32", "off", False, 1e-3, 1e-3, 0.05, 1e-3, 2),
    # Inputs rounded to 10 bits, imitated on the CPU: logits 0.003, losses 3e-4 and 0.011, change of weights 0.01.
    Precision("tf32", "off", True, 0.01, 5e-3, 0.05, 0.03, 5, tf32),
    # 8 bits, on the CPU: logits 0.026, losses 5e-3 and 0.018, change of weights 0.034; scores as the README says.
    Precision("bf16", "bf16", True, 0.08, 0.02, 0.06, 0.1, 5, bf16),
    # 10 bits as TF32; on the CPU: logits 0.003, first loss 1e-3. Scores are never computed in it.
    Precision("fp16", "fp16", True, 0.01, 5e-3, 0.05, 0.03, 5, an_accelerator),
)


# Golden logits


@functools.cache
def reference() -> tuple[Tensor, list[tuple[str, Skeleton, tuple[Any, ...], Tensor]]]:
    """Images, and of supernet and network: the name, the model, its other arguments and its float32 logits on the CPU.

    Golden weights, but images of a 256th: fp16 has no numbers beyond 65,504, and golden logits have.
    """
    images = (golden.image(golden.IMAGES, golden.SALT) / 256).contiguous(memory_format=torch.channels_last)
    found: list[tuple[str, Skeleton, tuple[Any, ...], Tensor]] = []
    for name, model, arguments in (
        ("supernet", Supernet(PUBLISHED, dropout=0.0), (golden.WINNER,)),
        ("network", Network(PUBLISHED, golden.WINNER, dropout=0.0), ()),
    ):
        golden.fill(model)
        model.eval().to(memory_format=torch.channels_last)
        with torch.inference_mode():
            found.append((name, model, arguments, model(images, *arguments)))
    return images, found


def logits(precision: Precision, place: Place) -> str:
    """Compares logits with the golden ones, or in other precisions than float32 with those of this CPU."""
    if precision.name == "float32":
        distances = golden.self_test(place.device)
    else:
        images, models = reference()
        distances = {}
        for name, model, arguments, expected in models:
            model.to(place.device)
            with torch.inference_mode(), autocast(place.device, precision.amp):
                found = model(images.to(place.device), *arguments).float().cpu()
            distances[name] = float((found - expected).abs().max() / expected.square().mean().sqrt())
            model.cpu()
    for name, distance in distances.items():
        within(f"logits of the {name}, in RMS of the logits,", distance, precision.logits)
    return ", ".join(f"{name} {distance:.1e}" for name, distance in distances.items()) + " of the logits' RMS"


# Golden training steps


def steps(precision: Precision, place: Place) -> str:
    """Compares the losses and weights of the golden training with those of the official code."""
    case = json.loads(GOLDEN.read_text())
    paths = [Architecture(tuple(choices)) for choices in case["architectures"]]
    model = Supernet(PUBLISHED, dropout=0.0)
    golden.fill(model)
    recipe = Recipe(
        Schedule(case["lr"], case["total_iters"], first=1),
        case["batch"],
        momentum=case["momentum"],
        weight_decay=case["weight_decay"],
        label_smoothing=case["label_smoothing"],
        amp=precision.amp,
    )
    training = trainer(place.device, model, recipe, lambda step: paths[step], lambda images, colours: images)
    batch = golden.image(case["batch"], 9), None, torch.tensor(case["labels"])
    scale = training.scaler.get_scale()
    losses = losses_of(training, itertools.repeat(batch), case["total_iters"])
    within("the first loss", abs(losses[0] / case["losses"][0] - 1), precision.first)
    worst = max(abs(found / right - 1) for found, right in zip(losses, case["losses"], strict=True))
    if training.scaler.get_scale() < scale:  # fp16 begins with a scale that is too large, and leaves updates out
        within("the last loss", abs(losses[-1] / case["losses"][-1] - 1), 0.3)
        return f"first loss {losses[0]:.4f}; updates were left out to find a scale, now {training.scaler.get_scale():g}"
    within("a loss", worst, precision.losses)
    state = model.state_dict()
    for name, expected in case["l2"].items():
        norm = float(state[name].cpu().double().norm())
        within(f"the norm of {name}", abs(norm / expected - 1), 0.05 if name.endswith("running_var") else 0.01)
    return f"first loss off by {abs(losses[0] / case['losses'][0] - 1):.1e}, of all at most by {worst:.1e}"


def trainer(
    device: torch.device,
    model: Skeleton,
    recipe: Recipe,
    path: Callable[[int], Architecture] | None,
    prepare: Callable[[Tensor, Tensor | None], Tensor],
) -> Trainer:
    """The trainer of `spos`, ready for steps, which writes nothing.

    Args:
        path: that a step of a supernet takes; None for a network.
    """
    training = Trainer(
        model,
        recipe,
        Processes(0, 1, device),
        name="gpu",
        folder=Path("gpu-writes-nothing"),
        identity={},
        seed=0,
        preprocess=prepare,
        arguments=(lambda step: ((),)) if path is None else (lambda step: ((path(step),),)),
    )
    training.model.train()
    return training


def losses_of(training: Trainer, batches: Iterator[Batch], number: int) -> list[float]:
    """Makes some steps; the loss of each."""
    losses = []
    for _ in range(number):
        training.update(batches)
        training.step += 1
        losses.append(training.window.summary()["loss"])
    return losses


# Both trainings

SMALL = SearchSpace(
    stages=(Stage(2, 16),),
    choices=(Choice.from_spec({"shuffle": {"kernel": 3}}), Choice.from_spec("shuffle_xception")),
    image_size=16,
    classes=10,
    stem_channels=8,
    stem_stride=1,
    head_channels=32,
)
BATCH, ACCUMULATE, DECAY = 128, 2, 0.9


def traced_only() -> Any:
    """Within, PyTorch traces blocks and leaves them as they are: on a CPU it would compile for half a minute."""
    return patch.object(ChoiceBlock, "compile", functools.partialmethod(nn.Module.compile, backend="eager"))


@dataclass(frozen=True)
class Trained:
    """Two steps of a training: the loss of each, what they have changed in the weights `(n,)`, updates left out."""

    losses: list[float]
    change: Tensor
    left_out: bool


def train_twice(kind: str, device: torch.device, amp: Amp, compile: Compile) -> Trained:
    """Makes two steps of a training, with accumulation and, where the command has it, EMA."""
    path = Architecture((0, 1))
    model = Supernet(SMALL, dropout=0.0) if kind == "supernet" else Network(SMALL, path, dropout=0.0)
    golden.fill(model)  # with the usual first weights all logits are near 0, and the loss tells nothing
    states = [state_of(model)]
    recipe = Recipe(
        Schedule(0.05, 2),
        BATCH,
        accumulate=ACCUMULATE,
        amp=amp,
        compile=compile,
        ema_decay=None if kind == "supernet" else DECAY,
    )
    prepare = partial(preprocess, "standard")
    training = trainer(device, model, recipe, (lambda step: path) if kind == "supernet" else None, prepare)
    scale = training.scaler.get_scale()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (ACCUMULATE, BATCH // ACCUMULATE, 3, 16, 16), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (ACCUMULATE, BATCH // ACCUMULATE), generator=generator)
    batches = itertools.cycle((image, None, label) for image, label in zip(images, labels, strict=True))
    losses = []
    for _ in range(2):
        losses += losses_of(training, batches, 1)
        states.append(state_of(model))
    if training.ema is not None:
        for name, tensor in state_of(training.result).items():  # the first update of an average is a copy
            expected = DECAY * states[1][name] + (1 - DECAY) * states[2][name]
            within(f"the moving average of {name}", float((tensor - expected).abs().max()), 1e-4)
    weights = [name for name, _ in model.named_parameters()]
    change = torch.cat([(states[2][name] - states[0][name]).flatten() for name in weights])
    return Trained(losses, change, training.scaler.get_scale() < scale)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of weights and statistics, on the CPU."""
    state = model.state_dict().items()
    return {name: tensor.detach().cpu().clone() for name, tensor in state if tensor.is_floating_point()}


def trainings(precision: Precision, compile: Compile, place: Place) -> str:
    """Compares two steps of each training with the same in float32 on this CPU."""
    said = []
    for kind in ("supernet", "retrain"):
        expected = train_twice(kind, accelerator.CPU, "off", "off")
        with contextlib.nullcontext() if compile == "off" or place.is_real else traced_only():
            found = train_twice(kind, place.device, precision.amp, compile)
        first, second = (abs(one / other - 1) for one, other in zip(found.losses, expected.losses, strict=True))
        within(f"the first loss of {kind}", first, precision.first)
        change = float((found.change - expected.change).norm() / expected.change.norm())
        if found.left_out:  # fp16 begins with a scale that is too large
            said.append(f"{kind} {first:.1e}, updates were left out to find a scale")
            continue
        within(f"the second loss of {kind}", second, precision.losses)
        within(f"the change of the weights of {kind}", change, precision.change)
        said.append(f"{kind} {max(first, second):.1e}, change of weights by {change:.1e}")
    return f"losses off by: {'; '.join(said)}"


# Scores

DIGITS = replace(SMALL, stages=(Stage(2, 16), Stage(2, 32)), image_size=8)
CANDIDATES = [Architecture(path) for path in itertools.product(range(2), repeat=4)][::2]
TRAINING_STEPS, CALIBRATED = 200, 512


@functools.cache
def digits_supernet() -> tuple[Supernet, Tensor, Tensor, Tensor, Tensor]:
    """A supernet that this CPU has trained on digits, and images and labels: for training, and to score."""
    (images, labels), (others, wanted) = (
        (
            torch.stack([torch.from_numpy(found.image(i)).permute(2, 0, 1) for i in range(len(found))]),
            torch.from_numpy(found.labels),
        )
        for found in (load("digits", "", "train"), load("digits", "", "val"))
    )
    model = initialized(lambda: Supernet(DIGITS), 0)
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(len(images), generator=generator)[:64] for _ in range(TRAINING_STEPS)])
    training = trainer(
        accelerator.CPU,
        model,
        Recipe(Schedule(0.1, TRAINING_STEPS), 64),
        lambda step: CANDIDATES[step % len(CANDIDATES)],
        partial(preprocess, "standard"),
    )
    losses_of(training, ((images[chosen], None, labels[chosen]) for chosen in order), TRAINING_STEPS)
    # All digits, those of the training too: how well the supernet does is not the question.
    return model, images, labels, torch.cat((others, images)), torch.cat((wanted, labels))


@functools.cache
def scores_on(device: torch.device, amp: Amp, tf32: bool) -> list[Score]:
    """Scores of the candidates, calibrated and scored on a device."""
    model, images, _, scored, labels = digits_supernet()
    copy = Supernet(DIGITS)
    copy.load_state_dict(model.state_dict())
    evaluator = Evaluator(
        copy,
        lambda pixels: preprocess("standard", pixels, None),
        calibration=Calibration(images[:CALIBRATED], 64),
        images=scored,
        labels=labels,
        batch=200,
        device=device,
        amp=amp,
    )
    with accelerator.convolutions(tf32=tf32):
        scores = evaluator.score(CANDIDATES)
    assert scores is not None
    return scores


def scores(precision: Precision, place: Place) -> str:
    """Compares the counts of calibrated candidates with those of this CPU in float32."""
    right, found = scores_on(accelerator.CPU, "off", False), scores_on(place.device, precision.amp, precision.tf32)
    differences = [abs(one.top1_count - other.top1_count) for one, other in zip(found, right, strict=True)]
    allowed = math.ceil(precision.score * right[0].images / 2000)
    within(f"the count of a candidate, of {right[0].images} images,", max(differences), allowed)
    if min(score.top1_count for score in right) < right[0].images / 4:
        raise Wrong("the supernet has learned nothing, so that its scores prove nothing")
    changed = sum(int((one.top1 != other.top1).sum()) for one, other in zip(found, right, strict=True))
    share = changed / len(right) / right[0].images
    best = max(score.top1_count for score in right) / right[0].images
    return f"counts off by at most {max(differences)} of {right[0].images}, {share:.2%} of outcomes; best {best:.0%}"


FIRST, LOADING = ("logits", "float32"), 12  # the check in which the device's libraries are loaded, and seconds for it


def with_tf32(allowed: bool, run: Callable[[Place], str]) -> Callable[[Place], str]:
    """The same with TF32 as it is said."""

    def within_it(place: Place) -> str:
        with accelerator.convolutions(tf32=allowed):
            return run(place)

    return within_it


def checks() -> Iterator[Check]:
    """Each in every precision, where it has one."""
    kinds: list[tuple[str, str, float, Callable[[Precision, Place], str]]] = [
        ("logits", "golden logits of supernet and network", 8, logits),
        ("steps", "the golden training steps of the official code", 12, steps),
        (
            "training",
            "two steps of both trainings, with accumulation and EMA",
            6,
            lambda p, place: trainings(p, "off", place),
        ),
        ("scores", "calibration and scores against this CPU's", 6, scores),
    ]
    for kind, what, budget, run in kinds:
        for precision in PRECISIONS:
            if kind != "scores" or precision.amp != "fp16":
                made = with_tf32(precision.tf32, partial(run, precision))
                name, first = f"{kind}-{precision.name}", LOADING if (kind, precision.name) == FIRST else 0
                yield Check(name, f"{what}, {precision.name}", budget + first, made, precision.needs)
        if kind == "training":
            compiled = partial(trainings, PRECISIONS[2], "blocks")
            yield Check("training-compile", "the same with compile: blocks, bf16", 40, compiled, compiler)
