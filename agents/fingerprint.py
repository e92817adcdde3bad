"""All that is kept of a picture: its views with their hashes, and a small grey sketch.

Called in the process pool's children (`fingerprint` and its arguments are picklable), by the API
and the commands. Pure and deterministic: equal bytes give an equal fingerprint for as long as
`FINGERPRINT_VERSION` stands.

A *view* is a rectangle that the index holds: the whole picture; `trimmed`, without borders and
caption bars; `inside`, the picture that a screenshot shows; and eight windows, cut from a frame
that is the innermost of those where it is clearly smaller, so that a crop of a captioned picture
still finds the crop's origin. A crop is found when one of its windows, or the crop itself, lies
on a window of the original within about 3 % of its side.

Beside its views a picture *asks* with the codes of further windows, also turned by a few degrees,
which the index does not hold: they cost a search nobody's memory. With them, crops of any size up
to 25 % come to lie on a stored window. The last code asked with is the mirror image's.

Chosen from 118 windows on 150 BSDS500 photographs, for the worst of 17 alterations. Share in %
of copies that meet their original within radius 10, both directions averaged (without turns):

                           crop 5  10  15  20  one side 15  25  33  sticker 30 %  rotated 5
    whole picture              66   4   0   0             2   0   0            49         16
    + eight windows            97  93  78  87            12   8  93            94         87
    + eighteen asked          100  96  89  89            95  94  95            94         89
    all 118 on both sides     100  97  97  96            99  99  97            97         98
"""

import hashlib
from typing import Final

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from agents.decode import DecodedPicture, DecodeLimits, decode
from agents.layout import inside, trimmed
from agents.phash import CODE_SIDE, Hashed, Luma, Rectangle, code_all, phash_all
from agents.sketch import sketch
from schemas.reasons import Rejection
from schemas.records import Fingerprint, View

FINGERPRINT_VERSION: Final = 1

Cuts = tuple[float, float, float, float]
"""Shares of a frame that a window leaves out: at the left, top, right, bottom."""

WINDOWS: Final[dict[str, Cuts]] = {
    "middle 60": (0.2, 0.2, 0.2, 0.2),
    "middle 80": (0.1, 0.1, 0.1, 0.1),
    "right 65": (0.35, 0.0, 0.0, 0.0),
    "lower 65": (0.0, 0.35, 0.0, 0.0),
    "left 65": (0.0, 0.0, 0.35, 0.0),
    "upper 65": (0.0, 0.0, 0.0, 0.35),
    "lower right": (0.4, 0.4, 0.0, 0.0),
    "upper left": (0.0, 0.0, 0.4, 0.4),
}
ASKED_WINDOWS: Final[tuple[Cuts, ...]] = (
    (0.4, 0.0, 0.0, 0.4),
    (0.0, 0.4, 0.4, 0.0),
    *((cut, cut, cut, cut) for cut in (0.04, 0.06, 0.14, 0.25)),
    *((cut, 0.0, 0.0, 0.0) for cut in (0.12, 0.2, 0.25)),
    *((0.0, cut, 0.0, 0.0) for cut in (0.12, 0.2, 0.25)),
    *((0.0, 0.0, cut, 0.0) for cut in (0.12, 0.2, 0.25)),
    *((0.0, 0.0, 0.0, cut) for cut in (0.12, 0.2, 0.25)),
)
# Up to 2 degrees the plain codes meet; 4 leaves at most 2 up to 6. More turns and more windows
# (16 codes instead of 4) found no further copy turned by 5.
ASKED_TURNS_DEGREES: Final = (-4.0, 4.0)
ASKED_TURNED: Final[tuple[Cuts, ...]] = ((0.1, 0.1, 0.1, 0.1), (0.2, 0.2, 0.2, 0.2))
# Asked windows are only looked at through 32 x 32 samples, and never stored: from a smaller picture
# their codes differ by 0.6 bits from those of the larger (95 %: 2, worst of 1,080: 6), for a third
# of the time.
_ASKED_SHORT_SIDE_PIXELS: Final = 96

# A median split sets exactly half of the bits, except where many coefficients are equal.
_BITS_SET: Final = CODE_SIDE * CODE_SIDE // 2
# A smaller picture holds fewer samples than its code looks at; any two icons are alike.
_LEAST_SIDE_PIXELS: Final = 16
# Typical amplitude, in grey levels, of the frequencies that the code is made of. Rounding to
# whole grey levels alone gives 0.02; the flattest of 900 photographs has 1.2.
_LEAST_AMPLITUDE: Final = 0.1
# A page around the picture leaves less than this of the whole; a burnt-out sky leaves more.
_FRAME_SHARE: Final = 0.7


def fingerprint(content: bytes, limits: DecodeLimits) -> Fingerprint | Rejection:
    """Decode and hash one picture file. Never raises, whatever the bytes."""
    picture = decode(content, limits)
    if isinstance(picture, Rejection):
        return picture
    return fingerprint_of(picture, hashlib.sha256(content).digest())


def fingerprint_of(picture: DecodedPicture, sha256: bytes) -> Fingerprint:
    """The fingerprint of a decoded picture whose file has this hash."""
    luma = np.asarray(picture.luma)
    views: tuple[View, ...] = ()
    frame, asked = (0, 0, 0, 0), b""
    if min(luma.shape) >= _LEAST_SIDE_PIXELS:
        rectangles, frame = _layout(luma)
        views = _views(luma, rectangles)
    if views:
        asked = _asked(luma, frame)
    return Fingerprint(
        version=FINGERPRINT_VERSION,
        sha256=sha256,
        format=picture.format,
        width_pixels=picture.width_pixels,
        height_pixels=picture.height_pixels,
        decoded_width_pixels=picture.luma.width,
        decoded_height_pixels=picture.luma.height,
        views=views,
        animated=picture.animated,
        low_information=not views,
        frame=frame,
        asked=asked,
        sketch=sketch(picture.luma) if views else b"",
    )


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


def asked_rectangles(frame: Rectangle) -> list[tuple[Rectangle, bool]]:
    """The rectangles of `Fingerprint.asked`, in its order, and whether as a mirror shows them.

    Turned ones are given as if they were not.
    """
    windows = [window(frame, cuts) for cuts in ASKED_WINDOWS]
    turned = [window(frame, cuts) for _ in ASKED_TURNS_DEGREES for cuts in ASKED_TURNED]
    return [*((rectangle, False) for rectangle in windows + turned), (frame, True)]


def _layout(luma: Luma) -> tuple[dict[str, Rectangle], Rectangle]:
    height, width = luma.shape
    rectangles = {
        "whole": (0, 0, width, height),
        "trimmed": trimmed(luma),
        "inside": inside(luma),
    }
    frame = rectangles["trimmed"]
    if _area(rectangles["inside"]) < _FRAME_SHARE * _area(frame):
        frame = rectangles["inside"]
    return rectangles | {name: window(frame, cuts) for name, cuts in WINDOWS.items()}, frame


def _views(luma: Luma, named: dict[str, Rectangle]) -> tuple[View, ...]:
    """Without duplicates, and without what is too flat to tell pictures apart."""
    rectangles = list(dict.fromkeys(named.values()))
    hashes = dict(zip(rectangles, phash_all(luma, rectangles), strict=True))
    views: dict[bytes, View] = {}
    for name, rectangle in named.items():
        hashed = hashes[rectangle]
        if _is_telling(hashed):
            views.setdefault(hashed.code, View(name, rectangle, hashed.code, hashed.fine))
    return tuple(views.values())


def _is_telling(hashed: Hashed) -> bool:
    return (
        hashed.amplitude >= _LEAST_AMPLITUDE
        and int.from_bytes(hashed.code).bit_count() == _BITS_SET
    )


def _asked(luma: Luma, frame: Rectangle) -> bytes:
    left, top, right, bottom = frame
    small = Image.fromarray(luma[top:bottom, left:right])
    factor = min(1.0, _ASKED_SHORT_SIDE_PIXELS / min(small.size))
    size = max(1, round(small.width * factor)), max(1, round(small.height * factor))
    small = small.resize(size, Resampling.BILINEAR, reducing_gap=2.0)
    whole = (0, 0, *size)
    codes = code_all(np.asarray(small), [window(whole, cuts) for cuts in ASKED_WINDOWS])
    windows = [window(whole, cuts) for cuts in ASKED_TURNED]
    for degrees in ASKED_TURNS_DEGREES:
        codes += code_all(np.asarray(small.rotate(degrees, Resampling.BILINEAR)), windows)
    codes += code_all(np.asarray(small)[:, ::-1], [whole])
    return b"".join(codes)


def _area(rectangle: Rectangle) -> int:
    left, top, right, bottom = rectangle
    return (right - left) * (bottom - top)
