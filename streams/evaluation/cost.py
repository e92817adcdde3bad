"""What a fingerprint costs, and how far reduced decoding moves its code: on large JPEGs.

Called by `make evaluate`. Few collections hold large pictures, so some are made: photographs
enlarged to a size, and mosaics of several, which have detail at every scale.
"""

import io
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Final

import imagehash
import msgspec
import numpy as np
from PIL import Image
from PIL.Image import Resampling

from agents.decode import DecodeLimits
from agents.fingerprint import fingerprint
from schemas.records import Fingerprint
from streams.decoding.pool import ONE_THREAD
from streams.evaluation.alterations import jpeg

_LIMITS: Final = DecodeLimits(pixels=100_000_000)
_REPEATED: Final = 5
_TILE: Final = (480, 320)
_TILES: Final = ((4, 4), (5, 5), (6, 5), (7, 7))
"""Columns and rows: 2.5 to 7.5 MP."""
_SEED: Final = 0


class Cost(msgspec.Struct, frozen=True):
    """One fingerprint of a JPEG: milliseconds of processor time, and memory beyond the imports."""

    milliseconds_small: float
    milliseconds_large: float
    imagehash_milliseconds_small: float
    megabytes_large: float


class Drift(msgspec.Struct, frozen=True):
    """Bits of 64 between our code of the whole picture and imagehash's of the full-size one."""

    pictures: int
    mean: float
    percentile_95: float
    worst: int


def cost(
    pictures: Sequence[Path], *, small: int = 1_000_000, large: int = 8_000_000, timed: int = 12
) -> Cost:
    """Measure on a few of the pictures, enlarged to a small and a large number of pixels."""
    smalls = [_enlarged(path, small) for path in pictures[:timed]]
    larges = [_enlarged(path, large) for path in pictures[: max(1, timed // 4)]]
    with bare_pool(1) as child:
        return child.apply(_measured, (smalls, larges))


@contextmanager
def bare_pool(processes: int) -> Iterator[Pool]:
    """Give a plain pool, each child with one thread, as where the product hashes."""
    before = dict(os.environ)
    os.environ.update(ONE_THREAD)
    try:
        pool = get_context("spawn").Pool(processes)  # they are started here, with this environment
    finally:
        os.environ.clear()
        os.environ.update(before)
    with pool:
        yield pool


def _measured(smalls: Sequence[bytes], larges: Sequence[bytes]) -> Cost:
    """In a process of its own, with one thread as where the product hashes."""
    return Cost(
        megabytes_large=_memory(smalls[0], larges[0]),  # before anything has raised the peak
        milliseconds_small=_milliseconds(_fingerprint, smalls),
        milliseconds_large=_milliseconds(_fingerprint, larges),
        imagehash_milliseconds_small=_milliseconds(_imagehash, smalls),
    )


def drift(pictures: Sequence[Path], mosaics: int = 40) -> Drift:
    """Measure on mosaics of the pictures."""
    chosen = random.Random(_SEED)  # noqa: S311 - made pictures, not secrets
    distances = []
    for number in range(mosaics):
        content = _mosaic(pictures, *_TILES[number % len(_TILES)], chosen)
        ours = int.from_bytes(_fingerprint(content).views[0].code)
        with Image.open(io.BytesIO(content)) as image:
            bits = np.packbits(imagehash.phash(image.convert("L")).hash.flatten())
        distances.append((ours ^ int.from_bytes(bits.tobytes())).bit_count())
    return Drift(
        pictures=len(distances),
        mean=statistics.fmean(distances),
        percentile_95=float(np.percentile(distances, 95)),
        worst=max(distances),
    )


def _mosaic(pictures: Sequence[Path], columns: int, rows: int, chosen: random.Random) -> bytes:
    page = Image.new("RGB", (columns * _TILE[0], rows * _TILE[1]))
    for column in range(columns):
        for row in range(rows):
            with Image.open(chosen.choice(pictures)) as image:
                tile = image.convert("RGB").resize(_TILE, Resampling.BICUBIC)
            page.paste(tile, (column * _TILE[0], row * _TILE[1]))
    return jpeg(page, chosen.choice((75, 85, 92)))


def _enlarged(path: Path, pixels: int) -> bytes:
    with Image.open(path) as image:
        factor = (pixels / (image.width * image.height)) ** 0.5
        size = round(image.width * factor), round(image.height * factor)
        return jpeg(image.convert("RGB").resize(size, Resampling.BICUBIC))


def _milliseconds(work: Callable[[bytes], object], contents: Sequence[bytes]) -> float:
    """Median over the pictures of the best of several: a busy machine only adds."""
    best = []
    for content in contents:
        times = []
        for _ in range(_REPEATED):
            started = time.process_time()
            work(content)
            times.append(time.process_time() - started)
        best.append(min(times))
    return 1000 * statistics.median(best)


def _memory(small: bytes, large: bytes) -> float:
    """How much the peak of this process rises by a large picture."""
    _fingerprint(small)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is what is held now
    before = _peak_kibibytes()
    _fingerprint(large)
    return (_peak_kibibytes() - before) / 1024


def _peak_kibibytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _fingerprint(content: bytes) -> Fingerprint:
    made = fingerprint(content, _LIMITS)
    if not isinstance(made, Fingerprint):
        raise TypeError(f"made pictures are readable: {made}")
    return made


def _imagehash(content: bytes) -> object:
    with Image.open(io.BytesIO(content)) as image:
        return imagehash.phash(image)
