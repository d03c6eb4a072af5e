"""Images of a map-style data set: of the user, or of torchvision."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from spos_cli.data.channels import fit_channels
from spos_cli.data.encoded_images import decode_bytes, measure_bytes
from spos_cli.data.image_files import DEFAULT_DECODING, UNREADABLE, Decoding, Pixels, read_pil_image
from spos_cli.data.image_set import ImageSet, hash_each
from spos_cli.data.levels import EIGHT_BIT_MODES, Measured
from spos_cli.data.orientation import UPRIGHT, prevent_mapping, read_orientation, turn_upright
from spos_cli.errors import ConfigError, DataError
from spos_cli.files.own_code import shorten_reason
from spos_cli.space.search_space import COLOUR, GREY


class MappedSet(ImageSet):
    """Images and labels by index: `data[index]` returns an image and its label.

    Args:
        name: for messages.
        data: the data set.
        names: of the images.
        classes: the class names, by label.
        labels: `(N,)`.
        versions: `(N,)` or `(N, k)`: numbers that change when an image is replaced; the first one is its content.
        indices: the images of `data` that belong to the set, `(N,)`; None for all.
        decoding: how encoded images become pixels.
        files: where a user finds the images, `(N,)`; empty if that is not known.
    """

    knows_sizes = False

    def __init__(
        self,
        name: str,
        data: Any,
        names: Sequence[str],
        classes: Sequence[str],
        labels: NDArray[np.int64],
        versions: NDArray[np.int64],
        indices: NDArray[np.int64] | None = None,
        decoding: Decoding = DEFAULT_DECODING,
        files: Sequence[str] = (),
    ) -> None:
        self.name, self.data, self.image_names, self.classes = name, data, names, tuple(classes)
        self.labels, self.numbers, self.decoding, self.files = labels, versions, decoding, files
        self.indices = np.arange(len(labels)) if indices is None else indices

    def image(self, index: int) -> Pixels:
        image, _ = get_item(self.data, int(self.indices[index]), self.locate(index))
        return to_pixels(image, self.locate(index), self.decoding)

    def path(self, index: int) -> str:
        return self.image_names[index]

    def locate(self, index: int) -> str:
        item = f"{self.name}[{self.indices[index]}]"
        return f"{item} ({self.files[index]})" if self.files else item

    def measure(self, index: int) -> Measured | None:
        image, _ = get_item(self.data, int(self.indices[index]), self.locate(index))
        if not isinstance(image, Image.Image) or image.mode in EIGHT_BIT_MODES:
            return None
        return measure_bytes(_encode(image, self.locate(index)), self.locate(index), self.decoding.channels)

    def find_orientation(self, index: int) -> int:
        image, _ = get_item(self.data, int(self.indices[index]), self.locate(index))
        return read_orientation(image) if isinstance(image, Image.Image) else UPRIGHT

    @property
    def contents(self) -> NDArray[np.int64]:
        numbers: NDArray[np.int64] = self.numbers.reshape(len(self), -1)[:, 0]
        return numbers

    @property
    def versions(self) -> NDArray[np.int64]:
        return self.numbers


@contextlib.contextmanager
def with_advice(advice: str) -> Iterator[None]:
    """Add what to do to a DataError of the block that does not say it."""
    try:
        yield
    except DataError as error:
        if "; " in str(error):
            raise
        raise DataError(f"{error}; {advice}") from error


def get_item(data: Any, index: int, where: str) -> tuple[Any, Any]:
    """Return the image and the label of one index.

    Raises:
        DataError: the data set raises an error, or returns something else than a pair.
    """
    try:
        item = data[index]
    except (DataError, ConfigError):
        raise
    except Exception as error:  # A user's code may raise anything.
        raise DataError(f"{UNREADABLE}{where}: {shorten_reason(error)}") from None
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(f"{where} should be a pair of an image and a label, not {type(item).__name__}")
    return item[0], item[1]


def to_pixels(image: Any, where: str, decoding: Decoding) -> Pixels:
    """Return an image as `(H, W, C) uint8`, as when files are decoded.

    Raises:
        DataError: it is of another kind than `describe_allowed_images` says, or damaged.
        ConfigError: `decoding.value_range` does not fit its values.
    """
    if isinstance(image, Image.Image):
        if image.mode not in EIGHT_BIT_MODES:
            pixels = decode_bytes(_encode(image, where), where, decoding)
            return turn_upright(pixels, read_orientation(image)) if decoding.exif == "apply" else pixels
        try:
            return read_pil_image(image, decoding)
        except Exception as error:  # PIL reads the file now, and raises almost any kind of error for a damaged one.
            raise DataError(f"{UNREADABLE}{where}: {shorten_reason(error)}") from None
    pixels, channels = image, decoding.channels
    shapes = ((), (GREY,), (COLOUR,)) if channels in (GREY, COLOUR) else ((channels,),)
    if isinstance(image, torch.Tensor) and image.dtype == torch.uint8:
        pixels = (image.permute(1, 2, 0) if image.ndim == 3 else image).numpy()
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[2:] not in shapes:
        kind = f"{tuple(image.shape)} {image.dtype}" if hasattr(image, "dtype") else type(image).__name__
        raise DataError(f"the image of {where} should be {describe_allowed_images(channels)}, not {kind}")
    if pixels.ndim < 2 or not pixels.size:
        raise DataError(f"the image of {where} has no pixels")
    return np.ascontiguousarray(fit_channels(pixels, channels))


def describe_allowed_images(channels: int) -> str:
    """Describe the images that a data set may return for a network of some channels."""
    if channels not in (GREY, COLOUR):
        return f"an image of PIL, an array (H, W, {channels}) or a tensor ({channels}, H, W) of uint8"
    return "an image of PIL, an array (H, W) or (H, W, 3) or a tensor (H, W) or (3, H, W) of uint8"


def get_bytes(image: Any, where: str, decoding: Decoding) -> bytes:
    """Return the values of an image as bytes; raise DataError if it is of another kind, or damaged."""
    if not isinstance(image, Image.Image):
        return to_pixels(image, where, decoding).tobytes()
    try:
        return image.tobytes()
    except Exception as error:  # As in `to_pixels`.
        raise DataError(f"{UNREADABLE}{where}: {shorten_reason(error)}") from None


def _encode(image: Image.Image, where: str) -> bytes:
    """Return an image of more than 8 bits per channel as a TIFF file, which keeps its values, but no orientation."""
    prevent_mapping(image)
    with tempfile.SpooledTemporaryFile() as file:
        try:
            image.save(file, "TIFF", exif=Image.Exif())
        except Exception as error:  # PIL may have to read a damaged file first.
            raise DataError(f"{UNREADABLE}{where}: {shorten_reason(error)}") from None
        file.seek(0)
        return file.read()


def read_labels(labels: Any, count: int, classes: int | None, where: str) -> NDArray[np.int64]:
    """Return labels as `(N,) int64`.

    Args:
        labels: a sequence, an array or a tensor of integers.
        count: how many there should be.
        classes: how many classes there are, if that is known.
        where: the beginning of a message.

    Raises:
        DataError: they are something else, or one is out of range; the message has its index.
    """
    try:
        numbers = np.asarray(labels)
    except Exception as error:
        raise DataError(f"{where} cannot be read: {shorten_reason(error)}") from None
    if numbers.shape != (count,) or numbers.dtype.kind not in "iu":
        raise DataError(f"{where} should be {count:,} integers, not {numbers.dtype} of shape {numbers.shape}")
    wrong = np.flatnonzero((numbers < 0) | (numbers >= (classes or 2**31)))
    if len(wrong):
        limit = f"0 to {classes - 1}, since there are {classes} classes" if classes else "0 or more"
        raise DataError(f"{where}: the label of index {wrong[0]} is {numbers[wrong[0]]}, but should be {limit}")
    return numbers.astype(np.int64)


def read_each_label(
    data: Any, classes: int | None, where: str, decoding: Decoding
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read all images once: return their labels and the hashes of their pixels, both `(N,)`.

    Raises:
        DataError: an item cannot be read, or its label is not an integer in range.
    """
    labels = []

    def read_items() -> Iterator[bytes]:
        for index in range(len(data)):
            image, label = get_item(data, index, f"{where}[{index}]")
            labels.append(read_label(label, f"{where}[{index}]"))
            yield get_bytes(image, f"{where}[{index}]", decoding)

    hashes = hash_each(read_items())
    return read_labels(np.array(labels, np.int64), len(labels), classes, where), hashes


def read_label(label: Any, where: str) -> int:
    """Return a label as an int; raise DataError if it is not an integer."""
    if isinstance(label, (torch.Tensor, np.ndarray)) and label.ndim == 0:
        label = label.item()
    if isinstance(label, bool) or not isinstance(label, (int, np.integer)):
        raise DataError(f"the label of {where} should be an integer, not {type(label).__name__}")
    return int(label)


def name_classes(class_names: Any, labels: NDArray[np.int64], where: str) -> tuple[str, ...]:
    """Return class names: as the data set names them, else the numbers of the labels.

    Raises:
        DataError: there are names, but not one different text for each label.
    """
    if class_names is None:
        return tuple(map(str, range(int(labels.max(initial=-1)) + 1)))
    try:
        names = tuple(class_names)
    except TypeError:
        names = ()
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise DataError(f"{where} should be different class names, each a text")
    return names
