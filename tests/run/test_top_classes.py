"""The most likely classes of images: their order and probabilities, worked out by hand, and how names are written."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
import torch

from spos_cli.errors import ConfigError
from spos_cli.run import top_classes
from spos_cli.run.top_classes import RankedClass, choose_form, rank_classes, require_known_form

NAMES = ("ape", "bee", "cow", "doe")
# exp gives 1, 2, 4 and 1: of 8.
LOGITS = torch.log(torch.tensor([[1.0, 2.0, 4.0, 1.0], [3.0, 3.0, 1.0, 1.0]]))


def test_the_order_and_the_probabilities() -> None:
    """Of classes that are as likely as each other, the first one comes first."""
    first, second = rank_classes(LOGITS, NAMES, 4)
    assert [(one.label, one.name) for one in first] == [(2, "cow"), (1, "bee"), (0, "ape"), (3, "doe")]
    assert [one.probability for one in first] == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 8], abs=1e-6)
    assert [one.name for one in second] == ["ape", "bee", "cow", "doe"]
    assert [one.probability for one in second] == pytest.approx([3 / 8, 3 / 8, 1 / 8, 1 / 8], abs=1e-6)


@pytest.mark.parametrize(("top", "expected"), [(1, 1), (3, 3), (4, 4), (99, 4)])
def test_as_many_as_asked_for_and_at_most_all(top: int, expected: int) -> None:
    assert [ranked[:expected] for ranked in rank_classes(LOGITS, NAMES, 4)] == rank_classes(LOGITS, NAMES, top)


def test_classes_without_names_are_named_by_their_index() -> None:
    assert [one.name for one in rank_classes(LOGITS, (), 2)[0]] == ["2", "1"]


def test_large_logits_are_ranked_where_probabilities_are_equal() -> None:
    """Both probabilities round to 0, and the larger logit still comes first; mixed precision is no other case."""
    ranked = rank_classes(torch.tensor([[900.0, -900.0, -800.0]], dtype=torch.float16), (), 3)[0]
    assert [one.label for one in ranked] == [0, 2, 1]
    assert math.isclose(ranked[0].probability, 1.0)


def test_a_name_that_looks_like_syntax_stays_a_name(tmp_path: Path) -> None:
    ranked = [RankedClass(0, 'a,"b"\r\nc\td', 0.75), RankedClass(1, "", 0.25)]
    for path in ("plain.png", "x\ny.png", "\r", "q\"u,o;t'e", "caf\udce9", "🦊"):
        text = choose_form(tmp_path / "top.csv", False, [path], NAMES)
        rows = list(csv.reader(io.StringIO(text.header + text.format(path, ranked), newline="")))
        assert rows == [
            ["path", "rank", "index", "class", "probability"],
            [path, "1", "0", ranked[0].name, "0.75"],
            [path, "2", "1", "", "0.25"],
        ]
        line = choose_form(tmp_path / "top.jsonl", False, [path], NAMES).format(path, ranked)
        assert line.count("\n") == 1
        assert line.isascii()
        assert json.loads(line)["path"] == path
        table = choose_form(None, False, [path], NAMES)
        assert table.format(path, ranked).count("\n") == 2


def test_columns_of_a_table_are_aligned_by_what_a_terminal_shows() -> None:
    """A wide letter takes two columns; a long name moves its own line only."""
    names = ("ape", "熊猫")
    paths = ["a.png", "狐狸.png", "long/" * 30 + ".png"]
    form = choose_form(None, False, paths, names)
    ranked = [RankedClass(0, "ape", 0.5), RankedClass(1, "熊猫", 0.5)]
    assert form.header == f"{'image':<60}  class  probability\n"
    assert form.format("a.png", ranked) == f"{'a.png':<60}  ape         50.00%\n{'':<60}  熊猫        50.00%\n"
    assert form.format("狐狸.png", ranked[:1]) == f"狐狸.png{'':<52}  ape         50.00%\n"
    assert form.format(paths[2], ranked[:1]) == f"{paths[2]}  ape         50.00%\n"


@pytest.mark.parametrize("name", ["top", "top.txt", "top.csv.gz", ".csv"])
def test_a_file_needs_a_known_suffix(name: str) -> None:
    with pytest.raises(ConfigError, match=r"neither a \.csv nor a \.jsonl"):
        require_known_form(Path(name))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_letter_can_be_printed(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters that the terminal does not have are escaped."""
    content = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(content, encoding))
    with top_classes.open_output(None) as write:
        write("é 🦊\n")
    shown = {"ascii": b"\\xe9 \\U0001f98a\n", "latin-1": b"\xe9 \\U0001f98a\n", "utf-8": "é 🦊\n".encode()}
    assert content.getvalue() == shown[encoding]
