"""All that is kept of a picture: its views with their hashes, and a small grey sketch.

Called in the process pool's children (`fingerprint` and its arguments are picklable), by the API
and the commands. Pure and deterministic: equal bytes give an equal fingerprint for as long as
`FINGERPRINT_VERSION` stands.

A *view* is a rectangle that the index holds: the whole picture; `trimmed`, without borders and
caption bars; `inside`, the picture that a screenshot shows; and eight windows, cut from a frame
that is the innermost of those where it is clearly smaller, so that a crop of a captioned picture
still finds the crop's origin. Five windows of the whole picture are held beside such a frame: a
dark photograph's lit part is easily taken for one, and it is another one in each crop. Ordinary
photographs have 9.9 views on average, at most 16.

Beside its views a picture *asks* with the codes of further windows, also turned by a few degrees,
which the index does not hold (`agents.windows`): they cost a search nobody's memory. The last
three codes asked with are the mirror image's.

Chosen from 146 windows and 64 turned ones on 150 BSDS500 photographs. Share in % of copies that
meet their original within radius 10, both directions averaged, frames left out (cut at random: up
to 20 % of each side; corner: 5 to 25 % of two sides that meet; stickers: 1,200 of them):

                         crop 10   20  one side 15   25   33  at random  corner  sticker  turned 5
    whole picture             50   50           65   51   51         44      47       61        54
    stored before            100  100          100  100  100         50      31       95        99
    stored and asked now     100   97          100  100  100         81      79       99       100
    all 210                  100  100          100  100  100        100     100      100       100

Cutting two opposite sides by 12.5 or 16.7 % makes the square of a 4:3 or 3:2 photograph: with the
last four plain windows 96-100 % of such copies meet their original, 39-86 % did without.

What hides part of a picture is met by halves: a sticker of 30 % of the shorter side leaves one of
the four free nearly always, windows of 65 % in 95 % only.
"""

import hashlib
from typing import Final

import numpy as np

from agents.decode import DecodedPicture, DecodeLimits, decode
from agents.layout import inside, trimmed
from agents.phash import CODE_SIDE, Hashed, Luma, Rectangle, phash_all
from agents.sketch import sketch
from agents.windows import STORED, STORED_BESIDE_A_FRAME, asked_codes, window
from schemas.reasons import Rejection
from schemas.records import Fingerprint, View

FINGERPRINT_VERSION: Final = 1

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
        asked = asked_codes(picture.luma, frame)
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
    rectangles |= {name: window(frame, cuts) for name, cuts in STORED.items()}
    if frame != rectangles["whole"]:
        for name in STORED_BESIDE_A_FRAME:
            rectangles[f"whole's {name}"] = window(rectangles["whole"], STORED[name])
    return rectangles, frame


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


def _area(rectangle: Rectangle) -> int:
    left, top, right, bottom = rectangle
    return (right - left) * (bottom - top)
