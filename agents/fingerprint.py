"""All that is kept of a picture: its views and their perceptual hashes.

Called in the process pool's children (`fingerprint` and its arguments are picklable), by the API
and the commands. Pure and deterministic: equal bytes give an equal fingerprint for as long as
`FINGERPRINT_VERSION` stands.

Both hashes are the pHash of the imagehash library, bit for bit: the signs of the low frequencies
of a DCT-II of the view, against their median (C. Zauner, *Implementation and Benchmarking of
Perceptual Image Hash Functions*, 2010). `code` is `imagehash.phash(view, hash_size=8)`, `fine`
the same with 16.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling
from scipy.fft import dct

from agents.decode import DecodeLimits, decode
from schemas.reasons import Rejection
from schemas.records import Fingerprint, View

FINGERPRINT_VERSION: Final = 1

Rectangle = tuple[int, int, int, int]
Luma = NDArray[np.uint8]

_CODE_SIDE: Final = 8
_FINE_SIDE: Final = 16
# imagehash's `highfreq_factor`: samples per side for each frequency kept.
_SAMPLES_PER_FREQUENCY: Final = 4

# A median split sets exactly half of the bits, except where many coefficients are equal.
_BITS_SET: Final = _CODE_SIDE * _CODE_SIDE // 2
# A smaller picture holds fewer samples than its code looks at; any two icons are alike.
_LEAST_SIDE_PIXELS: Final = 16
# Typical amplitude, in grey levels, of the frequencies that the code is made of. Rounding to
# whole grey levels alone gives 0.02.
_LEAST_AMPLITUDE: Final = 0.1

# A row or column belongs to the border while 90 % of its pixels span less than this many grey
# levels, and while its mean stays this close to that of the outermost one. JPEG at q 10 spreads
# a flat border over about 6.
_BORDER_SPREAD: Final = 12.0
_BORDER_DRIFT: Final = 12.0
# What is left must still be a picture.
_LEAST_REST: Final = 0.25


def fingerprint(content: bytes, limits: DecodeLimits) -> Fingerprint | Rejection:
    """Decode and hash one picture file. Never raises, whatever the bytes."""
    picture = decode(content, limits)
    if isinstance(picture, Rejection):
        return picture
    tiny = min(picture.luma.size) < _LEAST_SIDE_PIXELS
    views = () if tiny else views_of(picture.luma)
    return Fingerprint(
        version=FINGERPRINT_VERSION,
        sha256=hashlib.sha256(content).digest(),
        format=picture.format,
        width_pixels=picture.width_pixels,
        height_pixels=picture.height_pixels,
        decoded_width_pixels=picture.luma.width,
        decoded_height_pixels=picture.luma.height,
        views=views,
        animated=picture.animated,
        low_information=not views,
    )


def views_of(luma: Image.Image) -> tuple[View, ...]:
    """The views of a decoded picture; none where all of them are too flat to tell apart."""
    whole = (0, 0, luma.width, luma.height)
    rectangles = {"whole": whole}
    trimmed = _trimmed(np.asarray(luma))
    if trimmed != whole:
        rectangles["trimmed"] = trimmed
    images = [luma.crop(rectangle) for rectangle in rectangles.values()]
    codes, amplitudes = phashes(images, _CODE_SIDE)
    fines, _ = phashes(images, _FINE_SIDE)
    views: dict[bytes, View] = {}
    for (name, rectangle), code, fine, amplitude in zip(
        rectangles.items(), codes, fines, amplitudes, strict=True
    ):
        if amplitude >= _LEAST_AMPLITUDE and int.from_bytes(code).bit_count() == _BITS_SET:
            views.setdefault(code, View(name, rectangle, code, fine))
    return tuple(views.values())


def phashes(images: Sequence[Image.Image], side: int) -> tuple[list[bytes], NDArray[np.float64]]:
    """`imagehash.phash(image, hash_size=side)` of each luma image, and its amplitude.

    The amplitude is the mean absolute value of the frequencies (without the constant one), in
    grey levels: how much of a pattern there is.
    """
    samples_side = side * _SAMPLES_PER_FREQUENCY
    size = (samples_side, samples_side)
    samples = np.stack([np.asarray(image.resize(size, Resampling.LANCZOS)) for image in images])
    # The same two transforms as imagehash, of all views at once. Whatever is not kept is not
    # transformed a second time; each line's arithmetic, and so each rounding, is unchanged.
    rows = dct(samples.astype(np.float64), axis=1)[:, :side, :]
    frequencies = dct(rows, axis=2)[:, :, :side].reshape(len(images), -1)
    bits = frequencies > np.median(frequencies, axis=1, keepdims=True)
    # scipy's unnormalised DCT-II sums 2 cos: 2 n samples for an amplitude of 1 along each axis.
    amplitudes = np.abs(frequencies[:, 1:]).mean(axis=1) / (2.0 * samples_side**2)
    return [row.tobytes() for row in np.packbits(bits, axis=1)], amplitudes


def _trimmed(luma: Luma) -> Rectangle:
    """The picture without nearly one-coloured rows and columns at its edges."""
    height, width = luma.shape
    top, bottom = _border(luma), height - _border(luma[::-1])
    if bottom - top < _LEAST_REST * height:
        return 0, 0, width, height
    columns = luma[top:bottom].T
    left, right = _border(columns), width - _border(columns[::-1])
    if right - left < _LEAST_REST * width:
        return 0, 0, width, height
    return left, top, right, bottom


def _border(lines: Luma) -> int:
    """How many lines at the beginning are border: each flat, and as bright as the first."""
    length = lines.shape[1]
    low, high = length // 20, length - 1 - length // 20
    outermost = float(lines[0].mean())
    for index, pixels in enumerate(
        lines
    ):  # line by line, because most pictures have no border at all
        line = np.partition(pixels, (low, high))
        if float(line[high]) - float(line[low]) >= _BORDER_SPREAD:
            return index
        if abs(float(line.mean()) - outermost) >= _BORDER_DRIFT:
            return index
    return len(lines)
