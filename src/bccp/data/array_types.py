"""Names of the array types that functions take and give."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
UInt8 = npt.NDArray[np.uint8]


class Images(Protocol):
    """Pixels of N images: an array (N, S, S, 3) of uint8, or a view that reads them from disk when it is indexed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, S, S, 3)."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, positions: Any, /) -> UInt8:
        """Pixels of some images, uint8 of shape (n, S, S, 3)."""
