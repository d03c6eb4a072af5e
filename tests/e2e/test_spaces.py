"""All commands on every kind of space, with small images."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from spos_cli import cli
from spos_cli.config import loading
from spos_cli.space.architecture import read
from tests.conftest import Spos

pytestmark = pytest.mark.slow

# With these settings, all commands on a recipe's space take seconds.
QUICK = {
    "devices": "cpu",
    "threads": 1,
    "data": {"source": "digits", "preset": "standard", "holdout_per_class": 4, "workers": 0},
    "supernet": {"steps": 2, "batch_size": 8, "warmup_steps": 0, "sampler": "uniform"},
    "search": {
        "flops_limit": None,
        "population": 3,
        "generations": 1,
        "parents": 2,
        "mutations": 1,
        "crossovers": 1,
        "calibration_images": 16,
        "calibration_batch_size": 8,
        "batch_size": 40,
    },
    "retrain": {"steps": 2, "batch_size": 8, "warmup_steps": 0, "evaluate_every": 2, "batchnorm_pass_steps": 1},
}


def quick(name: str) -> dict[str, Any]:
    """Return quick settings for the space of a recipe, with at most 16 x 16 pixels and ten classes."""
    space = loading.load(loading.list_recipes()[name]).dump()["space"]
    crop = {"crop": "none", "flip": False, "jitter": 0}
    size = min(16, space["image_size"])
    space |= {"image_size": size, "image_sizes": [8, size] if space["image_sizes"] else []}
    return {
        **QUICK,
        "name": "quick",
        "data": {**QUICK["data"], "augmentation": crop},  # type: ignore[dict-item]
        "space": {**space, "classes": 10},
    }


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run a command in this process, from the entry point of the console script."""
    monkeypatch.setattr(sys, "argv", ["spos", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0, arguments


@pytest.mark.parametrize("name", ["imagenet", "imagenet_mobilenet", "imagenet_channels", "imagenet_fbnet",
                                  "imagenet_proxylessnas", "imagenet_resnet", "imagenet_shufflenet_v2_plus",
                                  "imagenet_once_for_all",
                                  "cifar10", "cifar10_mobilenet", "cifar10_channels", "cifar10_nas_bench_macro",
                                  "fashion_mnist", "fashion_mnist_mobilenet", "fashion_mnist_channels",
                                  "resnet18_bits", "cifar10_resnet_bits", "demo"])  # fmt: skip
def test_shipped_spaces(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spos.yaml").write_text(yaml.safe_dump(quick(name)))
    for command in ("supernet-train", "flops-table", "search", "export-arch", "retrain", "evaluate"):
        run(monkeypatch, command)
    trained = json.loads(Path("runs/quick/supernet/choices.json").read_text())
    space = loading.load(Path("spos.yaml")).space.build()
    assert [len(row) for row in trained] == [len(layer.choices) for layer in space.layers]
    assert all(sum(row) == 2 for row in trained)
    has_widths = "@" in next(Path().glob("runs/quick/archs/*/arch.yaml")).read_text()
    assert (":w" in next(Path().glob("runs/quick/archs/*/arch.yaml")).read_text()) == bool(space.bits)
    assert bool(space.bits) == Path("runs/quick/supernet/bits.json").exists()
    assert bool(space.output_widths) == Path("runs/quick/supernet/output_widths.json").exists()
    assert bool(space.image_sizes) == Path("runs/quick/supernet/image_sizes.json").exists()
    assert has_widths == bool(space.widths) == Path("runs/quick/supernet/widths.json").exists()


@pytest.mark.parametrize(("name", "arch"), [("imagenet", ""), ("fashion_mnist_mobilenet", "0,1,5,2,3,5,0,5")])
def test_channels_of_a_found_architecture(
    name: str, arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both steps of the paper: the blocks, then the widths of the winner's, each in a run of its own."""
    monkeypatch.chdir(tmp_path)
    Path("spos.yaml").write_text(yaml.safe_dump(quick(name)))
    if not arch:
        for command in ("supernet-train", "search", "export-arch"):
            run(monkeypatch, command)
        (path,) = Path().glob("runs/quick/archs/*/arch.yaml")
        arch = str(path)
    capsys.readouterr()
    run(monkeypatch, "supernet-train", "--channels-of", arch)
    for command in ("search", "export-arch", "retrain", "evaluate"):
        following = shlex.split(capsys.readouterr().out.rpartition("next: spos ")[2])
        assert following[0] == command
        assert following[-2:] == ["--set", f"space.channels_of={arch}"]
        run(monkeypatch, *following)
    capsys.readouterr()
    (folder,) = Path("runs").glob("quick-channels-*")
    run(monkeypatch, "status", str(folder))
    assert "next: spos evaluate" in capsys.readouterr().out
    space = loading.load(folder / "config.yaml").space.build()
    (found,) = folder.glob("archs/*/arch.yaml")
    widths = read(str(found)).widths
    assert len(widths) == space.num_layers
    assert set(widths) <= {0, *range(200, 2001, 200)}
    assert all(len(layer.choices) == 1 for layer in space.layers)


OWN = """
from torch import nn


class Plain(nn.Module):
    def __init__(self, in_channels, out_channels, stride, affine, kernel, groups=1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, features):
        return self.norm(self.conv(features)).relu()


class WrongShape(Plain):
    def forward(self, features):
        return super().forward(features)[:, 1:]
"""


def use_own_block(spos: Spos, *choices: object) -> None:
    (spos.folder / "blocks.py").write_text(OWN)
    settings = yaml.safe_load((spos.folder / "spos.yaml").read_text())
    settings["space"]["choices"] = list(choices)
    (spos.folder / "spos.yaml").write_text(yaml.safe_dump(settings))


@pytest.fixture
def fresh_imports() -> Iterator[None]:
    """No test gets the blocks of another test."""
    before = list(sys.path)
    sys.modules.pop("blocks", None)
    yield
    sys.modules.pop("blocks", None)
    sys.path[:] = before


@pytest.mark.usefixtures("fresh_imports")
def test_a_block_of_the_users(spos: Spos) -> None:
    """In a space with shuffles, inverted residuals, identity and widths; a sandwich; one and two processes."""
    kernel = {"blocks:Plain": {"kernel": 3, "groups": 2}}
    use_own_block(spos, {"shuffle": {"kernel": 3}}, {"mbconv": {"kernel": 3, "expand": 2}}, kernel, "identity")
    settings = yaml.safe_load((spos.folder / "spos.yaml").read_text())
    settings["space"]["widths"] = [0.5, 1, 1.5]
    settings["supernet"] |= {"steps": 12, "sampler": "sandwich"}
    (spos.folder / "spos.yaml").write_text(yaml.safe_dump(settings))
    message = spos("supernet-train").stdout
    assert "how often each choice was trained" in message
    assert "how often each width was trained" in message
    trained = json.loads((spos.run / "supernet" / "choices.json").read_text())
    assert [sum(row) for row in trained] == [48] * 4
    spos.here("search")
    spos.together("search", "--run-dir", "two", "--weights", spos.run / "supernet" / "last.pt")
    journals = [folder / "search" / "journal.jsonl" for folder in (spos.run, spos.folder / "two")]
    assert journals[0].read_bytes() == journals[1].read_bytes()
    assert b"@1.5" in journals[0].read_bytes()
    assert "layer 2 has no width; the widths are 0.5, 1.0, 1.5" in spos.here("retrain", "2,3,0,2", code=2).stderr
    spos.here("retrain", "2,3,0@0.5,2")
    (model,) = spos.run.glob("retrain/*/model.pt")
    assert "2,3,0@0.5,2" in spos.here("evaluate", "--weights", model).stdout
    official = ("--format", "published", "--output", "theirs.pth.tar")
    spos.here("export-arch", "--weights", model, *official)
    assert "2,3,0@0.5,2" in spos.here("evaluate", "--weights", "theirs.pth.tar").stdout  # The tensors tell it.
    # Without settings of the user that name the block, a weights file cannot make spos import it.
    (spos.folder / "blocks.py").write_text("raise SystemExit('imported')")
    (spos.folder / "spos.yaml").rename(spos.folder / "mine.yaml")
    message = spos("evaluate", "--weights", model, code=2).stderr
    assert "name blocks to import: blocks:Plain; if they are yours, also give the --config" in message
    (spos.folder / "blocks.py").write_text(OWN)
    spos("evaluate", "--weights", model, "--config", "mine.yaml")


@pytest.mark.usefixtures("fresh_imports")
@pytest.mark.parametrize(
    ("choice", "phrase"),
    [
        ("nowhere:Plain", "cannot build nowhere:Plain for layer 0: No module named 'nowhere'"),
        ("blocks:Missing", "has no attribute 'Missing'"),
        ("blocks:Plain", "missing 1 required positional argument: 'kernel'"),
        ({"blocks:WrongShape": {"kernel": 3}}, "makes [(15, 4, 4)] in layer 0 instead of [(16, 4, 4)]"),
        ("blocks:", "cannot read {'blocks:': {}}"),
        ("json:loads", "cannot build json:loads"),
    ],
)
def test_mistakes_in_a_block_of_the_users(spos: Spos, choice: object, phrase: str, mistake: Any) -> None:
    use_own_block(spos, choice, {"shuffle": {"kernel": 3}})
    assert phrase in mistake("flops-table")


def test_limits_on_several_costs(finished: Spos, spos: Spos) -> None:
    """FLOPs, parameters and measured latency; errors if nothing fits, or if the latency table is missing or another."""
    weights = ("--weights", finished.run / "supernet" / "last.pt")
    message = spos.here("search", *weights, "--latency-limit", "5ms", code=2).stderr
    assert "run spos flops-table --latency --set search.latency_limit=5ms first" in message
    table = json.loads(spos.here("flops-table", "--latency", "--json").stdout)
    assert table == json.loads((spos.run / "latency_table.json").read_text())
    assert len(table["whole"]) == 20
    assert table["conditions"]["batch"] == 1
    # These latencies do not depend on how busy the machine is.
    table |= {"fixed": 500, "table": [[100 * (index + 1) for index in range(len(row))] for row in table["table"]]}
    (spos.run / "latency_table.json").write_text(json.dumps(table))
    latency_limit = f"{table['fixed'] + round(sum(sum(row) / len(row) for row in table['table']))}us"
    limits = ("--latency-limit", latency_limit, "--params-limit", "6K", "--flops-limit", "60K")
    message = spos.here("search", *weights, *limits).stdout
    assert "at or under 60K FLOPs and 6K parameters and" in message
    journal = (spos.run / "search" / "journal.jsonl").read_bytes()
    for line in journal.splitlines():
        entry = json.loads(line)
        added = sum(row[choice] for row, choice in zip(table["table"], entry["architecture"], strict=True))
        assert table["fixed"] + added <= int(latency_limit.removesuffix("us"))
        assert entry["params"] <= 6_000
        assert entry["flops"] <= 60_000
    starved = spos.here("search", *weights, "--run-dir", "other", "--params-limit", "1K", code=2).stderr
    assert "no architecture has at most 1K parameters" in starved
    for fixed, phrase in (
        (501, "holds a search with other settings (search.latency_table:"),  # Other candidates would fit.
        (5000, "the space reaches from 5.4ms"),
    ):
        (spos.run / "latency_table.json").write_text(json.dumps(table | {"fixed": fixed}))
        assert phrase in spos.here("search", *weights, *limits, code=2).stderr
    assert (spos.run / "search" / "journal.jsonl").read_bytes() == journal


@pytest.mark.parametrize("name", ["cifar10_modern", "imagenet_modern", "finetune"])
def test_modern_retrainings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the optimizer, schedule, augmentation, mixing and average of the recipe, for a few steps."""
    monkeypatch.chdir(tmp_path)
    settings, recipe = quick(name), loading.load(loading.list_recipes()[name]).dump()
    short = {**QUICK["retrain"], "steps": 4, "warmup_steps": 2}
    settings["retrain"] = {**recipe["retrain"], **short}
    settings["data"] = {**QUICK["data"], "augmentation": recipe["data"]["augmentation"], "holdout_per_class": 10}
    Path("spos.yaml").write_text(yaml.safe_dump(settings))
    layers = loading.load(Path("spos.yaml")).space.build().num_layers
    run(monkeypatch, "retrain", ",".join("0" * layers))
    run(monkeypatch, "evaluate")
