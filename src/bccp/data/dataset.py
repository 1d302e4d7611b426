"""Pixels and features on disk: views by image id into the memory-mapped arrays of ``clean_data`` and ``segregated_data``.

Nothing here holds an image set in memory: a view keeps index arrays, and reads the images that it is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.data import tables
from bccp.data.array_types import Float32, Index, UInt8

_CHUNK = 64


class ImageView:
    """Images picked from a clean and a corrupted array, read when they are indexed.

    Parameters
    ----------
    clean : ndarray of uint8, shape (N, S, S, 3)
        Usually memory-mapped.
    corrupted : ndarray of uint8, shape (M, S, S, 3), or None
        The corrupted versions of some of them.
    row : ndarray of int64, shape (n,)
        For each image of the view its row in ``clean``.
    corrupted_row : ndarray of int64, shape (n,)
        Its row in ``corrupted``, or -1 where the clean pixels count.
    """

    def __init__(self, clean: UInt8, corrupted: UInt8 | None, row: Index, corrupted_row: Index) -> None:
        self._clean = clean
        self._corrupted = corrupted
        self.row = row
        self._corrupted_row = corrupted_row

    def __getstate__(self) -> dict[str, Any]:
        """For another process: arrays on disk as where they lie there."""
        return {name: _place(value) if isinstance(value, np.memmap) else value for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open again what lies on disk."""
        vars(self).update({name: np.memmap(**value) if isinstance(value, dict) else value for name, value in state.items()})

    def __len__(self) -> int:
        return len(self.row)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, S, S, 3)."""
        return (len(self), *self._clean.shape[1:])

    def __getitem__(self, positions: int | slice | Sequence[int] | npt.NDArray[Any]) -> UInt8:
        """Read images: ``view[idx]`` is uint8 of shape (len(idx), S, S, 3); one integer gives (S, S, 3)."""
        rows, corrupted_rows = self.row[positions], self._corrupted_row[positions]
        if np.ndim(rows) == 0:
            one: UInt8 = self[np.atleast_1d(np.asarray(positions))][0]
            return one
        pixels = np.asarray(self._clean[rows])
        if self._corrupted is not None:
            changed = corrupted_rows >= 0
            pixels[changed] = self._corrupted[corrupted_rows[changed]]
        return pixels

    def take(self, positions: npt.ArrayLike) -> ImageView:
        """The view of some of these images, in the order given; no pixel is read."""
        positions = np.asarray(positions)
        return ImageView(self._clean, self._corrupted, self.row[positions], self._corrupted_row[positions])

    def digest(self) -> str:
        """SHA-256 of the shape and the pixels, which are read a few images at a time."""
        found = hashlib.sha256(json.dumps(self.shape).encode())
        for start in range(0, len(self), _CHUNK):
            found.update(self[start : start + _CHUNK].tobytes())
        return found.hexdigest()


def _place(array: np.memmap[Any, Any]) -> dict[str, Any]:
    """What ``np.memmap`` opens a whole array by, as ``np.load`` has opened it."""
    return {"filename": array.filename, "dtype": array.dtype, "mode": "r", "offset": array.offset, "shape": array.shape}


class FeatureView:
    """Features of images, picked from one array or several, and read when they are indexed.

    Parameters
    ----------
    arrays : sequence of ndarray of float16 or float32, shape (any, D)
        Usually memory-mapped.
    array : ndarray of int64, shape (n,)
        For each image of the view the position of its array.
    row : ndarray of int64, shape (n,)
        Its row there.
    n_features : int
        D.
    """

    def __init__(self, arrays: Sequence[npt.NDArray[np.floating]], array: Index, row: Index, n_features: int) -> None:
        self._arrays = [np.asarray(one) for one in arrays]  # a memory map's own indexing is slow
        self._array = array
        self._row = row
        self._n_features = n_features

    def __len__(self) -> int:
        return len(self._row)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, D)."""
        return (len(self), self._n_features)

    def __getitem__(self, positions: slice | Sequence[int] | npt.NDArray[Any]) -> Float32:
        """Read features: float32 of shape (len(positions), D), a copy."""
        return self.stored(positions).astype(np.float32, copy=False)

    def stored(self, positions: slice | Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.floating]:
        """Read features in the widest dtype that they are kept in, a copy: torch makes float32 of float16 ten times as fast as numpy."""
        array, row = self._array[positions], self._row[positions]
        numbers = np.unique(array).tolist()
        if len(numbers) == 1:
            picked: npt.NDArray[np.floating] = self._arrays[numbers[0]][row]
            return picked
        features = np.empty((len(row), self._n_features), np.result_type(*self._arrays))
        for number in numbers:
            own = array == number
            features[own] = self._arrays[number][row[own]]
        return features

    def take(self, positions: npt.ArrayLike) -> FeatureView:
        """The view of some of these images, in the order given; nothing is read."""
        positions = np.asarray(positions)
        return FeatureView(self._arrays, self._array[positions], self._row[positions], self._n_features)


class PixelSource(NamedTuple):
    """Images, each once.

    Attributes
    ----------
    ids : pandas.Index
        Sorted.
    pixels : ImageView
        In the order of the ids.
    digest : str
        SHA-256 of the pixels.
    """

    ids: pd.Index
    pixels: ImageView
    digest: str


@dataclass(frozen=True)
class Days:
    """Monday and Tuesday, as ``segregation`` left them.

    Attributes
    ----------
    splits : DataFrame
        Indexed by image id; columns ``row, day, split, label, corruption, corrupted_row``.
    classes : list of str
        The K class names, sorted; positions in it are the class indices everywhere.
    target_day : str
        The day whose labels are new: ``monday`` or ``tuesday``.
    truth_known : bool
        Whether the target day's true labels are known to anybody.
    """

    splits: pd.DataFrame
    classes: list[str]
    target_day: str
    truth_known: bool
    clean_pixels: UInt8
    corrupted_pixels: UInt8 | None

    @property
    def image_size(self) -> int:
        """Side of the square images, in px."""
        return int(self.clean_pixels.shape[1])

    def ids(self, day: str, split: str | Sequence[str]) -> list[str]:
        """The ids of a day's images in one split or several, sorted."""
        wanted = [split] if isinstance(split, str) else list(split)
        chosen = self.splits[(self.splits["day"] == day) & self.splits["split"].isin(wanted)]
        return sorted(chosen.index)

    def view(self, ids: Sequence[str]) -> ImageView:
        """The images with these ids, in this order."""
        chosen = self.splits.loc[list(ids)]
        row = chosen["row"].to_numpy(np.int64)
        return ImageView(self.clean_pixels, self.corrupted_pixels, row, chosen["corrupted_row"].to_numpy(np.int64))

    @cached_property
    def sources(self) -> list[PixelSource]:
        """What all images of both days look like: as they came, and those that were corrupted as they were after it."""
        ids = pd.Index(sorted(self.splits.index))
        changed = ids[self.splits.loc[ids, "corrupted_row"].to_numpy() >= 0]
        clean = ImageView(self.clean_pixels, None, self.splits.loc[ids, "row"].to_numpy(np.int64), np.full(len(ids), -1))
        return [PixelSource(places, view, view.digest()) for places, view in ((ids, clean), (changed, self.view(changed.tolist())))]

    def labels(self, ids: Sequence[str]) -> Index:
        """Class indices of images whose labels are trusted, shape (n,); a missing label raises KeyError."""
        return self.encode(self.splits.loc[list(ids), "label"].tolist())

    def encode(self, names: Sequence[str]) -> Index:
        """Class indices of class names, int64, shape (n,); an unknown name raises KeyError."""
        position = {name: k for k, name in enumerate(self.classes)}
        return np.array([position[name] for name in names], dtype=np.int64)


def open_days(segregated: Path, clean: Path) -> Days:
    """Open the two artifacts that hold a data set's days.

    Parameters
    ----------
    segregated, clean : Path
        Folders of ``segregated_data`` and of the ``clean_data`` that it indexes.

    Returns
    -------
    Days
    """
    about = json.loads((segregated / "clean_data.json").read_text(encoding="utf-8"))
    splits = tables.read(segregated / "splits.csv", dtypes={"row": int, "corrupted_row": int}).set_index("image")
    corrupted = segregated / "corrupted.npy"
    return Days(
        splits=splits,
        classes=tables.read(segregated / "classes.csv")["label"].tolist(),
        target_day=about["target_day"],
        truth_known=about["truth_known"],
        clean_pixels=np.load(clean / "images.npy", mmap_mode="r"),
        corrupted_pixels=np.load(corrupted, mmap_mode="r") if corrupted.exists() else None,
    )
