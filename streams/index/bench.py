"""Measure the search against FAISS on this machine: `check-dedup bench search`.

Ours searches a base of memory-mapped files and a delta, for all codes of a picture in one call;
FAISS's flat binary index gets the same calls. Both use one thread and must find the same pictures.
"""

import tempfile
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.errors import MisconfiguredError
from streams.index import files
from streams.index.mih import MultiIndexHash
from streams.index.space import Codes, Hits, collect, pair

Kind = Literal["uniform", "skewed"]

_CODES_PER_PICTURE = 10
_MAX_DELTA_CODES = 365_000
_FAISS_PICTURES = 20
"""FAISS takes 0.1 to 0.3 s for a picture among 36 million codes."""
_FAISS_NEAREST = 16
_BLOCK_PICTURES = 100_000

_MATCHER_CODES = 200_000
_MATCHER_RADIUS = 10
_MATCHER_PICTURES = 256
_MATCHER_CODES_PER_PICTURE = 2


class Report(msgspec.Struct, frozen=True):
    """What was measured; `str()` is for a person."""

    codes: int
    delta_codes: int
    pictures: int
    radius: int
    kind: Kind
    build_seconds: float
    open_seconds: float
    hits: int
    p50_milliseconds: float
    p95_milliseconds: float
    faiss_pictures: int
    faiss_p50_milliseconds: float
    faiss_p95_milliseconds: float
    batch_microseconds_per_picture: float
    cpu: str
    avx512: bool
    numpy_version: str
    faiss_version: str

    @property
    def ratio(self) -> float:
        """How many times FAISS's median is ours."""
        return self.faiss_p50_milliseconds / self.p50_milliseconds

    def __str__(self) -> str:
        return f"""\
{self.codes:,} {self.kind} codes ({self.delta_codes:,} in the delta), radius {self.radius}, \
{_CODES_PER_PICTURE} codes a picture, one thread
  multi-index hashing  p50 {self.p50_milliseconds:8.2f} ms  p95 {self.p95_milliseconds:8.2f} ms \
a picture  ({self.pictures} pictures, {self.hits} hits)
  FAISS flat           p50 {self.faiss_p50_milliseconds:8.2f} ms  \
p95 {self.faiss_p95_milliseconds:8.2f} ms a picture  ({self.faiss_pictures} pictures, equal hits)
  ratio of medians     {self.ratio:.1f}
  files                built in {self.build_seconds:.1f} s, opened in {self.open_seconds:.1f} s
{min(self.codes, _MATCHER_CODES):,} codes, radius {_MATCHER_RADIUS}, {_MATCHER_PICTURES} pictures \
of {_MATCHER_CODES_PER_PICTURE} codes in one call
  multi-index hashing  {self.batch_microseconds_per_picture:.1f} us a picture
{self.cpu}, AVX-512: {"yes" if self.avx512 else "no"}, numpy {self.numpy_version}, \
FAISS {self.faiss_version}"""


def run(codes: int, queries: int, radius: int, seed: int, kind: Kind = "uniform") -> Report:
    """Search for `queries` pictures among `codes` codes.

    Raises MisconfiguredError without FAISS, RuntimeError if the two find different pictures.
    """
    faiss = _faiss()
    rng = np.random.default_rng(seed)
    stored = generate(-(-codes // _CODES_PER_PICTURE), kind, rng).ravel()[:codes]
    numbers = (np.arange(codes) // _CODES_PER_PICTURE).astype(np.uint32)
    asked = _asked(stored, queries, kind, rng)
    base_codes = codes - min(codes // 100, _MAX_DELTA_CODES)
    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()
        manifest = files.merge(
            None, stored[:base_codes], numbers[:base_codes], Path(directory) / "base"
        )
        built = time.perf_counter()
        space = MultiIndexHash(files.open_files(Path(directory) / "base", manifest))
        opened = time.perf_counter()
        space.add(stored[base_codes:], numbers[base_codes:])
        milliseconds, hits = _timed(space, asked, radius)
    flat = _Flat(faiss, stored)
    faiss_milliseconds, faiss_hits = _timed(flat, asked[:_FAISS_PICTURES], radius)
    for ours, theirs in zip(hits, faiss_hits, strict=False):
        if _triples(ours) != _triples(theirs):
            raise RuntimeError("FAISS and multi-index hashing find different pictures")
    flags, cpu = _processor()
    return Report(
        codes=codes,
        delta_codes=space.delta_codes,
        pictures=queries,
        radius=radius,
        kind=kind,
        build_seconds=built - started,
        open_seconds=opened - built,
        hits=sum(len(found) for found in hits),
        p50_milliseconds=float(np.percentile(milliseconds, 50)),
        p95_milliseconds=float(np.percentile(milliseconds, 95)),
        faiss_pictures=len(faiss_hits),
        faiss_p50_milliseconds=float(np.percentile(faiss_milliseconds, 50)),
        faiss_p95_milliseconds=float(np.percentile(faiss_milliseconds, 95)),
        batch_microseconds_per_picture=_batch(stored, numbers, kind, rng),
        cpu=cpu,
        avx512="avx512f" in flags,
        numpy_version=np.__version__,
        faiss_version=faiss.__version__,
    )


def generate(pictures: int, kind: Kind, rng: np.random.Generator) -> NDArray[np.uint64]:
    """Make the codes of pictures, one row each.

    Skewed codes have the two faults of real ones: some bits are set in 30 to 70 % of them, and the
    codes of a picture differ in 8 bits on average, not 32.
    """
    shape = (pictures, _CODES_PER_PICTURE)
    if kind == "uniform":
        return rng.integers(0, 2**64, shape, dtype=np.uint64)
    likelihood = rng.uniform(0.3, 0.7, 64) * 256
    codes = np.empty(shape, dtype=np.uint64)
    for first in range(0, pictures, _BLOCK_PICTURES):
        block = codes[first : first + _BLOCK_PICTURES]
        bits = rng.integers(0, 256, (len(block), 64), dtype=np.uint8) < likelihood
        block[:] = np.packbits(bits, axis=1).view(np.uint64)
        block[:, 1:] ^= np.bitwise_and.reduce(
            rng.integers(0, 2**64, (3, len(block), _CODES_PER_PICTURE - 1), dtype=np.uint64)
        )
    return codes


def _asked(stored: Codes, pictures: int, kind: Kind, rng: np.random.Generator) -> list[Codes]:
    """Every other picture is a stored one with one bit of each code changed; the others are new."""
    asked = generate(pictures, kind, rng)
    known = rng.integers(0, max(1, len(stored) // _CODES_PER_PICTURE), len(asked[::2]))
    rows = known[:, None] * _CODES_PER_PICTURE + np.arange(_CODES_PER_PICTURE)
    flips = np.uint64(1) << rng.integers(0, 64, rows.shape, dtype=np.uint64)
    asked[::2] = stored.take(rows, mode="wrap") ^ flips
    return list(asked)


class _Flat:
    """FAISS's brute force behind our search."""

    def __init__(self, faiss: ModuleType, codes: Codes) -> None:
        faiss.omp_set_num_threads(1)
        self._index = faiss.IndexBinaryFlat(64)
        self._index.add(codes.view(np.uint8).reshape(-1, 8))

    def search(self, codes: Codes, radius: int) -> Hits:
        return collect(codes, radius, lambda queries, near: [self._pairs(queries, near)])

    def _pairs(self, queries: Codes, radius: int) -> NDArray[np.uint64]:
        # Twice as fast as FAISS's range search, for the same answer: ask for so many nearest codes
        # that the last ones are beyond the radius.
        count = min(_FAISS_NEAREST, self._index.ntotal)
        distances, rows = self._index.search(queries.view(np.uint8).reshape(-1, 8), count)
        while count < self._index.ntotal and (distances[:, -1] <= radius).any():
            count = min(4 * count, self._index.ntotal)
            distances, rows = self._index.search(queries.view(np.uint8).reshape(-1, 8), count)
        query, place = np.nonzero(distances <= radius)
        numbers = (rows[query, place] // _CODES_PER_PICTURE).astype(np.uint32)
        return pair(query, numbers, distances[query, place].astype(np.uint8))


def _timed(
    space: MultiIndexHash | _Flat, asked: list[Codes], radius: int
) -> tuple[list[float], list[Hits]]:
    milliseconds, hits = [], []
    space.search(asked[0], radius)
    for codes in asked:
        started = time.perf_counter()
        hits.append(space.search(codes, radius))
        milliseconds.append((time.perf_counter() - started) * 1e3)
    return milliseconds, hits


def _batch(
    stored: Codes, numbers: NDArray[np.uint32], kind: Kind, rng: np.random.Generator
) -> float:
    """Measure a group of the matcher's size in a space of one workspace's size."""
    space = MultiIndexHash()
    space.add(stored[:_MATCHER_CODES], numbers[:_MATCHER_CODES])
    asked = [
        generate(_MATCHER_PICTURES, kind, rng)[:, :_MATCHER_CODES_PER_PICTURE].ravel()
        for _ in range(20)
    ]
    milliseconds, _ = _timed(space, asked, _MATCHER_RADIUS)
    return float(np.median(milliseconds)) * 1e3 / _MATCHER_PICTURES


def _triples(hits: Hits) -> list[tuple[int, int, int]]:
    return list(zip(hits.query.tolist(), hits.number.tolist(), hits.distance.tolist(), strict=True))


def _faiss() -> ModuleType:
    try:
        return import_module("faiss")
    except ModuleNotFoundError as error:
        raise MisconfiguredError("the benchmark compares with FAISS: install faiss-cpu") from error


def _processor() -> tuple[list[str], str]:
    """Give the first processor's flags and its name."""
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return facts.get("flags", "").split(), facts.get("model name", "unknown processor")
