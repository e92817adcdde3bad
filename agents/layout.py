"""Where the picture is inside the picture: borders, letterbox, caption bars, screenshots.

Called by `agents.fingerprint`. Pure functions from luma (height x width, bytes) to a rectangle.

A *bar line* is a row or column of a border, a letterbox, a caption bar or an app's page: both of
its ends show the same flat colour, its neighbour shows that colour too, and so does a good part of
it (the rest is text). Computer-made pages are exactly flat, photographs are not: with these bounds
92 % of 150 photographs are left whole, and of framed, letterboxed and captioned copies 95-100 %
are cut so that they meet the original.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from agents.phash import Luma, Rectangle

# In grey levels; a page survives JPEG at q 60 and halving of its size within these.
_SPREAD_OF_AN_END: Final = 8
_ENDS_APART: Final = 3
_NEIGHBOURS_APART: Final = 1
_SAME_COLOUR: Final = 4
_END_SHARE: Final = 0.02
# First what is bare, then what has text in it; large type covers up to half of its lines. With
# wide bars at its sides, any row of a picture would pass for text between them.
_COLOUR_SHARES: Final = (0.95, 0.4)
# A thinner run of bar lines is a line in a photograph.
_LEAST_BAR_SHARE: Final = 0.02
_LEAST_BAR_LINES: Final = 3
# A thinner run of other lines, at the outside, is a line of large text or a rule.
_LEAST_PICTURE_SHARE: Final = 0.12
# What is left must still be a picture.
_LEAST_SIDE_PIXELS: Final = 32
_LEAST_AREA_SHARE: Final = 0.08

# A page's colour: a single grey level that holds this share of all pixels. A bubble of a chat
# holds as little; photographs hold it in burnt-out skies and black shadows.
_PAGE_COLOUR_SHARE: Final = 0.02
_CELL_PIXELS: Final = 4  # the bytes of one unsigned integer
# Text covers about a third of its paragraph, a picture nearly all of itself.
_NEIGHBOURHOOD_CELLS: Final = 7
_LEAST_DENSITY: Final = 0.55


def trimmed(luma: Luma) -> Rectangle:
    """The picture without borders, letterbox and caption bars at its edges."""
    height, width = luma.shape
    left, top, right, bottom = 0, 0, width, height
    for colour_share in _COLOUR_SHARES:
        first, end = _picture_lines(luma[top:bottom, left:right], colour_share)
        top, bottom = top + first, top + end
        first, end = _picture_lines(luma[top:bottom, left:right].T, colour_share)
        left, right = left + first, left + end
    return _if_large_enough((left, top, right, bottom), luma)


def inside(luma: Luma) -> Rectangle:
    """The picture that a screenshot of a post or a chat shows, without the page around it."""
    height, width = luma.shape
    whole = 0, 0, width, height
    counts = np.bincount(luma.ravel(), minlength=256)
    page_levels = counts >= _PAGE_COLOUR_SHARE * luma.size
    if not page_levels.any():
        return whole
    page_levels[1:-1] |= page_levels[:-2] | page_levels[2:]
    other = np.take((~page_levels).view(np.uint8), luma)
    rows, columns = height // _CELL_PIXELS, width // _CELL_PIXELS
    used = np.ascontiguousarray(other[: rows * _CELL_PIXELS, : columns * _CELL_PIXELS])
    # Four bytes of 0 or 1 at once: their sum is the number of bits set.
    quarters = np.bitwise_count(used.view(np.uint32)).reshape(rows, _CELL_PIXELS, columns)
    density = ndimage.uniform_filter(
        quarters.sum(axis=1, dtype=np.float32) / _CELL_PIXELS**2,
        _NEIGHBOURHOOD_CELLS,
        mode="nearest",
    )
    parts, count = ndimage.label(density >= _LEAST_DENSITY)
    if not count:
        return whole
    largest = 1 + int(np.bincount(parts.ravel())[1:].argmax())
    down, across = ndimage.find_objects(parts)[largest - 1]
    left, right = across.start * _CELL_PIXELS, across.stop * _CELL_PIXELS
    top, bottom = _edges(other[:, left:right].mean(axis=1), down)
    if top == bottom:  # two thin strips, and page between them
        return whole
    left, right = _edges(other[top:bottom].mean(axis=0), across)
    found = _if_large_enough((left, top, right, bottom), luma)
    if found == whole:
        return whole
    left, top, right, bottom = found
    inner = trimmed(luma[top:bottom, left:right])
    return left + inner[0], top + inner[1], left + inner[2], top + inner[3]


def _if_large_enough(rectangle: Rectangle, luma: Luma) -> Rectangle:
    left, top, right, bottom = rectangle
    height, width = luma.shape
    large = (right - left) * (bottom - top) >= _LEAST_AREA_SHARE * luma.size
    if large and min(right - left, bottom - top) >= min(_LEAST_SIDE_PIXELS, height, width):
        return rectangle
    return 0, 0, width, height


def _picture_lines(lines: Luma, colour_share: float) -> tuple[int, int]:
    """First line of the picture and the line after its last; all lines where there is no bar."""
    count = len(lines)
    if count < _LEAST_SIDE_PIXELS:
        return 0, count
    thinnest_bar = max(_LEAST_BAR_LINES, round(_LEAST_BAR_SHARE * count))
    bar = _bar_lines(lines, colour_share)
    if not bar.any():
        return 0, count
    for first, end in _runs(bar):
        if end - first < thinnest_bar:
            bar[first:end] = False
    pictures = [
        (first, end) for first, end in _runs(~bar) if end - first >= _LEAST_PICTURE_SHARE * count
    ]
    return (pictures[0][0], pictures[-1][1]) if pictures else (0, count)


def _bar_lines(lines: Luma, colour_share: float) -> NDArray[np.bool_]:
    width = max(2, round(_END_SHARE * lines.shape[1]))
    first, first_spread = _end(lines[:, :width])
    last, last_spread = _end(lines[:, -width:])
    bar: NDArray[np.bool_] = (
        (first_spread <= _SPREAD_OF_AN_END)
        & (last_spread <= _SPREAD_OF_AN_END)
        & (np.abs(first - last) <= _ENDS_APART)
    )
    if not bar.any():
        return bar
    colour = (first + last) / 2
    alike = np.abs(np.diff(colour)) <= _NEIGHBOURS_APART
    bar &= np.append(alike, False) | np.insert(alike, 0, False)
    asked = np.flatnonzero(bar)  # few in a photograph: only these are read in full
    if len(asked):
        same = np.abs(lines[asked] - colour[asked, None].astype(np.float32)) <= _SAME_COLOUR
        bar[asked] = same.mean(axis=1) >= colour_share
    return bar


def _end(pixels: Luma) -> tuple[NDArray[np.float64], Luma]:
    """Mean and spread of each line's pixels at one end."""
    across = np.ascontiguousarray(pixels.T)  # along the lines, numpy adds them all at once
    return across.mean(axis=0, dtype=np.float64), across.max(axis=0) - across.min(axis=0)


def _edges(shares: NDArray[np.floating], cells: slice) -> tuple[int, int]:
    """From a coarse place in cells to lines: as far as at least half of what is inside continues.

    `shares` is how much of each line is not page.
    """
    first, end = cells.start * _CELL_PIXELS, cells.stop * _CELL_PIXELS
    reach = _NEIGHBOURHOOD_CELLS * _CELL_PIXELS
    full = shares >= np.median(shares[first:end]) / 2
    middle = (first + end) // 2
    low, high = max(0, first - reach), min(len(shares), end + reach)
    first = min(first + reach // 2, middle)
    while first > low and (full[first - 1] or (first - 2 >= low and full[first - 2])):
        first -= 1
    end = max(end - reach // 2, middle)
    while end < high and (full[end] or (end + 1 < high and full[end + 1])):
        end += 1
    return first, end


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and after-last index of each run of true."""
    changes = np.flatnonzero(np.diff(np.concatenate(([0], mask.view(np.int8), [0]))))
    return list(zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True))
