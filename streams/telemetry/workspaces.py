"""The busiest workspaces of the last ten minutes, by name; the others together.

A number per interval, and not a counter: a counter of ten names that change would fall when one of
them leaves, and rise by its whole past when it comes back. Bounded: beyond so many workspaces in
one interval the further ones are counted among the others, however busy.
"""

from collections import Counter
from collections.abc import Callable
from heapq import nlargest
from typing import Final

INTERVAL_SECONDS: Final = 600.0
NAMED: Final = 10
_TRACKED: Final = 10_000
_OTHERS: Final = ""


class BusiestWorkspaces:
    """Counts in the thread that matches, read in any."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin an interval; `clock` counts seconds."""
        self._clock = clock
        self._began = clock()
        self._counts: Counter[str] = Counter()
        # The last full interval's, and when that began.
        self._full: tuple[float, dict[tuple[str, ...], float]] = (self._began, {})

    def count(self, workspace: str) -> None:
        """Count one picture."""
        self._turn()
        known = workspace in self._counts or len(self._counts) < _TRACKED
        self._counts[workspace if known else _OTHERS] += 1

    def busiest(self) -> dict[tuple[str, ...], float]:
        """Give the numbers of the last full interval; zero once a whole one had no picture."""
        ended, found = self._full
        past = self._clock() - self._began
        if past >= 2 * INTERVAL_SECONDS:
            return {(_OTHERS,): 0.0}
        if past >= INTERVAL_SECONDS:  # over, and nothing came since that would have ended it
            return _named(dict(self._counts))
        return found if ended < self._began else {(_OTHERS,): 0.0}

    def _turn(self) -> None:
        past = int((self._clock() - self._began) // INTERVAL_SECONDS)
        if past == 0:
            return
        counts = self._counts if past == 1 else Counter[str]()
        self._full = (self._began, _named(dict(counts)))
        self._began += past * INTERVAL_SECONDS
        self._counts = Counter()


def _named(counts: dict[str, int]) -> dict[tuple[str, ...], float]:
    others = counts.pop(_OTHERS, 0)
    top = nlargest(NAMED, counts.items(), key=lambda item: item[1])
    rest = others + sum(counts.values()) - sum(number for _, number in top)
    return {(_OTHERS,): float(rest), **{(name,): float(number) for name, number in top}}
