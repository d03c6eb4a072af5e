"""The official model, number by number: names, shapes, costs, logits and the first training steps.

The golden numbers were measured with the official code (megvii-model/SinglePathOneShot), on a CPU in float32.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from spos_cli.engine.distributed import Processes
from spos_cli.engine.optim import Schedule
from spos_cli.engine.trainer import Trainer
from spos_cli.engine.training_plan import TrainingPlan
from spos_cli.models.blocks import BLOCKS
from spos_cli.models.counting import count, count_multiply_adds, count_parameters
from spos_cli.models.network import Network
from spos_cli.models.supernet import Supernet
from spos_cli.official.golden import (
    NETWORK,
    SUPERNET,
    WINNER,
    WINNER_FLOPS,
    WINNER_PARAMS,
    Golden,
    fill_weights,
    make_images,
)
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import OPS
from spos_cli.space.search_space import OFFICIAL_SPACE

GOLDEN = Path(__file__).parent / "golden"
COSTS = Path(__file__).parents[1] / "space" / "flops_params.json"


def read_golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def list_shapes(model: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def test_supernet_tensors_have_the_official_names_shapes_and_order() -> None:
    with torch.device("meta"):
        ours = list_shapes(Supernet(OFFICIAL_SPACE))
    assert list(ours.items()) == list(read_golden("supernet_state_dict").items())


def test_network_tensors_have_the_official_names_shapes_and_order() -> None:
    with torch.device("meta"):
        ours = list_shapes(Network(OFFICIAL_SPACE, WINNER))
    assert list(ours.items()) == list(read_golden("network_state_dict").items())


def test_flops_and_params_of_fifty_architectures() -> None:
    costs = count(OFFICIAL_SPACE)
    for case in json.loads(COSTS.read_text()):
        arch = Architecture(tuple(case["architecture"]))
        assert (costs.flops.of(arch), costs.params.of(arch)) == (case["flops"], case["params"])


def test_table_agrees_with_whole_networks() -> None:
    costs = count(OFFICIAL_SPACE)
    for arch in (WINNER, Architecture((3,) * 20), Architecture((1, 2) * 10)):
        with torch.device("meta"):
            network = Network(OFFICIAL_SPACE, arch)
            assert costs.flops.of(arch) == count_multiply_adds(network, torch.empty(1, 3, 224, 224))
        assert costs.params.of(arch) == count_parameters(network)


def test_images_of_one_pixel_have_costs() -> None:
    """Counting works, although BatchNorm cannot be trained on one value: that is checked elsewhere."""
    assert count(replace(OFFICIAL_SPACE, image_size=1)).flops.minimum > 0


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    model = Supernet(OFFICIAL_SPACE, dropout=0.0)
    fill_weights(model)
    return model


def check_close(ours: torch.Tensor, first8: list[list[float]], l2: float, tolerance: float) -> None:
    """Check equality up to the order of float32 sums: `tolerance` is in RMS of the logits."""
    rms = l2 / ours.numel() ** 0.5
    torch.testing.assert_close(ours[:, :8], torch.tensor(first8), rtol=0, atol=tolerance * rms)
    assert float(ours.double().norm()) == pytest.approx(l2, rel=tolerance)


# Largest errors measured, eval / train: 1e-6 / 1e-5 with contiguous memory, 1e-6 / 2e-3 with channels_last, where
# PyTorch sums a channel's statistics less exactly and BatchNorm over two images amplifies it; float64: 3e-6 / 2e-4.
@pytest.mark.parametrize("case", read_golden("supernet_logits"), ids=range(8))
@pytest.mark.parametrize(
    ("memory_format", "tolerance"), [(torch.contiguous_format, 1e-4), (torch.channels_last, 1e-2)], ids=["nchw", "nhwc"]
)
def test_supernet_logits(
    supernet: Supernet, case: dict[str, Any], memory_format: torch.memory_format, tolerance: float
) -> None:
    arch = Architecture(tuple(case["architecture"]))
    images = make_images(2, 7).contiguous(memory_format=memory_format)
    with torch.no_grad():
        check_close(supernet.eval()(images, arch), case["eval_first8"], case["eval_l2"], 1e-5)
        training = copy.deepcopy(supernet).train()
        check_close(training(images, arch), case["train_first8"], case["train_l2"], tolerance)


@pytest.mark.parametrize("case", read_golden("network_logits"), ids=range(8))
def test_network_logits(case: dict[str, Any]) -> None:
    network = Network(OFFICIAL_SPACE, Architecture(tuple(case["architecture"])))
    fill_weights(network)
    with torch.no_grad():
        check_close(network.eval()(make_images(2, 7)), case["eval_first8"], case["eval_l2"], 1e-5)


def test_the_built_in_golden_numbers_equal_the_files() -> None:
    for name, built_in in (("supernet_logits", SUPERNET), ("network_logits", NETWORK)):
        (case,) = (case for case in read_golden(name) if case["architecture"] == list(WINNER))
        assert built_in == Golden(tuple(map(tuple, case["eval_first8"])), case["eval_l2"])
    (costs,) = (case for case in json.loads(COSTS.read_text()) if case["architecture"] == list(WINNER))
    assert (costs["flops"], costs["params"]) == (WINNER_FLOPS, WINNER_PARAMS)


def train(model: Supernet, case: dict[str, Any], folder: Path, images: torch.Tensor) -> list[dict[str, float]]:
    """Train as in the golden run, with the real Trainer; return its lines of metrics."""
    archs = [Architecture(tuple(choices)) for choices in case["architectures"]]
    plan = TrainingPlan(
        Schedule(case["lr"], case["total_iters"], first=1),
        case["batch"],
        momentum=case["momentum"],
        weight_decay=case["weight_decay"],
        label_smoothing=case["label_smoothing"],
        log_every=1,
    )
    trainer = Trainer(
        model,
        plan,
        Processes(0, 1, torch.device("cpu")),
        name="golden",
        folder=folder,
        identity={},
        seed=0,
        preprocess=lambda images, colours: images,
        paths=lambda step: [archs[step]],
    )
    batch = images, None, torch.tensor(case["labels"])
    trainer.train(lambda step: [batch] * case["total_iters"])
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def make_filled_supernet(dtype: torch.dtype) -> Supernet:
    model = Supernet(OFFICIAL_SPACE, dropout=0.0)
    fill_weights(model)
    return model.to(dtype)


def test_first_training_steps_equal_the_official_ones(tmp_path: Path) -> None:
    """Learning rates, losses and weights of eight steps.

    BatchNorm over eight images amplifies float32 rounding: from the second step on, the same code with one
    thread instead of two, or in float64, differs by up to 1.5 % in the loss; the weights hardly do.
    """
    case = read_golden("supernet_training")
    model = make_filled_supernet(torch.float32)
    lines = train(model, case, tmp_path, make_images(case["batch"], 9))
    assert [line["lr"] for line in lines] == pytest.approx(case["lr_used"], rel=1e-9, abs=1e-12)
    assert lines[0]["loss"] == pytest.approx(case["losses"][0], rel=1e-4)
    assert [line["loss"] for line in lines] == pytest.approx(case["losses"], rel=0.025)
    state = model.state_dict()
    for name, expected in case["l2"].items():
        tolerance = 0.05 if name.endswith("running_var") else 0.01
        assert float(state[name].double().norm()) == pytest.approx(expected, rel=tolerance), name


def test_training_steps_equal_those_of_a_plain_loop(tmp_path: Path) -> None:
    """The Trainer against a plain PyTorch loop, in float64, where rounding hides no difference."""
    case = read_golden("supernet_training")
    model = make_filled_supernet(torch.float64)
    plain = make_filled_supernet(torch.float64).to(memory_format=torch.channels_last).train()
    images, labels = make_images(case["batch"], 9)[..., :32, :32].double(), torch.tensor(case["labels"])
    lines = train(model, case, tmp_path, images)

    optimizer = torch.optim.SGD(plain.parameters(), 0.0, case["momentum"], weight_decay=case["weight_decay"])
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=case["label_smoothing"])
    losses = []
    for choices, lr in zip(case["architectures"], case["lr_used"], strict=True):
        optimizer.param_groups[0]["lr"] = lr
        loss = criterion(plain(images, Architecture(tuple(choices))), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=1e-6)
    state = model.state_dict()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-6, atol=1e-9, msg=name)


def test_every_op_that_the_space_knows_can_be_built() -> None:
    assert set(OPS) == set(BLOCKS)
