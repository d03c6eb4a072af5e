"""A space with several image sizes, from the supernet to networks of one of the sizes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import spos_cli
from spos_cli.engine import checkpoint
from spos_cli.space.architecture import parse, read
from tests.conftest import TINY, Mistake, Spos
from tests.runs import SHORT_AUDIT

SIZES = [6, 8, 12]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Spos:
    """A working folder with a supernet and a search. Not to be changed."""
    spos = Spos(tmp_path_factory.mktemp("sizes"))
    settings = yaml.safe_load(TINY)
    settings["space"] |= {"image_size": SIZES[-1], "image_sizes": SIZES}
    settings["supernet"] |= {"steps": 30}
    settings["retrain"] |= {"steps": 20, "evaluate_every": 20}
    (spos.folder / "spos.yaml").write_text(yaml.safe_dump(settings))
    spos.here("supernet-train")
    spos.here("search")
    return spos


@pytest.fixture
def spos(trained: Spos, tmp_path: Path) -> Spos:
    """A copy of `trained`."""
    copy = Spos(tmp_path / "copy")
    shutil.copytree(trained.folder, copy.folder, dirs_exist_ok=True)
    return copy


def show(spos: Spos, command: str, *options: object) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(spos.here(command, "--json", *options).stdout)
    return result


def test_two_processes_search_alike(spos: Spos, trained: Spos) -> None:
    lines = [json.loads(line) for line in (spos.run / "search" / "journal.jsonl").read_text().splitlines()]
    assert {line["architecture"][0] for line in lines} == {f"{side}px" for side in SIZES}
    shutil.rmtree(spos.run / "search")
    spos.together("search")
    for name in ("journal.jsonl", "outcomes.bits"):
        assert (spos.run / "search" / name).read_bytes() == (trained.run / "search" / name).read_bytes()


def test_scores_are_those_of_an_evaluation_at_that_size(spos: Spos) -> None:
    """With `search.split: val`, both score on the validation images."""
    shutil.rmtree(spos.run / "search")
    val = ("--set", "search.split=val", "--set", "search.images=null", "--set", "search.generations=0")
    spos.here("search", *val)
    lines = [json.loads(line) for line in (spos.run / "search" / "journal.jsonl").read_text().splitlines()]
    for line in lines[:: len(lines) - 1]:
        arch = ",".join(map(str, line["architecture"]))
        result = show(spos, "evaluate", "--weights", spos.run / "supernet" / "last.pt", "--arch", arch)
        side = parse(arch).image_size
        assert result["top1"] == pytest.approx(line["top1"])
        assert (result["image_size"], result["trained_image_size"]) == ([side] * 2, [side] * 2)
        assert result["flops"] == line["flops"]


def test_a_retrained_network_has_its_size(spos: Spos, mistake: Mistake) -> None:
    small = parse("6px,2,1,0,3")
    spos.here("retrain", str(small))
    model = spos.run / "retrain" / small.id / "model.pt"
    assert read(str(small)).id != small.with_image_size(8).id
    result = show(spos, "evaluate", "--weights", model)
    assert result["top1"] == checkpoint.load(model)["metrics"]["top1"]
    assert (result["image_size"], result["trained_image_size"]) == ([6, 6], [6, 6])
    assert "6 x 6 pixels, as in the training" in spos.here("evaluate").stdout
    larger = show(spos, "evaluate", "--image-size", 16)
    assert (larger["image_size"], larger["trained_image_size"]) == ([16, 16], [6, 6])
    assert larger["flops"] > result["flops"]
    network = spos_cli.load(model)
    assert network.preprocess(torch.zeros(20, 30, 3, dtype=torch.uint8).numpy()).shape == (1, 3, 6, 6)
    assert str(network.architecture) == str(small)
    # Fine-tune it, and train a network of the same blocks at another size from its weights.
    spos.here("retrain", "--init", model, "--set", "name=tuned")
    assert (spos.folder / "runs" / "tuned" / "retrain" / small.id / "model.pt").is_file()
    spos.here("retrain", small.with_image_size(12), "--init", model)
    assert "begin with 6px or 8px or 12px" in mistake("retrain", "2,1,0,3")
    assert "image size 7px" in mistake("retrain", "7px,2,1,0,3")


def test_exported_files_have_the_size_of_the_path(spos: Spos) -> None:
    pytest.importorskip("safetensors", reason="needs the extra safetensors")
    weights = ("--weights", spos.run / "supernet" / "last.pt", "--arch", "8px,0,1,2,3")
    expected = show(spos, "evaluate", *weights)
    spos.here("export-arch", *weights)
    ident = parse("8px,0,1,2,3").id
    assert show(spos, "evaluate", "--weights", spos.run / "archs" / ident / "model.pt")["top1"] == expected["top1"]
    spos.here("export-arch", *weights, "--format", "safetensors")
    found = show(spos, "evaluate", "--weights", spos.run / "exported" / f"{ident}.safetensors")
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert (found["image_size"], found["trained_image_size"], found["flops"]) == ([8, 8], [8, 8], expected["flops"])
    own = ("--weights", spos.run / "archs" / ident / "model.pt", "--format", "safetensors")
    spos.here("export-arch", *own, "--image-size", 10, "--output", "ten.safetensors")
    assert show(spos, "evaluate", "--weights", "ten.safetensors")["image_size"] == [10, 10]


def test_an_audit_trains_networks_of_each_size(spos: Spos) -> None:
    spos.here("audit", *SHORT_AUDIT)
    models = [checkpoint.load(path) for path in spos.run.glob("audit/alone/*/model.pt")]
    sides = [parse(",".join(map(str, model["architecture"]))).image_size for model in models]
    assert len(set(sides)) > 1
    assert [model["preprocessing"]["image_size"] for model in models] == sides
    spos.here("report")
    assert "6px," in (spos.run / "search" / "report.html").read_text()
