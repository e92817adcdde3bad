"""The perceptual hashes of many rectangles of one picture, as imagehash would compute each.

Called by `agents.fingerprint`. `code` is `imagehash.phash(view, hash_size=8)`, `fine` the same
with 16, bit for bit: the signs of the low frequencies of a DCT-II of the view against their
median (C. Zauner, *Implementation and Benchmarking of Perceptual Image Hash Functions*, 2010).

Nearly all of the work is Pillow's Lanczos reduction to 32 x 32 and 64 x 64 samples. Pillow reduces
columns first, then rows, each with integer weights of 22 bits and rounding to whole grey levels
(`Resample.c`). Those sums are exact in double precision, so here they are two matrix products,
and rectangles with the same columns share the first. Ten rectangles of a 384 x 256 picture take
1.5 ms instead of 8.5.
"""

import functools
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

Rectangle = tuple[int, int, int, int]
Luma = NDArray[np.uint8]
Samples = NDArray[np.float64]

CODE_SIDE: Final = 8
FINE_SIDE: Final = 16
# imagehash's `highfreq_factor`: samples per side for each frequency kept.
_SAMPLES_PER_FREQUENCY: Final = 4
_CODE_SAMPLES: Final = CODE_SIDE * _SAMPLES_PER_FREQUENCY
_FINE_SAMPLES: Final = FINE_SIDE * _SAMPLES_PER_FREQUENCY

_LANCZOS_SUPPORT: Final = 3.0
_WEIGHT_BITS: Final = 22
# The band of the weights is about a tenth of its matrix; four blocks of it are a third.
_BANDS: Final = 4
_LEAST_BANDED: Final = 128
# Frequencies are up to 4 x 255 x 64 x 64; computed in two ways they differ by less than 1e-7.
_DOUBTFUL: Final = 1e-3


class _Block(NamedTuple):
    """Weights from lines `start` to `stop` to samples `first` to `end`; others are 0."""

    start: int
    stop: int
    first: int
    end: int
    weights: Samples


class Hashed(NamedTuple):
    """The hashes of one rectangle, and its `amplitude`: how much of a pattern there is.

    That is the mean absolute value, in grey levels, of the frequencies that make up `code`,
    without the constant one.
    """

    code: bytes
    fine: bytes
    amplitude: float


def phash_all(luma: Luma, rectangles: Sequence[Rectangle]) -> list[Hashed]:
    """Hash each rectangle (left, top, right, bottom, exclusive) of a picture of height x width."""
    pixels = luma.astype(np.float64)
    codes, amplitudes = _bits(_reduced(pixels, rectangles, _CODE_SAMPLES), CODE_SIDE)
    fines, _ = _bits(_reduced(pixels, rectangles, _FINE_SAMPLES), FINE_SIDE)
    return [Hashed(*hashed) for hashed in zip(codes, fines, amplitudes, strict=True)]


def _reduced(pixels: Samples, rectangles: Sequence[Rectangle], count: int) -> Samples:
    """Each rectangle as count x count samples, as Pillow reduces it."""
    rows: dict[tuple[int, int], tuple[int, int]] = {}  # that rectangles with these columns need
    for left, top, right, bottom in rectangles:
        first, end = rows.get((left, right), (top, bottom))
        rows[left, right] = min(first, top), max(end, bottom)
    columns: dict[tuple[int, int], Samples] = {}
    reduced = np.empty((len(rectangles), count, count))
    for index, (left, top, right, bottom) in enumerate(rectangles):
        across, down = _blocks(right - left, count), _blocks(bottom - top, count)
        if bottom - top > count and 2 * (right - left) < bottom - top + count:
            # Pillow begins with the rows of tall pictures; found by trying all sizes.
            lines = _rounded(_banded(pixels[top:bottom, left:right].T, down))
            reduced[index] = _banded(lines.T, across)
            continue
        first, end = rows[left, right]
        if (left, right) not in columns:
            columns[left, right] = _rounded(_banded(pixels[first:end, left:right], across))
        reduced[index] = _banded(columns[left, right][top - first : bottom - first].T, down).T
    return _rounded(reduced)


def _banded(lines: Samples, blocks: Sequence[_Block]) -> Samples:
    """`lines` times the weights of which these are the blocks."""
    product = np.empty((len(lines), blocks[-1].end))
    for start, stop, first, end, weights in blocks:
        np.matmul(lines[:, start:stop], weights, out=product[:, first:end])
    return product


def _bits(samples: Samples, side: int) -> tuple[list[bytes], list[float]]:
    """Which of the lowest side x side frequencies are above their median, and their amplitude."""
    count = samples.shape[1]
    lowest = cosines(count, side)
    frequencies = (lowest @ (samples @ lowest.T)).reshape(len(samples), -1)
    middle = frequencies.shape[1] // 2
    ordered = np.partition(frequencies, (middle - 1, middle), axis=1)
    below, above = ordered[:, middle - 1], ordered[:, middle]
    bits = frequencies >= above[:, None]
    # Where the median lies between two nearly equal frequencies (a symmetric or a flat picture),
    # rounding decides, so there it must be imagehash's.
    for index in np.flatnonzero(above - below < _DOUBTFUL):
        bits[index] = _bits_as_imagehash(samples[index], side)
    # Unnormalised DCT-II: 2 n for an amplitude of 1 along each axis of n samples.
    amplitudes = np.abs(frequencies[:, 1:]).mean(axis=1) / (2.0 * count**2)
    return [row.tobytes() for row in np.packbits(bits, axis=1)], amplitudes.tolist()


def _bits_as_imagehash(samples: Samples, side: int) -> NDArray[np.bool_]:
    frequencies = dct(dct(samples, axis=0), axis=1)[:side, :side].ravel()
    return frequencies > np.median(frequencies)


@functools.cache
def cosines(count: int, side: int) -> Samples:
    """From `count` samples to the lowest frequencies of their DCT-II: side x count."""
    lowest: Samples = dct(np.eye(count), axis=0)[:side]
    return lowest


def _rounded(sums: Samples) -> Samples:
    """From weighted sums to whole grey levels, as Pillow: half up, clipped."""
    sums += 0.5
    np.floor(sums, out=sums)
    np.maximum(sums, 0.0, out=sums)
    return np.minimum(sums, 255.0, out=sums)


@functools.lru_cache(maxsize=1024)
def _blocks(length: int, count: int) -> Sequence[_Block]:
    """The weights without most of the zeros beside their band."""
    weights = _weights(length, count)
    reach = math.ceil(_LANCZOS_SUPPORT * length / count) + 1
    bands = _BANDS if length >= _LEAST_BANDED else 1
    blocks = []
    for part in range(bands):
        first, end = part * count // bands, (part + 1) * count // bands
        start = max(0, first * length // count - reach)
        stop = min(length, end * length // count + reach)
        block = np.ascontiguousarray(weights[start:stop, first:end])
        blocks.append(_Block(start, stop, first, end, block))
    return blocks


def _weights(length: int, count: int) -> Samples:
    """Pillow's Lanczos weights from `length` pixels to `count`: length x count.

    They are whole numbers divided by a power of two, so that their sums are exact.
    """
    scale = length / count
    stretch = max(scale, 1.0)
    centres = (np.arange(count)[:, None] + 0.5) * scale
    support = _LANCZOS_SUPPORT * stretch
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centres + support + 0.5).astype(np.int64), length)
    taps = first + np.arange((end - first).max())
    distances = (taps - centres + 0.5) * (1.0 / stretch)
    within = (taps < end) & (distances >= -_LANCZOS_SUPPORT) & (distances < _LANCZOS_SUPPORT)
    weights = np.where(within, _sinc(distances) * _sinc(distances / _LANCZOS_SUPPORT), 0.0)
    weights *= (1 << _WEIGHT_BITS) / weights.sum(axis=1, keepdims=True)
    dense = np.zeros((length, count))
    # Taps beyond the end weigh nothing, wherever they are added.
    np.add.at(dense, (np.minimum(taps, length - 1), np.arange(count)[:, None]), _whole(weights))
    return dense / (1 << _WEIGHT_BITS)


def _whole(weights: Samples) -> Samples:
    return np.trunc(weights + np.copysign(0.5, weights))


def _sinc(x: Samples) -> Samples:
    angle = x * math.pi
    return np.divide(np.sin(angle), angle, out=np.ones_like(angle), where=angle != 0)
