"""Which images are the same picture, exactly or nearly; N images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.data.array_types import Images, Index, Mask, UInt8
from bccp.data.decoding.grey_levels import is_deep_mode

FLAT_STD = 2.0
"""Standard deviation in grey levels (of 255) below which a picture counts as nearly constant."""


def duplicate_groups(sha256: Sequence[str], phash: Sequence[str]) -> npt.NDArray[np.int64]:
    """Group images that are the same or nearly the same picture.

    Parameters
    ----------
    sha256 : sequence of str, length N
        Equal: the same decoded pixels.
    phash : sequence of str, length N
        Equal and not empty: nearly the same picture.

    Returns
    -------
    ndarray of int64, shape (N,)
        Group of each image, numbered by first appearance. Groups are connected: an image may join two others that share nothing.

    Examples
    --------
    >>> duplicate_groups(["a", "b", "a", "c"], ["1", "2", "", "2"]).tolist()
    [0, 1, 0, 1]
    """

    def pairs() -> Iterator[tuple[int, int]]:
        for keys in (sha256, phash):
            first: dict[str, int] = {}
            yield from ((first.setdefault(key, i), i) for i, key in enumerate(keys) if key)

    return _connected(len(sha256), pairs())


def _connected(n: int, pairs: Iterable[tuple[int, int]]) -> Index:
    """Group n things that pairs of positions connect, directly or by way of others; numbers by first appearance, shape (n,)."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in pairs:
        a, b = root(i), root(j)
        parent[max(a, b)] = min(a, b)
    _, groups = np.unique([root(i) for i in range(n)], return_inverse=True)
    return groups.astype(np.int64)


NEAR_BITS, NEAR_COSINE = 6, 0.75
"""Of 64 bits so many may differ between the hashes of near copies, whose centred features have at least this cosine. Among photographs
with nearly the same hash, other encodings, cuts and shots of one scene are above it, and most unlike pictures far below."""

_ROWS_COMPARED = 256


def joined_by_features(groups: npt.ArrayLike, phash: Sequence[str], features: npt.NDArray[np.floating]) -> Index:
    """Join groups whose images have nearly the same perceptual hash, and features that agree.

    Cuts, and shots of one scene a second apart, change some bits of a hash, by which alone they are not told from unlike pictures. A
    backbone's features know the one from the other.

    Parameters
    ----------
    groups : array-like of int, shape (N,)
        From :func:`duplicate_groups`.
    phash : sequence of str, length N
        16 hex digits, with or without what :func:`told_apart` has added, or empty.
    features : ndarray of float, shape (N, D)
        Of the same images, by one backbone.

    Returns
    -------
    ndarray of int64, shape (N,)
        Numbered by first appearance.

    Notes
    -----
    All pairs of hashes are compared: seconds for 50,000 images. Cosines are computed for images with a near hash alone. As with
    :func:`duplicate_groups`, groups are connected.
    """
    before = np.asarray(groups, np.int64)
    hashed = np.flatnonzero([bool(one) for one in phash])
    bits = np.array([int(phash[i].partition("+")[0], 16) for i in hashed.tolist()], np.uint64)
    centred = np.asarray(features, np.float32)[hashed]
    centred -= centred.mean(axis=0, dtype=np.float64).astype(np.float32) if len(hashed) else 0
    lengths = np.sqrt(np.square(centred, dtype=np.float64).sum(axis=1, keepdims=True))
    centred /= np.where(lengths > 0, lengths, 1).astype(np.float32)

    def pairs() -> Iterator[tuple[int, int]]:
        _, first = np.unique(before, return_index=True)
        yield from zip(first[before].tolist(), range(len(before)), strict=True)
        for start in range(0, len(bits), _ROWS_COMPARED):
            stop = min(start + _ROWS_COMPARED, len(bits))
            near = np.bitwise_count(bits[start:stop, None] ^ bits[start:]) <= NEAR_BITS
            near = np.triu(near, 1)
            others = np.flatnonzero(near.any(axis=0))
            # float32, whose rounding differs with threads, names candidates; float64 decides
            likely = near[:, others] & (centred[start:stop] @ centred[start + others].T >= NEAR_COSINE - 1e-3)
            row, column = np.nonzero(likely)
            for i, j in zip((start + row).tolist(), (start + others[column]).tolist(), strict=True):
                if round(float(centred[i].astype(np.float64) @ centred[j]), 6) >= NEAR_COSINE:
                    yield int(hashed[i]), int(hashed[j])

    return _connected(len(before), pairs())


def assign_folds(groups: npt.ArrayLike, given: npt.ArrayLike, *, folds: int, rng: np.random.Generator) -> Index:
    """Deal images to folds, duplicates together and given labels evenly.

    Parameters
    ----------
    groups : array-like of int, shape (N,)
        Images of one group are duplicates.
    given : array-like of int, shape (N,)
        The given labels; the first image of a group speaks for it.
    folds : int
        At least 2.
    rng : Generator

    Returns
    -------
    ndarray of int64, shape (N,)
        0 to ``folds`` - 1. The groups of a class, in random order, go to the folds in turn, and the next class goes on where the
        last ended.
    """
    _, first, group = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    shuffled = rng.permutation(len(first))
    dealt = shuffled[np.argsort(np.asarray(given)[first[shuffled]], kind="stable")]
    fold = np.empty(len(first), np.int64)
    fold[dealt] = np.arange(len(first)) % folds
    return fold[group]


FINE_GRID, LEAST_SIDE = 16, 64
"""Fields a side that pictures of equal hash are compared by, half as many where one of them is smaller than so many px: a field then still
averages away what another encoding does to pixels."""

OUTLIER, LEAST_OUTLIER = 14.0, 6.0
"""A difference in one of 32 x 32 fields that is so many times the root mean square of all, and at least so many grey levels, is an object
that came or went; other encodings of one picture spread theirs."""

SERIAL = 2**18
"""Multiplications of a product of matrices up to which OpenBLAS does it in one thread."""

_OBJECT_GRID = 32
_BLOCK_BYTES = 2**26


def told_apart(manifest: pd.DataFrame, images: Images, *, tolerance: float | None) -> list[str]:
    """Give images of equal perceptual hash that are no near copies hashes of their own.

    The hash holds the coarsest shapes only: of a fixed camera's scenes it may be the same whatever small object stands in them. So pictures
    of equal hash are compared as a model sees them, field by field of a grid, in colour. They are near copies where no field differs by
    more than the tolerance, and none stands out from the others' differences.

    Parameters
    ----------
    manifest : DataFrame
        ``row, sha256, phash, width, height`` of N images. What :func:`told_apart` has added to a hash before is taken away first.
    images : ndarray of uint8, shape (any, S, S, 3), or a view of such
        Their pictures, by ``row``.
    tolerance : float, optional
        In grey levels of 255, from 0 up; with 0 only copies that a model cannot tell apart are near. Without it the hash alone decides.

    Returns
    -------
    list of str, length N
        The hash; ``+1``, ``+2``, … follow it from the second group of near copies on, in the order of their first images. Groups are
        connected: an image may join two others that differ.
    """
    own = [phash.partition("+")[0] for phash in manifest["phash"]]
    found = list(own)
    if tolerance is None:
        return found
    table = pd.DataFrame({"phash": own, "place": range(len(own)), "sha256": manifest["sha256"].to_numpy(object)})
    table["row"], table["side"] = manifest["row"].to_numpy(), manifest[["width", "height"]].min(axis=1).to_numpy()
    shared = table[(table["phash"] != "") & table["phash"].duplicated(keep=False)]
    for phash, members in shared.groupby("phash", sort=False):
        different = members.drop_duplicates("sha256")
        if len(different) == 1:
            continue
        coarse = FINE_GRID if different["side"].min() >= LEAST_SIDE else FINE_GRID // 2
        group = dict(zip(different["sha256"], _near_groups(images, different["row"].tolist(), coarse, tolerance).tolist(), strict=True))
        for place, sha256 in zip(members["place"].tolist(), members["sha256"], strict=True):
            found[place] = f"{phash}+{group[sha256]}" if group[sha256] else str(phash)
    return found


def _near_groups(images: Images, rows: Sequence[int], coarse: int, tolerance: float) -> Index:
    """Group the n pictures in some rows that are near copies, directly or by way of others; numbers by first appearance, shape (n,).

    A picture is compared with the first of each group before it, and with the others of those groups that it is no near copy of the first
    of. So the time grows as n where all are near copies, and as n² where none are.
    """
    means = [[_field_means(images[[row]][0], grid) for grid in (coarse // 4, coarse)] for row in rows]
    rough, fields = (np.stack([of[which] for of in means]) for which in range(2))  # each rough field is the mean of 4 x 4 others
    # in whole grey levels: they are a quarter of the memory, and what stands out does so by more
    fine = np.stack([np.rint(_field_means(images[[row]][0], _OBJECT_GRID)).astype(np.uint8) for row in rows])
    step = max(1, _BLOCK_BYTES // (4 * fine[0].size))

    def near(i: int, others: Index) -> list[int]:
        found = list[int]()
        for part in (others[start : start + step] for start in range(0, len(others), step)):
            part = part[np.abs(rough[part] - rough[i]).max(axis=(1, 2, 3)) <= tolerance + 0.01]  # the rest would fail the next test
            close = part[np.abs(fields[part] - fields[i]).max(axis=(1, 2, 3)) <= tolerance]
            found += close[~_stands_out(fine[close].astype(np.float32) - fine[i])].tolist()
        return found

    groups = np.arange(len(rows))
    for i in range(1, len(rows)):
        before, is_first = groups[:i], groups[:i] == np.arange(i)
        joined = near(i, np.flatnonzero(is_first))
        joined += before[near(i, np.flatnonzero(~is_first & ~np.isin(before, joined)))].tolist()
        if joined:
            before[np.isin(before, joined)] = groups[i] = min(joined)
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _stands_out(differences: npt.NDArray[np.float32]) -> Mask:
    """Mark which of m differences (m, G, G, 3) have one field that differs by far more than all fields together."""
    size = np.abs(differences).max(axis=3)
    most = size.max(axis=(1, 2), initial=0)
    found: Mask = (most >= LEAST_OUTLIER) & (most > OUTLIER * np.sqrt(np.square(size).mean(axis=(1, 2))))
    return found


def _field_means(picture: UInt8, grid: int) -> npt.NDArray[np.float32]:
    """Means (G, G, 3) over G x G fields of a picture (S, S, 3), G at most S; a pixel on a border counts in part for both fields."""
    side = len(picture)
    edges = np.linspace(0, side, min(grid, side) + 1)
    covered = np.minimum(edges[1:, None], np.arange(1, side + 1)) - np.maximum(edges[:-1, None], np.arange(side))
    weight = (covered.clip(0) / np.diff(edges)[:, None]).astype(np.float32)  # (G, S)
    across = _in_pieces(weight, picture.astype(np.float32).reshape(side, -1)).reshape(-1, side, 3).transpose(1, 0, 2)
    return _in_pieces(weight, across.reshape(side, -1)).reshape(len(weight), -1, 3).transpose(1, 0, 2)


def _in_pieces(weight: npt.NDArray[np.float32], columns: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Multiply matrices (G, S) and (S, C), in pieces too small for BLAS to share out among its threads.

    These wait for one another longer than they work, on a busy machine a hundred times as long.
    """
    step = max(1, SERIAL // weight.size)
    return np.concatenate([weight @ columns[:, start : start + step] for start in range(0, columns.shape[1], step)], axis=1)


def is_nearly_constant(manifest: pd.DataFrame, contrast: Callable[[pd.Series[int]], npt.ArrayLike]) -> pd.Series[bool]:
    """Mark images that are nearly constant.

    Parameters
    ----------
    manifest : DataFrame
        ``row, phash, mode``.
    contrast : callable
        Gives the standard deviation of the grey levels, as a model sees them, of some rows. It decides where there are grey values of more
        than 8 bits: they are hashed by the range of their type, which may leave nothing of them.
    """
    found = manifest["phash"] == ""
    deep = found & manifest["mode"].map(is_deep_mode).astype(bool)
    if deep.any():
        found[deep] = np.asarray(contrast(manifest.loc[deep, "row"])) < FLAT_STD
    return found


def telling_hashes(manifest: pd.DataFrame) -> pd.Series[str]:
    """The perceptual hashes, empty for nearly constant images alone: one of more than 8 bits, of which the range of its type may leave
    nothing to hash, has its digest in place of an empty one.
    """
    deep = manifest["mode"].map(is_deep_mode).astype(bool)  # of no image too, where pandas knows no type
    return manifest["phash"].where((manifest["phash"] != "") | ~deep, manifest["sha256"])
