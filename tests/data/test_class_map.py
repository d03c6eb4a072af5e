"""Files that say which class of a network each class of other images is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spos_cli.data.class_map import RelabelledSet, read_class_map
from spos_cli.data.datasets import ArraySet
from spos_cli.errors import ConfigError, DataError

NAMES = ("cat", "dog", "fox", "red fox", "7")


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.txt", "# birds\n\nn01: dog\nn 02:  3\n7: cat\n"),
        ("map", "\ufeffn01: dog\nn 02: red fox\n7: 0\n"),
        ("map.yaml", "n01: dog\n'n 02': 3\n7: cat\n"),
        ("map.yml", "{n01: 1, n 02: red fox, '7': cat}"),
        ("map.json", json.dumps({"n01": "dog", "n 02": 3, "7": "cat"})),
        ("map.csv", 'folder,class\nn01,dog\n"n 02",red fox\n\n7,0\n'),
        ("map.CSV", "n01, dog\nn 02, 3\n7, cat\n"),
    ],
)
def test_all_forms_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    mapping = read_class_map(write(tmp_path, name, text))
    assert mapping.find_labels(NAMES, 5) == {"n01": 1, "n 02": 3, "7": 0}


def test_a_name_comes_before_an_index(tmp_path: Path) -> None:
    path = write(tmp_path, "map.yaml", "a: 7\nb: 3\n")
    assert read_class_map(path).find_labels(NAMES, 5) == {"a": 4, "b": 3}
    assert read_class_map(path).find_labels((), 10) == {"a": 7, "b": 3}


@pytest.mark.parametrize(("name", "text"), [("list.txt", "n3\nn1\n\n# end\nn2\n"), ("list.yaml", "[n3, n1, n2]")])
def test_a_list_has_the_folders_of_all_classes(tmp_path: Path, name: str, text: str) -> None:
    mapping = read_class_map(write(tmp_path, name, text))
    for names in ((), ("a", "b", "2"), ("2", "0", "1")):
        assert mapping.find_labels(names, 3) == {"n3": 0, "n1": 1, "n2": 2}
    with pytest.raises(ConfigError, match="lists 3 folders, one a line, but the network has 1,000 classes"):
        mapping.find_labels((), 1000)


def test_numbers_as_folders_keep_their_number(tmp_path: Path) -> None:
    """As in ImageNetV2, whose folders 0, 1, 10, 100 ... are not in the order of their names."""
    path = write(tmp_path, "list.txt", "\n".join(map(str, range(1000))))
    assert read_class_map(path).find_labels((), 1000) == {str(index): index for index in range(1000)}


@pytest.mark.parametrize(
    ("name", "text", "phrase"),
    [
        ("map.txt", "a: cta\n", "map.txt:1: the network has no class 'cta'; did you mean 'cat'?"),
        ("map.txt", "a: FOX\n", "did you mean 'fox' or 'red fox'?"),
        ("map.txt", "\na: zebra\n", "map.txt:2: the network has no class 'zebra'; its classes are cat, dog, fox"),
        ("map.txt", "a: 5\n", "no class '5'"),
        ("map.txt", "a: -1\n", "no class '-1'"),
        ("map.txt", "a: cat\nb: 0\n", "map.txt:2: 'b' is class 0, and so is 'a'"),
        ("map.txt", "a: cat\na: dog\n", "map.txt:2: 'a' is there twice; first in line 1"),
        ("map.yaml", "a: cat\na: dog\n", "map.yaml:2: 'a' is there twice; first in line 1"),
        ("map.txt", "a: cat\nb\n", "map.txt:2: some lines are folder: class, and others are not"),
        ("map.csv", "a,cat,dog\n", "map.csv:1: expected two columns, folder,class, not 3"),
        ("map.csv", "a\n", "map.csv:1: expected two columns"),
        ("map.yaml", "a: [cat]\n", "map.yaml:1: expected folder: class"),
        ("map.yaml", "a:\n", "map.yaml:1: 'a' has no class"),
        ("map.yaml", "a: [", "not valid YAML"),
        ("map.yaml", "word", "has no classes"),
        ("map.txt", "# nothing\n", "has no classes"),
        ("map.txt", "", "has no classes"),
    ],
)
def test_mistakes_have_their_line(tmp_path: Path, name: str, text: str, phrase: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_class_map(write(tmp_path, name, text)).find_labels(NAMES, 5)
    assert phrase in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_without_names_wants_indices(tmp_path: Path) -> None:
    path = write(tmp_path, "map.txt", "a: cat\n")
    with pytest.raises(ConfigError, match="does not name its classes; write an index from 0 to 999"):
        read_class_map(path).find_labels((), 1000)


def test_each_class_of_the_images_needs_an_entry(tmp_path: Path) -> None:
    images = ArraySet("some", tuple("abcdefg"), np.zeros((7, 2, 2), np.uint8), np.arange(7))
    mapping = read_class_map(write(tmp_path, "map.txt", "a: cat\n"))
    with pytest.raises(DataError, match=r"are: b, c, d, e, f, \.\.\. \(6 of 7 classes of some; .* entry is 'a'\)"):
        RelabelledSet(images, mapping, NAMES, 5)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_class_map(tmp_path / "nothing.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not text in UTF-8"):
        read_class_map(tmp_path / "bytes.txt")
    (tmp_path / "large.txt").write_bytes(b"a" * (8 * 2**20 + 1))
    with pytest.raises(ConfigError, match="has more than 8,388,608 bytes"):
        read_class_map(tmp_path / "large.txt")


def test_images_get_the_classes_of_the_network(tmp_path: Path) -> None:
    pixels = np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3)
    images = ArraySet("some", ("a", "b"), pixels, np.array([0, 1, 1, 0]))
    mapping = read_class_map(write(tmp_path, "map.txt", "a: 3\nb: 0\nother: 1\n"))
    named, unnamed = RelabelledSet(images, mapping, NAMES, 5), RelabelledSet(images, mapping, (), 5)
    for mapped in (named, unnamed):
        assert mapped.labels.tolist() == [3, 0, 0, 3]
        assert (len(mapped), mapped.name, mapped.path(2)) == (4, images.name, images.path(2))
        assert np.array_equal(mapped.image(2), images.image(2))
        assert np.array_equal(mapped.contents, images.contents)
    assert named.classes == NAMES
    assert unnamed.classes == ("b", "other", "class 2", "a", "class 4")
