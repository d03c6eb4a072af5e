"""JPEG files give the same pixels, and the same errors, with simplejpeg and without it."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spos_cli.data import image_files
from spos_cli.data.image_files import Pixels, decode
from spos_cli.errors import DataError

simplejpeg = pytest.importorskip("simplejpeg")


@pytest.fixture
def by_pil(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Pixels | str]]:
    """Decode as if simplejpeg were not installed; return the message if that is an error."""

    def call(path: Path) -> Pixels | str:
        with monkeypatch.context() as patched:
            patched.setattr(image_files, "_import_simplejpeg", lambda: None)
            return result(path)

    return call


def result(path: Path) -> Pixels | str:
    try:
        return decode(path)
    except DataError as error:
        return str(error)


def same(one: Pixels | str, other: Pixels | str) -> bool:
    return one == other if isinstance(one, str) or isinstance(other, str) else np.array_equal(one, other)


def encoded(photo: Pixels, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def is_fast(path: Path) -> bool:
    return image_files._decode_with_simplejpeg(path, "apply") is not None


@pytest.mark.parametrize("subsampling", [0, 1, 2, "4:1:1"])
@pytest.mark.parametrize("size", [(300, 451), (61, 83), (17, 32), (1, 1), (7, 3), (1, 50)])
def test_pixels_are_pils(
    tmp_path: Path,
    photographs: dict[str, Pixels],
    by_pil: Callable[[Path], Pixels],
    size: tuple[int, int],
    subsampling: int | str,
) -> None:
    path = tmp_path / "x.png"  # whatever its name is
    for photo in photographs.values():
        part = np.ascontiguousarray(photo[: size[0], : size[1]])
        for options in ({"quality": 90}, {"quality": 30, "progressive": True}, {"restart_marker_blocks": 3}):
            for mode in ("RGB", "L"):
                path.write_bytes(encoded(part, mode, subsampling=subsampling, **options))
                assert is_fast(path)
                pixels = decode(path)
                assert pixels.shape == (*size, 3)
                assert np.array_equal(pixels, by_pil(path))


def test_metadata_other_than_an_orientation_changes_nothing(
    tmp_path: Path, photographs: dict[str, Pixels], by_pil: Callable[[Path], Pixels]
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded(photographs["coffee"], exif=exif, comment=b"a comment", icc_profile=b"no profile" * 9))
    assert is_fast(path)
    assert decode(path).shape == photographs["coffee"].shape
    assert np.array_equal(decode(path), by_pil(path))


def test_other_files_than_plain_jpeg_go_to_pil(
    tmp_path: Path, photographs: dict[str, Pixels], by_pil: Callable[[Path], Pixels]
) -> None:
    photo, png = photographs["rocket"][:60, :80], io.BytesIO()
    Image.fromarray(photo).save(png, "PNG")
    kinds = {"cmyk": encoded(photo, "CMYK"), "rgb": encoded(photo, keep_rgb=True), "png": png.getvalue()}
    kinds["trailing"] = encoded(photo) + b"more than an image"
    for name, content in kinds.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(content)
        assert is_fast(path) == (name == "trailing"), name
        assert np.array_equal(decode(path), by_pil(path)), name


def test_torn_files_are_errors_as_before(
    tmp_path: Path, photographs: dict[str, Pixels], by_pil: Callable[[Path], Pixels | str]
) -> None:
    path = tmp_path / "x.jpg"
    for options in ({}, {"progressive": True}):
        whole = encoded(photographs["astronaut"][:40, :50], **options)
        for length in [*range(0, len(whole), 37), *range(len(whole) - 20, len(whole))]:
            path.write_bytes(whole[:length])
            assert same(result(path), by_pil(path)), length
            assert length > len(whole) - 3 or isinstance(result(path), str)


def test_flipped_bits_end_as_before(
    tmp_path: Path, photographs: dict[str, Pixels], by_pil: Callable[[Path], Pixels | str]
) -> None:
    path, rng = tmp_path / "x.jpg", np.random.default_rng(0)
    whole = encoded(photographs["chelsea"][:40, :50])
    for _ in range(400):
        content = bytearray(whole)
        content[rng.integers(2, len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert same(result(path), by_pil(path))


def test_the_limits_hold(tmp_path: Path, photographs: dict[str, Pixels], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded(photographs["coffee"][:60, :80]))
    for most in (4000, 1000):  # PIL warns of the first, and raises an error for the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(DataError, match="too many pixels"):
            decode(path)
    monkeypatch.undo()
    path.write_bytes(encoded(np.zeros((2, 300, 3), np.uint8)))
    with pytest.raises(DataError, match="aspect ratio too extreme: 300 x 2 pixels"):
        decode(path)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match="not a regular file"):
        decode(tmp_path / "pipe.jpg")
    path.write_bytes(encoded(photographs["coffee"][:60, :80]))
    monkeypatch.setattr(image_files, "_decode_with_simplejpeg", lambda path: pytest.fail("reads a huge file"))
    monkeypatch.setattr(image_files, "MAX_JPEG_BYTES", 100)
    assert decode(path).shape == (60, 80, 3)


def test_simplejpeg_is_not_used_with_another_libjpeg_of_pil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files.features, "check_feature", lambda name: False)
    assert image_files._import_simplejpeg.__wrapped__() is None
    monkeypatch.undo()
    assert image_files._import_simplejpeg.__wrapped__() is simplejpeg
