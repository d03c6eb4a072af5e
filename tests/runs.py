"""Run folders with made-up scores, for tests of code that only reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from spos_cli.config import loading
from spos_cli.search.journal import Entry, Origin
from spos_cli.search.results import ranking
from spos_cli.space.architecture import Architecture
from spos_cli.space.search_space import SearchSpace

ORIGINS: tuple[Origin, ...] = ("random", "mutation", "crossover")


# The shortest audit: three stand-alone trainings of two steps.
SHORT_AUDIT = tuple(
    part
    for setting in ("architectures=3", "equal_flops=0", "winner_seeds=1", "steps=2")
    for part in ("--set", f"audit.{setting}")
)


def make_candidates(
    space: SearchSpace, candidates: int, images: int, generations: int, seed: int = 0
) -> tuple[list[Entry], np.ndarray]:
    """Return different candidates with made-up costs and scores, and their outcomes `(candidates, images) bool`.

    Later candidates are better. An image is easy or hard for all of them.
    """
    rng = np.random.default_rng(seed)
    archs: dict[Architecture, None] = {}
    while len(archs) < candidates:
        drawn = [options[rng.integers(len(options))] for options in space.options.by_layer]
        archs[Architecture.from_options(drawn)] = None
    hard = rng.random(images)
    entries, outcomes = [], np.zeros((candidates, images), bool)
    for row, arch in enumerate(archs):
        generation = row * generations // candidates
        size = sum(map(int.__truediv__, arch.choices, space.options.choice_counts)) / len(arch)
        flops = int(1e8 * (2 + size + sum(arch.widths) / 1000 / len(arch) + 0.1 * rng.random()))
        skill = 0.55 + 0.2 * generation / generations + 0.1 * size + 0.03 * rng.standard_normal()
        outcomes[row] = hard + 0.1 * rng.standard_normal(images) < skill
        top1 = int(outcomes[row].sum()) / images
        origin: Origin = "random" if generation == 0 else ORIGINS[int(rng.integers(3))]
        entries.append(Entry(arch, flops, flops // 20, top1, min(1.0, top1 + 0.1), images, generation, origin))
    return entries, outcomes


def write_run(
    folder: Path,
    text: str,
    candidates: int = 60,
    *,
    images: int = 400,
    generations: int = 6,
    audit: dict[str, Any] | None = None,
) -> list[Entry]:
    """Write what the stages of a run leave, and return the candidates of its search.

    Args:
        folder: the run folder.
        text: the settings, as YAML.
        candidates: how many the search has scored.
        audit: the content of `audit/result.json`; None for a run without an audit.
    """
    search, supernet = folder / "search", folder / "supernet"
    search.mkdir(parents=True)
    supernet.mkdir()
    for stage in (folder, search, supernet):
        (stage / "config.yaml").write_text(text)
    space = loading.load(folder / "config.yaml").space.build()
    entries, outcomes = make_candidates(space, candidates, images, generations)
    (search / "journal.jsonl").write_text("".join(entry.to_line() for entry in entries))
    (search / "outcomes.bits").write_bytes(np.packbits(outcomes, axis=1).tobytes())
    limit = max(entry.flops for entry in entries) + 1
    best = [{"rank": rank, **entry.to_dict()} for rank, entry in enumerate(ranking(entries)[:10], 1)]
    result = {"flops_limit": limit, "space": space.to_dict(), "best": best}
    (search / "result.yaml").write_text(yaml.safe_dump(result))
    time = {"seconds": 125.0, "done": candidates, "unit": "candidates", "device": "a CPU", "processes": 2, "threads": 4}
    (search / "timing.jsonl").write_text(json.dumps(time) + "\n")
    lines = [
        {"step": step, "lr": 0.1 - step / 1e4, "loss": 3 - step / 1e3, "top1": step / 2e3, "images": 640}
        for step in range(10, 1000, 10)
    ]
    metrics = "".join(json.dumps({**line, "images_per_second": 320.0}) + "\n" for line in lines)
    (supernet / "metrics.jsonl").write_text(metrics)
    if audit is not None:
        (folder / "audit").mkdir()
        (folder / "audit" / "result.json").write_text(json.dumps(audit))
    return entries


def make_audit(seeds: int = 3, evaluations: int = 60) -> dict[str, Any]:
    """Return the result of an audit, with made-up numbers."""
    rng = np.random.default_rng(1)

    def curves(gain: float) -> list[dict[str, Any]]:
        top1 = 0.6 + gain * rng.random((seeds, evaluations))
        return [{"seed": seed, "best": np.maximum.accumulate(row).tolist()} for seed, row in enumerate(top1)]

    one_shot, stand_alone = rng.random(12) * 0.1 + 0.7, rng.random(12) * 0.02 + 0.9
    pairs = zip(one_shot.tolist(), stand_alone.tolist(), strict=True)
    return {
        "random": curves(0.15),
        "evolution": curves(0.2),
        "operators": {
            "mutation": {"proposed": 100, "accepted": 40, "duplicate": 45, "over_limit": 15},
            "crossover": {"proposed": 50, "accepted": 30, "duplicate": 10, "over_limit": 10},
        },
        "fidelity": {
            "steps": 3000,
            "winner": {
                "architecture": [0],
                "flops": 10**6,
                "one_shot": 0.81,
                "alone": 0.915,
                "trainings": [0.914, 0.916],
            },
            "equal_flops": {
                "architectures": [
                    {"architecture": [0], "flops": 10**6, "one_shot": 0.8, "alone": 0.9},
                    {"architecture": [1], "flops": 10**6, "one_shot": 0.79, "alone": 0.91},
                ],
                "kendall": {"value": None, "low": None, "high": None},
                "difference": {"value": 0.01, "low": -0.002, "high": 0.022},
            },
            "architectures": [
                {"architecture": [0], "flops": 10**6 + i, "one_shot": one_shot_top1, "alone": stand_alone_top1}
                for i, (one_shot_top1, stand_alone_top1) in enumerate(pairs)
            ],
            "kendall": {"value": 0.21, "low": -0.2, "high": 0.6},
            "spearman": {"value": None, "low": None, "high": None},
            "kendall_of_flops": {"value": -0.1, "low": -0.5, "high": 0.4},
        },
        "images": [{"images": 100, "tie_width": 0.1, "tied": 30}, {"images": 400, "tie_width": 0.05, "tied": 12}],
    }
