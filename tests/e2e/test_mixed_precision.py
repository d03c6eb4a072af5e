"""Mixed precision through all commands: bits are trained, searched under BitOPs, retrained and exported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from spos_cli.config import loading
from spos_cli.models.counting import count
from spos_cli.space.architecture import Architecture, parse
from tests.conftest import TINY, Mistake, Spos

pytestmark = pytest.mark.slow

BITS = {"choices": [{"basic": {"kernel": 3}}, "identity"], "widths": [0.5, 1.0], "bits": ["w1a2", "w2a4", "w8a8"]}
ARCH = "0@0.5:w2a4,1,0@1.0:w8a8,0@1.0:w1a2"


def quantize(spos: Spos, **space: object) -> None:
    """Give the working folder a space with bits."""
    settings = yaml.safe_load(TINY)
    settings["space"] |= BITS | space
    settings["supernet"]["steps"] = settings["retrain"]["steps"] = 40
    (spos.folder / "spos.yaml").write_text(yaml.safe_dump(settings))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Spos:
    """A working folder with a supernet, a search under a limit of BitOPs, and a retrained network."""
    spos = Spos(tmp_path_factory.mktemp("bits"))
    quantize(spos)
    assert "how often each pair of bits was trained" in spos("supernet-train").stdout
    spos("search", "--bitops-limit", "600K")
    spos("retrain", ARCH)
    return spos


def test_bits_are_trained_and_searched_under_bitops(searched: Spos) -> None:
    """With one and with two processes; every candidate is within the limit, and has the BitOPs of its architecture."""
    trained = [json.loads((searched.run / "supernet" / f"{name}.json").read_text()) for name in ("choices", "bits")]
    assert [sum(row) for row in trained[1]] == [row[0] for row in trained[0]]  # identity has no bits
    journal = (searched.run / "search" / "journal.jsonl").read_bytes()
    table = count(loading.load(searched.folder / "spos.yaml").space.build()).tables["bitops"]
    lines = list(map(json.loads, journal.splitlines()))
    assert len(lines) == 18
    for line in lines:
        assert table.of(Architecture.from_list(line["architecture"])) == line["costs"]["bitops"] <= 600_000
    assert len({bits for line in lines for bits in Architecture.from_list(line["architecture"]).bits}) > 2
    weights = searched.run / "supernet" / "last.pt"
    searched.together("search", "--bitops-limit", "600K", "--run-dir", "two", "--weights", weights)
    assert (searched.folder / "two" / "search" / "journal.jsonl").read_bytes() == journal
    message = searched.here("export-arch", "--bitops-limit", "1K", code=2).stderr
    assert f"no architecture of the space has less than {table.minimum:,} BitOPs" in message
    (cheapest,) = json.loads(
        searched.here("export-arch", "--prefer", "smallest", "--json", "--set", "search.bitops_limit=600K").stdout
    )
    content = yaml.safe_load((searched.folder / cheapest["file"]).read_text())
    assert content["costs"] == {"bitops": cheapest["costs"]["bitops"]}
    result = yaml.safe_load((searched.run / "search" / "result.yaml").read_text())
    assert result["bitops_limit"] == 600_000
    assert all(cheapest["costs"]["bitops"] <= one["costs"]["bitops"] for one in result["best"] if one["tied"])
    front = searched.here(
        "search", "--objective", "pareto", "--pareto-cost", "bitops", "--run-dir", "front", "--weights", weights
    ).stdout
    assert "the front (BitOPs) of 18 candidates" in front
    page = (searched.run / "search" / "report.html").read_text()
    assert "BitOPs of the winner" in page


def test_a_retrained_network_is_the_same_wherever_it_is_evaluated(searched: Spos, tmp_path: Path) -> None:
    model = searched.run / "retrain" / parse(ARCH).id / "model.pt"
    command = ("evaluate", "--json", "--save-logits")
    shown = json.loads(searched.here(*command, tmp_path / "a.npz", "--weights", model).stdout)
    assert shown["bitops"] == json.loads(searched.here("flops-table", ARCH, "--json").stdout)[0]["costs"]["bitops"]
    exported = [searched.folder / name for name in ("net.pt2", "net.safetensors")]
    for file in exported:
        form = file.suffix.removeprefix(".")
        result = json.loads(
            searched.here("export-arch", "--weights", model, "--format", form, "--output", file, "--json").stdout
        )
        assert result["largest_difference"] <= 1e-6 * result["largest_logit"]
        assert result["files"] == [str(file), f"{file}.bits.json"]
        bits = json.loads(Path(f"{file}.bits.json").read_text())
        assert Architecture.from_list(bits["architecture"]) == parse(ARCH)
        pairs = [(layer["weight_bits"], layer["activation_bits"]) for layer in bits["layers"]]
        assert pairs == [(2, 4), (None, None), (8, 8), (1, 2)]
        assert list(bits["layers"][0]["clipping_levels"]) == ["layers.0", "layers.3", "shortcut.0"]
        again = json.loads(searched.here(*command, tmp_path / "b.npz", "--weights", file).stdout)
        assert again["top1"] == shown["top1"]
        one, other = (np.load(tmp_path / name)["logits"] for name in ("a.npz", "b.npz"))
        assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max()


def test_a_path_is_exported_and_retrained_with_its_weights(searched: Spos) -> None:
    """With the clipping levels of its bits only."""
    weights = searched.run / "supernet" / "last.pt"
    arch = "0@1.0:w1a2,0@0.5:w2a4,0@1.0:w2a4,1"
    searched.here("export-arch", "--weights", weights, "--arch", arch, "--output", "path.pt")
    top1 = [
        json.loads(searched.here("evaluate", "--weights", *source, "--json").stdout)["top1"]
        for source in (("path.pt",), (weights, "--arch", arch))
    ]
    assert top1[0] == top1[1]
    assert "from the weights of" in searched.here("retrain", arch, "--init", weights, "--set", "retrain.steps=2").stdout


def test_what_quantized_blocks_refuse(searched: Spos, mistake: Mistake, spos: Spos) -> None:
    quantize(spos)
    model = searched.run / "retrain" / parse(ARCH).id / "model.pt"
    export = ("export-arch", "--weights", model, "--format")
    for arguments, phrase in (
        ((*export, "pt2", "--quantize", "int8"), "bits of its own (w1a2, w2a4, w8a8)"),
        ((*export, "python"), "cannot keep the bits of this network; use --format pt2"),
        ((*export, "published"), "does not keep the bits"),
        (("flops-table", "--latency"), "give them with --import-latency FILE"),
        (("supernet-train", "--channels-of", ARCH), "space.channels_of searches widths only"),
        (("retrain", "0:w2a4,1,0:w1a2,1"), "layer 0 has no width"),
        (("retrain", "0@0.5:w2a2,1,0@0.5:w1a2,1"), "the bits are w1a2, w2a4, w8a8"),
        (("supernet-train", "--set", "supernet.amp=fp16"), "supernet.amp: bf16 or off"),
    ):
        assert phrase in mistake(*arguments)
    quantize(spos, bits=[])
    assert "space.bits is empty" in mistake("search", "--bitops-limit", "1M")
    assert "space.bits is empty" in mistake("export-arch", "--bitops-limit", "1M")
