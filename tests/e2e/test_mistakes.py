"""Mistakes in commands: one clear line, exit code 2, no traceback, nothing lost."""

from __future__ import annotations

import shutil

import pytest

from spos_cli.engine import checkpoint
from tests.conftest import Mistake, Spos


@pytest.mark.parametrize(
    ("command", "phrase"),
    [
        (["supernet-train", "--set", "supernet.stepz=1"], "did you mean 'steps'?"),
        (["supernet-train", "--config", "nothing.yaml"], "there is no config file 'nothing.yaml'"),
        (["supernet-train", "--set", "data.source=folder"], "there is no image folder data/train"),
        (["supernet-train", "--set", "space.classes=9"], "has 10 classes (0, 1, 2, 3, 4, ...), but space.classes is 9"),
        (["supernet-train", "--set", "space.classes=1"], "space.classes: input should be greater than or equal to 2"),
        (["supernet-train", "--set", "supernet.lr=1e30"], "the loss is not finite at step"),
        (
            ["supernet-train", "--set", "supernet.sampler=flops_bins"],
            "no architecture is in the bins of FLOPs 290M to 300M",
        ),
        (["supernet-train", "--set", "supernet.sampler=flops_bins"], "set supernet.flops_bins within that, or"),
        (["supernet-train", "--set", "data.holdout_per_class=500"], "data.holdout_per_class is 500"),
        (["supernet-train", "--set", "supernet.amp=fp16"], "fp16 needs a GPU"),
        (["supernet-train", "--devices", "many"], "error: --devices many: devices: should be auto, cpu or a number"),
        (["supernet-train", "--run-dir", "123", "--set", "supernet.steps=true"], "should be a number, not true"),
        (
            ["supernet-train", "--set", "space.image_size=4", "--set", "supernet.accumulate=32"],
            "raise supernet.batch_size, or space.image_size, or lower supernet.accumulate",
        ),
        (
            ["retrain", "0,0,0,0", "--set", "space.image_size=4", "--set", "retrain.batch_size=1"],
            "raise retrain.batch_size, or space.image_size",
        ),
        (
            ["supernet-train", "--set", "supernet.accumulate=32", "--set", "supernet.mixup=0.2"],
            "supernet.mixup mixes the images of a pass, but supernet.batch_size leaves one",
        ),
        (
            ["retrain", "0,0,0,0", "--set", "retrain.batch_size=1", "--set", "retrain.cutmix=1"],
            "raise retrain.batch_size, or set retrain.cutmix: null",
        ),
        (
            ["search", "--set", "space.image_size=4", "--set", "search.calibration_batch_size=1"],
            "raise search.calibration_batch_size, or space.image_size",
        ),
        (["search", "--flops-limit", "abc"], "--flops-limit abc: search.flops_limit: 'abc' is not a size"),
        (["flops-table", "2,1,0"], "3 layers"),
        (["flops-table", "0,0,0,9"], "choice 9"),
        (["flops-table", "nowhere/arch.yaml"], "nowhere/arch.yaml"),
        (["flops-table", "--flops-limit", "lots"], "'lots' is not a size"),
        (["flops-table", "--set", "space.choices=[shuffel]"], "there is no op 'shuffel'"),
        (["search"], "run spos supernet-train first"),
        (["search", "--weights", "nothing.pt"], "there is no weights file nothing.pt"),
        (["search", "--weights", "spos.yaml"], "it is not a weights file"),
        (["export-arch"], "run spos search first"),
        (["retrain"], "run spos export-arch first"),
        (["retrain", "1,2,3"], "3 layers"),
        (["retrain", "one,two"], "one,two"),
        (["evaluate"], "run spos retrain first"),
        (["evaluate", "--weights", "nothing.pt"], "there is no weights file nothing.pt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_each_mistake(mistake: Mistake, command: list[str], phrase: str) -> None:
    message = mistake(*command)
    assert phrase in message
    assert message.count("error:") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "phrase"),
    [
        (["supernet-train", "--set", "supernet.stepz=1"], "did you mean 'steps'?"),
        (["supernet-train", "--devices", "3"], "batch_size 32 is not divisible by 3 processes"),
        (["search", "--devices", "2"], "run spos supernet-train --set devices=2 first"),
        (["supernet-train", "--devices", "2", "--set", "data.source=folder"], "there is no image folder data/train"),
    ],
    ids=["one process", "the launcher", "its workers", "one of them waits"],
)
def test_the_installed_program_reports_a_mistake_once(spos: Spos, command: list[str], phrase: str) -> None:
    message = spos(*command, code=2).stderr
    assert phrase in message
    assert message.count("error") == 1
    assert not spos.run.exists()


@pytest.mark.slow
def test_mistakes_with_a_supernet(finished: Spos, spos: Spos, mistake: Mistake) -> None:
    shutil.copytree(finished.run, spos.run)
    weights = spos.run / "supernet" / "last.pt"
    before = {path: path.read_bytes() for path in spos.run.rglob("*") if path.is_file()}
    for command, phrase in [
        (["search", "--flops-limit", "10K"], "the space reaches from"),
        (["search", "--seed", "7"], "holds a search with other settings (seed: 7, was 0"),
        (["search", "--set", "space.stages.0.blocks=3"], "was trained on another space"),
        (["supernet-train", "--set", "supernet.lr=0.1"], "supernet.lr: 0.1, was 0.05"),
        (["export-arch", "--flops-limit", "1K"], "no architecture of the space has less than "),
        (["evaluate", "--weights", str(weights)], "name the path to evaluate with --arch"),
        (["evaluate", "--weights", str(weights), "--arch", "0,0"], "2 layers"),
        (
            ["search", "--set", "search.calibration_batch_size=5000"],
            "must be at least calibration_batch_size (5000)",
        ),
    ]:
        assert phrase in mistake(*command)
    after = {path: path.read_bytes() for path in before}
    assert after == before
    (spos.run / "search" / "settings.json").unlink()
    for command in (["search"], ["export-arch"]):
        assert "settings.json is missing or broken" in mistake(*command)

    content = checkpoint.load(weights)
    for name, wrong in [
        ("config", {}),
        ("config", {"supernet": 1, "space": 2}),
        ("model", {"a": 1}),
        ("kind", "network"),
    ]:
        foreign = spos.folder / "foreign.pt"
        checkpoint.save(foreign, {**content, name: wrong})
        for command in (["search", "--weights", foreign], ["evaluate", "--weights", foreign, "--arch", "0,0,0,0"]):
            assert mistake(*command)
    infinite = {**content["model"], "first_conv.0.weight": content["model"]["first_conv.0.weight"] * float("nan")}
    checkpoint.save(spos.folder / "foreign.pt", {**content, "model": infinite})
    assert "values that are not finite" in mistake("search", "--weights", spos.folder / "foreign.pt", "--fresh")
    torn = spos.folder / "torn.pt"
    torn.write_bytes(weights.read_bytes()[:-1000])
    assert "torn" in mistake("search", "--weights", torn)


def test_a_folder_that_cannot_be_written(spos: Spos, mistake: Mistake) -> None:
    (spos.folder / "runs").write_text("a file where a folder should be")
    assert "cannot write" in mistake("flops-table")
