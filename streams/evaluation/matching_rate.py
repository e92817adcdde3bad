"""Measure the matcher's own work without Kafka: `check-dedup bench matcher`.

Search, decision, row and outcome written, for fingerprints such as photographs have (views, codes
asked, sketches), in groups as the log gives them. Made fingerprints, because 100,000 photographs
are not at hand; `make bench` sends the same ones through a broker.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agents.decide import default_match_settings
from agents.match_images import outcomes
from agents.sketch import sketch_size
from schemas.codec import encode_log
from schemas.records import Fingerprint, Hashed, View
from streams.entry import LogEntry
from streams.index.partition import PartitionIndex


class Made(NamedTuple):
    """How many views a made fingerprint has, and how many codes it asks with beside theirs."""

    views: int
    asked_codes: int

    def __str__(self) -> str:
        """For a person."""
        return f"{self.views} views, {self.asked_codes} codes asked"


PHOTOGRAPH: Final = Made(9, 46)
TWO_VIEWS: Final = Made(2, 0)
# As among photographs: two views of one picture differ in 25 of 64 bits, a code that is only asked
# with and the nearest view in 15; a recompressed copy moves each code by 2.
_SHARE_OF_BITS_BETWEEN_VIEWS: Final = 0.39
_SHARE_OF_BITS_ASKED_TO_VIEW: Final = 0.24
_COPIES_SHARE: Final = 0.3
_WORKSPACES: Final = 32
_SIZE: Final = (384, 256)
_GROUP: Final = 256
_VIRAL_MEASURED: Final = 16


class MatchingRate(msgspec.Struct, frozen=True):
    """Of processor time, so that a busy machine measures the same."""

    pictures: int
    measured: int
    matched: int
    records_per_second: float
    viral_candidates: int
    viral_milliseconds: float

    def __str__(self) -> str:
        """For a person."""
        return (
            f"{self.pictures:,} pictures of {PHOTOGRAPH}; "
            f"{self.measured:,} records, {self.matched:,} with a match\n"
            f"  {self.records_per_second:,.0f} records for each second of one core \n"
            f"  a picture with {self.viral_candidates} candidates, each decided: "
            f"{self.viral_milliseconds:.1f} ms"
        )


def run(pictures: int, measured: int, viral: int, seed: int) -> MatchingRate:
    """Fill an index of one partition, then time further records, then copies of one picture."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="check-dedup-") as folder:
        log = _Log(PartitionIndex(Path(folder), "bench", 0), rng, seed)
        log.fill(pictures)
        records = log.records(measured)
        started = time.process_time()
        matched = log.match(records)
        rate = measured / (time.process_time() - started)
        log.repeat(0, viral)
        records = [log.copy(of=0) for _ in range(_VIRAL_MEASURED)]
        started = time.process_time()
        log.match(records)
        milliseconds = 1000 * (time.process_time() - started) / _VIRAL_MEASURED
        log.index.close()
    return MatchingRate(
        pictures=pictures,
        measured=measured,
        matched=matched,
        records_per_second=rate,
        viral_candidates=min(viral, default_match_settings(1).candidates_bound),
        viral_milliseconds=milliseconds,
    )


class _Log:
    """What the matcher reads, made up."""

    def __init__(self, index: PartitionIndex, rng: np.random.Generator, seed: int) -> None:
        self.index = index
        self._rng, self._seed = rng, seed
        self._origins: list[int] = []
        self._apply([encode_log(default_match_settings(partitions=1))])

    def fill(self, count: int) -> None:
        """Add pictures without telling what became of them, as a rebuild does."""
        for start in range(0, count, _GROUP):
            self._apply(self.records(min(_GROUP, count - start)))

    def records(self, count: int) -> list[bytes]:
        """Make the next records, some of them copies of an earlier picture."""
        return [self._next() for _ in range(count)]

    def copy(self, of: int) -> bytes:
        """One more copy of a picture."""
        number = len(self._origins)
        self._origins.append(of)
        workspace = f"bench-{of % _WORKSPACES}"
        found = made_fingerprint(of, self._seed, copy=number - of)
        return encode_log(Hashed(1, workspace, f"bench-{number}", "event", found, 0))

    def repeat(self, of: int, count: int) -> None:
        """Add copies of one picture, as `fill` does."""
        self._apply([self.copy(of) for _ in range(count)])

    def match(self, encoded: Sequence[bytes]) -> int:
        """As the matcher does, but for delivery; how many had a match."""
        matched = 0
        for start in range(0, len(encoded), _GROUP):
            firsts = self._stage(encoded[start : start + _GROUP])
            made = outcomes(self.index, 0, firsts)
            self.index.commit({first: outcome.value for first, outcome in made.items()})
            matched += sum(bool(one.finding and one.finding.matches) for one in made.values())
        return matched

    def _next(self) -> bytes:
        known = len(self._origins)
        if known and self._rng.random() < _COPIES_SHARE:
            return self.copy(self._origins[int(self._rng.integers(known))])
        return self.copy(known)

    def _apply(self, encoded: Sequence[bytes]) -> None:
        self._stage(encoded)
        self.index.commit({})

    def _stage(self, encoded: Sequence[bytes]) -> list[int]:
        first = self.index.next_offset
        entries = [LogEntry(first + n, 0, b"bench", value) for n, value in enumerate(encoded)]
        return [arrival.first for arrival in self.index.stage(entries, first + len(entries))]


def made_fingerprint(
    number: int, seed: int, *, copy: int = 0, made: Made = PHOTOGRAPH
) -> Fingerprint:
    """A fingerprint as a photograph has it, without the photograph; or that of a copy of it."""
    rng = np.random.default_rng((seed, number))
    centre: NDArray[np.uint8] = rng.integers(0, 2, 64, np.uint8)
    views = centre ^ (rng.random((made.views, 64)) < _SHARE_OF_BITS_BETWEEN_VIEWS).astype(np.uint8)
    asked = views[np.arange(made.asked_codes) % made.views] ^ (
        rng.random((made.asked_codes, 64)) < _SHARE_OF_BITS_ASKED_TO_VIEW
    ).astype(np.uint8)
    fines = [rng.bytes(32) for _ in range(made.views)]
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12), np.uint8))
    grey = np.asarray(coarse.resize(sketch_size(*_SIZE), Image.Resampling.BICUBIC))
    changes = np.random.default_rng((seed, number, copy))
    if copy:
        views, asked = _moved(views, changes), _moved(asked, changes)
        noise = changes.integers(-2, 3, grey.shape)
        grey = np.clip(grey + noise, 0, 255).astype(np.uint8)
    codes = [row.tobytes() for row in np.packbits(views, axis=1)]
    rectangle = (0, 0, *_SIZE)
    return Fingerprint(
        version=1,
        sha256=changes.bytes(32),
        format="JPEG",
        width_pixels=3 * _SIZE[0],
        height_pixels=3 * _SIZE[1],
        decoded_width_pixels=_SIZE[0],
        decoded_height_pixels=_SIZE[1],
        views=tuple(
            View("whole" if not view else f"view {view}", rectangle, code, fine)
            for view, (code, fine) in enumerate(zip(codes, fines, strict=True))
        ),
        frame=rectangle,
        asked=np.packbits(asked, axis=1).tobytes(),
        sketch=grey.tobytes(),
    )


def _moved(codes: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    moved = codes.copy()
    moved[np.arange(len(codes))[:, None], rng.integers(0, 64, (len(codes), 2))] ^= 1
    return moved
