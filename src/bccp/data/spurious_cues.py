"""Cues that give a class away and are none of what its pictures show: brightness, blur, size, border, file format and the like.

N images, K classes. A model learns the easiest cue: where all pictures of one class are PNG, or were taken in the dark, that is what it
knows of the class, and it fails on the next camera. Each cue alone is asked how well it tells a class from the others: by the share of each
class in fields of the cue, learnt from some images and tried on the rest. A cue is told of where it does so nearly without a fault, and far
better than with labels dealt at random among the pictures.

References
----------
P. H. Westfall, S. S. Young: "Resampling-Based Multiple Testing", 1993 (the greatest value over all cues and classes under a permutation).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import is_numeric_dtype
from PIL import Image

from bccp.data.array_types import Float, Images, Index, UInt8
from bccp.data.image_statistics import SIDE_PX, quality

CUES = {
    "brightness": ("darker", "brighter"),
    "contrast": ("less contrast", "more contrast"),
    "sharpness": ("more blurred", "sharper"),
    "saturation": ("paler", "more colourful"),
    "border": ("", ""),
    "size": ("smaller", "larger"),
    "shape": ("taller", "wider"),
    "bytes per pixel": ("more compressed", "less compressed"),
    "format": ("", ""),
    "mode": ("", ""),
}
"""Cues, with the words for less and more of them; those without words have kinds in place of an order."""

STRONG, STRONG_IN_FILES = 0.95, 0.8
"""Area under the ROC curve from which a cue is told of. Brightness, contrast, sharpness and saturation may belong to what a class shows,
and have to be stronger; the rest comes from how files were made. Wrong labels lower what they all reach."""

_SHOWN = ("brightness", "contrast", "sharpness", "saturation")

PERMUTATIONS, SURE = 199, 0.01
"""Of the labels, and the p-value, of the greatest area over all cues and classes, up to which a cue is no chance."""

LEAST_PICTURES = 10
"""Of a class, and of all others, so many different pictures are needed."""

_FOLDS, _FIELDS = 5, 12
"""Parts of the images that take turns in being held out, and fields of a cue that has an order."""

_EVEN = 6.0
"""Standard deviation in grey levels up to which an edge of a picture is of one colour."""

_CHUNK = 512


class Cue(NamedTuple):
    """A cue that gives a class away.

    Attributes
    ----------
    cue : str
        One of :data:`CUES`.
    label : int
        The class.
    auc : float
        Area under the ROC curve of the class against all others, on images held out.
    p_value : float
        How often labels dealt at random give any class away by any cue as much.
    words : str
        What the class is in it, such as ``brighter``, or ``PNG``.
    inside, outside : int
        Pictures of the class, and of all others, in which it is so.
    n_inside, n_outside : int
        Different pictures of the class, and of all others.
    """

    cue: str
    label: int
    auc: float
    p_value: float
    words: str
    inside: int
    outside: int
    n_inside: int
    n_outside: int


def measure_cues(images: Images, manifest: pd.DataFrame, *, resize: str, file_bytes: Mapping[str, int] | None = None) -> pd.DataFrame:
    """Measure what may be a cue.

    Parameters
    ----------
    images : ndarray of uint8, shape (any, S, S, 3), or a view of such
        Pictures by ``row``; read in chunks.
    manifest : DataFrame
        ``image, row, width, height, mode, format`` of N images.
    resize : str
        How they were brought to S px; the black borders of ``pad`` are left out.
    file_bytes : mapping of str to int, optional
        Size of files by image; the cue is missing for others.

    Returns
    -------
    DataFrame
        N rows; a column for each of :data:`CUES`, of which ``border``, ``format`` and ``mode`` are text, and ``dark, bright`` of
        :func:`bccp.data.image_statistics.quality`.
    """
    parts = [_of_pictures(pixels) for pixels in _pictures(images, manifest, resize)]
    found = pd.concat(parts, ignore_index=True)
    n_pixels = (manifest["width"] * manifest["height"]).to_numpy(np.float64)
    found["size"], found["shape"] = n_pixels, (manifest["width"] / manifest["height"]).to_numpy(np.float64)
    n_bytes = manifest["image"].map(file_bytes or {}).to_numpy(np.float64)
    found["bytes per pixel"] = np.round(n_bytes / n_pixels, 3)  # fields are cut by order, which the least difference would make
    for name in ("format", "mode"):
        found[name] = manifest[name].to_numpy(object)
    return found


def _pictures(images: Images, manifest: pd.DataFrame, resize: str) -> Iterator[UInt8]:
    """Pictures without added borders, of at most 64 px, (n, s, s, 3) in chunks."""
    side = images.shape[1]
    rows, sizes = manifest["row"].to_numpy(), manifest[["width", "height"]].to_numpy()
    for start in range(0, len(rows), _CHUNK):
        pixels = np.asarray(images[rows[start : start + _CHUNK]])
        if resize != "pad" and side <= SIDE_PX:
            yield pixels
            continue
        small = min(side, SIDE_PX)
        made = np.empty((len(pixels), small, small, 3), np.uint8)
        for i, (width, height) in enumerate(sizes[start : start + _CHUNK].tolist()):
            across, down = _inner(width, height, side) if resize == "pad" else (side, side)
            left, top = (side - across) // 2, (side - down) // 2
            inner = Image.fromarray(pixels[i, top : top + down, left : left + across])
            made[i] = np.asarray(inner.resize((small, small), Image.Resampling.BOX))
        yield made


def _inner(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height of a picture between its borders, as :func:`bccp.data.preprocessing.fit_to_square` has it."""
    scale = side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _of_pictures(pixels: UInt8) -> pd.DataFrame:
    found = quality(pixels)
    levels = pixels.astype(np.int16)
    found["saturation"] = (levels.max(axis=3) - levels.min(axis=3)).mean(axis=(1, 2))
    found["border"] = _borders(pixels.astype(np.float32))
    return found


def _borders(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.object_]:
    """Name the colour of what is around pictures (n, s, s, 3): white, black, coloured or none; bars on two sides only are told from it."""
    edges = {"top": pixels[:, 0], "bottom": pixels[:, -1], "left": pixels[:, :, 0], "right": pixels[:, :, -1]}
    even = {name: (edge.std(axis=1) <= _EVEN).all(axis=1) for name, edge in edges.items()}
    colour = {name: edge.mean(axis=1) for name, edge in edges.items()}  # (n, 3)

    def alike(*names: str) -> npt.NDArray[np.bool_]:
        values = np.stack([colour[name] for name in names])
        near = ((values.max(axis=0) - values.min(axis=0)) <= 2 * _EVEN).all(axis=1)
        return np.asarray(near & np.all([even[name] for name in names], axis=0), np.bool_)

    around, level = alike(*edges), np.stack(list(colour.values())).mean(axis=0)
    kind = np.select([level.min(axis=1) >= 245, level.max(axis=1) <= 10], ["white border", "black border"], "border of one colour")
    bars = np.select([alike("top", "bottom"), alike("left", "right")], ["bars above and below", "bars at both sides"], "no even border")
    return np.where(around, kind, bars).astype(object)


def find_cues(measured: pd.DataFrame, given: Index, groups: Index, *, n_classes: int) -> list[Cue]:
    """Find the cues that alone give a class away.

    Parameters
    ----------
    measured : DataFrame
        From :func:`measure_cues`, N rows.
    given : ndarray of int64, shape (N,)
        The given labels.
    groups : ndarray of int64, shape (N,)
        Images of one group are copies, of which the first alone counts.
    n_classes : int
        K.

    Returns
    -------
    list of Cue
        The strongest first; of two classes the first stands for both.
    """
    _, first = np.unique(groups, return_index=True)
    labels, table = given[first], measured.iloc[first].reset_index(drop=True)
    sizes = np.bincount(labels, minlength=n_classes)
    tried = np.flatnonzero((sizes >= LEAST_PICTURES) & (len(first) - sizes >= LEAST_PICTURES))
    if not len(tried):
        return []
    fields = {name: _fields(table[name]) for name in CUES}
    fields = {name: field for name, field in fields.items() if field.max() > 0}
    rng = np.random.default_rng(0)
    fold = rng.permutation(len(first)) % _FOLDS
    areas = {name: _areas(field, labels, fold, n_classes)[tried] for name, field in fields.items()}
    strong = [(name, int(tried[i])) for name, of_class in areas.items() for i in np.flatnonzero(of_class >= least_area(name)).tolist()]
    strong = [(name, label) for name, label in strong if n_classes > 2 or label == tried[0]]
    if not strong:
        return []
    null = np.zeros(PERMUTATIONS)
    for n in range(PERMUTATIONS):
        dealt = rng.permutation(labels)
        null[n] = max(float(_areas(field, dealt, fold, n_classes)[tried].max()) for field in fields.values())
    found = []
    for name, label in strong:
        area = float(areas[name][np.flatnonzero(tried == label)[0]])
        p_value = float((1 + (null >= area).sum()) / (1 + PERMUTATIONS))
        if p_value <= SURE:
            found.append(Cue(name, label, round(area, 6), p_value, *_in_words(name, table[name], labels == label)))
    return sorted(found, key=lambda cue: (-cue.auc, cue.label, list(CUES).index(cue.cue)))


def least_area(cue: str) -> float:
    """Area under the ROC curve from which a cue of :data:`CUES` is told of."""
    return STRONG if cue in _SHOWN else STRONG_IN_FILES


def _fields(values: pd.Series[Any]) -> Index:
    """Field of each value: its kind, or one of about equally many by its order; equal values share one, and a missing value has its own."""
    if not is_numeric_dtype(values):
        return np.unique(values.astype(str), return_inverse=True)[1].astype(np.int64)
    numbers = values.to_numpy(np.float64)
    known = np.isfinite(numbers)
    different = np.unique(numbers[known])
    if len(different) > _FIELDS:
        different = np.unique(np.quantile(numbers[known], np.arange(1, _FIELDS) / _FIELDS, method="inverted_cdf"))
    return np.where(known, 1 + np.searchsorted(different, np.where(known, numbers, 0)), 0).astype(np.int64)


def _areas(field: Index, labels: Index, fold: Index, n_classes: int) -> Float:
    """Areas under the ROC curves of each class against the others, shape (K,), of what the other folds say of each field."""
    n_fields = int(field.max()) + 1
    cell = (fold * n_fields + field) * n_classes + labels
    counts = np.bincount(cell, minlength=_FOLDS * n_fields * n_classes).reshape(_FOLDS, n_fields, n_classes).astype(np.float64)
    learnt = counts.sum(axis=0) - counts  # (F, B, K), without the fold
    prior = learnt.sum(axis=1, keepdims=True) / learnt.sum(axis=(1, 2), keepdims=True)
    share = (learnt + prior) / (learnt.sum(axis=2, keepdims=True) + 1)
    order = np.argsort(-share, axis=1, kind="stable")
    own = np.take_along_axis(counts, order, axis=1)
    other = np.take_along_axis(counts.sum(axis=2, keepdims=True) - counts, order, axis=1)
    better = np.cumsum(own, axis=1) - own / 2  # images of the class in fields before, and half of those in the same
    won, pairs = (better * other).sum(axis=(0, 1)), (own.sum(axis=1) * other.sum(axis=1)).sum(axis=0)
    return np.asarray(np.where(pairs > 0, won / np.maximum(pairs, 1), 0.5), np.float64)


def _in_words(name: str, values: pd.Series[Any], inside: npt.NDArray[np.bool_]) -> tuple[str, int, int, int, int]:
    """What the class is, and how many pictures are so in the class and outside of it, and how many there are."""
    n_inside, n_outside = int(inside.sum()), int((~inside).sum())
    if not is_numeric_dtype(values):
        gap = values[inside].value_counts(normalize=True).sub(values[~inside].value_counts(normalize=True), fill_value=0).sort_index()
        words = str(gap.idxmax())
        so = (values == words).to_numpy()
    else:
        own, others = float(values[inside].median()), float(values[~inside].median())
        between = (own + others) / 2
        words, so = CUES[name][int(own > others)], ((values > between) if own > others else (values < between)).to_numpy()
    return words, int((so & inside).sum()), int((so & ~inside).sum()), n_inside, n_outside
