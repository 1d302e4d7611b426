"""What the camera does on Tuesday: white boxes, mosaic patches, or a black line, drawn for each image from its own id.

Images are square, S by S px; n of them make a batch. An image's corruption depends on the seed and on its id alone, so
that neither the order nor the choice of the other images changes it: each image has a row of D uniform numbers, and all
that is random about it is read from that row.

References
----------
S. Lee, N. Jeong, J. Je, S.-Y. Lee: "BCCP: An MLOps Framework for Self-cleansing Real-Time Data Noise via Bayesian
Cut-off-based Closest Pair Sampling", IEEE AIxDKE 2024.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from bccp.data.array_types import Float, Index, UInt8

KINDS = ("random_boxes", "mosaic", "random_lines")
"""The corruptions that ``mixed`` draws from."""

_SIDE = (0.1, 0.2)
"""Least and greatest side of a box or patch (in sides of the image), and thickness of a line (in its diagonals)."""

BOXES = (10, 20)
PATCHES = (20, 30)

CORRUPTED_AT_ONCE_BYTES = 2**22
"""Pixels that are corrupted at a time; the sums behind a mosaic need some ten times as much."""

N_DRAWS = 1 + 4 * PATCHES[1]
"""D: a number of patches, then top, left, height and width of each."""


def corrupt(images: UInt8, ids: Sequence[str], kinds: Sequence[str], *, seed: int) -> UInt8:
    """Corrupt a batch of images.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, S, S, 3)
        Left as they are.
    ids : sequence of str, length n
        Image ids.
    kinds : sequence of str, length n
        One of ``KINDS`` for each image, as from :func:`draw_kinds`.
    seed : int
        From 0 up.

    Returns
    -------
    ndarray of uint8, shape (n, S, S, 3)

    Raises
    ------
    ValueError
        For a kind that is none of ``KINDS``.
    """
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"unknown corruption {sorted(unknown)}: use {', '.join(KINDS)}")
    corrupted = np.empty_like(images)
    for kind, paint in zip(KINDS, (random_boxes, mosaic, random_lines), strict=True):
        chosen = [position for position, one in enumerate(kinds) if one == kind]
        if chosen:
            corrupted[chosen] = paint(images[chosen], draw_uniform([ids[position] for position in chosen], seed=seed))
    return corrupted


def stream(images: UInt8, rows: Index, ids: Sequence[str], kinds: Sequence[str], *, seed: int) -> Iterator[UInt8]:
    """Corrupt many images a chunk at a time.

    Parameters
    ----------
    images : ndarray of uint8, shape (N, S, S, 3)
        Usually memory-mapped.
    rows : ndarray of int64, shape (n,)
        Which of them.
    ids, kinds : sequence of str, length n
        As for :func:`corrupt`.
    seed : int
        From 0 up.

    Yields
    ------
    ndarray of uint8, shape (m, S, S, 3)
        The next m images, in the order of ``rows``.
    """
    chunk = max(1, CORRUPTED_AT_ONCE_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        yield corrupt(images[rows[part]], ids[part], kinds[part], seed=seed)


def draw_kinds(ids: Sequence[str], *, corruption: str, seed: int) -> list[str]:
    """Say which corruption each image gets.

    Parameters
    ----------
    ids : sequence of str, length n
        Image ids.
    corruption : str
        ``mixed`` (each of ``KINDS`` with the same chance), one of ``KINDS`` for all, or ``none``.
    seed : int
        From 0 up.

    Returns
    -------
    list of str, length n
        One of ``KINDS`` each; empty strings for ``none``.

    Examples
    --------
    >>> draw_kinds(["a.png", "b.png"], corruption="mosaic", seed=0)
    ['mosaic', 'mosaic']
    """
    if corruption == "mixed":
        # the half of the digest that the shapes are not drawn from
        return [KINDS[int.from_bytes(_digest(image_id, seed=seed)[16:]) % len(KINDS)] for image_id in ids]
    return ["" if corruption == "none" else corruption] * len(ids)


def random_boxes(images: UInt8, draws: Float) -> UInt8:
    """Cover each image with 10 to 20 white boxes.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, S, S, 3)
    draws : ndarray of float64, shape (n, D)
        Uniform in [0, 1).

    Returns
    -------
    ndarray of uint8, shape (n, S, S, 3)
        Width and height of each box are drawn apart, 1/10 to 1/5 of the image and at least 1 px; each lies inside the
        image.
    """
    n_boxes, tops, sides = place_boxes(draws, BOXES, images.shape[1], square=False)
    covered = images.copy()
    for image, count, corners, lengths in zip(covered, n_boxes.tolist(), tops.tolist(), sides.tolist(), strict=True):
        for (y, x), (height, width) in zip(corners[:count], lengths[:count], strict=True):
            image[y : y + height, x : x + width] = 255
    return covered


def mosaic(images: UInt8, draws: Float) -> UInt8:
    """Turn 20 to 30 square patches of each image into mosaic.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, S, S, 3)
    draws : ndarray of float64, shape (n, D)
        Uniform in [0, 1).

    Returns
    -------
    ndarray of uint8, shape (n, S, S, 3)
        Each patch, with a side of 1/10 to 1/5 of the image, is averaged in cells of c by c px,
        c = max(2, round(side / 10)); where its side is no multiple of c, its border cuts the last cells off. Where
        patches overlap, the later one covers the earlier.
    """
    n_patches, tops, lengths = place_boxes(draws, PATCHES, images.shape[1], square=True)
    sides = lengths[:, :, 0]  # (n, P)
    cell = np.maximum(2, np.rint(sides / 10)).astype(np.int64)
    means = _cell_means(images, tops, sides, cell)  # (n, P, C, C, 3)
    most = int(cell.max())
    tiles = np.empty((*means.shape[:2], means.shape[2] * most, means.shape[3] * most, 3), dtype=np.uint8)
    for size in range(2, most + 1):
        chosen = cell == size
        pixels = means[chosen].repeat(size, axis=1).repeat(size, axis=2)
        tiles[chosen, : pixels.shape[1], : pixels.shape[2]] = pixels
    tiled = images.copy()
    places = zip(tiled, tiles, n_patches.tolist(), tops.tolist(), sides.tolist(), strict=True)
    for image, patches, count, corners, extents in places:
        for tile, (y, x), side in zip(patches[:count], corners[:count], extents[:count], strict=True):
            image[y : y + side, x : x + side] = tile[:side, :side]
    return tiled


def random_lines(images: UInt8, draws: Float) -> UInt8:
    """Draw one thick black line through the centre of each image.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, S, S, 3)
    draws : ndarray of float64, shape (n, D)
        Uniform in [0, 1).

    Returns
    -------
    ndarray of uint8, shape (n, S, S, 3)
        The line runs from a random point of a random edge through the centre to the opposite edge; it is 1/10 to 1/5 of
        the image's diagonal thick. A pixel is black if its centre lies on the line.
    """
    size = images.shape[1]
    # a point and its reflection give the same line, so one edge of each opposite pair is enough; lengths are in sides
    along, across = draws[:, 0] - 0.5, np.full(len(draws), 0.5)
    from_left = draws[:, 1] < 0.5
    dy, dx = np.where(from_left, along, across), np.where(from_left, across, along)
    thickness = (_SIDE[0] + (_SIDE[1] - _SIDE[0]) * draws[:, 2]) * np.sqrt(2)
    centre = (np.arange(size) + 0.5) / size - 0.5  # of pixels, from the image's centre
    distance = np.abs(np.outer(dx, centre)[:, :, np.newaxis] - np.outer(dy, centre)[:, np.newaxis, :])  # (n, S, S)
    crossed = distance <= (thickness / 2 * np.hypot(dx, dy))[:, np.newaxis, np.newaxis]
    return np.where(crossed[..., np.newaxis], np.uint8(0), images)


def _digest(image_id: str, *, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{image_id}".encode()).digest()


def draw_uniform(ids: Sequence[str], *, seed: int) -> Float:
    """A row of uniform numbers for each image, shape (n, D)."""
    entropy = (int.from_bytes(_digest(image_id, seed=seed)[:16]) for image_id in ids)
    return np.stack([np.random.default_rng(number).random(N_DRAWS) for number in entropy])


def place_boxes(draws: Float, bounds: tuple[int, int], size: int, *, square: bool) -> tuple[Index, Index, Index]:
    """Place B = ``bounds[1]`` boxes inside each image, and say how many of them count.

    Returns that number, (n,), then top and left, and height and width of each box in px, (n, B, 2) both.
    """
    least, most = bounds
    n_boxes = least + np.floor(draws[:, 0] * (most - least + 1))
    places, shares = np.split(draws[:, 1 : 1 + 4 * most].reshape(-1, most, 4), 2, axis=2)
    sides = np.maximum(np.rint((_SIDE[0] + (_SIDE[1] - _SIDE[0]) * shares) * size), 1)
    if square:
        sides = np.repeat(sides[:, :, :1], 2, axis=2)
    tops = np.floor(places * (size - sides + 1))
    return n_boxes.astype(np.int64), tops.astype(np.int64), sides.astype(np.int64)


def _cell_means(images: UInt8, tops: Index, sides: Index, cell: Index) -> UInt8:
    """Rounded means of the cells of square patches, shape (n, P, C, C, 3): C cells a side, 0 beyond a patch's border.

    ``tops`` is (n, P, 2), ``sides`` and ``cell`` are (n, P), all in px.
    """
    size = images.shape[1]
    # of all pixels above and left of a corner; where a sum overflows, differences of sums are still right
    sums = np.zeros((len(images), size + 1, size + 1, 3), dtype=np.uint32)
    np.cumsum(images, axis=1, out=sums[:, 1:, 1:])
    np.cumsum(sums, axis=2, out=sums)
    steps = np.arange(np.max(-(-sides // cell)) + 1)
    offsets = np.minimum(steps * cell[:, :, np.newaxis], sides[:, :, np.newaxis])  # (n, P, C + 1)
    y, x = np.moveaxis(tops[..., np.newaxis] + offsets[:, :, np.newaxis, :], 2, 0)
    image = np.arange(len(images))[:, np.newaxis, np.newaxis, np.newaxis]
    corners = sums[image, y[:, :, :, np.newaxis], x[:, :, np.newaxis, :]]  # (n, P, C + 1, C + 1, 3)
    lengths = np.diff(offsets, axis=2)  # (n, P, C)
    n_pixels = lengths[:, :, :, np.newaxis] * lengths[:, :, np.newaxis, :]
    means: Float = np.diff(np.diff(corners, axis=2), axis=3) / np.maximum(n_pixels, 1)[..., np.newaxis]
    return np.rint(means).astype(np.uint8)
