"""Windows of a picture: which are stored, which are only asked with, and the codes of the latter.

Called by `agents.fingerprint` for the codes, by `agents.decide` for what they are codes of.

A crop is found when one of its windows, or the crop itself, lies on a window of the original
within about 3 % of its side. Stored windows cost the index memory for ever, so they are few;
those asked with cost a search. What a sticker or a text hides must leave some window free.

The codes asked with are never stored and never looked at by anybody else, so they need not be
imagehash's to the bit. The picture is reduced once to 96 x 96, whatever its proportions; from
there a window's code (Lanczos to 32 x 32, cosine transform, the 8 x 8 lowest frequencies) is one
product of matrices on each side, and windows share them. Their codes differ from imagehash's by
0.4 bits (95 %: 2, worst of 1,560: 4). Both matrices hold whole numbers of 14 bits and pixels have
8, so that every sum stays below 2 ** 53: exact in double precision, in any order of summation, on
any processor.
"""

import functools
import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling, Transform
from scipy.fft import dct

from agents.phash import CODE_SIDE, Rectangle, cosines

Cuts = tuple[float, float, float, float]
"""Shares of a frame that a window leaves out: at the left, top, right, bottom."""


def _sides(*cuts: float) -> tuple[Cuts, ...]:
    """Cut one side."""
    return tuple(
        (cut * (side == 0), cut * (side == 1), cut * (side == 2), cut * (side == 3))  # noqa: PLR2004
        for cut in cuts
        for side in range(4)
    )


def _corners(*cuts: float) -> tuple[Cuts, ...]:
    """Cut two sides that meet."""
    return tuple(
        (cut * left, cut * top, cut * (1 - left), cut * (1 - top))
        for cut in cuts
        for left in (0, 1)
        for top in (0, 1)
    )


def _three_sides(*cuts: float) -> tuple[Cuts, ...]:
    """Cut all sides but one."""
    return tuple(
        (cut * (side != 0), cut * (side != 1), cut * (side != 2), cut * (side != 3))  # noqa: PLR2004
        for cut in cuts
        for side in range(4)
    )


def _opposite_sides(*cuts: float) -> tuple[Cuts, ...]:
    """Cut left and right, or top and bottom, as for the square of a social network."""
    return tuple(
        (cut * across, cut * (1 - across), cut * across, cut * (1 - across))
        for cut in cuts
        for across in (1, 0)
    )


def _all_sides(*cuts: float) -> tuple[Cuts, ...]:
    return tuple((cut, cut, cut, cut) for cut in cuts)


STORED: Final[dict[str, Cuts]] = {
    "middle 80": (0.1, 0.1, 0.1, 0.1),
    "middle 64": (0.18, 0.18, 0.18, 0.18),
    "lower half": (0.0, 0.5, 0.0, 0.0),
    "left half": (0.0, 0.0, 0.5, 0.0),
    "upper half": (0.0, 0.0, 0.0, 0.5),
    "right half": (0.5, 0.0, 0.0, 0.0),
    "lower right 80": (0.2, 0.2, 0.0, 0.0),
    "right 94": (0.06, 0.0, 0.0, 0.0),
}
ASKED: Final[tuple[Cuts, ...]] = (
    *_sides(0.15, 0.25, 0.33, 0.4),
    *_corners(0.1, 0.15, 0.22),
    *_three_sides(0.15),
    *_opposite_sides(0.14, 0.19),
    *_all_sides(0.05, 0.14, 0.25),
)
# Where a frame is taken for the picture, it may not be one (the lit part of a dark photograph looks
# like a picture on a page), and then it is another frame in a crop. So some windows are the whole
# picture's.
STORED_BESIDE_A_FRAME: Final = ("middle 80", "middle 64", "lower half", "left half", "upper half")
ASKED_BESIDE_A_FRAME: Final[tuple[Cuts, ...]] = (
    *_sides(0.15, 0.25),
    *_corners(0.15),
    *_opposite_sides(0.17),
    *_all_sides(0.05, 0.14, 0.25),
)
# Up to 2 degrees the plain codes meet.
TURNED: Final[dict[float, float]] = {-5.0: 0.12, -3.0: 0.15, 3.0: 0.15, 5.0: 0.12}
"""Degrees, and what is cut at all sides of the picture turned by so many."""
# Crops of up to 10 % are mirrored too.
MIRRORED: Final = _all_sides(0.0, 0.05, 0.1)

_SIDE: Final = 96
_TURNED_SIDE: Final = 64
_SAMPLES: Final = 4 * CODE_SIDE
_LANCZOS_SUPPORT: Final = 3.0
_WEIGHT_BITS: Final = 14


class Window(NamedTuple):
    """What an asked code is of: a rectangle of the picture, mirrored or turned by an angle.

    A turned picture's rectangle is as it lies after turning around the centre.
    """

    rectangle: Rectangle
    mirrored: bool = False
    turned_degrees: float = 0.0


def window(frame: Rectangle, cuts: Cuts) -> Rectangle:
    """The rectangle that is left of a frame."""
    left, top, right, bottom = frame
    width, height = right - left, bottom - top
    return (
        left + round(cuts[0] * width),
        top + round(cuts[1] * height),
        right - round(cuts[2] * width),
        bottom - round(cuts[3] * height),
    )


def asked_count(size: tuple[int, int], frame: Rectangle) -> int:
    """How many codes a picture of this size asks with beside those of its views."""
    return len(_plan(is_framed=frame != (0, 0, *size)))


def asked_window(number: int, size: tuple[int, int], frame: Rectangle) -> Window:
    """What the code of this number among `asked_codes` is the code of; `size` is the picture's."""
    whole = (0, 0, *size)
    planned = _plan(is_framed=frame != whole)[number]
    rectangle = window(whole if planned.of_whole else frame, planned.cuts)
    return Window(rectangle, planned.mirrored, planned.turned_degrees)


def asked_codes(luma: Image.Image, frame: Rectangle) -> bytes:
    """The codes that a picture asks with beside those of its views, 8 bytes each."""
    small = _small(luma.crop(frame))
    codes = _codes(small, _aspect(frame), ASKED)
    whole = (0, 0, *luma.size)
    if frame != whole:
        codes += _codes(_small(luma), _aspect(whole), ASKED_BESIDE_A_FRAME)
    mirrored = np.asarray(small)[:, ::-1].astype(np.float64)
    return codes + _projection(MIRRORED).codes(mirrored)


class _Planned(NamedTuple):
    cuts: Cuts
    of_whole: bool = False
    mirrored: bool = False
    turned_degrees: float = 0.0


@functools.cache
def _plan(*, is_framed: bool) -> tuple[_Planned, ...]:
    """What each asked code is of, in the order of `asked_codes`."""
    asked = [(ASKED, False), *([(ASKED_BESIDE_A_FRAME, True)] if is_framed else [])]
    planned: list[_Planned] = []
    for plain, of_whole in asked:
        planned += [_Planned(cuts, of_whole) for cuts in plain]
        planned += [
            _Planned((cut, cut, cut, cut), of_whole, turned_degrees=degrees)
            for degrees, cut in TURNED.items()
        ]
    return (*planned, *(_Planned(cuts, mirrored=True) for cuts in MIRRORED))


def _codes(small: Image.Image, aspect: float, asked: tuple[Cuts, ...]) -> bytes:
    plain = _projection(asked).codes(np.asarray(small, np.float64))
    return plain + _turned_codes(small, aspect)


def _turned_codes(small: Image.Image, aspect: float) -> bytes:
    pixels = np.array(
        [_turned(small, aspect, degrees, cut) for degrees, cut in TURNED.items()], np.float64
    )
    lowest = _turned_frequencies()
    return _above_median((lowest @ (pixels @ lowest.T)).reshape(len(pixels), -1))


@functools.cache
def _turned_frequencies() -> NDArray[np.float64]:
    """From the pixels of a turned window to its lowest frequencies: 8 x 64."""
    return _whole_numbers([cosines(_TURNED_SIDE, CODE_SIDE)])


def _small(frame: Image.Image) -> Image.Image:
    return frame.resize((_SIDE, _SIDE), Resampling.BILINEAR, reducing_gap=2.0)


def _aspect(frame: Rectangle) -> float:
    """Height by width."""
    left, top, right, bottom = frame
    return (bottom - top) / (right - left)


def _turned(small: Image.Image, aspect: float, degrees: float, cut: float) -> Image.Image:
    """Turned as `Image.rotate` does, in the proportions that it had, and cut at all sides.

    64 samples across the window are about one pixel apart. These codes differ from imagehash's by
    0.7 bits; with 96 by 0.6, with 48 by 0.9.
    """
    step = (1.0 - 2.0 * cut) * _SIDE / _TURNED_SIDE
    cosine = step * math.cos(math.radians(degrees))
    sine = step * math.sin(math.radians(degrees))
    across, down = -sine * aspect, sine / aspect
    centre, middle = _SIDE / 2, _TURNED_SIDE / 2
    affine = (
        cosine,
        across,
        centre - middle * (cosine + across),
        down,
        cosine,
        centre - middle * (down + cosine),
    )
    size = _TURNED_SIDE, _TURNED_SIDE
    return small.transform(size, Transform.AFFINE, affine, Resampling.BILINEAR)


class _Projection:
    """From 96 x 96 pixels to the codes of some windows."""

    def __init__(self, asked: tuple[Cuts, ...]) -> None:
        columns = list(dict.fromkeys(cuts[::2] for cuts in asked))
        rows = list(dict.fromkeys(cuts[1::2] for cuts in asked))
        self._across = _whole_numbers([_lowest_frequencies(*ends) for ends in columns]).T
        self._down = _whole_numbers([_lowest_frequencies(*ends) for ends in rows])
        self._shape = (len(rows), CODE_SIDE, len(columns), CODE_SIDE)
        self._column = np.array([columns.index(cuts[::2]) for cuts in asked])
        self._row = np.array([rows.index(cuts[1::2]) for cuts in asked])

    def codes(self, pixels: NDArray[np.float64]) -> bytes:
        products = (self._down @ (pixels @ self._across)).reshape(self._shape)
        frequencies = products.transpose(0, 2, 1, 3)[self._row, self._column]
        return _above_median(frequencies.reshape(len(self._row), -1))


def _above_median(frequencies: NDArray[np.float64]) -> bytes:
    """One code for each row."""
    bits = frequencies > np.median(frequencies, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).tobytes()


@functools.cache
def _projection(asked: tuple[Cuts, ...]) -> _Projection:
    return _Projection(asked)


def _lowest_frequencies(cut_before: float, cut_after: float) -> NDArray[np.float64]:
    """From 96 samples to the lowest frequencies of what lies between the cuts: 8 x 96."""
    start, end = cut_before * _SIDE, (1.0 - cut_after) * _SIDE
    step = (end - start) / _SAMPLES
    pixels = np.arange(_SIDE)
    centres = start + (np.arange(_SAMPLES)[:, None] + 0.5) * step
    distances = (pixels + 0.5 - centres) / max(step, 1.0)
    weights = np.where(
        np.abs(distances) < _LANCZOS_SUPPORT,
        np.sinc(distances) * np.sinc(distances / _LANCZOS_SUPPORT),
        0.0,
    )
    # Of a pixel that the window's edge cuts, its part.
    weights *= np.clip(np.minimum(pixels + 1, end) - np.maximum(pixels, start), 0.0, 1.0)
    weights /= weights.sum(axis=1, keepdims=True)
    frequencies: NDArray[np.float64] = dct(weights, axis=0)[:CODE_SIDE]
    return frequencies


def _whole_numbers(matrices: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    stacked = np.concatenate(matrices)
    stacked *= (1 << _WEIGHT_BITS) / np.abs(stacked).max()
    return np.rint(stacked, out=stacked)
