"""What may be wrong with images before anything is learnt from them, and how far new images have drifted from known ones.

N images of S x S px. Each check gives one figure, of which more is worse, and may have a limit (``preprocessing.checks``). No trained
model takes part: what an image looks like is told by a few plain figures, brightness and the like, of the picture that a model would see,
made smaller where it is larger than 64 px. Nothing here holds an image set in memory.

Drift is the energy distance between two sets of such figures, and a permutation test says how often chance alone would give as much.

References
----------
G. J. Székely, M. L. Rizzo, "Energy statistics: A class of statistics based on distances", Journal of Statistical Planning and Inference
143, 2013.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp import tables
from bccp.array_types import Float, Images, Mask, UInt8
from bccp.duplicates import duplicate_groups
from bccp.errors import BCCPError, few
from bccp.images import Days

SIDE_PX = 64
"""Larger pictures are made smaller before they are measured: what is sharp at this size is sharp enough."""

DARK, BRIGHT, MOST_PIXELS = 50, 225, 0.95
"""A picture is dark, or bright, where this share of its pixels is below, or above, so many grey levels of 255."""

BLURRED = 0.12
"""Standard deviation of the Laplacian over that of the grey levels, below which a picture is blurred."""

FLAT_LEVELS = 2.0
"""A pixel whose right and lower neighbours differ from it by less is flat."""

MOST_COMPARED = 500
"""Images of a side that drift is measured on, drawn at random: distances of all pairs are 8 MB then, whatever the size of the data."""

PERMUTATIONS, SURE = 999, 0.01
"""Of the test for drift, and the p-value up to which it is no chance."""

COLUMNS = {"row": int, "width": int, "height": int}
"""The numbers of a manifest."""

LEAST_COMPARED = 5
"""Fewer different images of a side tell nothing of drift."""

_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_CHUNK_BYTES = 2**24
_EXAMPLES = 20
_GRID = 4

LOOKS = {
    "brightness": ("darker", "brighter"),
    "contrast": ("less contrast", "more contrast"),
    "colour": ("less colour", "more colour"),
    "red": ("greener", "redder"),
    "yellow": ("bluer", "yellower"),
    "fine detail": ("less fine detail", "more fine detail"),
    "medium detail": ("less medium detail", "more medium detail"),
    "coarse detail": ("fewer large shapes", "more large shapes"),
    "upright edges": ("more level edges", "more upright edges"),
    "black": ("less black", "more black"),
    "white": ("less white", "more white"),
    "flat": ("fewer flat areas", "more flat areas"),
}
"""What a picture is described by, with the words for less and more of it; the layout, a grid of grey levels, has no words."""


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes
    ----------
    check : str
        Its name, a key of ``preprocessing.checks``.
    value : float
        More is worse; NaN where it cannot be told.
    said : str
        The same in words, without the limit.
    images : list of str
        The images that it is about, or the first of them.
    limit : float or None
    sure : bool
        False where the value may well be chance, which no limit stops.
    """

    check: str
    value: float
    said: str
    images: list[str] = dataclasses.field(default_factory=list)
    limit: float | None = None
    sure: bool = True

    @property
    def verdict(self) -> str:
        """``over`` the limit, ``within`` it, ``no limit``, or ``unknown``."""
        if np.isnan(self.value):
            return "unknown"
        if self.limit is None:
            return "no limit"
        return "over" if self.value > self.limit and self.sure else "within"


@dataclass(frozen=True)
class Drift:
    """How far new images are from known ones.

    Attributes
    ----------
    distance : float
        Normalised energy distance: 0 where both look alike, 1 where each set is a single picture and the two differ.
    p_value : float
        How often a random exchange of images between the two sets gives as much, at least 1 / (permutations + 1).
    changes : dict of str to float
        By name of :data:`LOOKS`: mean of the new minus mean of the known, in pooled standard deviations; the largest first.
    n_known, n_new : int
        Images compared.
    """

    distance: float
    p_value: float
    changes: dict[str, float]
    n_known: int
    n_new: int

    @property
    def words(self) -> str:
        """What has changed most, in words."""
        told = [LOOKS[name][int(change > 0)] for name, change in self.changes.items() if abs(change) >= 0.2]
        return ", ".join(told[:3])


def quality(images: Images) -> pd.DataFrame:
    """Tell how bright and how sharp pictures are.

    Parameters
    ----------
    images : ndarray of uint8, shape (N, S, S, 3), or a view of such
        Read in chunks.

    Returns
    -------
    DataFrame
        N rows: ``brightness`` and ``contrast`` in grey levels, ``sharpness`` (standard deviation of the Laplacian over ``contrast``),
        ``dark`` and ``bright`` (shares of pixels).
    """
    return _streamed(_quality, images, np.arange(images.shape[0]))


def looks(images: Images, positions: npt.NDArray[np.integer]) -> pd.DataFrame:
    """Describe pictures by a few figures.

    Parameters
    ----------
    images : ndarray of uint8, shape (N, S, S, 3), or a view of such
        Read in chunks.
    positions : ndarray of int, shape (n,)
        Those that are wanted.

    Returns
    -------
    DataFrame
        n rows; a column for each of :data:`LOOKS`, and ``layout 0`` to ``layout 15``.
    """
    return _streamed(_looks, images, positions)


def _streamed(describe: Callable[[UInt8], pd.DataFrame], images: Images, positions: npt.NDArray[np.integer]) -> pd.DataFrame:
    step = max(1, _CHUNK_BYTES // (12 * images.shape[1] ** 2))  # as float32
    parts = [describe(images[positions[start : start + step]]) for start in range(0, len(positions), step)]
    return pd.concat(parts, ignore_index=True).astype(np.float64)


def _quality(pixels: UInt8) -> pd.DataFrame:
    grey = _smaller(pixels) @ _GREY  # (n, s, s), 0..255
    contrast = _spread(grey)
    sharpness = _spread(_laplacian(grey)) / np.maximum(contrast, 1e-6)
    shares = {"dark": _mean(grey < DARK), "bright": _mean(grey > BRIGHT)}
    return pd.DataFrame({"brightness": _mean(grey), "contrast": contrast, "sharpness": sharpness, **shares})


def _looks(pixels: UInt8) -> pd.DataFrame:
    colours = _smaller(pixels)  # (n, s, s, 3), 0..255
    grey = colours @ _GREY  # (n, s, s)
    across, down = np.abs(np.diff(grey, axis=2)), np.abs(np.diff(grey, axis=1))
    half = _halved(grey)
    quarter = _halved(half)
    red, green, blue = (colours[..., channel] for channel in range(3))
    brightness = _mean(grey)
    told = {
        "brightness": brightness,
        "contrast": _spread(grey),
        "colour": _mean(colours.max(axis=3) - colours.min(axis=3)),
        "red": _mean(red - green),
        "yellow": _mean((red + green) / 2 - blue),
        "fine detail": np.log1p(_spread(_laplacian(grey))),
        "medium detail": np.log1p(_spread(np.diff(half, axis=1)) + _spread(np.diff(half, axis=2))),
        "coarse detail": np.log1p(_spread(np.diff(quarter, axis=1)) + _spread(np.diff(quarter, axis=2))),
        "upright edges": np.log1p(_mean(across)) - np.log1p(_mean(down)),
        "black": _mean(grey < 10),
        "white": _mean(grey > 245),
        "flat": _mean((across[:, :-1] < FLAT_LEVELS) & (down[:, :, :-1] < FLAT_LEVELS)),
    }
    layout = {f"layout {i}": cell for i, cell in enumerate((_grid(grey) - brightness[:, None]).T)}
    return pd.DataFrame(told | layout)


def _laplacian(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    around: npt.NDArray[np.float32] = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    around -= 4 * grey[:, 1:-1, 1:-1]
    return around


def _smaller(pixels: UInt8) -> npt.NDArray[np.float32]:
    """Pictures of less than twice :data:`SIDE_PX`, each pixel the mean of a block."""
    n, side = pixels.shape[:2]
    block = max(1, side // SIDE_PX)
    if block == 1:
        return pixels.astype(np.float32)
    kept = side // block
    rows = pixels[:, : kept * block, : kept * block].reshape(n, kept, block, -1).sum(axis=2, dtype=np.uint32).reshape(n, kept, -1, 3)
    sums = np.zeros((n, kept, kept, 3), np.float32)
    for start in range(block):
        sums += rows[:, :, start::block]
    sums /= block * block
    return sums


def _halved(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    side = grey.shape[1] // 2 * 2
    even = grey[:, :side, :side]
    halved: npt.NDArray[np.float32] = even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]
    halved /= 4
    return halved


def _grid(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Grey levels of 4 x 4 fields, shape (n, 16)."""
    edges = np.linspace(0, grey.shape[1], _GRID + 1).astype(int)
    spans = list(pairwise(edges.tolist()))
    fields = [grey[:, top:bottom, left:right].mean(axis=(1, 2)) for top, bottom in spans for left, right in spans]
    return np.stack(fields, axis=1)


def _mean(values: npt.NDArray[Any]) -> Float:
    means: Float = values.mean(axis=(1, 2), dtype=np.float64)
    return means


def _spread(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Standard deviation of each picture (n, h, w); 0 where nothing is left of it."""
    return values.std(axis=(1, 2)) if values[0].size else np.zeros(len(values), np.float32)


def drift(
    known: Images,
    new: Images,
    *,
    rng: np.random.Generator,
    strata: tuple[Sequence[str], Sequence[str]] | None = None,
    permutations: int = PERMUTATIONS,
) -> Drift:
    """Test whether new images look like known ones.

    Parameters
    ----------
    known, new : ndarray of uint8, shape (n, S, S, 3) and (m, S, S, 3), or views of such
        At least two each. At most :data:`MOST_COMPARED` of each, drawn at random, are read.
    rng : Generator
    strata : two sequences of str, optional
        The class of each image. Images are then exchanged within their class only, so that the test is exact where a class has its share
        of both sets by design, and a change of the classes' shares is not taken for one of their looks.
    permutations : int

    Returns
    -------
    Drift
    """
    sides = [draw(images.shape[0], MOST_COMPARED, rng=rng) for images in (known, new)]
    told = pd.concat([looks(images, side) for images, side in zip((known, new), sides, strict=True)], ignore_index=True)
    is_new = np.repeat([False, True], [len(side) for side in sides])
    labels = [np.asarray(of, dtype=object)[side] for of, side in zip(strata, sides, strict=True)] if strata else None
    stratum = pd.factorize(np.concatenate(labels))[0] if labels else np.zeros(len(told), np.int64)
    scaled = _scaled(told.to_numpy())  # the columns of LOOKS, then the grid's
    scaled[:, len(LOOKS) :] /= _GRID  # the grid's 16 fields together count as one
    distance, p_value = energy_test(distances(scaled), is_new, stratum=stratum, permutations=permutations, rng=rng)
    change = {name: float(scaled[is_new, i].mean() - scaled[~is_new, i].mean()) for i, name in enumerate(LOOKS)}
    ordered = dict(sorted(change.items(), key=lambda item: -abs(item[1])))
    return Drift(distance, p_value, ordered, len(sides[0]), len(sides[1]))


def draw(n: int, most: int, *, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """At most so many of n positions, at random, sorted."""
    return np.sort(rng.choice(n, min(n, most), replace=False, shuffle=False))


def _scaled(values: Float) -> Float:
    """Columns with mean 0 and standard deviation 1 over all rows, so that no exchange of rows changes them; constant ones are 0."""
    spread = values.std(axis=0)
    scaled: Float = (values - values.mean(axis=0)) / np.where(spread > 1e-9, spread, np.inf)
    return scaled.clip(-10, 10)


def distances(points: Float) -> Float:
    """Euclidean distances (n, n) of all pairs of points (n, D)."""
    squares = (points**2).sum(axis=1)
    between: Float = np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0))
    np.fill_diagonal(between, 0)
    return between


def energy_test(
    between: Float, is_new: Mask, *, stratum: npt.NDArray[np.int64], permutations: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Energy distance of two sets, and its p-value under exchanges within strata.

    Parameters
    ----------
    between : ndarray, shape (n, n)
        Distances of all pairs; the diagonal is 0.
    is_new : ndarray of bool, shape (n,)
        Which set each point is in; at least two points in each.
    stratum : ndarray of int, shape (n,)
    permutations : int
    rng : Generator

    Returns
    -------
    distance : float
        In [0, 1]: (2 A - B - C) / 2 A, where A is the mean distance between the sets, and B and C those within them, over pairs of
        different points, so that chance does not raise it; 0 where it would be negative.
    p_value : float
        In [1 / (permutations + 1), 1].
    """
    drawn = np.empty((len(is_new), permutations + 1))
    drawn[:, 0] = is_new
    for one in np.unique(stratum):
        own = np.flatnonzero(stratum == one)
        drawn[own, 1:] = rng.permuted(np.tile(is_new[own], (permutations, 1)), axis=1).T
    n_new, n_known = int(is_new.sum()), int((~is_new).sum())
    within_new = np.einsum("ij,ij->j", drawn, between @ drawn)
    across = between.sum(axis=1) @ drawn - within_new
    within_known = between.sum() - 2 * across - within_new
    apart = across / (n_new * n_known)
    energy = 2 * apart - within_new / (n_new * (n_new - 1)) - within_known / (n_known * (n_known - 1))
    chance = energy[1:] >= energy[0] - 1e-9 * max(apart[0], 1e-300)
    distance = max(float(energy[0]), 0.0) / (2 * apart[0]) if apart[0] > 0 else 0.0
    return float(distance), float((1 + chance.sum()) / (1 + permutations))


def of_images(manifest: pd.DataFrame, report: Mapping[str, Any], told: pd.DataFrame) -> list[Finding]:
    """Check images by themselves.

    Parameters
    ----------
    manifest : DataFrame
        ``image, label, sha256, phash, width, height``; one row an image.
    report : mapping
        What :func:`bccp.preprocessing.describe` says of them, with ``image_size``.
    told : DataFrame
        From :func:`quality`, in the order of the manifest.

    Returns
    -------
    list of Finding
        One for each of ``config.IMAGE_CHECKS``, in that order.
    """
    images, n = manifest["image"].to_numpy(object), len(manifest)

    def share(check: str, mask: npt.ArrayLike, said: str) -> Finding:
        culprits = images[np.asarray(mask, bool)].tolist()
        return Finding(check, len(culprits) / n, f"{len(culprits)} of {n} images {said}", culprits)

    odd = report["anomalies"]
    exact = manifest["sha256"].duplicated()
    near = (manifest["phash"] != "") & manifest["phash"].duplicated() & ~exact
    groups = duplicate_groups(manifest["sha256"].tolist(), manifest["phash"].tolist())
    labelled = manifest["label"].where(manifest["label"] != "")
    small = manifest[["width", "height"]].min(axis=1) < report["image_size"]
    return [
        _imbalance(report["classes"]),
        share("dark", told["dark"] >= MOST_PIXELS, f"are dark ({MOST_PIXELS:.0%} of their pixels below {DARK} of 255)"),
        share("bright", told["bright"] >= MOST_PIXELS, f"are bright ({MOST_PIXELS:.0%} of their pixels above {BRIGHT} of 255)"),
        share("flat", manifest["phash"] == "", "are nearly of one colour, or plain stripes"),
        share("blurred", (told["sharpness"] < BLURRED) & (manifest["phash"] != ""), "are blurred, at the size that a model sees"),
        _odd("tiny", odd["tiny"], n, "have a side of only a few px"),
        _odd("long", odd["extreme_aspect_ratio"], n, "are much longer than wide"),
        share("enlarged", small, f"have a side below {report['image_size']} px, and are enlarged"),
        share("copies", exact, "are equal to another"),
        share("near_copies", near, "are nearly equal to another"),
        share("contradictions", labelled.groupby(groups).transform("nunique") > 1, "have a copy with another label"),
    ]


def _imbalance(counts: Mapping[str, int]) -> Finding:
    largest, smallest = max(counts, key=counts.__getitem__, default=""), min(counts, key=counts.__getitem__, default="")
    if not counts:
        return Finding("imbalance", float("nan"), "no image has a label")
    said = f"the class {largest!r} has {counts[largest]} images, {smallest!r} {counts[smallest]}"
    return Finding("imbalance", counts[largest] / counts[smallest], said)


def _odd(check: str, found: Mapping[str, Any], n: int, said: str) -> Finding:
    return Finding(check, found["images"] / n, f"{found['images']} of {n} images {said}", list(found["examples"]))


def of_days(known: pd.DataFrame, new: pd.DataFrame, drifted: Drift | None, *, names: tuple[str, str]) -> list[Finding]:
    """Check new images against known ones.

    Parameters
    ----------
    known, new : DataFrame
        ``image, label, sha256, phash, width, height, mode, format``; a label may be empty.
    drifted : Drift or None
        None where there are too few images to tell.
    names : two str
        What both are called, such as ``Monday`` and ``Tuesday``.

    Returns
    -------
    list of Finding
        ``known``, ``new_formats``, ``new_sizes``, ``class_shift``, ``drift``.
    """
    old, images, n = names[0], new["image"].to_numpy(object), len(new)

    def share(check: str, mask: npt.ArrayLike, said: str) -> Finding:
        culprits = images[np.asarray(mask, bool)].tolist()
        return Finding(check, len(culprits) / n, f"{len(culprits)} of {n} images of {names[1]} {said}", culprits)

    pictures = set(known["sha256"]) | (set(known["phash"]) - {""})
    kinds = set(zip(known["format"], known["mode"], strict=True))
    strange = [kind not in kinds for kind in zip(new["format"], new["mode"], strict=True)]
    outside = pd.Series(False, index=new.index)
    for side in ("width", "height"):
        outside |= ~new[side].between(known[side].min(), known[side].max())
    return [
        share("known", new["sha256"].isin(pictures) | new["phash"].isin(pictures), f"are copies of images of {old}"),
        share("new_formats", strange, f"have a format or mode that no image of {old} has"),
        share("new_sizes", outside, f"are smaller or larger than all images of {old}"),
        _class_shift(known["label"], new["label"], names),
        _drifted(drifted, names),
    ]


def _class_shift(known: pd.Series[str], new: pd.Series[str], names: tuple[str, str]) -> Finding:
    known, new = known[known != ""], new[new != ""]
    if not len(known) or not len(new):
        return Finding("class_shift", float("nan"), f"{names[int(len(known) > 0)]} has no labels to compare")
    shares = pd.DataFrame({"known": known.value_counts(normalize=True), "new": new.value_counts(normalize=True)}).fillna(0).sort_index()
    gap = shares["new"] - shares["known"]
    most = str(gap.abs().idxmax())
    said = (
        f"the classes' shares differ most in {most!r}: {shares['known'][most]:.1%} of {names[0]}, {shares['new'][most]:.1%} of {names[1]}"
    )
    old, fresh, gone = (shares.index[mask].tolist() for mask in (shares["known"] > 0, shares["known"] == 0, shares["new"] == 0))
    n_new = len(shares) - len(gone)
    strangers = f"{len(fresh)} of {n_new} classes of {names[1]} are not among {names[0]}'s {len(old)}: {few(fresh)}" if fresh else ""
    missing = f"{names[1]} has no image of {len(gone)} of {names[0]}'s {len(old)} classes: {few(gone)}" if gone else ""
    return Finding("class_shift", float(gap.abs().sum() / 2), "; ".join(filter(None, [strangers, missing, said])))


def _drifted(found: Drift | None, names: tuple[str, str]) -> Finding:
    if found is None:
        return Finding("drift", float("nan"), "too few images to tell")
    sure = found.p_value <= SURE
    how = f" ({found.words})" if found.words and sure else ""
    said = f"{names[1]} looks {'different from' if sure else 'like'} {names[0]}{how}; p = {found.p_value:.3f}"
    return Finding("drift", found.distance, said, sure=sure)


def leakage(manifest: pd.DataFrame, splits: pd.DataFrame) -> Finding:
    """Check that no image that a model is tested or validated on has a copy among those that it is trained on.

    Parameters
    ----------
    manifest : DataFrame
        ``image, sha256, phash``.
    splits : DataFrame
        ``image, split``: ``train``, ``val`` or ``test``.
    """
    of_split = manifest.set_index("image").loc[splits["image"]]
    trained = (splits["split"] == "train").to_numpy()
    copied = of_split["sha256"].isin(set(of_split["sha256"][trained])) | of_split["phash"].isin(set(of_split["phash"][trained]) - {""})
    leaked = splits["image"].to_numpy(object)[copied.to_numpy() & ~trained].tolist()
    n_held_out = int((~trained).sum())
    said = f"{len(leaked)} of {n_held_out} held-out images have a copy among the training images"
    return Finding("leakage", len(leaked) / max(n_held_out, 1), said, leaked)


class ImageChecks(NamedTuple):
    """Findings on images by themselves, and the quality measures behind them.

    Attributes
    ----------
    findings : list of Finding
    quality : DataFrame
        From :func:`quality`, one row an image.
    """

    findings: list[Finding]
    quality: pd.DataFrame


def check_images(clean: Path, limits: Any) -> ImageChecks:
    """Check images by themselves.

    Parameters
    ----------
    clean : Path
        A folder of ``clean_data``.
    limits : config.Checks

    Returns
    -------
    ImageChecks
    """
    manifest = tables.read(clean / "manifest.csv", dtypes=COLUMNS)
    report = json.loads((clean / "report.json").read_text(encoding="utf-8"))
    measured = quality(np.load(clean / "images.npy", mmap_mode="r"))
    return ImageChecks(limited(of_images(manifest, report, measured), limits), measured)


class DayChecks(NamedTuple):
    """Findings on Tuesday against Monday and on what is held out, and the drift behind them.

    Attributes
    ----------
    findings : list of Finding
        Where there is no Tuesday, only on what is held out.
    drift : Drift or None
        None where a day has too few images.
    views : list of (str, Images)
        Name and images of each day, copies left out; empty where there is no Tuesday.
    """

    findings: list[Finding]
    drift: Drift | None
    views: list[tuple[str, Images]]


def check_days(days: Days, manifest: pd.DataFrame, limits: Any, *, with_labels: bool, seed: int) -> DayChecks:
    """Check Tuesday against Monday, and what is held out against what is trained on.

    Parameters
    ----------
    days : Days
    manifest : DataFrame
        Of the ``clean_data`` that they index, with :data:`COLUMNS`.
    limits : config.Checks
    with_labels : bool
        The manifest's labels are true: looks are compared class by class.
    seed : int
        Of the test for drift.

    Returns
    -------
    DayChecks
    """
    table = manifest.merge(days.splits.reset_index()[["image", "day", "split"]].rename(columns={"day": "on"}), on="image")
    monday, tuesday = (table[table["on"] == day] for day in ("monday", "tuesday"))
    findings = [leakage(manifest, table[["image", "split"]])]
    found, views = None, list[tuple[str, Images]]()
    if len(tuesday):
        names = ("Monday", "Tuesday")
        once = [once_each(of) for of in (monday, tuesday)]
        views = [(name, days.view(of["image"].tolist())) for name, of in zip(names, once, strict=True)]
        strata = (once[0]["label"].tolist(), once[1]["label"].tolist()) if with_labels else None
        found = drifted(views[0][1], views[1][1], rng=np.random.default_rng(seed), strata=strata)
        findings = [*of_days(monday, tuesday, found, names=names), *findings]
    return DayChecks(limited(findings, limits), found, views)


def once_each(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a manifest without copies and near copies of images before them, which are no independent evidence of drift."""
    groups = duplicate_groups(table["sha256"].tolist(), table["phash"].tolist())
    return table[~pd.Series(groups, index=table.index).duplicated()]


def drifted(known: Images, new: Images, *, rng: np.random.Generator, strata: tuple[list[str], list[str]] | None = None) -> Drift | None:
    """Measure drift (:func:`drift`); None where there are too few images."""
    if min(known.shape[0], new.shape[0]) < LEAST_COMPARED:
        return None
    return drift(known, new, rng=rng, strata=strata)


def limited(findings: Sequence[Finding], limits: Any) -> list[Finding]:
    """Findings with their limits, which are attributes of ``limits`` (a ``config.Checks``)."""
    return [dataclasses.replace(found, limit=getattr(limits, found.check)) for found in findings]


def gate(findings: Sequence[Finding], page: str) -> None:
    """Refuse data that is over a limit.

    Parameters
    ----------
    findings : sequence of Finding
    page : str
        Where they can be looked at.

    Raises
    ------
    BCCPError
        Names the first check that is over its limit, its value and the limit, and the other checks.
    """
    over = [found for found in findings if found.verdict == "over"]
    if not over:
        return
    first, *others = over
    example = f", such as {first.images[0]!r}" if first.images else ""
    more = f"; over their limits too: {', '.join(found.check for found in others)}" if others else ""
    raise BCCPError(
        f"the data check {first.check} has found {first.value:.4g}, more than preprocessing.checks.{first.check}={first.limit:g}: "
        f"{first.said}{example}{more}; see {page}, then mend the data or raise the limit"
    )


def sentence(findings: Sequence[Finding], page: str) -> str:
    """What the checks have found, in one line."""
    seen = [one for one in findings if one.value > 0 and one.sure and one.check != "imbalance"]
    found = [f"{one.check} {one.value:.3f}" if one.check == "drift" else f"{one.check} {one.value:.1%}" for one in seen]
    return f"{len(findings)} data checks: {', '.join(found) or 'nothing found'}; see {page}"


def figures(findings: Sequence[Finding]) -> dict[str, float]:
    """The values of the checks, as metrics ``check_<name>``."""
    return {f"check_{found.check}": found.value for found in findings if not np.isnan(found.value)}


def table(findings: Sequence[Finding]) -> pd.DataFrame:
    """The findings as a table: ``check, value, limit, verdict, said``."""
    rows = [(f.check, f.value, "" if f.limit is None else f.limit, f.verdict, f.said) for f in findings]
    return pd.DataFrame(rows, columns=["check", "value", "limit", "verdict", "said"])


def flagged(findings: Sequence[Finding]) -> pd.DataFrame:
    """The images that checks have named: ``image, check``."""
    rows = [(image, found.check) for found in findings for image in found.images]
    return pd.DataFrame(rows, columns=["image", "check"])
