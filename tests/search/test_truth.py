"""Tables of stand-alone accuracies: what is read, what is one network, and mistakes in them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spos_cli.errors import RunError, SposError
from spos_cli.search.truth import Network, read_truth
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import SearchSpace, Stage

MBCONV = Choice("mbconv", (("expand", 3), ("kernel", 3)))
# The first block of each stage changes the shape, so its `skip` is a convolution.
SPACE = SearchSpace((Stage(1, 8), Stage(3, 16)), (Choice("skip"), MBCONV), 16, 10, 8, 1, 32)
WIDE = SearchSpace((Stage(2, 16),), (Choice("shuffle", (("kernel", 3),)),), 16, 10, 8, 1, 32, widths=(600, 1000))


def write(folder: Path, text: str | bytes, name: str = "truth") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_the_form_of_nas_bench_macro(tmp_path: Path) -> None:
    rows = {
        "1101": {"test_acc": [85.5, 85.0], "mean_acc": 85.25, "std": 0.25, "params": 7, "flops": 1234.0},
        "1110": {"test_acc": [85.5, 85.0], "mean_acc": 85.25, "std": 0.25, "params": 7, "flops": 1234},
        "1111": {"test_acc": [90.0, 91.0], "mean_acc": 90.5},
        "0111": {"acc": 80},
        "0,0,0,0": 70.5,
    }
    truth = read_truth(write(tmp_path, json.dumps(rows)), SPACE)
    # The first two are the same network, trained twice; both rows repeat the same trainings.
    assert truth.networks == (
        Network((Architecture((0, 0, 0, 0)),), (0.705,)),
        Network((Architecture((0, 1, 1, 1)),), (0.8,)),
        Network((Architecture((1, 1, 0, 1)), Architecture((1, 1, 1, 0))), (0.855, 0.85)),
        Network((Architecture((1, 1, 1, 1)),), (0.9, 0.91)),
    )
    assert truth.networks[2].accuracy == pytest.approx(0.8525)
    assert truth.flops == {Architecture((1, 1, 0, 1)): 1234, Architecture((1, 1, 1, 0)): 1234}


def test_csv_has_seeds_in_columns_and_in_rows(tmp_path: Path) -> None:
    header = "\ufeffArchitecture, accuracy_1 ,accuracy_2,FLOPs\r\n"
    text = header + '"0,1,1,1",0.5,0.25,\r\n1 1 1 1,0.75,,900\r\n0111,0.125,,\r\n'
    truth = read_truth(write(tmp_path, text), SPACE)
    assert [network.accuracies for network in truth.networks] == [(0.5, 0.25, 0.125), (0.75,)]
    assert truth.flops == {Architecture((1, 1, 1, 1)): 900}
    text = 'architecture,accuracy\n"0@0.6,0@1.0",91\n"0@1.0,0@0.6",90\n'
    truth = read_truth(write(tmp_path, text), WIDE)
    assert [network.names[0].widths for network in truth.networks] == [(600, 1000), (1000, 600)]


def test_other_trainings_of_the_same_network_are_added(tmp_path: Path) -> None:
    (network,) = read_truth(write(tmp_path, "architecture,accuracy\n1101,50\n1110,52\n1110,51\n"), SPACE).networks
    assert sorted(network.accuracies) == [0.5, 0.51, 0.52]


def test_mistakes(tmp_path: Path) -> None:
    for text, said in (
        ("", "columns architecture and accuracy"),
        ("{", "is not JSON"),
        ("[]", "is a list"),
        ("{}", "has no architecture"),
        ('{"0000": {"loss": 1}}', "'0000' has no accuracy; name it one of test_acc"),
        ('{"0000": {"acc": []}}', "has no accuracy"),
        ('{"0002": 1}', "layer 3 has choice 2; the choices are 0 = skip"),
        ('{"00000": 1}', "the architecture has 1 layer, the space 4"),
        ('{"0000": 101}', "accuracy 101 is not a number from 0 to 100"),
        ('{"0000": true}', "accuracy True is not a number"),
        ('{"0000": NaN}', "accuracy nan is not a number"),
        ('{"0000": {"acc": 1, "flops": "many"}}', "flops 'many' is not a number"),
        ("[" * 100_000, "is not JSON"),
        ("arch,top1\n0000,1\n", "has the columns 'arch, top1'"),
        ("architecture,accuracy\n0000,1\n0000,x\n", "truth:3: accuracy 'x' is not a number"),
        ("architecture,accuracy\n0000\n", "truth:2 has no accuracy"),
        ("architecture,accuracy,accuracy\n0000,1,2\n", "has a column twice"),
        ("architecture,accuracy_std\n0000,1\n", "has the columns"),
        ("architecture,accuracy\n0000,1,2\n", "truth:2 has more fields"),
        ("architecture,accuracy\n0000,0.95\n0001,94\n", "such as 0.95, and above it, such as 94"),
        ("architecture,accuracy\n,5\n", "truth:2: cannot read the architecture"),
        (b"\xff\xfe\x00", "is not text"),
    ):
        with pytest.raises(RunError) as error:
            read_truth(write(tmp_path, text), SPACE)
        assert said in str(error.value), (text, str(error.value))
    with pytest.raises(RunError, match="cannot read"):
        read_truth(tmp_path / "missing", SPACE)


@given(st.text() | st.binary())
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: str | bytes) -> None:
    if isinstance(content, str):
        content = ("architecture,accuracy\n" + content).encode("utf-8", "surrogatepass")
    path = write(tmp_path_factory.getbasetemp(), content, "any")
    with contextlib.suppress(SposError):
        assert all(0 <= network.accuracy <= 1 for network in read_truth(path, SPACE).networks)
