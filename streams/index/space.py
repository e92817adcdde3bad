"""The contract of a code space: the pictures with a code within a radius of the codes asked for.

The matcher searches one space per fingerprint version. `Scan` and `MultiIndexHash` implement it and
give equal hits: each finds pairs in its own way, and `collect` turns them into `Hits`.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint64]
Numbers = NDArray[np.uint32]
Pairs = NDArray[np.uint64]
"""Found pairs, each one integer: row << 40 | number << 8 | distance. One sort groups them by row
and picture and puts the nearest code of each first."""

MAX_RADIUS = 16
"""Of unrelated 64-bit codes, one pair in 26,000 is within 16: more than anyone could review."""

_ROW_SHIFT = 40
_NUMBER_SHIFT = 8
_MAX_ROWS = 1 << 24


class Hits(msgspec.Struct, frozen=True, eq=False):
    """Equally long arrays, one entry per (query row, picture), sorted by both."""

    query: NDArray[np.int64]
    """Row in the array of codes asked for."""
    number: Numbers
    """Picture number."""
    distance: NDArray[np.uint8]
    """The smallest Hamming distance among the picture's codes."""

    def __len__(self) -> int:
        return len(self.query)


class CodeSpace(Protocol):
    """64-bit codes, each of a numbered picture; a picture has several and is added once."""

    def add(self, codes: Codes, numbers: Numbers) -> None:
        """Add `codes[i]` of picture `numbers[i]`; numbers never decrease from add to add."""

    def search(self, codes: Codes, radius: int) -> Hits:
        """Find every picture within `radius` bits (0 to 16, else ValueError) of each code."""

    def __len__(self) -> int:
        """Count the codes."""


def collect(codes: Codes, radius: int, find: Callable[[Codes, int], Iterable[Pairs]]) -> Hits:
    """Search each distinct code once with `find` and give the hits of all the codes asked for.

    `find` gets distinct codes and the radius; its pairs may repeat, in any order.
    """
    if not 0 <= radius <= MAX_RADIUS:
        raise ValueError(f"radius {radius} is not between 0 and {MAX_RADIUS}")
    distinct, row = np.unique(np.asarray(codes, dtype=np.uint64), return_inverse=True)
    if len(distinct) > _MAX_ROWS:
        raise ValueError(f"{len(distinct)} codes in one search; the most is {_MAX_ROWS}")
    nothing = np.empty(0, dtype=np.uint64)
    pairs = np.sort(np.concatenate([nothing, *find(distinct, radius)]))
    picture = pairs >> np.uint64(_NUMBER_SHIFT)
    nearest = np.ones(len(pairs), dtype=np.bool_)
    np.not_equal(picture[1:], picture[:-1], out=nearest[1:])
    pairs = pairs[nearest]

    bounds = np.searchsorted(
        pairs, np.arange(len(distinct) + 1, dtype=np.uint64) << np.uint64(_ROW_SHIFT)
    )
    lengths = np.diff(bounds)[row]
    ends = np.cumsum(lengths)
    pairs = pairs[np.repeat(bounds[row] - (ends - lengths), lengths) + np.arange(lengths.sum())]
    return Hits(
        query=np.repeat(np.arange(len(row)), lengths),
        number=(pairs >> np.uint64(_NUMBER_SHIFT)).astype(np.uint32),
        distance=pairs.astype(np.uint8),
    )


def pair(rows: NDArray[np.int64], numbers: Numbers, distances: NDArray[np.uint8]) -> Pairs:
    """Pack equally long arrays into pairs; rows are below 2^24."""
    pairs = rows.astype(np.uint64) << np.uint64(_ROW_SHIFT)
    pairs |= numbers.astype(np.uint64) << np.uint64(_NUMBER_SHIFT)
    pairs |= distances
    return pairs
