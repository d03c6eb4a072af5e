"""Every fault that `spos doctor` claims to find is planted here, and found; a healthy setup is ok in every line."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from spos_cli import cli
from spos_cli.config import loading
from spos_cli.data.datasets import ArraySet, FolderSet
from spos_cli.engine import accelerator, distributed
from spos_cli.engine.trainer import Batch, Trainer
from spos_cli.models import counting, skeleton
from spos_cli.official import golden
from spos_cli.run.command import Run
from spos_cli.stages import doctor
from tests.conftest import TINY, Spos, count_spaces_once

CLASSES = [f"class{number}" for number in range(10)]
LEAST, MOST = 38_912, 62_848  # FLOPs of the tiny space
HEALTHY = ["search.calibration_images=320", "supernet.steps=1000"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates are measured for a moment only, on a machine of two cores without a GPU; a space is counted once."""
    count_spaces_once(monkeypatch)
    monkeypatch.setattr(doctor, "SECONDS", 0.05)
    monkeypatch.setattr(distributed, "usable_cores", lambda: 2)
    monkeypatch.setattr(shutil, "which", lambda name: None)


def setup(*overrides: str, full: bool = False) -> doctor.Setup:
    settings = loading.validate(yaml.safe_load(TINY), [*HEALTHY, *overrides])
    return doctor.Setup(Run(settings, as_json=True), full)


def save(path: Path, seed: int, side: int = 8) -> Path:
    """A JPEG of noise: of another content for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Class folders: 15 training and 3 validation images of each of 10 classes, all different."""
    numbers = iter(range(1000))
    for split, count in (("train", 15), ("val", 3)):
        for name in CLASSES:
            for image in range(count):
                save(tmp_path / "images" / split / name / f"{image}.jpg", next(numbers))
    return tmp_path / "images"


def folders(root: Path, *overrides: str, full: bool = False) -> doctor.Setup:
    """A setup on class folders; 5 of the 15 images are held out."""
    return setup("data.source=folder", f"data.root={root}", "data.holdout_per_class=5", *overrides, full=full)


def found(findings: doctor.Findings, check: str, status: str, said: str) -> doctor.Finding:
    """The only line about a check; a fault has something to do about it."""
    (finding,) = [finding for finding in findings if finding.check == check]
    assert finding.status == status, finding
    assert said in f"{finding.seen} → {finding.advice}"
    assert bool(finding.advice) == (status != "ok")
    return finding


# A healthy setup


@pytest.mark.parametrize("full", [False, True])
def test_class_folders_that_are_in_order(root: Path, full: bool) -> None:
    assert {finding.status for finding in doctor.check_data(folders(root, full=full))} == {"ok"}


def test_settings_that_are_in_order() -> None:
    for check in (doctor.check_processes, doctor.check_batchnorm, doctor.check_data, doctor.check_disk):
        assert {finding.status for finding in check(setup())} == {"ok"}
    assert {doctor.under_limit(setup()).status, doctor.path_sampler(setup()).status} == {"ok"}
    assert {finding.status for finding in doctor.check_devices(setup())} == {"ok"}


@pytest.mark.parametrize("workers", [0, 2])
def test_speed_of_a_healthy_setup(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "HEADROOM", 0.0)  # a busy machine may slow either side down
    finding = found(doctor.check_speed(setup(f"data.workers={workers}")), "speed", "ok", "the supernet takes about")
    assert f"by {workers} workers" in finding.seen


def test_the_compiler_is_no_part_of_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "HEADROOM", 0.0)
    found(doctor.check_speed(setup("supernet.compile=blocks")), "speed", "ok", "the supernet takes about")


@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_a_gpu_is_fed_from_pinned_memory_as_by_the_loader(monkeypatch: pytest.MonkeyPatch, jitter: float) -> None:
    pinned: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        return tensor

    def update(stream: Iterator[Batch]) -> None:
        assert {id(tensor) for tensor in next(stream) if tensor is not None} == set(map(id, pinned))

    model = SimpleNamespace(train=lambda: None)
    played = SimpleNamespace(update=update, model=model, step=0)
    monkeypatch.setattr(doctor, "Trainer", lambda *arguments, **options: played)
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(accelerator, "synchronize", lambda device: None)
    wanted = setup(f"data.augmentation.jitter={jitter}")
    wanted.device = torch.device("cuda", 0)
    assert doctor.step_rate(wanted, 4) > 0
    assert len(pinned) == (3 if jitter else 2)


# Settings and the machine


@pytest.mark.parametrize(
    ("overrides", "check", "status", "said"),
    [
        (["devices=3"], "supernet batch", "fail", "batch_size 32 is not divisible by 3 processes"),
        (["devices=2", "retrain.batch_size=31"], "retrain batch", "fail", "use a multiple of 2"),
        (["threads=3"], "processes", "warn", "1 x 3 threads wait for each other on 2 cores"),
        (["devices=4"], "processes", "warn", "4 x 1 threads"),
        (["supernet.amp=fp16"], "mixed precision", "fail", "set supernet.amp to bf16 or off"),
        (["retrain.amp=fp16"], "mixed precision", "fail", "fp16 needs a GPU"),
    ],
)
def test_faults_of_the_processes(overrides: list[str], check: str, status: str, said: str) -> None:
    found(doctor.check_processes(setup(*overrides)), check, status, said)


def test_bf16_on_a_cpu_that_only_emulates_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, status in (("AVX2", "warn"), ("AVX512", "ok")):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda name=capability: name)
        found(doctor.check_processes(setup("search.amp=bf16")), "mixed precision", status, "search bf16")


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found(doctor.check_processes(setup("devices=auto")), "processes", "ok", "2 processes on cuda:0, cuda:1")
    found(doctor.check_processes(setup("devices=3")), "processes", "fail", "3 processes for 2 GPUs")
    for devices in ("cpu", "1"):
        found(doctor.check_processes(setup(f"devices={devices}")), "processes", "warn", "not all GPUs are used")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    found(doctor.check_processes(setup("devices=auto", "search.amp=bf16")), "mixed precision", "warn", "cuda:0 only")


def test_a_gpu_that_this_build_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi" if name == "nvidia-smi" else None)
    found(doctor.check_processes(setup()), "processes", "warn", "install a CUDA build")


@pytest.fixture
def old_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs that are counted, and a driver that this PyTorch cannot use them with."""

    def refuse() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update it.")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "_lazy_init", refuse)


@pytest.mark.usefixtures("old_driver")
@pytest.mark.parametrize("devices", ["auto", "2", "1"])
def test_gpus_that_are_counted_and_cannot_be_used(spos: Spos, devices: str) -> None:
    shown = spos.here("doctor", "--devices", devices, "--json", code=2).stdout
    failed = {line["check"]: line for line in json.loads(shown) if line["status"] == "fail"}
    assert set(failed) == {"processes", "self-test on cuda:0", "self-test on cuda:1", "speed"}
    assert failed["processes"]["seen"].startswith("there are 2 GPUs, but this PyTorch")
    assert failed["processes"]["advice"].startswith("update the driver")
    assert failed["speed"]["seen"] == "The NVIDIA driver on your system is too old (found version 11040)."


@pytest.mark.usefixtures("old_driver")
def test_a_cpu_does_not_ask_for_gpus_that_cannot_be_used() -> None:
    found(doctor.check_processes(setup("devices=cpu")), "processes", "ok", "1 process on cpu")


def test_a_compiler_is_looked_for_where_blocks_are_to_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "compiler" not in {finding.check for finding in doctor.check_processes(setup())}
    wanted = setup("retrain.compile=blocks")
    found(doctor.check_processes(wanted), "compiler", "fail", "compile: blocks needs a C++ compiler on a CPU")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "g++" else None)
    monkeypatch.delenv("CXX", raising=False)
    found(doctor.check_processes(wanted), "compiler", "ok", "retrain blocks, by g++")


# Costs


def test_a_counter_that_counts_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    found([doctor.attempt("published costs", doctor.published_costs)], "published costs", "ok", "322,918,720")
    one = counting.multiply_adds
    monkeypatch.setattr(doctor, "count", counting.count)
    monkeypatch.setattr(counting, "multiply_adds", lambda forward, images: 2 * one(forward, images))
    finding = found([doctor.published_costs()], "published costs", "fail", "no cost or limit can be trusted")
    assert "645,837,440 instead of 322,918,720" in finding.seen
    assert "parameters" not in finding.seen


@pytest.mark.parametrize("anchor", ["WINNER_FLOPS", "WINNER_PARAMS", "LEAST_FLOPS", "MOST_FLOPS"])
def test_each_anchor_is_compared(anchor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flops = SimpleNamespace(of=lambda arch: 322_918_720, minimum=270_359_360, maximum=398_609_216)
    costs = SimpleNamespace(flops=flops, params=SimpleNamespace(of=lambda arch: 3_558_464))
    monkeypatch.setattr(doctor, "count", lambda space: costs)
    assert doctor.published_costs().status == "ok"
    monkeypatch.setattr(golden, anchor, 1)
    assert doctor.published_costs().status == "fail"


@pytest.mark.parametrize(
    ("overrides", "check", "status", "said"),
    [
        (["search.flops_limit=10K"], "search space", "fail", "raise search.flops_limit to 38.91K or more"),
        ([f"search.flops_limit={LEAST}"], "search space", "warn", "0.39% at or under search.flops_limit"),
        ([f"search.flops_limit={MOST}"], "search space", "ok", "100% at or under"),
        (["supernet.sampler=flops_bins"], "path sampler", "fail", "no architecture is in the bins"),
        (
            [
                "supernet.sampler=flops_bins",
                f"supernet.flops_bins={{low: {LEAST + 1}, high: {MOST}, width: {MOST - LEAST - 1}}}",
                f"search.flops_limit={LEAST}",
            ],
            "path sampler",
            "warn",
            "no path at or under search.flops_limit is trained",
        ),
        (
            [
                "supernet.sampler=flops_bins",
                f"supernet.flops_bins={{low: {LEAST}, high: {MOST}, width: {MOST - LEAST}}}",
                f"search.flops_limit={LEAST}",
            ],
            "path sampler",
            "ok",
            "1 bin of FLOPs",
        ),
        (["space.widths=[0.5, 1.0, 1.5]"], "shape of the space", "warn", "channels are slow"),
        (["space.image_size=2"], "shape of the space", "warn", "1x1 pixels from layer 1 on, before the last stage"),
    ],
)
def test_limits_that_do_not_meet_the_space(overrides: list[str], check: str, status: str, said: str) -> None:
    found(doctor.check_costs(setup(*overrides)), check, status, said)


# Self-test


def corrupt_a_logit(patch: pytest.MonkeyPatch) -> None:
    first = tuple((*row[:7], row[7] + 1000) for row in golden.SUPERNET.first)  # of an RMS of 470,000
    patch.setattr(golden, "SUPERNET", golden.Golden(first, golden.SUPERNET.l2))


def corrupt_the_norm(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(golden, "NETWORK", golden.Golden(golden.NETWORK.first, golden.NETWORK.l2 * 1.001))


def swap_the_halves(patch: pytest.MonkeyPatch) -> None:
    joined = skeleton.joined
    patch.setattr(skeleton, "joined", lambda pieces: joined(pieces[::-1]))


def yield_no_numbers(patch: pytest.MonkeyPatch) -> None:
    fill = golden.fill

    def poisoned(model: torch.nn.Module) -> None:
        fill(model)
        model.state_dict()["first_conv.0.weight"][0, 0, 0, 0] = float("nan")

    patch.setattr(golden, "fill", poisoned)


def break_the_driver(patch: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nmore of it")

    patch.setattr(golden, "self_test", fail)


@pytest.mark.parametrize(
    "plant", [corrupt_a_logit, corrupt_the_norm, swap_the_halves, yield_no_numbers, break_the_driver]
)
def test_a_device_that_computes_otherwise(plant: Callable[[pytest.MonkeyPatch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        finding = found([doctor.self_test(torch.device("cpu"))], "self-test on cpu", "fail", "check the driver")
    assert "\n" not in finding.seen


def test_every_gpu_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "self_test", lambda device: {"supernet": 1.0 if device.index == 1 else 0.0})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    statuses = {finding.check: finding.status for finding in doctor.check_devices(setup("devices=cpu"))}
    assert statuses == {
        "self-test on cpu": "ok",
        "self-test on cuda:0": "ok",
        "self-test on cuda:1": "fail",
        "self-test on cuda:2": "ok",
    }


# BatchNorm


@pytest.mark.parametrize(
    ("overrides", "stage", "said"),
    [
        (["supernet.affine=true"], "supernet", "set supernet.affine=false"),
        (["supernet.batch_size=15"], "supernet", "statistics of 15 images a batch"),
        (["devices=2", "supernet.batch_size=16"], "supernet", "raise supernet.batch_size"),
        (["supernet.accumulate=4"], "supernet", "statistics of 8 images a batch"),
        (["search.calibration_images=256"], "search", "raise search.calibration_images to 320"),
        (["search.calibration_batch_size=8"], "search", "raise search.calibration_batch_size to 16"),
        (["retrain.affine=false"], "retrain", "set retrain.affine=true"),
        (["retrain.batch_size=8"], "retrain", "raise retrain.batch_size"),
    ],
)
def test_faults_of_batchnorm(overrides: list[str], stage: str, said: str) -> None:
    found(doctor.check_batchnorm(setup(*overrides)), f"BatchNorm: {stage}", "warn", said)


def test_calibration_batches_that_the_training_images_do_not_fill(root: Path) -> None:
    said = "lower search.calibration_batch_size to 20: there are 100 training images"
    found(doctor.check_batchnorm(folders(root)), "BatchNorm: search", "warn", said)
    enough = folders(root, "search.calibration_batch_size=20")
    found(doctor.check_batchnorm(enough), "BatchNorm: search", "ok", "5 batches of 20")


def test_a_batch_without_a_variance() -> None:
    """One image of which the last layers see one pixel: the steps would end in PyTorch's own error."""
    one = setup("space.image_size=4", "supernet.batch_size=1", "supernet.accumulate=1", "retrain.batch_size=2")
    found(doctor.check_processes(one), "supernet batch", "fail", "raise supernet.batch_size, or space.image_size")
    found(doctor.check_processes(one), "retrain batch", "ok", "2 images a step")
    found(doctor.check_speed(one), "speed", "fail", "one pixel")


def test_what_is_said_of_batchnorm() -> None:
    findings = doctor.check_batchnorm(setup("search.calibration_momentum=0.1", "retrain.batchnorm_pass_steps=0"))
    found(findings, "BatchNorm: search", "ok", "momentum 0.1 of 5 batches of 64")
    found(findings, "BatchNorm: retrain", "ok", "last pass: none")


# Images


def test_images_that_cannot_be_opened_are_one_failure(tmp_path: Path) -> None:
    broken = folders(tmp_path / "nowhere")
    findings = doctor.check_data(broken)
    found(findings, "images", "fail", "there is no image folder")
    found(findings, "all else of images", "warn", "not checked")
    later = doctor.check_disk(broken) + doctor.check_speed(broken)
    assert [finding.status for finding in findings + later].count("fail") == 1
    found(later, "speed", "warn", "loader: not measured")


def test_an_augmentation_that_loses_the_image() -> None:
    broken = setup("data.augmentation.padding=8")
    found(doctor.check_data(broken), "augmentation", "fail", "padding is 8")
    found(doctor.check_speed(broken), "speed", "warn", "loader: not measured")


def test_classes_with_other_names(root: Path) -> None:
    (root / "val" / "class9").rename(root / "val" / "class_9")
    finding = found(doctor.check_data(folders(root)), "classes", "fail", "1 only in training: class9")
    assert "1 only in validation: class_9" in finding.seen


def test_a_class_without_validation_images(root: Path) -> None:
    shutil.rmtree(root / "val" / "class9")
    finding = found(doctor.check_data(folders(root)), "classes", "fail", "1 only in training: class9")
    assert "only in validation" not in finding.seen


def test_another_number_of_classes_than_the_space_has(root: Path) -> None:
    found(doctor.check_data(folders(root, "space.classes=12")), "classes", "fail", "set space.classes=10")


def test_a_class_with_few_images(root: Path) -> None:
    for image in range(15, 15 * 11):
        save(root / "train" / "class3" / f"{image}.jpg", 2000 + image)
    findings = doctor.check_data(folders(root))
    found(findings, "training images", "warn", "15 (class class0) to 165 (class class3) each")
    found(findings, "validation images", "ok", "3 each")


@pytest.mark.parametrize(
    ("overrides", "status", "said"),
    [
        (["data.holdout_per_class=15"], "fail", "data.holdout_per_class is 15"),
        (["data.holdout_per_class=8"], "warn", "lower data.holdout_per_class"),
        (["search.calibration_batch_size=101"], "fail", "lower search.calibration_batch_size from 101 to at most 100"),
        (["search.split=val"], "warn", "use search.split=holdout"),
        (["search.split=val", "data.holdout_per_class=0"], "warn", "candidates are scored on the validation set"),
    ],
)
def test_splits_that_the_search_cannot_use(root: Path, overrides: list[str], status: str, said: str) -> None:
    broken = folders(root, *overrides)
    found(doctor.check_data(broken), "search split", status, said)
    assert doctor.check_speed(broken)[0].status != "fail"


@pytest.mark.parametrize("full", [False, True])
def test_images_in_both_sets(root: Path, full: bool) -> None:
    copy, original = root / "val" / "class3" / "1.jpg", root / "train" / "class7" / "4.jpg"
    shutil.copyfile(original, copy)
    findings = doctor.check_data(folders(root, full=full))
    finding = found(findings, "images in both", "fail", "1 in all 30 validation and all 150 training images")
    assert f"{copy} = {original}" in finding.seen


def test_a_handful_in_both_sets_is_a_warning(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MANY_IN_BOTH", 0.05)
    for count, status in ((1, "warn"), (2, "fail")):
        shutil.copyfile(root / "train" / "class7" / "4.jpg", root / "val" / "class3" / f"{count}.jpg")
        found(doctor.check_data(folders(root)), "images in both", status, f"{count} in all 30")


def test_images_in_both_sets_in_memory() -> None:
    copied = setup()
    train, val = copied.images.train, copied.images.val
    assert isinstance(train, ArraySet)
    assert isinstance(val, ArraySet)
    val.pixels = val.pixels.copy()
    val.pixels[5] = train.pixels[3]
    found(doctor.check_data(copied), "images in both", "fail", "digits/val/5 = digits/train/3")


def test_a_comparison_of_a_sample_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "COMPARED_SAMPLE", {"train": 20, "val": 10})
    said = "none in 10 of 30 validation and 20 of 150 training images; --full compares all"
    found(doctor.check_data(folders(root)), "images in both", "ok", said)
    found(doctor.check_data(folders(root, full=True)), "images in both", "ok", "none in all 30 validation and all 150")


def tear(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:200])
    return path


def trained_on(setup: doctor.Setup) -> list[Path]:
    """Files of the training images that are not held out."""
    train = setup.images.train
    assert isinstance(train, FolderSet)
    return [train.folder / train.paths[index] for index in setup.images.splits[0]]


@pytest.mark.parametrize(("allowed", "status"), [(7, "warn"), (6, "fail")])
def test_training_images_that_cannot_be_read(root: Path, allowed: int, status: str) -> None:
    broken = folders(root, f"data.bad_images={allowed}")
    torn = [tear(path) for path in trained_on(broken)[:7]]
    finding = found(doctor.check_data(broken), "unreadable images", status, "7 in all 180: ")
    assert str(torn[4]) in finding.seen
    assert str(torn[5]) not in finding.seen
    assert " and 2 more" in finding.seen
    measured = "not measured" not in doctor.check_speed(broken)[0].seen
    assert measured == (status == "warn")
    (named,) = [one for one in doctor.check_data(folders(root, full=True)) if one.check == "unreadable images"]
    assert all(f"\n{path}: " in named.seen for path in torn)


def test_one_of_the_images_that_are_scored_cannot_be_read(root: Path) -> None:
    train = folders(root).images
    assert isinstance(train.train, FolderSet)
    held_out = tear(root / "train" / train.train.paths[train.splits[1][3]])
    found(doctor.check_data(folders(root)), "unreadable images", "fail", str(held_out))


def test_a_validation_image_that_cannot_be_read(root: Path) -> None:
    broken = folders(root)
    path = tear(root / "val" / "class4" / "2.jpg")
    found(doctor.check_data(broken), "unreadable images", "fail", f"1 in all 180: {path}")
    found(doctor.check_speed(broken), "speed", "warn", "loader: not measured")


def test_a_few_in_a_sample_are_many_in_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in 10 of the sample is 15 in all 150, of which `data.bad_images` allows 14."""
    monkeypatch.setattr(doctor, "DECODED_SAMPLE", 10)
    for allowed, status in ((15, "warn"), (14, "fail")):
        broken = folders(root, f"data.bad_images={allowed}")
        train = broken.images.train
        assert isinstance(train, FolderSet)
        sampled = set(doctor.sample(broken, "train", train, 10).tolist()) & set(broken.images.splits[0].tolist())
        (root / "train" / train.paths[min(sampled)]).write_bytes(b"no image")
        found(doctor.check_data(broken), "unreadable images", status, "1 in 20 of 180")


def test_full_reads_what_a_sample_misses(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DECODED_SAMPLE", 10)
    sampled = set(doctor.sample(folders(root), "train", FolderSet(root / "train"), 10).tolist())
    missed = next(index for index in range(150) if index not in sampled)
    (root / "train" / FolderSet(root / "train").paths[missed]).write_bytes(b"no image")
    found(doctor.check_data(folders(root)), "unreadable images", "ok", "none in 20 of 180; --full reads all")
    findings = doctor.check_data(folders(root, "data.bad_images=0", full=True))
    found(findings, "unreadable images", "fail", "1 in all 180")


def test_broken_images_that_only_the_loader_meets(root: Path) -> None:
    for path in root.glob("train/*/*.jpg"):
        path.write_bytes(b"no image")
    found(doctor.check_speed(folders(root)), "speed", "fail", "training images cannot be read so far")


@pytest.mark.parametrize("name", ["train/class1/picture.svg", "val/class2/picture", "train/0.jpg"])
def test_files_that_are_passed_over(root: Path, name: str) -> None:
    save(root / name, 5000)
    for harmless in ("train/.DS_Store", "train/class1/Thumbs.db"):
        (root / harmless).write_bytes(b"")
    finding = found(doctor.check_data(folders(root)), "other files", "warn", "1 that are no images of a class")
    assert str(root / name) in finding.seen


# Disk


@pytest.mark.parametrize(("share", "status"), [(0.99, "fail"), (1.5, "warn"), (2.1, "ok")])
def test_a_disk_that_is_full(share: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = sum(doctor.disk_needs(setup()).values())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=int(needed * share)))
    found(doctor.check_disk(setup()), "disk", status, "are free")


@pytest.mark.slow
def test_what_a_run_needs_is_what_it_leaves(finished: Spos) -> None:
    """The estimate is above the files of a whole run, and not far: one checkpoint of each training."""
    expected = doctor.disk_needs(doctor.Setup(Run(loading.load(finished.folder / "spos.yaml"))))
    stores = {path.name: path.stat().st_size for path in finished.run.glob("search/*.u8")}
    assert expected["search"] == sum(stores.values())
    for stage, folder in (("supernet", "supernet"), ("retraining", "retrain")):
        files = [path for path in finished.run.glob(f"{folder}/**/*.pt") if path.name != "last.pt"]  # a hard link
        left = sum(path.stat().st_size for path in files)
        largest = max(path.stat().st_size for path in files)
        assert left <= expected[stage] * 1.4  # names and settings weigh much beside 100 KB of weights
        assert expected[stage] <= left + largest


def test_a_run_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    found(doctor.check_disk(setup(f"run_dir={tmp_path}/file/run")), "disk", "fail", "is a file")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    found(doctor.check_disk(setup(f"run_dir={tmp_path}/deep/run")), "disk", "fail", f"{tmp_path} cannot be written")
    found(doctor.check_disk(setup(f"run_dir={tmp_path}/file")), "disk", "fail", f"{tmp_path}/file is a file")


# Speed


@pytest.mark.parametrize("store", ["none", "ram", "disk"])
def test_stored_images_need_room_and_are_measured_as_stored(
    root: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "SECONDS", 0.01)
    stored = folders(root, f"data.store={store}")
    assert ("stored images" in doctor.check_disk(stored)[0].seen) == (store == "disk")
    assert any("; loader: " in finding.seen for finding in doctor.check_speed(stored))
    assert not (stored.run.folder.cache.parent).exists()


@pytest.mark.parametrize(("workers", "said"), [(0, "set data.workers=2"), (2, "store the images smaller")])
def test_a_loader_that_is_slow(workers: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "step_rate", lambda setup, size: 1000.0)
    for load, status in ((1201.0, "ok"), (1199.0, "warn")):
        monkeypatch.setattr(doctor, "loader_rate", lambda setup, size, load=load: load)
        found(doctor.check_speed(setup(f"data.workers={workers}")), "speed", status, said if status == "warn" else "")


def test_both_rates_are_measured() -> None:
    image, update = ArraySet.image, Trainer.update

    def slow_image(self: ArraySet, index: int) -> object:
        doctor.time.sleep(0.01)
        return image(self, index)

    def slow_update(self: Trainer, stream: object) -> None:
        doctor.time.sleep(0.1)
        update(self, stream)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArraySet, "image", slow_image)
        assert 0 < doctor.loader_rate(setup(), 8) < 100
        found(doctor.check_speed(setup()), "speed", "warn", "the loader holds the training up")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "update", slow_update)
        assert 0 < doctor.step_rate(setup(), 32) < 320


def test_a_batch_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(self: Trainer, stream: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "update", too_large)
    found(doctor.check_speed(setup()), "speed", "fail", "raise supernet.accumulate")


@pytest.mark.parametrize("fault", ["supernet.amp=fp16", "supernet.sampler=flops_bins", "devices=3"])
def test_a_fault_that_another_check_names_does_not_stop_the_measurement(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "HEADROOM", 0.0)
    found(doctor.check_speed(setup(fault)), "speed", "ok", "the supernet takes about")


def test_how_times_and_sizes_are_written() -> None:
    assert [doctor.estimate(seconds).partition("about ")[2] for seconds in (0.1, 119, 120, 7200, 10**6)] == [
        "1 seconds",
        "119 seconds",
        "2 minutes",
        "2 hours",
        "12 days",
    ]
    assert [doctor.in_bytes(size) for size in (12_345, 35_000_000, 1_234_000_000)] == ["0.0 MB", "35 MB", "1.2 GB"]
    assert [doctor.percent(share) for share in (0, 0.0012, 0.5349, 0.9999, 1)] == [
        "0%",
        "0.12%",
        "53%",
        "99.9%",
        "100%",
    ]


# The command


def call(spos: Spos, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    """Runs the command in this process; its exit code."""
    monkeypatch.chdir(spos.folder)
    monkeypatch.setattr(sys, "argv", ["spos", "doctor", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def test_a_failure_ends_with_2_and_writes_nothing(
    spos: Spos, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = ("--set", "space.classes=9", "--set", "supernet.amp=fp16")
    before = sorted(spos.folder.rglob("*"))
    assert call(spos, monkeypatch, *fault) == 2
    said = capsys.readouterr()
    assert "→ set space.classes=10" in said.out
    assert ", 2 fail" in said.out
    assert said.err.splitlines()[-1] == "error: 2 checks failed; see above"
    assert call(spos, monkeypatch, *fault, "--json") == 2
    said = capsys.readouterr()
    failed = [line for line in json.loads(said.out) if line["status"] == "fail"]
    assert [line["check"] for line in failed] == ["mixed precision", "classes"]
    assert said.err == "error: 2 checks failed; see above\n"
    assert sorted(spos.folder.rglob("*")) == before


@pytest.mark.slow
def test_the_installed_program_on_a_healthy_setup(spos: Spos) -> None:
    done = spos("doctor", "--full")
    assert "0 fail" in done.stdout
    assert "next: spos supernet-train" in done.stdout
    findings = json.loads(spos.here("doctor", "--config", "demo", "--set", "threads=1", "--json").stdout)
    assert {finding["status"] for finding in findings} <= {"ok", "warn"}
    assert all(set(finding) == {"check", "status", "seen", "advice"} for finding in findings)
    assert not spos.run.exists()
