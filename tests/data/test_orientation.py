"""Images are turned upright as Pillow's `ImageOps.exif_transpose` turns them, or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from skimage import data as photographs

from spos_cli.data import cache, image_files, inspection
from spos_cli.data.cache import ResizedSet
from spos_cli.data.folder_set import FolderSet
from spos_cli.data.image_files import Decoding, decode, find_orientation
from spos_cli.data.image_store import ImageStore
from spos_cli.data.loaders import BadImages
from spos_cli.data.mapped_set import to_pixels
from spos_cli.data.orientation import Exif, find_scan, read_jpeg_orientation
from spos_cli.data.transforms import EvalTransform
from spos_cli.errors import DataError

PHOTO = photographs.astronaut()[:60, :80]
ORIENTATIONS = range(1, 9)
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def save(path: Path, orientation: int | None, pixels: Any = PHOTO, **options: Any) -> Path:
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture(params=["simplejpeg", "pillow"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(image_files, "_import_simplejpeg", lambda: None)


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.tif"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_is_turned_as_by_pillow(tmp_path: Path, name: str, orientation: int) -> None:
    path = save(tmp_path / name, orientation)
    with Image.open(path) as image:
        stored = np.array(image.convert("RGB"))
        upright = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(decode(path), upright)
    assert np.array_equal(decode(path, Decoding(exif="ignore")), stored)
    assert upright.shape == ((80, 60, 3) if orientation > 4 else (60, 80, 3))
    assert (orientation == 1) == np.array_equal(decode(path), PHOTO) or name in ("x.jpg", "x.webp")
    assert find_orientation(path) == orientation
    assert decode(path).flags.c_contiguous


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_images_of_16_bits_are_turned_too(tmp_path: Path, name: str, orientation: int) -> None:
    values = np.arange(30 * 40, dtype=np.uint16).reshape(30, 40) * 50
    path = save(tmp_path / name, orientation, values)
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        upright = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    expected = (upright * 255 / 65535 + 0.5).astype(np.uint8)
    assert np.array_equal(decode(path, Decoding("dtype"))[..., 1], expected)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_files_that_pillow_maps_into_memory_are_not_scrambled(tmp_path: Path, kind: type, orientation: int) -> None:
    values = (np.arange(30 * 40).reshape(30, 40) * 255 // 1199 * (257 if kind == np.uint16 else 1)).astype(kind)
    path = save(tmp_path / "x.tif", orientation, values)
    content = io.BytesIO(path.read_bytes())  # It has no name, so that Pillow cannot map it.
    with Image.open(content) as image:
        upright = np.asarray(image) // (257 if kind == np.uint16 else 1)
    assert upright.shape == ((40, 30) if orientation > 4 else (30, 40))
    assert (orientation == 1) == np.array_equal(upright, values // (257 if kind == np.uint16 else 1))
    for decoding in (Decoding("dtype", "apply", 1), Decoding("dtype", "ignore", 1)):
        assert np.array_equal(decode(path, decoding)[..., 0], upright)
        assert np.array_equal(to_pixels(Image.open(path), "x", decoding)[..., 0], upright)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
@pytest.mark.parametrize("exif", ["apply", "ignore"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_own_images_of_16_bits_are_turned_as_files(tmp_path: Path, name: str, exif: Exif, orientation: int) -> None:
    path = save(tmp_path / name, orientation, np.arange(30 * 40, dtype=np.uint16).reshape(30, 40) * 50)
    decoding = Decoding("dtype", exif)
    assert np.array_equal(to_pixels(Image.open(path), "x", decoding), decode(path, decoding))


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_an_orientation_in_xmp_counts_where_it_counts_for_pillow(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "x.jpg"
    packet = b"http://ns.adobe.com/xap/1.0/\0" + XMP.format(orientation).encode()
    content = save(path, None).read_bytes()
    path.write_bytes(content[:2] + b"\xff\xe1" + (len(packet) + 2).to_bytes(2, "big") + packet + content[2:])
    with Image.open(path) as image:
        assert image.getexif().get(0x0112) == orientation
        assert np.array_equal(decode(path), np.array(ImageOps.exif_transpose(image)))


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("before", [b"", b"\xff", b"junk", b"\xff\xd0", b"\xff\xfe\0\6\xff\xda\0\2"])
@pytest.mark.parametrize("kind", ["exif", "xmp"])
def test_unusual_segments_before_the_metadata_hide_nothing(tmp_path: Path, before: bytes, kind: str) -> None:
    """A fill byte, junk, a marker without a length, and a comment with the marker of a scan in it."""
    content = save(tmp_path / "x.jpg", 6 if kind == "exif" else None).read_bytes()
    begin = 4 + int.from_bytes(content[4:6], "big")  # the end of the first segment, JFIF
    if kind == "xmp":
        packet = b"http://ns.adobe.com/xap/1.0/\0" + XMP.format(6).encode()
        before += b"\xff\xe1" + (len(packet) + 2).to_bytes(2, "big") + packet
    path = tmp_path / "x.jpg"
    path.write_bytes(content[:begin] + before + content[begin:])
    assert find_orientation(path) == read_jpeg_orientation(path.read_bytes()) == 6
    assert decode(path).shape == (80, 60, 3)


@pytest.mark.usefixtures("decoder")
def test_metadata_after_the_pixels_does_not_count(tmp_path: Path) -> None:
    turned, path = save(tmp_path / "turned.jpg", 6).read_bytes(), save(tmp_path / "x.jpg", None)
    path.write_bytes(path.read_bytes() + turned)
    assert find_orientation(path) == 1
    assert decode(path).shape == PHOTO.shape


@pytest.mark.parametrize("progressive", [False, True])
def test_the_first_scan_is_where_pillow_stops_reading(progressive: bool) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(
        buffer, "JPEG", progressive=progressive, comment=b"\xff\xda", icc_profile=b"\xff\xda" * 9
    )
    content = buffer.getvalue()
    buffer.seek(0)
    with Image.open(buffer):
        header = find_scan(content)
        assert content[header : header + 2] == b"\xff\xda"
        assert header + 2 + int.from_bytes(content[header + 2 : header + 4], "big") == buffer.tell()
    for length in range(header + 2):  # a torn file
        assert find_scan(content[:length]) == length


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_changes_nothing(tmp_path: Path, orientation: int) -> None:
    assert decode(save(tmp_path / "x.jpg", orientation)).shape == PHOTO.shape


@pytest.mark.usefixtures("decoder")
def test_damaged_metadata_does_not_make_an_image_unreadable(tmp_path: Path) -> None:
    path = save(tmp_path / "x.jpg", None)
    plain, content = decode(path), path.read_bytes()
    for junk in (b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 9, bytes(40)):
        block = b"Exif\0\0" + junk
        path.write_bytes(content[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + content[2:])
        assert np.array_equal(decode(path), plain), junk
        assert find_orientation(path) == 1


def test_exif_after_the_pixels_of_a_png_counts(tmp_path: Path) -> None:
    path, buffer = save(tmp_path / "x.png", 6), io.BytesIO()
    content = path.read_bytes()
    begin = content.index(b"eXIf") - 4
    end = begin + 12 + int.from_bytes(content[begin : begin + 4], "big")
    tail = content.index(b"IEND") - 4
    for part in (content[:begin], content[end:tail], content[begin:end], content[tail:]):
        buffer.write(part)
    path.write_bytes(buffer.getvalue())
    assert np.array_equal(decode(path), np.rot90(PHOTO, -1))
    assert find_orientation(path) == 6


def test_caches_know_whether_images_were_turned(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    for number in ORIENTATIONS:
        save(tmp_path / "train" / "a" / f"{number}.png", number)
    turned, stored = (FolderSet(tmp_path / "train", Decoding(exif=exif)) for exif in ("apply", "ignore"))  # type: ignore[arg-type]
    everything, transform = np.arange(8), EvalTransform("standard", 16, stored=False)

    path = tmp_path / "cache.u8"
    cache.write(path, ResizedSet(turned, 40), everything, BadImages(0, print))
    cached = cache.read(path, ResizedSet(turned, 40), everything)
    assert cached is not None
    assert cached.image(5).shape == ResizedSet(turned, 40).image(5).shape == (53, 40, 3)
    assert cache.read(path, ResizedSet(stored, 40), everything) is None

    ImageStore.build(tmp_path / "store.u8", turned, everything, transform)
    assert ImageStore.matches(tmp_path / "store.u8", turned, everything, transform)
    assert not ImageStore.matches(tmp_path / "store.u8", stored, everything, transform)


def test_rotated_images_are_found(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    for number in ORIENTATIONS:
        save(tmp_path / "train" / "a" / f"{number}.jpg", number)
    (tmp_path / "train" / "a" / "9.jpg").write_bytes(b"no image")
    images = FolderSet(tmp_path / "train")
    assert inspection.find_rotated(images, np.arange(9)) == {index: index + 1 for index in range(1, 8)}
    with pytest.raises(DataError, match=r"9\.jpg"):
        find_orientation(tmp_path / "train" / "a" / "9.jpg")
