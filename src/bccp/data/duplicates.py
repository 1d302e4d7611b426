"""Which images are the same picture, exactly or nearly; N images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


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
    parent = list(range(len(sha256)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for keys in (sha256, phash):
        first: dict[str, int] = {}
        for i, key in enumerate(keys):
            if key:
                a, b = root(i), root(first.setdefault(key, i))
                parent[max(a, b)] = min(a, b)
    _, groups = np.unique([root(i) for i in range(len(parent))], return_inverse=True)
    return groups.astype(np.int64)
