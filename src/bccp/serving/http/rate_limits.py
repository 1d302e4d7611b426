"""Limits on how often people vote, by user, token and address.

Each name has a bucket that holds a minute's votes and fills steadily (the generic cell rate algorithm): one number a name.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

MINUTE = 60.0

MAX_NAMES = 50_000
"""Names that are remembered; the one that was silent for longest is forgotten first."""


class RateLimits:
    """Votes a minute, by name.

    Parameters
    ----------
    max_names : int
    clock : callable
        Seconds that never go back.
    """

    def __init__(self, *, max_names: int = MAX_NAMES, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_names, self._clock = max_names, clock
        self._full_at: OrderedDict[str, float] = OrderedDict()  # when each bucket is full again

    def __len__(self) -> int:
        """Return the number of names that are remembered."""
        return len(self._full_at)

    def seconds_to_wait(self, limits: Iterable[tuple[str, int]]) -> int:
        """Count a vote against all names, or, where one of them has none left, against no name.

        Parameters
        ----------
        limits : iterable of (str, int)
            Names, each with its votes a minute.

        Returns
        -------
        int
            0 where the vote is counted, else whole seconds until it would be.
        """
        now = self._clock()
        full_at = {name: max(now, self._full_at.get(name, now)) + MINUTE / per_minute for name, per_minute in limits}
        wait = max(full_at.values(), default=now) - now - MINUTE
        if wait > 1e-6:  # as sums of fractions are not exact
            return math.ceil(wait)
        for name, time_full in full_at.items():
            self._full_at[name] = time_full
            self._full_at.move_to_end(name)
        while len(self._full_at) > self._max_names:
            self._full_at.popitem(last=False)
        return 0
