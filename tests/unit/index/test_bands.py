"""Bands and delta: which bands are allowed, when probing is worth it, what adds cost."""

import tracemalloc

import numpy as np
import pytest

from streams.index import mih
from streams.index.mih import EXACT, NEAR, Bands, Layout, MultiIndexHash, SortedBands
from streams.index.space import Codes, Numbers

LAYOUT_BANDS = [NEAR.small, NEAR.large, EXACT.small, EXACT.large]


@pytest.mark.parametrize("widths", [(), (0, 8), (25,), (16, 16, 16, 17)])
def test_refuses_bands_that_do_not_fit(widths: tuple[int, ...]) -> None:
    """A band has 1 to 24 bits, all together at most 64."""
    with pytest.raises(ValueError, match="do not fit"):
        Bands(widths)


@pytest.mark.parametrize("bands", LAYOUT_BANDS)
def test_radii_are_sufficient_and_no_larger(bands: Bands) -> None:
    """The radii plus one add up to the radius plus one, the least that misses nothing."""
    for radius in range(17):
        assert sum(near + 1 for near in bands.radii(radius)) == radius + 1


@pytest.mark.parametrize("bands", LAYOUT_BANDS)
def test_equal_codes_need_one_probe(bands: Bands) -> None:
    """At radius 0 only the first band is read, with one value."""
    assert bands.probes(0) == (1, *[0] * (len(bands.widths) - 1))


def test_a_large_space_is_probed_and_a_small_one_scanned() -> None:
    """The estimate agrees with what was measured clearly, at both ends."""
    assert NEAR.large.probing_wins(36_000_000, 10, 8)
    assert NEAR.small.probing_wins(200_000, 512, 10)
    assert not NEAR.small.probing_wins(1_000, 10, 8)
    assert not NEAR.small.probing_wins(200_000, 1, 16)
    assert not EXACT.large.probing_wins(36_000_000, 1, 16)


def test_a_layout_widens_bands_with_the_number_of_codes() -> None:
    """The large bands count from the stated number on."""
    assert NEAR.bands(NEAR.large_from_codes - 1) == NEAR.small
    assert NEAR.bands(NEAR.large_from_codes) == NEAR.large


def test_codes_and_numbers_must_be_equally_many() -> None:
    """A code without a picture is refused."""
    with pytest.raises(ValueError, match="2 codes, but 1 numbers"):
        MultiIndexHash().add(np.zeros(2, dtype=np.uint64), np.zeros(1, dtype=np.uint32))


@pytest.mark.parametrize("count", [-1, 2])
def test_adopts_no_more_than_the_delta_has(count: int) -> None:
    """A base that claims codes which were never added is refused."""
    space = MultiIndexHash()
    space.add(np.zeros(1, dtype=np.uint64), np.zeros(1, dtype=np.uint32))
    with pytest.raises(ValueError, match="of the 1 codes"):
        space.adopt(SortedBands.empty(NEAR.small), count)


def test_frozen_codes_cannot_be_written() -> None:
    """A merge cannot spoil the delta that searches still read."""
    space = MultiIndexHash()
    space.add(np.zeros(1, dtype=np.uint64), np.zeros(1, dtype=np.uint32))
    for array in space.freeze():
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_frozen_codes_outlast_later_adds() -> None:
    """A merge reads what it was given, though the delta grows out of its arrays meanwhile."""
    codes = np.arange(50_000, dtype=np.uint64)
    numbers = np.arange(50_000, dtype=np.uint32)
    space = MultiIndexHash()
    space.add(codes, numbers)
    frozen = space.freeze()
    for _ in range(3):
        space.add(~codes, numbers + np.uint32(50_000))
    assert np.array_equal(frozen[0], codes)
    assert np.array_equal(frozen[1], numbers)


def test_the_size_of_a_delta_is_what_it_takes() -> None:
    """Added in many pieces, no array is much larger than its codes; a merge gives all of it back.

    numpy tells tracemalloc what it allocates.
    """
    chance = np.random.default_rng(8)
    pieces = [chance.integers(0, 2**63, 900).astype(np.uint64) for _ in range(50)]
    numbers = np.arange(900, dtype=np.uint32)
    tracemalloc.start()
    space = MultiIndexHash()
    empty = space.delta_bytes
    for piece in pieces:
        space.add(piece, numbers)
    taken, _ = tracemalloc.get_traced_memory()
    assert space.delta_bytes - empty < 65 * space.delta_codes
    assert space.delta_bytes == pytest.approx(taken - space.base.size_bytes, rel=0.02)
    space.adopt(space.base, space.delta_codes)
    tracemalloc.stop()
    assert space.delta_bytes == empty


def test_a_probe_takes_little_memory_however_many_codes_it_meets() -> None:
    """All codes are equal: the index of somebody who sends one picture again and again."""
    count = 400_000
    codes = np.zeros(count, np.uint64)
    bands = SortedBands.build(NEAR.small, codes, np.arange(count, dtype=np.uint32))
    assert bands.bands.probing_wins(count, 1, 10)
    tracemalloc.start()
    found = sum(len(pairs) for pairs in bands.find(codes[:1], 10))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found >= count
    assert most < 2_500_000


def test_loading_many_codes_sorts_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large delta is sorted when it has grown by a thirty-second, not with every add."""
    sorts = []
    with_tail = mih._with

    def counted(older: SortedBands, codes: Codes, numbers: Numbers) -> SortedBands:
        sorts.append(len(older))
        return with_tail(older, codes, numbers)

    monkeypatch.setattr(mih, "_with", counted)
    monkeypatch.setattr(mih, "TAIL_CODES", 1)
    space = MultiIndexHash(layout=Layout(Bands((4,)), Bands((4,)), 0))
    codes = np.zeros(10, dtype=np.uint64)
    for _ in range(1_000):
        space.add(codes, codes.astype(np.uint32))
    assert len(sorts) < 250
