"""Multi-index hashing finds exactly what brute force finds, whatever the codes and the history."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.index import files, mih, scan
from streams.index.mih import NEAR, Bands, Layout, MultiIndexHash, SortedBands
from streams.index.scan import Scan
from streams.index.space import Codes, Pairs

RADII = range(17)
ALL_ONES = 2**64 - 1
EXAMPLES = settings(deadline=None, max_examples=200)


@pytest.fixture(autouse=True, scope="module")
def small_limits() -> Iterator[None]:
    """Make a few hundred codes take every turn that millions take, without waiting for disks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mih, "_COMPARE_NS", 1e9)
        patch.setattr(mih, "_PROBES", 700)
        patch.setattr(mih, "_CANDIDATES", 41)
        patch.setattr(mih, "TAIL_CODES", 30)
        patch.setattr(scan, "_TILE_PAIRS", 160)
        patch.setattr(files, "_BLOCK_CODES", 16)
        patch.setattr(files, "_SORTED_CODES", 37)
        patch.setattr(os, "fsync", lambda _: None)
        yield


band_widths = (
    st.lists(st.integers(1, 12), min_size=1, max_size=8)
    .filter(lambda widths: sum(widths) <= 64)
    .map(tuple)
)
layouts = st.builds(
    Layout,
    small=st.one_of(st.just(NEAR.small), band_widths.map(Bands)),
    large=band_widths.map(Bands),
    large_from_codes=st.integers(0, 300),
)


@st.composite
def crowded_codes(draw: st.DrawFn, most: int = 120) -> Codes:
    """Draw codes near few centres: duplicates, one bit apart, differing in one stretch."""
    anything = st.integers(0, ALL_ONES)
    centres = draw(st.lists(st.one_of(st.sampled_from([0, ALL_ONES]), anything), max_size=3))
    stretch = st.builds(
        lambda bits, start: (bits << start | bits << start >> 64) & ALL_ONES,
        st.integers(0, 2**17 - 1),
        st.integers(0, 63),
    )
    scattered = st.lists(st.integers(0, 63), max_size=18).map(
        lambda bits: sum(1 << bit for bit in set(bits))
    )
    flips = st.one_of(st.just(0), st.sampled_from([1, 1 << 63]), stretch, scattered)
    near = st.builds(lambda centre, flip: centre ^ flip, st.sampled_from([*centres, 0]), flips)
    return np.array(draw(st.lists(st.one_of(near, near, anything), max_size=most)), dtype=np.uint64)


def _assert_equal_hits(space: MultiIndexHash, oracle: Scan, queries: Codes, radius: int) -> None:
    got, wanted = space.search(queries, radius), oracle.search(queries, radius)
    assert got.query.tolist() == wanted.query.tolist()
    assert got.number.tolist() == wanted.number.tolist()
    assert got.distance.tolist() == wanted.distance.tolist()


class History:
    """A space and its oracle, through adds, merges under way and adoptions."""

    def __init__(self, layout: Layout, directory: Path) -> None:
        self.space, self.oracle = MultiIndexHash(layout=layout), Scan()
        self._layout, self._directory = layout, directory
        self._merges = 0
        self._pictures = 0
        self._merged: tuple[SortedBands, int] | None = None

    def add(self, codes: Codes) -> None:
        """Add codes, three a picture."""
        numbers = (self._pictures + np.arange(len(codes)) // 3).astype(np.uint32)
        self._pictures += len(codes)
        self.space.add(codes, numbers)
        self.oracle.add(codes, numbers)

    def merge(self) -> None:
        """Merge what is there into files and open them; adds may follow before the adoption."""
        self._merges += 1
        directory = self._directory / str(self._merges)
        codes, numbers = self.space.freeze()
        manifest = files.merge(self.space.base, codes, numbers, directory, self._layout)
        self._merged = files.open_files(directory, manifest), len(codes)

    def adopt(self) -> None:
        """Adopt the last merge, if there is one."""
        if self._merged:
            self.space.adopt(*self._merged)
            self._merged = None


@EXAMPLES
@given(
    layout=layouts,
    steps=st.lists(
        st.one_of(crowded_codes(), st.sampled_from(["merge", "adopt"])), min_size=1, max_size=7
    ),
    queries=crowded_codes(most=40),
    radius=st.sampled_from(RADII),
)
def test_hits_are_those_of_brute_force(
    layout: Layout, steps: list[Codes | str], queries: Codes, radius: int
) -> None:
    """Through any history of adds, merges and adoptions, with any bands."""
    with tempfile.TemporaryDirectory() as directory:
        history = History(layout, Path(directory))
        for step in steps:
            if isinstance(step, str):
                getattr(history, step)()
            else:
                history.add(step)
            asked = np.concatenate([queries, step[::7]]) if not isinstance(step, str) else queries
            _assert_equal_hits(history.space, history.oracle, asked, radius)
            assert len(history.space) == len(history.oracle)


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize(
    "bands", [NEAR.small, NEAR.large, Bands((13, 13, 13, 13, 12)), Bands((12,)), Bands((7, 6))]
)
def test_a_pair_that_only_one_band_can_find_is_found(bands: Bands, radius: int) -> None:
    """Differences one beyond every band's radius but one band's, where they are exactly it."""
    rng = np.random.default_rng(radius)
    radii = bands.radii(radius)
    centre = int(rng.integers(0, 2**64, dtype=np.uint64))
    codes = []
    for finding in (band for band, near in enumerate(radii) if near >= 0):
        code = centre
        for band, (width, start) in enumerate(zip(bands.widths, bands.starts, strict=True)):
            flipped = min(width, radii[band] + (band != finding))
            for bit in rng.permutation(width)[:flipped].tolist():
                code ^= 1 << (63 - start - bit)
        codes.append(code)
    codes.append(codes[0] ^ _unset_bits(codes[0] ^ centre, 17))
    stored = np.array(codes, dtype=np.uint64)
    space = MultiIndexHash(SortedBands.build(bands, stored, np.arange(len(codes), dtype=np.uint32)))
    hits = space.search(np.array([centre], dtype=np.uint64), radius)
    assert hits.number.tolist() == list(range(len(codes) - 1))
    assert hits.distance.tolist() == [(code ^ centre).bit_count() for code in codes[:-1]]
    if sum(bands.widths) == 64:
        assert set(hits.distance.tolist()) == {radius}


def _unset_bits(code: int, count: int) -> int:
    unset = [bit for bit in range(64) if not code >> bit & 1]
    return sum(1 << bit for bit in unset[:count])


@pytest.mark.parametrize("radius", RADII)
def test_every_radius_agrees_on_random_and_clustered_codes(radius: int, tmp_path: Path) -> None:
    """A base in files, a sorted delta and a tail together, thousands of codes."""
    rng = np.random.default_rng(radius)
    centres = rng.integers(0, 2**64, 60, dtype=np.uint64)
    codes = rng.choice(centres, 3_000)
    for _ in range(16):
        flipped = rng.random(len(codes)) < rng.random()
        codes = np.where(
            flipped, codes ^ (np.uint64(1) << rng.integers(0, 64, len(codes), np.uint64)), codes
        )
    history = History(Layout(Bands((9, 9, 9, 9)), Bands((11, 10, 10)), 2_000), tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mih, "_CANDIDATES", 1_000)
        patch.setattr(mih, "_PROBES", 20_000)
        patch.setattr(mih, "TAIL_CODES", 300)
        patch.setattr(files, "_BLOCK_CODES", 500)
        patch.setattr(files, "_SORTED_CODES", 700)
        for part in np.split(codes, [900, 1_000, 2_400, 2_800]):
            history.add(part)
            history.adopt()
            history.merge()
            _assert_equal_hits(history.space, history.oracle, centres, radius)


@pytest.mark.parametrize("radius", [0, 8, 16])
def test_one_code_stored_everywhere_is_found_everywhere(radius: int) -> None:
    """All codes equal: one value of every band holds them all, a hit for each picture."""
    codes = np.full(500, 0x0123456789ABCDEF, dtype=np.uint64)
    bands = SortedBands.build(NEAR.small, codes, np.arange(500, dtype=np.uint32))
    hits = MultiIndexHash(bands).search(codes[:3] ^ np.uint64(0), radius)
    assert hits.number.tolist() == list(range(500)) * 3
    assert hits.query.tolist() == [row for row in range(3) for _ in range(500)]
    assert not hits.distance.any()


def test_the_flat_scan_of_a_base_is_exact_too() -> None:
    """Where the estimate prefers it, the base is scanned, with equal hits."""
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 2**64, 400, dtype=np.uint64)
    numbers = np.arange(400, dtype=np.uint32)
    bands = SortedBands.build(Bands((10, 10)), codes, numbers)
    probed: list[Pairs] = list(bands.find(np.unique(codes[:9]), 16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mih, "_COMPARE_NS", 0.0)
        scanned: list[Pairs] = list(bands.find(np.unique(codes[:9]), 16))
    assert set(np.concatenate(probed).tolist()) == set(np.concatenate(scanned).tolist())
