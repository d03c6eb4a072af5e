"""Measure how well supernets rank: `python -m tests.benchmarks.ranking FOLDER`, about half an hour.

The data is Fashion-MNIST, in a space of very different networks (kernels, widths, depth). Three supernets see the same
number of passes: with uniform paths, without and with a warm-up of the widths, and with the sandwich rule. Twelve
architectures, one from each twelfth of the range of FLOPs, are trained stand-alone with a short budget, two of them
with three seeds each to measure the noise. Results that are already in FOLDER are used again.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from spos_cli.config import loading
from spos_cli.engine import checkpoint
from spos_cli.engine.distributed import Processes
from spos_cli.models.counting import count
from spos_cli.run.command import Run
from spos_cli.run.images import Images
from spos_cli.run.search_inputs import make_evaluator
from spos_cli.run.weights_file import read_weights
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable
from spos_cli.space.cost_kinds import format_cost

RECIPE, ARCHITECTURES, SEEDS = "fashion_mnist_channels", 12, 3
STEPS, STAND_ALONE_STEPS = 9000, 3000
SUPERNETS = {
    "uniform": {"supernet.sampler": "uniform", "supernet.steps": STEPS, "supernet.width_warmup_steps": 0},
    "uniform, warm-up": {
        "supernet.sampler": "uniform",
        "supernet.steps": STEPS,
        "supernet.width_warmup_steps": STEPS // 3,
    },
    "sandwich": {
        "supernet.sampler": "sandwich",
        "supernet.steps": STEPS // 4,  # of four paths
        "supernet.lr": 0.02,
        "supernet.width_warmup_steps": 0,
    },
}


def run_spos(*arguments: str) -> None:
    """Run a command with one thread; it must succeed."""
    command = [sys.executable, "-m", "spos_cli", *arguments, "--config", RECIPE, "--set", "threads=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--set", "data.workers=0"], check=True, capture_output=True, env=environment)


def draw_stratified(table: CostTable) -> list[Architecture]:
    """Draw one architecture from each of some equal parts of the range of costs."""
    rng, distribution = np.random.default_rng(0), table.distribution()
    ends = np.linspace(table.minimum, table.maximum, ARCHITECTURES + 1).astype(int).tolist()
    return [distribution.draw(rng, low, high) for low, high in itertools.pairwise(ends)]


def train_supernet(folder: Path, name: str) -> Path:
    """Train a supernet, and return the path of its checkpoint."""
    run = folder / name.replace(", ", "-")
    settings = (f"{key}={value}" for key, value in SUPERNETS[name].items())
    run_spos("supernet-train", "--run-dir", str(run), *(part for setting in settings for part in ("--set", setting)))
    return run / "supernet" / "last.pt"


def train_stand_alone(folder: Path, arch: Architecture, seed: int) -> float:
    """Train an architecture from scratch, and return its top-1 on the test images."""
    run = folder / f"stand-alone-{seed}"
    model = run / "retrain" / arch.id / "model.pt"
    if not model.exists():
        steps = f"retrain.steps={STAND_ALONE_STEPS}"
        run_spos("retrain", str(arch), "--run-dir", str(run), "--seed", str(seed), "--set", steps)
    return float(checkpoint.load(model)["metrics"]["top1"])


def score_paths(folder: Path, weights: Path, archs: Iterable[Architecture]) -> list[float]:
    """Return the one-shot top-1 of architectures on the held-out training images."""
    overrides = [f"run_dir={folder}", "threads=1", "data.workers=0"]
    config = loading.load(loading.find_config(RECIPE), overrides)
    processes = Processes(0, 1, torch.device("cpu"))
    supernet = read_weights(weights).supernet(config)
    evaluator = make_evaluator(Run(config), Run(config).folder.search, supernet, Images(config, processes), processes)
    return [score.top1_count / score.images for score in evaluator.score(list(archs)) or []]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.absolute()
    table = count(loading.load(loading.find_config(RECIPE)).space.build()).flops
    archs = draw_stratified(table)
    repeated = (archs[1], archs[-2])
    with ThreadPoolExecutor(2) as pool:
        supernets = [pool.submit(train_supernet, folder, sampler) for sampler in SUPERNETS]
        stand_alone = {arch: [pool.submit(train_stand_alone, folder, arch, 0)] for arch in archs}
        for arch in repeated:
            stand_alone[arch] += [pool.submit(train_stand_alone, folder, arch, seed) for seed in range(1, SEEDS)]
        checkpoints = [supernet.result() for supernet in supernets]
        trained = {arch: [job.result() for job in jobs] for arch, jobs in stand_alone.items()}
    torch.set_num_threads(1)
    shots = [score_paths(path.parents[1], path, archs) for path in checkpoints]
    results = Table("architecture", "FLOPs", "stand-alone", *(f"one-shot, {name}" for name in SUPERNETS))
    for arch, *shot in zip(archs, *shots, strict=True):
        seeds = ", ".join(f"{value:.2%}" for value in trained[arch])
        results.add_row(str(arch), format_cost(table.of(arch)), seeds, *(f"{value:.2%}" for value in shot))
    console = Console(width=140)
    console.print(results)
    first = [values[0] for values in trained.values()]
    noise = statistics.mean(statistics.stdev(trained[arch]) for arch in repeated)
    console.print(
        f"stand-alone: {min(first):.2%} to {max(first):.2%}, deviation {statistics.stdev(first):.2%}; seeds {noise:.2%}"
    )
    for name, shot in zip(SUPERNETS, shots, strict=True):
        tau = kendalltau(first, shot)
        console.print(
            f"{name}: tau {tau.statistic:.2f} (p {tau.pvalue:.3f}); mean one-shot {statistics.mean(shot):.2%}"
        )
    tau = kendalltau(first, [table.of(arch) for arch in archs])
    console.print(f"FLOPs instead of a supernet: tau {tau.statistic:.2f}")


if __name__ == "__main__":
    main()
