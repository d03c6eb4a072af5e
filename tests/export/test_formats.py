"""Exported files: what is in them, what they compute, and what happens to files that are torn, foreign or hostile."""

from __future__ import annotations

import ast
import functools
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spos_cli.data.transforms import preprocess
from spos_cli.errors import CheckpointError
from spos_cli.export import onnx_file, pt2_file, python_file, safetensors_file
from spos_cli.export.description import Description
from spos_cli.export.inference import InferenceNetwork
from tests.export.networks import NETWORKS, describe, make_network, make_pixels, write_own_blocks
from tests.optional_packages import require_exporter

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")
safetensors = pytest.importorskip("safetensors.torch", reason="needs the extra safetensors")

FORMATS = {".onnx": onnx_file, ".pt2": pt2_file, ".safetensors": safetensors_file, ".py": python_file}
EXACT = (".pt2", ".safetensors")  # the formats of networks with quantized blocks
READ = {name: module for name, module in FORMATS.items() if name != ".py"}
COMPILED = (".onnx", ".pt2")  # PyTorch compiles a network for a second or more, so few of them are quick tests.
QUICK = ("mixed", "skips", "bits")


def make_case(suffix: str, name: str) -> Any:
    """Return a format and a network as parameters of a test."""
    return pytest.param(suffix, name, marks=[pytest.mark.slow] if suffix in COMPILED and name not in QUICK else [])


@pytest.fixture(autouse=True)
def own_blocks(tmp_path: Path) -> None:
    write_own_blocks(tmp_path)


def export(name: str, path: Path, preset: Any = "standard") -> tuple[InferenceNetwork, Description]:
    """Write a small network to a file; return what was written."""
    if path.suffix in COMPILED:
        require_exporter()
    network = InferenceNetwork(make_network(*NETWORKS[name]), preset)
    description = describe(network, NETWORKS[name][1])
    if path.suffix == ".py":
        python_file.write(network, description, path)
    else:
        path.write_bytes(write_once(name, path.suffix, preset))
    return network, description


@functools.cache
def write_once(name: str, suffix: str, preset: Any) -> bytes:
    """Return the content of a file, which many tests read or change."""
    network = InferenceNetwork(make_network(*NETWORKS[name]), preset)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"network{suffix}")
        FORMATS[suffix].write(network, describe(network, NETWORKS[name][1]), path)
        return path.read_bytes()


def load(path: Path, name: str) -> Callable[[Tensor], Tensor]:
    """Return what runs a file."""
    if path.suffix != ".safetensors":
        return FORMATS[path.suffix].load(path)  # type: ignore[attr-defined, no-any-return]
    network = InferenceNetwork(make_network(*NETWORKS[name]), "standard")
    for parameter in network.parameters():
        parameter.fill_(7)
    safetensors_file.load(network, path)
    return network


@pytest.mark.parametrize(
    ("suffix", "name"),
    [make_case(suffix, name) for suffix in FORMATS for name in NETWORKS if "bits" not in name or suffix in EXACT],
)
def test_files_compute_what_the_network_computes(tmp_path: Path, suffix: str, name: str) -> None:
    """For batches of any size, in the runtime of the format."""
    path = tmp_path / f"network{suffix}"
    _, description = export(name, path)
    trained, classify = make_network(*NETWORKS[name]), load(path, name)
    for count in (1, 2, 5):
        pixels = make_pixels(NETWORKS[name][0], count)
        with torch.no_grad():
            expected = trained(preprocess("standard", pixels))
            found = classify(pixels)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
        assert torch.equal(found, expected) or "bits" not in name
    if suffix in READ:
        assert READ[suffix].read_description(path) == description
    content = path.read_bytes()
    here = str(Path(__file__).parents[2]).encode()
    assert here not in content, "a file must not name folders of the machine that wrote it"


@pytest.mark.parametrize(
    ("suffix", "name"),
    [make_case(".onnx", name) for name in NETWORKS if name not in ("own block", "groups") and "bits" not in name],
)
def test_the_onnx_graph_has_no_gather_and_no_batchnorm(tmp_path: Path, suffix: str, name: str) -> None:
    path = tmp_path / f"network{suffix}"
    export(name, path, "spos")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"Gather", "GatherElements", "BatchNormalization", "Transpose", "ScatterND"}, kinds
    assert "Conv" in kinds


def test_the_python_file_needs_torch_only(tmp_path: Path) -> None:
    """It runs in an interpreter that cannot import `spos_cli` or safetensors, and gives the same bytes."""
    names = {"mixed": "plain", "inverted residuals with gates": "gated"}
    exported = {file: (*export(name, tmp_path / f"{file}.py"), name) for name, file in names.items()}
    torch.save({file: make_pixels(NETWORKS[name][0], 2) for name, file in names.items()}, tmp_path / "pixels.pt")
    code = (
        "import sys; sys.modules.update(spos_cli=None, safetensors=None, numpy=None)\n"
        "import torch, plain, gated\n"
        "models = {'plain': plain.load(), 'gated': gated.load()}\n"
        "pixels = torch.load('pixels.pt')\n"
        "torch.save({name: model(pixels[name]) for name, model in models.items()}, 'logits.pt')\n"
        "print(ascii({name: model.classes for name, model in models.items()}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    logits, classes = torch.load(tmp_path / "logits.pt"), ast.literal_eval(done.stdout)
    for file, (network, description, name) in exported.items():
        assert classes[file] == list(description.classes)
        assert torch.equal(logits[file], network(make_pixels(NETWORKS[name][0], 2)))
        text = (tmp_path / f"{file}.py").read_text()
        assert max(map(len, text.splitlines())) <= 120
        assert "# layer 1: mbconv" in text


@pytest.mark.parametrize("suffix", READ)
def test_torn_files_are_one_message(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"network{suffix}"
    export("shuffles", path)
    content = path.read_bytes()
    for length in (0, 1, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"network\."):
            load_all(path)


def load_all(path: Path) -> None:
    """Read the description, and load the file."""
    READ[path.suffix].read_description(path)
    load(path, "shuffles")


@pytest.mark.parametrize("suffix", READ)
def test_files_of_other_tools_are_one_message(tmp_path: Path, suffix: str) -> None:
    """Whole files of the format that spos did not write, and other kinds of files under its name."""
    path = tmp_path / f"network{suffix}"
    layer = torch.nn.Conv2d(3, 2, 1)
    if suffix == ".onnx":
        helper = onnx.helper
        value = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1])
        result = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1])
        node = helper.make_node("Relu", ["images"], ["logits"])
        onnx.save(helper.make_model(helper.make_graph([node], "theirs", [value], [result])), path)
    elif suffix == ".pt2":
        torch.export.save(torch.export.export(layer, (torch.zeros(1, 3, 2, 2),)), path)
    else:
        safetensors.save_file({"weight": torch.zeros(2)}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="was not exported by spos"):
        READ[suffix].read_description(path)
    for content in (b"", b"hello", b"PK\x03\x04", json.dumps({"a": 1}).encode(), os.urandom(1000)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            READ[suffix].read_description(path)


@pytest.mark.parametrize("in_node", [False, True], ids=["weight", "constant"])
def test_tensors_in_other_files_are_not_read(tmp_path: Path, in_node: bool) -> None:
    """An ONNX file may name any file of the machine as the place of a tensor: a weight, or the value of a node."""
    path = tmp_path / "network.onnx"
    export("shuffles", path)
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    if in_node:
        node = model.graph.node.add(op_type="Constant", output=[tensor.name])
        node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=tensor)
        model.graph.initializer.remove(tensor)
        tensor = node.attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    path.write_bytes(model.SerializeToString())
    for read in (onnx_file.read_description, onnx_file.load):
        with pytest.raises(CheckpointError, match="tensors in other files"):
            read(path)


def test_other_tensors_than_those_of_the_architecture_are_named(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    network, description = export("shuffles", path)
    state = dict(network.state_dict())
    missing = state.pop("stem.0.bias")
    safetensors.save_file(state, path, {"spos": description.to_json()})
    with pytest.raises(CheckpointError, match=r"stem\.0\.bias"):
        safetensors_file.load(network, path)
    safetensors.save_file({**state, "stem.0.bias": missing * float("nan")}, path, {"spos": description.to_json()})
    with pytest.raises(CheckpointError, match=r"stem\.0\.bias holds values that are not finite"):
        safetensors_file.load(network, path)


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def change(path: Path, changes: Callable[[str, bytes], bytes], more: dict[str, bytes] | None = None) -> None:
    """Rewrite the files in an archive."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in content.items():
            archive.writestr(name, changes(name.partition("/")[2], value))
        for name, value in (more or {}).items():
            archive.writestr(f"archive/{name}", value)


def replace_json(inner: str, edit: Callable[[Any], None]) -> Callable[[str, bytes], bytes]:
    """Return a change of one JSON file of an archive."""

    def changes(name: str, value: bytes) -> bytes:
        if name != inner:
            return value
        parsed = json.loads(value)
        edit(parsed)
        return json.dumps(parsed).encode()

    return changes


MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
CODE = "__import__('pathlib').Path('mark').touch()"


def set_first_size(graph: Any) -> None:
    (size, *_) = [value for value in walk(graph) if isinstance(value, dict) and "expr_str" in value]
    size["expr_str"] = CODE


def walk(value: Any) -> Any:
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)


def set_operator(graph: Any) -> None:
    graph["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.mine.evil.default"


def set_name(graph: Any) -> None:
    graph["graph_module"]["graph"]["nodes"][0]["name"] = f'a"; {CODE}; "'


def set_parameter_name(graph: Any) -> None:
    (call, *_) = [value for value in walk(graph) if isinstance(value, dict) and "forward_arg_names" in value]
    call["forward_arg_names"] = [f'images):\n    pass\n{CODE}\ndef other():\n    """#']


def set_container(graph: Any) -> None:
    """PyTorch imports the module that a container's context names."""
    (call, *_) = [value for value in walk(graph) if isinstance(value, dict) and "in_spec" in value]
    context = json.dumps({"__enum__": True, "fqn": "mark:X"})
    call["in_spec"] = call["in_spec"].replace('"context": "null"', f'"context": {json.dumps(context)}')


def set_writer(graph: Any) -> None:
    """This operator maps a file, and its result is written to it."""
    graph["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.from_file.default"


def set_pickled(weights: Any) -> None:
    next(iter(weights["config"].values()))["use_pickle"] = True


@pytest.mark.parametrize(
    ("inner", "edit"),
    [
        (MODEL, set_first_size),
        (MODEL, lambda graph: graph.update(guards_code=[CODE])),
        (MODEL, set_operator),
        (MODEL, set_name),
        (MODEL, set_parameter_name),
        (MODEL, set_container),
        (MODEL, set_writer),
        (WEIGHTS, set_pickled),
    ],
    ids=["formula", "guards", "operator", "name", "parameter", "container", "writer", "pickled weight"],
)
def test_programs_that_could_run_code_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str, edit: Callable[[Any], None]
) -> None:
    path = tmp_path / "network.pt2"
    export("shuffles", path)
    change(path, replace_json(inner, edit))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="may run code"):
        pt2_file.load(path)
    assert not (tmp_path / "mark").exists()


def test_programs_with_several_files_of_one_name_are_refused(tmp_path: Path) -> None:
    """PyTorch may read another one of them than Python's reader, which has looked at it."""
    path = tmp_path / "network.pt2"
    export("shuffles", path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/{MODEL}", "{}")
    with pytest.raises(CheckpointError, match="several files of one name"):
        pt2_file.load(path)


def test_pickles_in_programs_are_refused(tmp_path: Path) -> None:
    """In the example inputs, which every file has, and in a file more."""
    path, mark = tmp_path / "network.pt2", tmp_path / "mark"
    hostile = io.BytesIO()
    torch.save((Hostile(mark),), hostile)
    export("shuffles", path)
    change(path, lambda name, value: hostile.getvalue() if name.startswith("data/sample_inputs") else value)
    with pytest.raises(CheckpointError, match="may run code"):
        pt2_file.load(path)
    for name in ("data/constants/opaque_obj_0", "data/weights/model.pt", "data/aotinductor/model/x.so"):
        export("shuffles", path)
        change(path, lambda name, value: value, {name: pickle.dumps(Hostile(mark))})
        with pytest.raises(CheckpointError, match="may run code"):
            pt2_file.load(path)
    assert not mark.exists()
