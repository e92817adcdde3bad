"""Every code space keeps the same promises: brute force, and multi-index hashing in each state."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from streams.index import files
from streams.index.mih import MultiIndexHash
from streams.index.scan import Scan
from streams.index.space import Codes, CodeSpace, Numbers

ALL_ONES = 2**64 - 1


def _scanned(codes: Codes, numbers: Numbers, _: Path) -> CodeSpace:
    space = Scan()
    space.add(codes, numbers)
    return space


def _in_the_delta(codes: Codes, numbers: Numbers, _: Path) -> CodeSpace:
    space = MultiIndexHash()
    space.add(codes, numbers)
    return space


def _in_the_base(codes: Codes, numbers: Numbers, directory: Path) -> CodeSpace:
    manifest = files.merge(None, codes, numbers, directory / "base")
    return MultiIndexHash(files.open_files(directory / "base", manifest))


def _in_both(codes: Codes, numbers: Numbers, directory: Path) -> CodeSpace:
    half = len(codes) // 2
    space = _in_the_base(codes[:half], numbers[:half], directory)
    space.add(codes[half:], numbers[half:])
    return space


Holding = Callable[[list[int], list[int]], CodeSpace]


@pytest.fixture(params=[_scanned, _in_the_delta, _in_the_base, _in_both])
def holding(request: pytest.FixtureRequest, tmp_path: Path) -> Holding:
    """Put codes into a space of each kind."""

    def hold(codes: list[int], numbers: list[int]) -> CodeSpace:
        space: CodeSpace = request.param(
            np.array(codes, dtype=np.uint64), np.array(numbers, dtype=np.uint32), tmp_path
        )
        return space

    return hold


def _found(space: CodeSpace, codes: list[int], radius: int) -> list[tuple[int, int, int]]:
    hits = space.search(np.array(codes, dtype=np.uint64), radius)
    dtypes = [array.dtype for array in (hits.query, hits.number, hits.distance)]
    assert dtypes == [np.int64, np.uint32, np.uint8]
    return list(zip(hits.query.tolist(), hits.number.tolist(), hits.distance.tolist(), strict=True))


def test_finds_what_python_integers_find(holding: Holding) -> None:
    """Hits are all pairs within the radius by plain integer arithmetic, in order."""
    rng = np.random.default_rng(3)
    queries = [*rng.integers(0, 2**64, 6, dtype=np.uint64).tolist(), 0, ALL_ONES]
    flips = [0, 1, 1 << 63, 0b111, ALL_ONES >> 48, ALL_ONES >> 47, 0x0101010101010101]
    codes = [query ^ flip for query in queries for flip in flips]
    numbers = [i // 3 for i in range(len(codes))]
    space = holding(codes, numbers)
    for radius in range(17):
        nearest: dict[tuple[int, int], int] = {}
        for row, query in enumerate(queries):
            for code, number in zip(codes, numbers, strict=True):
                distance = (query ^ code).bit_count()
                if distance <= radius:
                    nearest[row, number] = min(distance, nearest.get((row, number), 99))
        expected = [(row, number, distance) for (row, number), distance in nearest.items()]
        assert _found(space, queries, radius) == sorted(expected)


def test_a_picture_is_hit_once_with_its_nearest_code(holding: Holding) -> None:
    """Several codes of one picture give one hit, with the smallest distance."""
    space = holding([0b1111, 0b1, 0b11, 0b111], [7, 7, 7, 9])
    assert _found(space, [0], 8) == [(0, 7, 1), (0, 9, 3)]


def test_equal_queries_have_equal_hits(holding: Holding) -> None:
    """A code asked for twice is answered twice, in the order asked."""
    space = holding([5, 6, 4], [0, 1, 2])
    assert _found(space, [5, 6, 5], 0) == [(0, 0, 0), (1, 1, 0), (2, 0, 0)]


def test_the_extreme_codes_and_numbers_are_ordinary(holding: Holding) -> None:
    """No code and no picture number is special."""
    space = holding([0, ALL_ONES], [0, 2**32 - 1])
    assert _found(space, [ALL_ONES, 0, 1], 1) == [(0, 2**32 - 1, 0), (1, 0, 0), (2, 0, 1)]


def test_an_empty_space_and_an_empty_search_have_no_hits(holding: Holding) -> None:
    """Nothing asked or nothing stored is not an error."""
    assert _found(holding([], []), [1], 16) == []


def test_a_search_for_nothing_has_no_hits(holding: Holding) -> None:
    """No codes asked for, no hits."""
    assert _found(holding([1, 2], [0, 1]), [], 16) == []


def test_length_counts_codes(holding: Holding) -> None:
    """Equal codes count too."""
    assert len(holding([1, 1, 2], [0, 0, 1])) == 3


@pytest.mark.parametrize("radius", [-1, 17])
def test_refuses_a_radius_out_of_range(holding: Holding, radius: int) -> None:
    """Only 0 to 16 can be answered."""
    with pytest.raises(ValueError, match=f"radius {radius}"):
        holding([1], [0]).search(np.zeros(1, dtype=np.uint64), radius)
