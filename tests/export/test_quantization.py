"""Quantized files: what is in them, and how near they are to the network."""

from __future__ import annotations

import itertools
import json
import sys
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spos_cli.data.transforms import IMAGENET
from spos_cli.errors import CheckpointError, ConfigError
from spos_cli.export import onnx_file, pt2_file, quantization
from spos_cli.export.description import Description
from spos_cli.export.inference import InferenceNetwork, InputKind
from spos_cli.export.verification import compare
from spos_cli.models.network import Network
from spos_cli.space.architecture import parse
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import SearchSpace, Stage
from tests.optional_packages import require_torchao

# An op of each kind: two branches, a residual block with another activation, and none at all.
SPACE = SearchSpace(
    stages=(Stage(2, 32), Stage(3, 64)),
    choices=(
        *(Choice.from_spec(spec) for spec in ({"shuffle": {"kernel": 3}}, "shuffle_xception")),
        Choice.from_spec({"mbconv": {"kernel": 5, "expand": 3, "activation": "hswish"}}),
        Choice("identity"),
    ),
    classes=10,
    stem_channels=16,
    head_channels=256,
    stem_stride=1,
    image_size=16,
)
# The same with gates, and with the ops of newer families.
NEWER = replace(
    SPACE,
    choices=(
        Choice.from_spec({"shuffle": {"kernel": 3, "activation": "hswish", "se": 0.25}}),
        Choice.from_spec({"mbconv": {"kernel": 5, "expand": 3, "activation": "hswish", "se": 0.25}}),
        Choice.from_spec({"fused_mbconv": {"kernel": 3, "expand": 2, "activation": "silu", "se": 0.25}}),
        Choice.from_spec({"bottleneck": {"kernel": 3}}),
    ),
    activation="hswish",
    head_linear=64,
    linear_bias=True,
)
SPACES = {"older": SPACE, "newer": NEWER}
ARCHITECTURE = parse("0,2,1,2,3")
INT8 = 3  # onnx.TensorProto.INT8
# PyTorch compiles a network for seconds, so the quick tests have each network and each kind of input once.
QUICK = (("older", "uint8"), ("newer", "float"))
CASES = [
    pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow)
    for case in itertools.product(SPACES, ("uint8", "float"))
]
NETWORKS = ["older", pytest.param("newer", marks=pytest.mark.slow)]


def draw_images(count: int, seed: int = 0) -> torch.Tensor:
    """Return images `(count, 3, S, S) uint8` that are not all alike: one colour each, with noise."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randint(200, (count, 3, 1, 1), generator=generator)
    noise = torch.randint(56, (count, 3, SPACE.image_size, SPACE.image_size), generator=generator)
    return (colours + noise).to(torch.uint8)


@pytest.fixture(scope="module")
def network(request: pytest.FixtureRequest) -> Network:
    """A network whose BatchNorm statistics are those of its images, so that no layer's values are near 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(SPACES[request.param], ARCHITECTURE, dropout=0.0)
    with torch.no_grad():
        for _ in range(30):
            network(draw_images(64).float() / 64 - 2)
    return network.eval()


def describe(input_kind: InputKind, *, quantized: bool = True) -> Description:
    return Description(ARCHITECTURE, (), "standard", *IMAGENET, SPACE.image_size, input_kind, quantized, "0" * 64, {})


def require_close(inference: InferenceNetwork, classify: pt2_file.Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Compare the logits on images that the ranges were not measured on, in batches of any size."""
    images = draw_images(120, seed=1)
    if inference.input_kind == "float":
        images = images.float() / 64 - 2
    batches = [(part, part) for part in (images[:100], images[100:119], images[119:])]
    comparison = compare(inference, classify, batches)
    assert comparison.is_finite
    assert not comparison.is_equal
    assert comparison.largest_difference < 0.2 * comparison.largest_logit
    assert comparison.agreement >= 0.9


@pytest.mark.parametrize(("network", "input_kind"), CASES, indirect=["network"])
def test_an_onnx_file(network: Network, tmp_path: Path, input_kind: InputKind) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    inference = InferenceNetwork(network, "standard", input_kind)
    images = draw_images(128)
    batches = torch.split(images if input_kind == "uint8" else images.float() / 64 - 2, 50)
    onnx_file.write(inference, describe(input_kind, quantized=False), tmp_path / "float.onnx")
    path = tmp_path / "int8.onnx"
    quantization.write_onnx(inference, describe(input_kind), path, batches)
    assert onnx_file.read_description(path) == describe(input_kind)
    assert path.stat().st_size < 0.6 * (tmp_path / "float.onnx").stat().st_size
    assert b"tmp" not in path.read_bytes()
    model = onnx_file.read_model(path)
    nodes = Counter(node.op_type for node in model.graph.node)
    assert nodes["QuantizeLinear"] > nodes["Conv"] > 10
    # Every weight is stored in 8 bits, and uses 7 of them.
    weights = [tensor for tensor in model.graph.initializer if tensor.name.endswith("weight_quantized")]
    assert len(weights) == nodes["Conv"] + nodes["Gemm"] + nodes["MatMul"]
    assert {tensor.data_type for tensor in weights} == {INT8}
    values = torch.cat([torch.frombuffer(bytearray(tensor.raw_data), dtype=torch.int8) for tensor in weights])
    assert values.abs().max() == 64
    # Each output channel has a scale of its own.
    scales = {tensor.name: tensor for tensor in model.graph.initializer}
    (stem,) = (tensor for tensor in weights if tensor.name.startswith("stem"))
    assert scales[stem.name.replace("quantized", "scale")].dims == [SPACE.stem_channels]
    classify = onnx_file.load(path)
    require_close(inference, classify)
    # The logits themselves are float: with 8 bits, two classes could have the same one.
    logits = classify(batches[0])
    assert len(logits.unique()) > 0.9 * logits.numel()


@pytest.mark.parametrize(("network", "input_kind"), CASES, indirect=["network"])
def test_a_pt2_file(network: Network, tmp_path: Path, input_kind: InputKind) -> None:
    require_torchao()
    inference = InferenceNetwork(network, "standard", input_kind)
    images = draw_images(128)
    batches = torch.split(images if input_kind == "uint8" else images.float() / 64 - 2, 50)
    path = tmp_path / "int8.pt2"
    quantization.write_pt2(inference, describe(input_kind), path, batches)
    assert pt2_file.read_description(path) == describe(input_kind)
    pt2_file.require_plain(path)
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("weights/model_weights_config.json"))
        tensors = json.loads(archive.read(name))["config"]
        stored = sum(info.file_size for info in archive.infolist() if "/data/weights/weight_" in info.filename)
    # The weights of float are gone: there are only biases, scales and what prepares images.
    assert not [name for name in tensors if name.endswith("weight")]
    assert stored < 0.4 * sum(4 * parameter.numel() for parameter in inference.parameters())
    require_close(inference, pt2_file.load(path))


@pytest.mark.parametrize("network", NETWORKS, indirect=True)
def test_a_quantized_pt2_file_needs_torchao(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_torchao()
    path = tmp_path / "int8.pt2"
    pt2_file.write(InferenceNetwork(network, "standard"), describe("uint8"), path)
    monkeypatch.setitem(sys.modules, "torchao", None)
    for name in [name for name in sys.modules if name.startswith("torchao.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"needs torchao, but .*pip install .*'spos\[torchao\]'"):
        pt2_file.load(path)
    pt2_file.write(InferenceNetwork(network, "standard"), describe("uint8", quantized=False), path)
    pt2_file.load(path)


@pytest.mark.parametrize("network", NETWORKS, indirect=True)
def test_a_quantized_pt2_file_with_code_in_it_is_not_loaded(network: Network, tmp_path: Path) -> None:
    """The operators of quantized programs do not open the way for others."""
    require_torchao()
    path, changed = tmp_path / "int8.pt2", tmp_path / "changed.pt2"
    quantization.write_pt2(InferenceNetwork(network, "standard"), describe("uint8"), path, [draw_images(64)])
    good, bad = b"torch.ops.quantized_decomposed.quantize_per_tensor.default", b"torch.ops.prim.load.default"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(changed, "w") as copy:
        for info in archive.infolist():
            content = archive.read(info)
            if info.filename.endswith("models/model.json"):
                assert good in content
                content = content.replace(good, bad)
            copy.writestr(info, content)
    with pytest.raises(CheckpointError, match="may run code"):
        pt2_file.load(changed)
