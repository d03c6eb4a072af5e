"""Every kind of image file becomes RGB, and what is not an image is never opened as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs
from torchvision.datasets.folder import IMG_EXTENSIONS

from spos_cli.data import image_files
from spos_cli.data.folder_set import FolderSet
from spos_cli.data.image_files import Decoding, Pixels
from spos_cli.errors import DataError

PHOTO = photographs.astronaut()[:60, :80]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("RGB", (200, 100, 50)),
        ("RGBA", (200, 100, 50)),
        ("P", (200, 100, 50)),
        ("L", (124, 124, 124)),
        ("LA", (124, 124, 124)),
        ("CMYK", (200, 100, 50)),
        ("1", (255, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, expected: tuple[int, int, int]) -> None:
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    colour = Image.new("RGB", (5, 4), (200, 100, 50)) if mode != "1" else Image.new("RGB", (5, 4), (255, 255, 255))
    colour.convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
    pixels = image_files.decode(path)
    assert pixels.shape == (4, 5, 3)
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    assert image_files.decode(tmp_path / "x.png", Decoding("dtype"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_broken_images_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(PHOTO).save(whole)
    content = whole.read_bytes()
    for name, wrong in [
        ("cut", content[: len(content) // 2]),
        ("empty", b""),
        ("text", b"hello"),
        ("head", content[:20]),
    ]:
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=rf"{name}\.jpg"):
            image_files.decode(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for pixels in (1500, 100):  # PIL warns of the first, and raises an error for the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
        with pytest.raises(DataError, match="too many pixels"):
            image_files.decode(whole)


KINDS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "QOI": (".qoi",),
    "TGA": (".tga", ".vda"),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_that_pillow_reads_is_an_image(tmp_path: Path, name: str) -> None:
    Image.init()
    if name not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {name}")
    for ending in KINDS[name]:
        mode = {".pgm": "L", ".pbm": "1", ".gif": "P"}.get(ending, "RGB")
        for upper in (ending, ending.upper()):
            path = tmp_path / "train" / "a" / f"image{upper}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(PHOTO).convert(mode).save(path, name)
            with Image.open(path) as image:
                assert np.array_equal(image_files.decode(path), np.asarray(image.convert("RGB")))
    images = FolderSet(tmp_path / "train")
    assert len(images) == 2 * len(KINDS[name])
    assert not images.other_files.total()


def test_torchvisions_kinds_are_among_ours() -> None:
    assert set(IMG_EXTENSIONS) <= image_files.list_extensions()


def test_an_extension_does_not_make_a_document_an_image(tmp_path: Path) -> None:
    for name in ("EPS", "ICO", "TGA", "PCX"):
        Image.fromarray(PHOTO).save(tmp_path / "image.png", name)
        with pytest.raises(DataError, match="cannot identify"):
            image_files.decode(tmp_path / "image.png")
    Image.fromarray(PHOTO).save(tmp_path / "image.png", "BMP")  # but that is one
    assert np.array_equal(image_files.decode(tmp_path / "image.png"), PHOTO)


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png", "x.tif", "x.avif"])
def test_of_several_frames_the_first_is_decoded(tmp_path: Path, name: str) -> None:
    if Path(name).suffix not in image_files.list_extensions():
        pytest.skip("this Pillow cannot read it")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / name) as image:
        assert image.n_frames == 3
    assert np.abs(image_files.decode(tmp_path / name).astype(int) - (200, 0, 0)).max() < 8


def test_a_palette_with_transparency(tmp_path: Path, photographs: dict[str, Pixels]) -> None:
    image = Image.fromarray(photographs["coffee"]).quantize(32)
    image.save(tmp_path / "image.png", transparency=bytes(range(32)))
    assert np.array_equal(image_files.decode(tmp_path / "image.png"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("name", ["image.png", "image.tif", "image.ppm"])
def test_16_bits_are_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    levels = np.linspace(0, 65535, 256).astype(np.uint16)
    Image.fromarray(np.tile(levels, (4, 1))).save(tmp_path / name)
    assert np.array_equal(image_files.decode(tmp_path / name, Decoding("dtype"))[2, :, 1], np.arange(256))
