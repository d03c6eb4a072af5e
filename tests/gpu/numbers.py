"""Check what the device computes: golden logits, training steps, both trainings, scores."""

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
from spos_cli.engine.compilation import Compile, require_compiler
from spos_cli.engine.distributed import Processes
from spos_cli.engine.optim import Schedule
from spos_cli.engine.precision import Amp, autocast
from spos_cli.engine.trainer import Batch, Trainer
from spos_cli.engine.training_plan import TrainingPlan
from spos_cli.errors import ConfigError
from spos_cli.models.blocks import ChoiceBlock
from spos_cli.models.network import Network
from spos_cli.models.skeleton import Skeleton, build_initialized
from spos_cli.models.supernet import Supernet
from spos_cli.official import golden, self_test
from spos_cli.search.evaluator import CalibrationSet, Evaluator, Score
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import OFFICIAL_SPACE, SearchSpace, Stage
from tests.gpu.checks import Check, Needs, Place, Wrong, need_accelerator, need_nothing, require_within

GOLDEN = Path(__file__).parents[1] / "official" / "golden" / "supernet_training.json"


def need_tf32(place: Place) -> str | None:
    """Return why a device has no TF32, or None."""
    return None if accelerator.has_tf32(place.device) else "needs an NVIDIA GPU with TF32 (A100 or later)"


def need_bf16(place: Place) -> str | None:
    """Return why a device has no bf16, or None; CPUs have it, at least emulated."""
    fast = not place.is_real or accelerator.has_fast(place.device, "bf16")
    return None if fast else "this device has no bf16"


def need_compiler(place: Place) -> str | None:
    """Return why blocks cannot be compiled, or None."""
    try:
        require_compiler(place.device)
    except ConfigError as error:
        return str(error)
    return need_bf16(place)


@dataclass(frozen=True)
class Precision:
    """A precision of convolutions, and the allowed differences from float32 on a CPU.

    Attributes:
        logits: largest difference of golden logits, in RMS of the logits.
        first: relative difference of the first golden training loss.
        losses: the same for later losses: BatchNorm over eight images amplifies rounding from step to step.
        change: relative difference of the change of weights in two steps of a small training.
        score: how many of 2,000 outcomes of a candidate may differ.
        needs: returns what the device lacks, or None.
    """

    name: str
    amp: Amp
    tf32: bool
    logits: float
    first: float
    losses: float
    change: float
    score: float
    needs: Needs = need_nothing


# These are about three times the differences on a CPU, or more where the order of sums matters: no GPU was available.
PRECISIONS = (
    # Another order of sums. On the CPU: logits 1e-6, first loss 1e-5, other losses 0.015, change of weights 6e-6.
    Precision("float32", "off", False, 1e-3, 1e-3, 0.05, 1e-3, 2),
    # Inputs rounded to 10 bits, imitated on the CPU: logits 0.003, losses 3e-4 and 0.011, change of weights 0.01.
    Precision("tf32", "off", True, 0.01, 5e-3, 0.05, 0.03, 5, need_tf32),
    # 8 bits, on the CPU: logits 0.026, losses 5e-3 and 0.018, change of weights 0.034; scores as the README says.
    Precision("bf16", "bf16", True, 0.08, 0.02, 0.06, 0.1, 5, need_bf16),
    # 10 bits as TF32; on the CPU: logits 0.003, first loss 1e-3. Scores are never computed in it.
    Precision("fp16", "fp16", True, 0.01, 5e-3, 0.05, 0.03, 5, need_accelerator),
)


# Golden logits


@functools.cache
def compute_reference() -> tuple[Tensor, list[tuple[str, Skeleton, tuple[Any, ...], Tensor]]]:
    """Return images, and for supernet and network: name, model, its other arguments and its float32 logits on the CPU.

    The weights are golden, but images are divided by 256: golden logits exceed 65,504, the largest number of fp16.
    """
    images = (golden.make_images(golden.IMAGES, golden.SALT) / 256).contiguous(memory_format=torch.channels_last)
    found: list[tuple[str, Skeleton, tuple[Any, ...], Tensor]] = []
    for name, model, arguments in (
        ("supernet", Supernet(OFFICIAL_SPACE, dropout=0.0), (golden.WINNER,)),
        ("network", Network(OFFICIAL_SPACE, golden.WINNER, dropout=0.0), ()),
    ):
        golden.fill_weights(model)
        model.eval().to(memory_format=torch.channels_last)
        with torch.inference_mode():
            found.append((name, model, arguments, model(images, *arguments)))
    return images, found


def check_logits(precision: Precision, place: Place) -> str:
    """Compare logits with the golden ones, or in other precisions than float32 with those of this CPU."""
    if precision.name == "float32":
        distances = self_test.run_self_test(place.device)
    else:
        images, models = compute_reference()
        distances = {}
        for name, model, arguments, expected in models:
            model.to(place.device)
            with torch.inference_mode(), autocast(place.device, precision.amp):
                found = model(images.to(place.device), *arguments).float().cpu()
            distances[name] = float((found - expected).abs().max() / expected.square().mean().sqrt())
            model.cpu()
    for name, distance in distances.items():
        require_within(f"logits of the {name}, in RMS of the logits,", distance, precision.logits)
    return ", ".join(f"{name} {distance:.1e}" for name, distance in distances.items()) + " of the logits' RMS"


# Golden training steps


def check_steps(precision: Precision, place: Place) -> str:
    """Compare the losses and weights of the golden training with those of the official code."""
    case = json.loads(GOLDEN.read_text())
    paths = [Architecture(tuple(choices)) for choices in case["architectures"]]
    model = Supernet(OFFICIAL_SPACE, dropout=0.0)
    golden.fill_weights(model)
    recipe = TrainingPlan(
        Schedule(case["lr"], case["total_iters"], first=1),
        case["batch"],
        momentum=case["momentum"],
        weight_decay=case["weight_decay"],
        label_smoothing=case["label_smoothing"],
        amp=precision.amp,
    )
    training = make_trainer(place.device, model, recipe, lambda step: paths[step], lambda images, colours: images)
    batch = golden.make_images(case["batch"], 9), None, torch.tensor(case["labels"])
    scale = training.scaler.get_scale()
    losses = train_steps(training, itertools.repeat(batch), case["total_iters"])
    require_within("the first loss", abs(losses[0] / case["losses"][0] - 1), precision.first)
    worst = max(abs(found / right - 1) for found, right in zip(losses, case["losses"], strict=True))
    if training.scaler.get_scale() < scale:  # fp16 begins with a scale that is too large, and skips updates
        require_within("the last loss", abs(losses[-1] / case["losses"][-1] - 1), 0.3)
        return f"first loss {losses[0]:.4f}; updates were skipped to find a scale, now {training.scaler.get_scale():g}"
    require_within("a loss", worst, precision.losses)
    state = model.state_dict()
    for name, expected in case["l2"].items():
        norm = float(state[name].cpu().double().norm())
        require_within(f"the norm of {name}", abs(norm / expected - 1), 0.05 if name.endswith("running_var") else 0.01)
    return f"first loss off by {abs(losses[0] / case['losses'][0] - 1):.1e}, of all at most by {worst:.1e}"


def make_trainer(
    device: torch.device,
    model: Skeleton,
    plan: TrainingPlan,
    path: Callable[[int], Architecture] | None,
    prepare: Callable[[Tensor, Tensor | None], Tensor],
) -> Trainer:
    """Make a trainer of `spos`, ready for steps, which writes nothing.

    Args:
        path: returns the path of a supernet's step; None for a network.
        prepare: maps images and colour changes to the network's input.
    """
    training = Trainer(
        model,
        plan,
        Processes(0, 1, device),
        name="gpu",
        folder=Path("gpu-writes-nothing"),
        identity={},
        seed=0,
        preprocess=prepare,
        paths=None if path is None else (lambda step: [path(step)]),
    )
    training.model.train()
    return training


def train_steps(training: Trainer, batches: Iterator[Batch], number: int) -> list[float]:
    """Train for some steps, and return the loss of each."""
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


def trace_only() -> Any:
    """Let PyTorch trace blocks without compiling them, in a `with` block: a CPU would compile for half a minute."""
    return patch.object(ChoiceBlock, "compile", functools.partialmethod(nn.Module.compile, backend="eager"))


@dataclass(frozen=True)
class Trained:
    """Two steps of a training: their losses, the change of all weights `(n,)`, and whether updates were skipped."""

    losses: list[float]
    change: Tensor
    has_skipped: bool


def train_twice(kind: str, device: torch.device, amp: Amp, compile: Compile) -> Trained:
    """Train for two steps, with accumulation and, for a network, EMA."""
    path = Architecture((0, 1))
    model = Supernet(SMALL, dropout=0.0) if kind == "supernet" else Network(SMALL, path, dropout=0.0)
    golden.fill_weights(model)  # With the usual initial weights all logits are near 0, and the loss shows nothing.
    states = [copy_state(model)]
    recipe = TrainingPlan(
        Schedule(0.05, 2),
        BATCH,
        accumulate=ACCUMULATE,
        amp=amp,
        compile=compile,
        ema_decay=None if kind == "supernet" else DECAY,
    )
    prepare = partial(preprocess, "standard")
    training = make_trainer(device, model, recipe, (lambda step: path) if kind == "supernet" else None, prepare)
    scale = training.scaler.get_scale()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (ACCUMULATE, BATCH // ACCUMULATE, 3, 16, 16), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (ACCUMULATE, BATCH // ACCUMULATE), generator=generator)
    batches = itertools.cycle((image, None, label) for image, label in zip(images, labels, strict=True))
    losses = []
    for _ in range(2):
        losses += train_steps(training, batches, 1)
        states.append(copy_state(model))
    if training.ema is not None:
        for name, tensor in copy_state(training.result).items():  # The first update of an average is a copy.
            decay = min(DECAY, 2 / 11)  # of the second update
            expected = decay * states[1][name] + (1 - decay) * states[2][name]
            require_within(f"the moving average of {name}", float((tensor - expected).abs().max()), 1e-4)
    weights = [name for name, _ in model.named_parameters()]
    change = torch.cat([(states[2][name] - states[0][name]).flatten() for name in weights])
    return Trained(losses, change, training.scaler.get_scale() < scale)


def copy_state(model: nn.Module) -> dict[str, Tensor]:
    """Copy weights and statistics to the CPU."""
    state = model.state_dict().items()
    return {name: tensor.detach().cpu().clone() for name, tensor in state if tensor.is_floating_point()}


def check_trainings(precision: Precision, compile: Compile, place: Place) -> str:
    """Compare two steps of each training with the same steps in float32 on this CPU."""
    findings = []
    for kind in ("supernet", "retrain"):
        expected = train_twice(kind, accelerator.CPU, "off", "off")
        with contextlib.nullcontext() if compile == "off" or place.is_real else trace_only():
            found = train_twice(kind, place.device, precision.amp, compile)
        first, second = (abs(one / other - 1) for one, other in zip(found.losses, expected.losses, strict=True))
        require_within(f"the first loss of {kind}", first, precision.first)
        change = float((found.change - expected.change).norm() / expected.change.norm())
        if found.has_skipped:  # fp16 begins with a scale that is too large
            findings.append(f"{kind} {first:.1e}, updates were skipped to find a scale")
            continue
        require_within(f"the second loss of {kind}", second, precision.losses)
        require_within(f"the change of the weights of {kind}", change, precision.change)
        findings.append(f"{kind} {max(first, second):.1e}, change of weights by {change:.1e}")
    return f"losses off by: {'; '.join(findings)}"


# Scores

DIGITS = replace(SMALL, stages=(Stage(2, 16), Stage(2, 32)), image_size=8)
CANDIDATES = [Architecture(path) for path in itertools.product(range(2), repeat=4)][::2]
TRAINING_STEPS, CALIBRATION_IMAGES = 200, 512


@functools.cache
def train_digits_supernet() -> tuple[Supernet, Tensor, Tensor, Tensor, Tensor]:
    """Train a supernet on digits, on the CPU; return it with the images and labels of training and of scoring."""
    (images, labels), (others, other_labels) = (
        (
            torch.stack([torch.from_numpy(digit_set.image(i)).permute(2, 0, 1) for i in range(len(digit_set))]),
            torch.from_numpy(digit_set.labels),
        )
        for digit_set in (load("digits", "", "train"), load("digits", "", "val"))
    )
    model = build_initialized(lambda: Supernet(DIGITS), 0)
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(len(images), generator=generator)[:64] for _ in range(TRAINING_STEPS)])
    training = make_trainer(
        accelerator.CPU,
        model,
        TrainingPlan(Schedule(0.1, TRAINING_STEPS), 64),
        lambda step: CANDIDATES[step % len(CANDIDATES)],
        partial(preprocess, "standard"),
    )
    train_steps(training, ((images[chosen], None, labels[chosen]) for chosen in order), TRAINING_STEPS)
    # Training digits are scored too: the supernet's accuracy is not the question here.
    return model, images, labels, torch.cat((others, images)), torch.cat((other_labels, labels))


@functools.cache
def score_on(device: torch.device, amp: Amp, tf32: bool) -> list[Score]:
    """Calibrate and score the candidates on a device."""
    model, images, _, scored, labels = train_digits_supernet()
    copy = Supernet(DIGITS)
    copy.load_state_dict(model.state_dict())
    evaluator = Evaluator(
        copy,
        lambda pixels: preprocess("standard", pixels, None),
        calibration=CalibrationSet(images[:CALIBRATION_IMAGES], 64),
        images=scored,
        labels=labels,
        batch=200,
        device=device,
        amp=amp,
    )
    with accelerator.set_convolutions(tf32=tf32):
        scores = evaluator.score(CANDIDATES)
    assert scores is not None
    return scores


def check_scores(precision: Precision, place: Place) -> str:
    """Compare the counts of calibrated candidates with those of this CPU in float32."""
    right, found = score_on(accelerator.CPU, "off", False), score_on(place.device, precision.amp, precision.tf32)
    differences = [abs(one.top1_count - other.top1_count) for one, other in zip(found, right, strict=True)]
    allowed = math.ceil(precision.score * right[0].images / 2000)
    require_within(f"the count of a candidate, of {right[0].images} images,", max(differences), allowed)
    if min(score.top1_count for score in right) < right[0].images / 4:
        raise Wrong("the supernet has learned nothing, so its scores prove nothing")
    changed = sum(int((one.top1 != other.top1).sum()) for one, other in zip(found, right, strict=True))
    share = changed / len(right) / right[0].images
    best = max(score.top1_count for score in right) / right[0].images
    return f"counts off by at most {max(differences)} of {right[0].images}, {share:.2%} of outcomes; best {best:.0%}"


FIRST, LOADING_SECONDS = ("logits", "float32"), 12  # The first check also loads the device's libraries.


def set_tf32(allowed: bool, run: Callable[[Place], str]) -> Callable[[Place], str]:
    """Return a check with TF32 allowed or not."""

    def run_with_tf32(place: Place) -> str:
        with accelerator.set_convolutions(tf32=allowed):
            return run(place)

    return run_with_tf32


def list_checks() -> Iterator[Check]:
    """List the checks, in every precision that they have."""
    kinds: list[tuple[str, str, float, Callable[[Precision, Place], str]]] = [
        ("logits", "golden logits of supernet and network", 8, check_logits),
        ("steps", "the golden training steps of the official code", 12, check_steps),
        (
            "training",
            "two steps of both trainings, with accumulation and EMA",
            6,
            lambda p, place: check_trainings(p, "off", place),
        ),
        ("scores", "calibration and scores against this CPU's", 6, check_scores),
    ]
    for kind, what, budget, run in kinds:
        for precision in PRECISIONS:
            if kind != "scores" or precision.amp != "fp16":
                made = set_tf32(precision.tf32, partial(run, precision))
                name, first = f"{kind}-{precision.name}", LOADING_SECONDS if (kind, precision.name) == FIRST else 0
                yield Check(name, f"{what}, {precision.name}", budget + first, made, precision.needs)
        if kind == "training":
            compiled = partial(check_trainings, PRECISIONS[2], "blocks")
            yield Check("training-compile", "the same with compile: blocks, bf16", 40, compiled, need_compiler)
