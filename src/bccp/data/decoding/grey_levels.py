"""Grey values of more than 8 bits (integers of 10 to 32 bits, floats), and which of them become black and white.

A camera of 12 bits, a thermal sensor or an X-ray detector uses a small part of what its file can hold. Scaled by all of that, what tells
its pictures apart would become one or two grey levels of 256.

A *range* is what a set of pictures is scaled by:

* None: the range of the file's type: integers from 0 to 65,535; floats from 0 to 1, or to 255 where any is above 1. A picture with values
  beyond is scaled from its own lowest to its own highest.
* ``"file"``: each picture from its own lowest to its own highest value.
* ``{"integer": [low, high], "float": [low, high]}``, or one of the two: the same for every image. Values beyond are black and white.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Range = Mapping[str, Any] | Literal["file"] | None
"""See above."""

LOWEST_SHARE, HIGHEST_SHARE = 0.005, 0.995
"""Shares of a set's values below its black and its white: so few broken pixels decide nothing."""

LEAST_USED = 0.5
"""Share of the type's range from which a set is scaled by that."""

MOST_VALUES = 2**17
"""Different values of a set that are counted one by one; all that 16 bits can hold, and twice as many."""

_MOST_PIXELS = 2**20
_INTEGER_WHITE = 65535.0


@dataclass(frozen=True)
class ValueCounts:
    """Counts of each grey value in a set's pictures, in bounded memory.

    Attributes
    ----------
    values : ndarray of float64, shape (n,)
        Ascending, n at most :data:`MOST_VALUES`. Where there were more, neighbours are counted as one of them.
    counts : ndarray of int64, shape (n,)
    images : int
    lowest, highest : float
        Exact.
    """

    values: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    images: int
    lowest: float
    highest: float

    @classmethod
    def of(cls, pixels: npt.NDArray[Any]) -> ValueCounts:
        """Count the values of one picture, of any shape; of one of over 2^20 pixels some, evenly spread."""
        step = -(-pixels.size // _MOST_PIXELS) | 1  # odd, so that a mosaic of colour filters is met in all of its colours
        values, counts = np.unique(pixels.ravel()[::step], return_counts=True)
        return cls(*_thinned(values.astype(np.float64), counts.astype(np.int64)), 1, float(pixels.min()), float(pixels.max()))

    @classmethod
    def sum(cls, parts: Iterable[ValueCounts]) -> ValueCounts:
        """Add up counts, at least one, in the order given."""
        some = list(parts)
        values, place = np.unique(np.concatenate([part.values for part in some]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([part.counts for part in some])).astype(np.int64)
        extremes = min(part.lowest for part in some), max(part.highest for part in some)
        return cls(*_thinned(values, counts), sum(part.images for part in some), *extremes)

    def percentiles(self) -> tuple[float, float]:
        """The values that :data:`LOWEST_SHARE` and :data:`HIGHEST_SHARE` of all lie at or below."""
        below = np.cumsum(self.counts)
        low, high = (self.values[np.searchsorted(below, share * below[-1])] for share in (LOWEST_SHARE, HIGHEST_SHARE))
        return float(low), float(high)

    def share_outside(self, low: float, high: float) -> float:
        """Share of the values below ``low`` or above ``high``."""
        return float(self.counts[(self.values < low) | (self.values > high)].sum() / self.counts.sum())


def _thinned(values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Count neighbouring values as one, the middle one, where there are too many: groups of nearly equal counts."""
    if len(values) <= MOST_VALUES:
        return values, counts
    below = np.cumsum(counts)
    group = (below - counts) * (MOST_VALUES // 2) // below[-1]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    middle = (starts + np.append(starts[1:], len(values)) - 1) // 2
    return values[middle], np.add.reduceat(counts, starts)


def kind_of_values(pixels: npt.NDArray[Any]) -> str:
    """``float`` or ``integer``."""
    return "float" if pixels.dtype.kind == "f" else "integer"


def asked(value: str | list[float]) -> Range | Literal["auto"]:
    """Convert ``preprocessing.range`` to a range, or ``auto``: two numbers hold for integers and floats alike."""
    if isinstance(value, list):
        return {"integer": list(value), "float": list(value)}
    return "file" if value == "file" else "auto"


def chosen_range(counts: Mapping[str, ValueCounts]) -> Range:
    """Choose the range of a set.

    Parameters
    ----------
    counts : mapping of str to ValueCounts
        Of its integers and of its floats.

    Returns
    -------
    Range
        None where each kind keeps the range of its type. A kind of one single value, or none, keeps it too.
    """
    found: dict[str, list[float]] = {}
    for kind, seen in sorted(counts.items()):
        low, high = seen.percentiles()
        if high <= low:
            low, high = seen.lowest, seen.highest
        white = _INTEGER_WHITE if kind == "integer" else 1.0 if seen.highest <= 1 else 255.0
        uses_type = seen.lowest >= 0 and seen.highest <= white and high - low >= LEAST_USED * white
        if uses_type and kind == "float":
            found[kind] = [0.0, white]  # the type has two: told which, no picture is taken for the other
        elif high > low and not uses_type:
            found[kind] = [low, high]
    return {kind: [_plain(value) for value in ends] for kind, ends in found.items()} or None


def described(counts: ValueCounts, kind: str, scale: Range) -> dict[str, Any]:
    """A set's values and what becomes of them, for JSON.

    Returns
    -------
    dict
        ``images, lowest, highest, percentiles`` (two numbers); where a range is set, the share of the values beyond it as ``outside``.
    """
    told: dict[str, Any] = {"images": counts.images, "lowest": _plain(counts.lowest), "highest": _plain(counts.highest)}
    told["percentiles"] = [_plain(value) for value in counts.percentiles()]
    return told | ({"outside": counts.share_outside(*scale[kind])} if isinstance(scale, Mapping) and kind in scale else {})


def sentence(kind: str, told: Mapping[str, Any], scale: Range) -> str:
    """Describe the range that was chosen for a set's values in one line, from the result of :func:`described`."""
    what = {"integer": "grey values of more than 8 bits", "float": "grey values that are floats"}[kind]
    known = f"{told['images']} images hold {what}, {_shown(told['lowest'])} to {_shown(told['highest'])}"
    if scale == "file":
        return f"{known}: each is scaled from its own lowest to its own highest value"
    if not isinstance(scale, Mapping) or kind not in scale:
        return f"{known}: they are scaled by the range of their type"
    low, high = map(_shown, scale[kind])
    return f"{known}: {low} becomes black and {high} white ({told['outside']:.1%} of the values lie beyond)"


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _plain(value: float) -> float | int:
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def to_8_bits(pixels: npt.NDArray[Any], scale: Range = None, *, min_is_white: bool = False) -> npt.NDArray[np.uint8]:
    """Scale grey values.

    Parameters
    ----------
    pixels : ndarray of int or float, shape (H, W)
    scale : Range
    min_is_white : bool
        Low values are bright.

    Returns
    -------
    ndarray of uint8, shape (H, W)

    Raises
    ------
    ValueError
        Values that are not finite.
    """
    grey = pixels.astype(np.float64)
    lowest, highest = float(grey.min()), float(grey.max())
    if not np.isfinite([lowest, highest]).all():
        raise ValueError("pixels that are not finite numbers")
    kind = kind_of_values(pixels)
    if isinstance(scale, Mapping) and kind in scale:
        low, span = float(scale[kind][0]), float(scale[kind][1]) - float(scale[kind][0])
    elif scale == "file" and highest > lowest:
        low, span = lowest, highest - lowest
    else:
        low, span = 0.0, (1.0 if highest <= 1 else 255.0) if kind == "float" else _INTEGER_WHITE
        if lowest < 0 or highest > span:
            low, span = lowest, max(highest - lowest, 1e-300)
    scaled: npt.NDArray[np.uint8] = np.rint(((grey - low) * (255 / span)).clip(0, 255)).astype(np.uint8)
    return ~scaled if min_is_white else scaled


def is_deep_mode(mode: str) -> bool:
    """Return True for Pillow's modes of grey values of more than 8 bits: I;16, I, F and their kin."""
    return mode.startswith(("I", "F"))
