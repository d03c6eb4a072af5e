"""Where the images of a run are, as its settings say."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spos_cli.data.image_files import DEFAULT_DECODING, Decoding

Split = Literal["train", "val"]


@dataclass(frozen=True)
class Place:
    """The settings of `data` that say where images are, and how their values are read.

    Attributes:
        root: folder of the data set.
        train_folder, val_folder: class folders, below `root`.
        val_share: share of each class in `train_folder` that is for validation, instead of `val_folder`.
        train_list, val_list: lists of files and labels.
        train_shards, val_shards: tar files: a name with `*` or `{000..146}`.
        train_split, val_split: what the data set calls its splits.
        image_column, label_column: columns of a list or a table.
        decoding: how files become pixels.
    """

    root: str = "data"
    train_folder: str = "train"
    val_folder: str = "val"
    val_share: float | None = None
    train_list: str = "train.csv"
    val_list: str = "val.csv"
    train_shards: str = "train*.tar"
    val_shards: str = "val*.tar"
    train_split: str | None = None
    val_split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    decoding: Decoding = DEFAULT_DECODING

    @property
    def folder(self) -> Path:
        """The folder of the data set."""
        return Path(self.root)

    def folder_of(self, split: Split) -> str:
        """Return the folder of a split, below `root`."""
        return self.train_folder if split == "train" else self.val_folder

    def list_of(self, split: Split) -> str:
        """Return the list of a split, below `root`."""
        return self.train_list if split == "train" else self.val_list

    def shards_of(self, split: Split) -> str:
        """Return the pattern of the tar files of a split, below `root`."""
        return self.train_shards if split == "train" else self.val_shards

    def split_name(self, split: Split) -> str | None:
        """Return what the data set calls a split; None if the settings do not say."""
        return self.train_split if split == "train" else self.val_split

    def name_image(self, path: str, split: Split) -> str:
        """Return the name of an image: its path below the folder of its split, below `root`, or the whole path.

        So the same file has the same name in a list, in a tar file and in class folders, and it keeps its name when the
        data set is moved.

        Args:
            path: absolute, or below `root`.
            split: the folder of this split is left out.
        """
        if path.startswith("/"):
            root = os.path.abspath(self.root).rstrip("/") + "/"  # noqa: PTH100  (links stay as they are)
            path = path.removeprefix(root)
        path = posixpath.normpath(path)
        return path.removeprefix(posixpath.normpath(self.folder_of(split)) + "/")
