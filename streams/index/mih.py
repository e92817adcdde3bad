"""Exact multi-index hashing over sorted bands, with the newest codes in a small delta.

Norouzi, Punjani and Fleet, *Fast Exact Search in Hamming Space with Multi-Index Hashing* (TPAMI
2014): cut a code into m bands; two codes within r = m*s + a of each other agree within s in one of
the first a + 1 bands or within s - 1 in one of the others, because more everywhere would add up to
at least (a+1)(s+1) + (m-a-1)s = r + 1. Here a band is an array of all codes, rotated so that the
band comes first, and sorted: the codes that share a band's value stand together.

The matcher owns a `MultiIndexHash` per code space; its store writes and opens the base's files.
"""

from collections.abc import Iterator
from functools import cache
from itertools import accumulate, combinations
from math import comb

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.index.growing import with_room
from streams.index.scan import flat_pairs
from streams.index.space import Codes, Hits, Numbers, Pairs, collect, pair

Offsets = NDArray[np.uint32]

CODE_BITS = 64
MAX_WIDTH = 24
"""Bits of the widest band: its offsets, one per value, take 64 MiB."""

# What chooses between probing and a flat scan: fitted to 150 searches for 1, 10 and 512 codes among
# 1,000 to 16 million at radius 0 to 12 (numpy 2.4, AVX-512). The faster way was chosen in all but
# those where the two differ by less than a quarter.
_BAND_NS = 15_000.0
_PROBE_NS = 12.0
_CANDIDATE_NS = 4.0
_COMPARE_NS = 0.6

_PROBES = 16_384
_CANDIDATES = 1 << 15
"""Probes made, and candidates looked at, together. 4,096 probes take a tenth longer. A million
candidates gain 2 % in the median of 24 searches, most for 2,300 codes at once (7 to 28 %, or
nothing, in two runs), but their arrays grow with the index, and each takes another part of what is
free: among 220,000 codes 14 MB of it came into use within 50 pictures, and 4 to 6 with these
256 KB."""

TAIL_CODES = 10_000
"""Newest codes scanned flat. The scan of a full tail takes 0.1 ms for ten codes; sorting it into a
delta of 400,000 takes 20 ms, which is 20 us for each of its thousand pictures."""
_TAIL_SHARE = 32
"""A larger delta may have a longer tail, one code in so many: loading n codes moves 32 n, not n^2.
No delta is that large when merges keep up."""


class Bands(msgspec.Struct, frozen=True):
    """How codes are cut: band t is `widths[t]` bits from bit `starts[t]`, counted from the top.

    Bits that no band covers are allowed: the search is exact with any bands.
    """

    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse widths that do not fit a code."""
        fitting = all(1 <= width <= MAX_WIDTH for width in self.widths)
        if not self.widths or not fitting or sum(self.widths) > CODE_BITS:
            raise ValueError(f"bands of {self.widths} bits do not fit a code")

    @property
    def starts(self) -> tuple[int, ...]:
        """The bits before each band."""
        return tuple(accumulate(self.widths[:-1], initial=0))

    def radii(self, radius: int) -> tuple[int, ...]:
        """Give the radius to search each band with; -1: not at all."""
        each, rest = divmod(radius, len(self.widths))
        return tuple(each if band <= rest else each - 1 for band in range(len(self.widths)))

    def probes(self, radius: int) -> tuple[int, ...]:
        """Count each band's values to look up for one code."""
        return tuple(
            sum(comb(width, flipped) for flipped in range(near + 1))
            for width, near in zip(self.widths, self.radii(radius), strict=True)
        )

    def probing_wins(self, stored: int, queries: int, radius: int) -> bool:
        """Estimate, for uniform codes, whether probing takes less time than a flat scan."""
        probes = self.probes(radius)
        candidates = sum(
            stored * count / (1 << width) for count, width in zip(probes, self.widths, strict=True)
        )
        probing_ns = sum(count > 0 for count in probes) * _BAND_NS + queries * (
            sum(probes) * _PROBE_NS + candidates * _CANDIDATE_NS
        )
        return probing_ns < queries * stored * _COMPARE_NS


class Layout(msgspec.Struct, frozen=True):
    """The bands for each size of a space; the first are also the delta's."""

    small: Bands
    large: Bands
    large_from_codes: int

    def bands(self, codes: int) -> Bands:
        """Choose the bands for a base of so many codes."""
        return self.large if codes >= self.large_from_codes else self.small


NEAR = Layout(small=Bands((16, 16, 16, 16)), large=Bands((22, 21, 21)), large_from_codes=2_000_000)
"""For similar pictures. About 64 / log2(codes) bands make probes and candidates cost the same.
Measured, ms for ten codes at radius 6 / 8 / 10, four bands against three: 1 M codes .12 .21 .44
against .10 .17 .71; 2 M .16 .40 .84 against .11 .21 .93; 4 M .25 .67 1.4 against .14 .28 1.4;
16 M .58 2.2 5.0 against .23 .63 2.7."""

EXACT = Layout(small=Bands((16,)), large=Bands((22,)), large_from_codes=2_000_000)
"""For equal codes (radius 0), such as prefixes of checksums: one band, a third of the files."""


class SortedBands(msgspec.Struct, frozen=True, eq=False):
    """Codes in sorted bands, in memory or in memory-mapped files; never changed."""

    bands: Bands
    codes: tuple[Codes, ...]
    """Per band: all codes, rotated left by the band's start, sorted."""
    offsets: tuple[Offsets, ...]
    """Per band: where each value of the band begins, and the end."""
    numbers: tuple[Numbers, ...]
    """Per band: picture numbers, in the order of the codes; read for hits only."""

    def __len__(self) -> int:
        return len(self.codes[0])

    @property
    def size_bytes(self) -> int:
        """What its arrays take."""
        parts: tuple[tuple[NDArray[np.uint64] | NDArray[np.uint32], ...], ...]
        parts = (self.codes, self.offsets, self.numbers)
        return sum(array.nbytes for part in parts for array in part)

    @classmethod
    def empty(cls, bands: Bands) -> "SortedBands":
        """Give bands without codes."""
        return cls.build(bands, np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.uint32))

    @classmethod
    def build(cls, bands: Bands, codes: Codes, numbers: Numbers) -> "SortedBands":
        """Sort codes into bands."""
        rotated = [rotate(codes, start) for start in bands.starts]
        orders = [np.argsort(band) for band in rotated]
        return cls(
            bands=bands,
            codes=tuple(band[order] for band, order in zip(rotated, orders, strict=True)),
            offsets=tuple(
                offsets(value_counts(band, width))
                for band, width in zip(rotated, bands.widths, strict=True)
            ),
            numbers=tuple(numbers[order] for order in orders),
        )

    def find(self, queries: Codes, radius: int) -> Iterator[Pairs]:
        """Find the pairs of distinct queries and codes within the radius; some repeat."""
        if not self.bands.probing_wins(len(self), len(queries), radius):
            yield from flat_pairs(self.codes[0], self.numbers[0], queries, radius)
            return
        for band, near in enumerate(self.bands.radii(radius)):
            if near < 0:
                continue
            rotated = rotate(queries, self.bands.starts[band])
            masks = _masks(self.bands.widths[band], near)
            step = max(1, _PROBES // len(masks))
            for row in range(0, len(queries), step):
                yield from self._probe(band, rotated[row : row + step], masks, row, radius)

    def _probe(
        self, band: int, rotated: Codes, masks: NDArray[np.int64], row: int, radius: int
    ) -> Iterator[Pairs]:
        values = band_values(rotated, self.bands.widths[band])[:, None] ^ masks
        starts = self.offsets[band].take(values)
        values += 1
        lengths = self.offsets[band].take(values) - starts
        # Candidate c of run i stands at c + shifts[i]: one number per run, repeated, finds them.
        ends = np.cumsum(lengths, dtype=np.int64).reshape(lengths.shape)
        shifts = starts - (ends - lengths)
        for some, begin, end, runs in _portions(lengths, ends):
            at = np.repeat(shifts[some].ravel(), runs.ravel())
            at += np.arange(begin, end)
            per_query = runs.sum(axis=1, dtype=np.int64)
            differing = self.codes[band].take(at)
            differing ^= np.repeat(rotated[some], per_query)
            distances = np.bitwise_count(differing)
            near = np.flatnonzero(distances <= radius)
            if near.size:
                rows = np.searchsorted(np.cumsum(per_query), near, side="right")
                rows += row + some.start
                yield pair(rows, self.numbers[band][at[near]], distances[near])


class Delta:
    """The newest codes: a sorted part and, behind it, a tail in order of arrival."""

    def __init__(self, bands: Bands) -> None:
        self._codes = np.empty(0, dtype=np.uint64)
        self._numbers = np.empty(0, dtype=np.uint32)
        self._count = 0
        self._sorted = SortedBands.empty(bands)

    def __len__(self) -> int:
        return self._count

    @property
    def size_bytes(self) -> int:
        """What its arrays take."""
        return self._codes.nbytes + self._numbers.nbytes + self._sorted.size_bytes

    def add(self, codes: Codes, numbers: Numbers) -> None:
        """Append codes; sort the tail when it is long."""
        if len(codes) != len(numbers):
            raise ValueError(f"{len(codes)} codes, but {len(numbers)} numbers")
        count = self._count + len(codes)
        # What was handed out by `frozen` keeps the old arrays.
        self._codes = with_room(self._codes, count)
        self._numbers = with_room(self._numbers, count)
        self._codes[self._count : count] = codes
        self._numbers[self._count : count] = numbers
        self._count = count
        if count - len(self._sorted) > max(TAIL_CODES, len(self._sorted) // _TAIL_SHARE):
            tail = slice(len(self._sorted), count)
            self._sorted = _with(self._sorted, self._codes[tail], self._numbers[tail])

    def frozen(self) -> tuple[Codes, Numbers]:
        """Give all codes in order of arrival; later adds leave these arrays alone."""
        codes, numbers = self._codes[: self._count], self._numbers[: self._count]
        codes.flags.writeable = numbers.flags.writeable = False
        return codes, numbers

    def find(self, queries: Codes, radius: int) -> Iterator[Pairs]:
        """Find the pairs of distinct queries and codes within the radius; some repeat."""
        yield from self._sorted.find(queries, radius)
        codes, numbers = self.frozen()
        tail = slice(len(self._sorted), None)
        yield from flat_pairs(codes[tail], numbers[tail], queries, radius)


class MultiIndexHash:
    """A code space of a sorted base and a delta.

    One thread adds, searches and adopts. Another may merge what `freeze` gave into a new base
    (`files.merge`) meanwhile.
    """

    def __init__(self, base: SortedBands | None = None, layout: Layout = NEAR) -> None:
        self._layout = layout
        self._base = base or SortedBands.empty(layout.small)
        self._delta = Delta(layout.small)

    def __len__(self) -> int:
        return len(self._base) + len(self._delta)

    @property
    def base(self) -> SortedBands:
        """The base in use."""
        return self._base

    @property
    def delta_codes(self) -> int:
        """Count the codes that are not in the base yet."""
        return len(self._delta)

    @property
    def delta_bytes(self) -> int:
        """What those take in memory: with four bands about 60 each, and 1 MB."""
        return self._delta.size_bytes

    def add(self, codes: Codes, numbers: Numbers) -> None:
        """Add codes to the delta."""
        self._delta.add(codes, numbers)

    def search(self, codes: Codes, radius: int) -> Hits:
        """Find every picture within the radius, in base and delta."""
        return collect(codes, radius, self._find)

    def _find(self, queries: Codes, radius: int) -> Iterator[Pairs]:
        yield from self._base.find(queries, radius)
        yield from self._delta.find(queries, radius)

    def freeze(self) -> tuple[Codes, Numbers]:
        """Give the delta's codes and numbers so far, to be merged with the base."""
        return self._delta.frozen()

    def adopt(self, base: SortedBands, count: int) -> None:
        """Replace the base with one that also holds the first `count` codes of the delta."""
        codes, numbers = self._delta.frozen()
        if not 0 <= count <= len(codes):
            raise ValueError(f"a base with {count} of the {len(codes)} codes in the delta")
        delta = Delta(self._layout.small)
        delta.add(codes[count:], numbers[count:])
        self._base, self._delta = base, delta


def rotate(codes: Codes, bits: int) -> Codes:
    """Rotate codes left."""
    return (codes << np.uint64(bits)) | (codes >> np.uint64(-bits % CODE_BITS))


def band_values(rotated: Codes, width: int) -> NDArray[np.int64]:
    """Give the first `width` bits."""
    return (rotated >> np.uint64(CODE_BITS - width)).view(np.int64)


def value_counts(rotated: Codes, width: int) -> NDArray[np.int64]:
    """Count the codes of each band value."""
    return np.bincount(band_values(rotated, width), minlength=1 << width)


def offsets(counts: NDArray[np.int64]) -> Offsets:
    """Give where each band value begins in the sorted codes, and the end."""
    begins = np.zeros(len(counts) + 1, dtype=np.uint32)
    np.cumsum(counts, out=begins[1:])
    return begins


def _portions(
    lengths: Offsets, ends: NDArray[np.int64]
) -> Iterator[tuple[slice, int, int, Offsets | NDArray[np.int64]]]:
    """Cut the candidates of queries, a row each, into portions: of several queries, or of one.

    Gives which queries, the first candidate and the one behind the last, and how many of each run.
    """
    upto = ends[:, -1]
    low, first = 0, 0
    while low < len(upto):
        high = max(low + 1, int(upto.searchsorted(first + _CANDIDATES, side="right")))
        some = slice(low, high)
        last = int(upto[high - 1])
        if last - first <= _CANDIDATES:
            yield some, first, last, lengths[some]
        else:
            begins = ends[some] - lengths[some]
            for begin in range(first, last, _CANDIDATES):
                end = min(last, begin + _CANDIDATES)
                runs = np.clip(ends[some], begin, end) - np.clip(begins, begin, end)
                yield some, begin, end, runs
        low, first = high, last


@cache
def _masks(width: int, radius: int) -> NDArray[np.int64]:
    """Give every value of `width` bits with at most `radius` of them set."""
    return np.array(
        [
            sum(1 << bit for bit in bits)
            for flipped in range(radius + 1)
            for bits in combinations(range(width), flipped)
        ]
    )


def _with(older: SortedBands, codes: Codes, numbers: Numbers) -> SortedBands:
    newer = SortedBands.build(older.bands, codes, numbers)
    merged = [
        merged_band(*parts)
        for parts in zip(older.codes, older.numbers, newer.codes, newer.numbers, strict=True)
    ]
    return SortedBands(
        bands=older.bands,
        codes=tuple(band for band, _ in merged),
        offsets=tuple(a + b for a, b in zip(older.offsets, newer.offsets, strict=True)),
        numbers=tuple(band for _, band in merged),
    )


def merged_band(
    older: Codes, older_numbers: Numbers, newer: Codes, newer_numbers: Numbers
) -> tuple[Codes, Numbers]:
    """Merge two sorted arrays of rotated codes."""
    codes = np.concatenate([older, newer])
    # numpy's stable sort of 64-bit integers merges runs: 1.5 ms for a million in two runs,
    # against 25 for a million in any order.
    order = np.argsort(codes, kind="stable")
    return codes[order], np.concatenate([older_numbers, newer_numbers])[order]
