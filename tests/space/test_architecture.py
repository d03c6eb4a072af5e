"""How an architecture is written, read and named."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from spos_cli.errors import ArchitectureError
from spos_cli.files.quoting import quote_value
from spos_cli.space.architecture import Architecture, Option, parse, read
from spos_cli.space.bits import BIT_WIDTHS
from tests.config.yaml_texts import ALIASES

CHOICES = st.lists(st.integers(0, 999_999), min_size=1, max_size=40).map(tuple)
WIDTHS = st.integers(0, 999_999)
BITS = st.sampled_from([0, *(10 * weights + activations for weights in BIT_WIDTHS for activations in BIT_WIDTHS)])
OPTIONS = st.lists(
    st.builds(Option, st.integers(0, 999_999), WIDTHS, BITS, WIDTHS, st.just(0)), min_size=1, max_size=40
)
SIZES = st.integers(0, 99_999)
# Text that is nearly an architecture finds more than text at large.
NEARLY = st.text(st.sampled_from("0123456789,()[] \t\n-+._eE@:wapx٣²\0"), max_size=60)


@given(CHOICES)
def test_every_way_of_writing_reads_back(choices: tuple[int, ...]) -> None:
    arch = Architecture(choices)
    spellings = [str(arch), repr(choices), repr(list(choices)), " ".join(map(str, choices)), f"  {arch}\n"]
    assert all(parse(text) == arch for text in spellings)


@given(OPTIONS)
def test_widths_and_bits_are_written_and_read_back(options: list[Option]) -> None:
    arch = Architecture.from_options(options)
    assert list(arch.options) == options
    for values in (json.loads(json.dumps(arch.to_list())), yaml.safe_load(yaml.safe_dump(arch.to_list()))):
        assert Architecture.from_list(values) == arch
    assert all(parse(text) == arch for text in (str(arch), f"[{str(arch).replace(',', ' , ')}]"))


def test_a_width_is_a_number_behind_the_choice() -> None:
    arch = parse("0@1.4, 3@0.125 2")
    assert (arch.choices, arch.widths) == ((0, 3, 2), (1400, 125, 0))
    assert (str(arch), arch.to_list()) == ("0@1.4,3@0.125,2", ["0@1.4", "3@0.125", 2])
    assert parse("0@1,0@1.50") == parse("0@1.0,0@1.5")
    assert parse("0,0").widths == ()
    assert parse("0@1.0,0").id != parse("0,0").id


def test_bits_are_behind_the_choice_and_its_width() -> None:
    arch = parse("0:w2a4, 3@0.5:w1a2 2")
    assert (arch.choices, arch.widths, arch.bits) == ((0, 3, 2), (0, 500, 0), (24, 12, 0))
    assert (str(arch), arch.to_list()) == ("0:w2a4,3@0.5:w1a2,2", ["0:w2a4", "3@0.5:w1a2", 2])
    assert arch.options[1] == Option(3, 500, 12)
    assert parse("0,0").bits == ()
    assert len({parse(text).id for text in ("0,0", "0:w2a4,0", "0:w4a2,0", "0,0:w2a4")}) == 4
    assert Architecture((0, 0)) < Architecture((0, 0), (), (12, 12)) < Architecture((0, 0), (), (12, 24))


@given(st.one_of(st.text(), NEARLY))
def test_any_text_is_an_architecture_or_an_architecture_error(text: str) -> None:
    for function in (parse, read):
        try:
            arch = function(text)
        except ArchitectureError:
            pass
        else:
            assert parse(str(arch)) == arch


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "()",
            ",",
            "1,,2",
            "1,-1",
            "1.0",
            "1e3",
            "true",
            "(1,2",
            "1,2]",
            "[1,2)",
            "((1,2))",
            "٣,1",
            "²",
            "0x0",
            "0x",
        ),
        *("1;2", "1@", "@1", "1@0", "1@.5", "1@0.0004", "1@1.0001", "1@-1", "1@1e1", "1@1@1", "1 @1", "0@0.000,1"),
        *("0:", "0:w2", "0:a4", "0:w2a", "0:w5a4", "0:w2a6", "0:w0a2", "0:w24", "0:w2a4:w2a4", "0:w2a4@1.0", "0 :w2a4"),
        *("0x0", "0x", "0: w2a4", "0:W2A4", "0:w22a4", "w2a4"),
    ],
)
def test_what_is_not_an_architecture(text: str) -> None:
    with pytest.raises(ArchitectureError, match="one choice per layer"):
        parse(text)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "text",
    ["9" * 10**6, "1 " * 10**6, "1" + " " * 99_990 + "x", "1, " * 30_000 + "x", "(" * 10**6],
    ids=quote_value,
)
def test_huge_text_is_refused_quickly_and_quoted_shortly(text: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        parse(text)
    assert len(str(caught.value)) < 200


def test_an_architecture_is_a_sequence_with_a_short_name() -> None:
    arch = parse("2,1,0")
    assert (len(arch), list(arch), arch[1]) == (3, [2, 1, 0], 1)
    assert arch.id == hashlib.sha256(b"2,1,0").hexdigest()[:10]
    assert arch.id != parse("21,0").id


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.yaml", "[2, 1, 0]"),
        ("a.YML", "- 2\n- 1\n- 0\n"),
        ("a.yml", "architecture: [2, 1, 0]\nflops: 1\n"),
        ("a.yaml", "architecture: 2,1,0"),
        ("a.json", '{"architecture": [2, 1, 0]}'),
        ("a.json", "\ufeff[2, 1, 0]"),
        ("any name", "[2, 1, 0]"),
    ],
)
def test_files(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert read(str(path)) == parse("2,1,0")


def test_files_with_widths_and_bits(tmp_path: Path) -> None:
    arch = parse("2@1.4,1:w2a4,0@0.2:w8a8")
    contents = (b"[2@1.4, 1:w2a4, 0@0.2:w8a8]", b'{"architecture": ["2@1.4", "1:w2a4", "0@0.2:w8a8"]}')
    for name, content in (*(("a.yaml", one) for one in contents), ("a.pkl", pickle.dumps(tuple(arch.to_list())))):
        (tmp_path / name).write_bytes(content)
        assert read(str(tmp_path / name)) == arch


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_official_pickle(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "arch"  # what a file is, its content tells
    path.write_bytes(pickle.dumps((2, 1, 0), protocol))
    assert read(str(path)) == parse("2,1,0")


def test_no_layers_are_no_architecture() -> None:
    with pytest.raises(ArchitectureError, match="at least one layer"):
        Architecture.from_list([])


def test_a_literal_needs_no_file() -> None:
    assert read("(2, 1, 0)") == parse("2,1,0")


@pytest.mark.parametrize("arch", ["missing.yaml", "missing.JSON", "runs/x/arch", "./2,1,0"])
def test_a_missing_file_is_said_to_be_missing(arch: str) -> None:
    with pytest.raises(ArchitectureError, match="there is no architecture file"):
        read(arch)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"7",
        b"[]",
        b"{}",
        b"[true, 1]",
        b"[1.0]",
        b"[-1]",
        b"[[1]]",
        b"['1']",
        b"['0:w5a4']",
        b"['0:w2a4 ']",
        b"[0: w2a4]",
        b"&a [*a]",
        ALIASES.encode() + b"architecture: *a11",
        b"{a: 1",
        b"[1]\n---\n[2]",
        b"architecture: {}",
        b"architecture: 2.1.0",
        b"? [1]\n: 2",
        b'!!int ""',
        b"!!bool x",
        b"!!timestamp x",
        b"!!python/object/apply:os.getcwd []",
        b"\xff\xfe\x00",
        b"[1, 0x" + b"f" * 9_000 + b"]",
        b"1:" * 20_000 + b"1",
        b"[" * 5_000,
        b"[" + b"1," * 10**6 + b"1]",
        pickle.dumps(("2", "1")),
        pickle.dumps(()),
        pickle.dumps({"architecture": (2, -1)}),
        pickle.dumps(Path),
        pickle.dumps((2, 1, 0))[:-3] + b".",
    ],
    ids=lambda content: repr(content[:16]),
)
@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_files_that_hold_none(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"arch{suffix}"
    path.write_bytes(content)
    with pytest.raises(ArchitectureError):
        read(str(path))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="directory"):
        read(str(tmp_path))


def test_the_official_architectures_parse() -> None:
    official = json.loads(Path(__file__).with_name("flops_params.json").read_text())
    assert len(official) == 50
    for entry in official:
        assert list(parse(repr(entry["architecture"]))) == entry["architecture"]
