"""From a picture file's bytes to the small luma picture that is hashed, or to a rejection.

Called by `agents.fingerprint` in the process pool's children, by the API and the commands.
Promises: never raises, whatever the bytes; believes the content, not a name or a header of HTTP;
allocates nothing for a picture whose header announces more pixels than the limits allow; changes
no global of Pillow.

Only the first frame counts. The picture is turned as it is displayed (EXIF orientation),
transparency is laid on white, colour becomes ITU-R 601-2 luma, and the result is reduced until
its short side has at most `SHORT_SIDE_PIXELS` and its long side at most `LONG_SIDE_PIXELS`.

The values below are part of the fingerprint's version. Measured with Pillow 13.0 on 24 mosaics
of photographs (2.2-8 MP) and 24 enlarged photographs (2.5-5.6 MP), JPEG q 75-92, as bits that
differ from `imagehash.phash` of the full-size picture (mean / 95th percentile / worst):

    short side, filter    pHash64             pHash256            decode
    160 box               0.67 / 2.0 / 4      4.88 / 10 / 12      4.8 ms
    224 Lanczos           0.08 / 0.0 / 2      0.96 / 4 / 4        5.9 ms
    256 box               0.46 / 2.0 / 2      2.79 / 6 / 10       5.6 ms
    256 bilinear          0.12 / 1.3 / 2      1.08 / 4 / 4        5.7 ms   <- chosen
    256 Lanczos           0.25 / 2.0 / 2      1.04 / 4 / 4        6.4 ms
    320 bilinear          0.17 / 2.0 / 2      0.96 / 3.3 / 6      6.1 ms
    256 bilinear, drafted to twice that: 0.12 / 1.3 / 2, 0.67 / 2 / 4, 6.8 ms

A JPEG's decoder reduces it by 2, 4 or 8 itself. From 0.5 MP on it may go down to a short side of
200: nothing is left to reduce then in most pictures of 1 MP, a fingerprint takes 4.9 ms instead of
5.7, and on 40 mosaics the code stays where it was (0.15 / 2 / 2 bits both ways). Of a size that is
no multiple, its last row and column are part padding; left in, copies lay up to 0.4 % beside each
other, and of 40 in other formats 16 were suggested instead of confirmed.

(Pillow's bilinear is an antialiasing triangle, not a sample of four pixels.) From 224 up the
code hardly moves any more; 256 leaves a picture inside a phone screenshot, or a window of a
third of a photograph, the 64 x 64 samples that its fine code looks at. The short side is fixed,
not the long one, because tall screenshots carry their picture in the short side's full width.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Final

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.Image import Resampling, Transpose

from schemas.reasons import Reason, Rejection

SHORT_SIDE_PIXELS: Final = 256
LONG_SIDE_PIXELS: Final = 1024
# The decoder of a JPEG of so many pixels halves it while that leaves this share of those sizes;
# then nothing is left to reduce, and a picture of 1 MP takes a fifth less time.
_DRAFT_SHARE: Final = 0.78
_PIXELS_TO_DRAFT: Final = 500_000

_PREFIX_BYTES: Final = 16
_ORIENTATION_TAG: Final = 0x0112
_TURNS: Final = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_FIRST_TURN_OF_SIDES: Final = 5
_TIFF_TILE_SIDES: Final = (322, 323)
_CEILINGS_OF_WIDE_SAMPLES: Final = (1.0, 255.0, 65535.0)
# What `decode` takes at its peak, measured with pictures of 12 MP: 3.0 (1, L, P; PNG, GIF, BMP,
# TIFF), 6.0 (RGB), 7.0 (RGBA, LA), 8.0 (P with a transparent colour), 9.0 (CMYK TIFF), 15.0 (I;16)
# and 17.0 (I, F); AVIF 9.5 to 11.2; WebP 16.0 to 16.8. A JPEG is decoded reduced, row by row, and
# takes 0.3; a progressive one keeps all its coefficients, 2 bytes each: 3.0 to 6.0, CMYK 8.1.
_BYTES_PER_PIXEL_OF_FORMATS: Final = {"WEBP": 17, "AVIF": 12, "JPEG": 1, "MPO": 1}
_BYTES_PER_PIXEL_OF_MODES: Final = {"1": 3, "L": 3, "P": 3, "RGB": 6, "RGBA": 7, "LA": 7, "CMYK": 9}
_BYTES_PER_PIXEL_OF_OTHERS: Final = 17
_BYTES_PER_PIXEL_OF_A_TRANSPARENT_COLOUR: Final = 5
_BYTES_PER_COEFFICIENT: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What one picture may cost: in pixels, and in memory while it is decoded."""

    pixels: int
    memory_bytes: int = 320 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedPicture:
    """A picture ready to be hashed. `luma` has mode `L`; the sizes are those as displayed."""

    luma: Image.Image
    format: str
    width_pixels: int
    height_pixels: int
    animated: bool


class _TooManyPixelsError(Exception):
    """The header announces more pixels than the limit."""


class _Content(io.BytesIO):
    """The file's bytes, which remember that a decoder wanted more than there are."""

    wanted_more = False

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        # A part of a header has its size; a decoder's blocks end where the file does.
        if size is not None and len(piece) < size and (not piece or size < ImageFile.MAXBLOCK):
            self.wanted_more = True
        return piece


@dataclass(frozen=True, slots=True)
class _Format:
    name: str
    accepts: Callable[[bytes], bool | str]
    open: Callable[[IO[bytes]], ImageFile.ImageFile]
    declared_length: Callable[[bytes], int] = lambda _: 0
    """What the header says of the file's length, where the decoder does not notice its end."""


def _riff_length(content: bytes) -> int:
    return 8 + int.from_bytes(content[4:8], "little")


def _iso_boxes_length(content: bytes) -> int:
    """End of the last box of an ISO base media file (ISO/IEC 14496-12, 4.2)."""
    end = 0
    while end + 8 <= len(content):
        size = int.from_bytes(content[end : end + 4], "big")
        if size == 1:
            size = int.from_bytes(content[end + 8 : end + 16], "big")
        if size < 8:  # 0: to the end of the file; less is no box  # noqa: PLR2004
            return end
        end += size
    return end


# Opened by their own classes: `Image.open` would consult every plugin installed, and a global
# limit of pixels that belongs to whoever else uses Pillow in this process.
_FORMATS: Final = (
    _Format("JPEG", lambda head: head.startswith(b"\xff\xd8\xff"), JpegImagePlugin.jpeg_factory),
    _Format("PNG", lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    _Format(
        "GIF",
        lambda head: head.startswith((b"GIF87a", b"GIF89a")),
        GifImagePlugin.GifImageFile,
    ),
    _Format(
        "WEBP",
        lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
        WebPImagePlugin.WebPImageFile,
        _riff_length,
    ),
    _Format(
        "AVIF",
        lambda head: head[4:8] == b"ftyp" and head[8:12] in {b"avif", b"avis", b"mif1", b"msf1"},
        AvifImagePlugin.AvifImageFile,
        _iso_boxes_length,
    ),
    _Format("BMP", lambda head: head.startswith(b"BM"), BmpImagePlugin.BmpImageFile),
    _Format(
        "TIFF",
        lambda head: head[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"},
        TiffImagePlugin.TiffImageFile,
    ),
)


def decode(content: bytes, limits: DecodeLimits) -> DecodedPicture | Rejection:
    """Decode a picture's first frame, as displayed, to small luma.

    Rejections: `picture_empty`, `not_an_image`, `too_many_pixels`, `picture_truncated`,
    `picture_undecodable`.
    """
    if not content:
        return Rejection("picture_empty")
    head = content[:_PREFIX_BYTES]
    form = next((form for form in _FORMATS if form.accepts(head)), None)
    if form is None:
        return Rejection("not_an_image", f"begins with {head.hex()}")
    file = _Content(content)
    try:
        with form.open(file) as picture:
            return _decode(picture, limits)
    except (_TooManyPixelsError, Image.DecompressionBombError, MemoryError) as error:
        return Rejection("too_many_pixels", f"{form.name}: {type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 - Pillow's plugins raise nearly every kind there is
        ends_early = file.wanted_more or form.declared_length(content) > len(content)
        reason: Reason = "picture_truncated" if ends_early else "picture_undecodable"
        return Rejection(reason, f"{form.name}: {type(error).__name__}: {error}")


def _decode(picture: ImageFile.ImageFile, limits: DecodeLimits) -> DecodedPicture:
    _check_pixels(picture, limits)
    size = picture.size
    share = _DRAFT_SHARE if size[0] * size[1] >= _PIXELS_TO_DRAFT else 1.0
    # Decodes a JPEG at 1/2, 1/4 or 1/8, never below the size asked for; others ignore it.
    drafted = picture.draft("L", _reduced(size, share))
    picture.load()
    if drafted is None:
        size = picture.size  # a TIFF has turned itself while loading
    luma = _luma(picture)
    # Of the last row and column of a picture that the decoder reduced, a part may be no picture.
    extent = drafted[1][2:] if drafted is not None else luma.size
    reduced_size = _reduced(extent)
    if luma.size != reduced_size:
        # From a multiple of the size, averaging whole blocks first is as good and faster.
        box = 0.0, 0.0, *extent
        luma = luma.resize(reduced_size, Resampling.BILINEAR, box, reducing_gap=2.0)
    orientation = _orientation(picture)
    if orientation in _TURNS:
        luma = luma.transpose(_TURNS[orientation])
        if orientation >= _FIRST_TURN_OF_SIDES:
            size = size[1], size[0]
    return DecodedPicture(
        luma=luma,
        format=picture.format or "",
        width_pixels=size[0],
        height_pixels=size[1],
        animated=_is_animated(picture),
    )


def _check_pixels(picture: ImageFile.ImageFile, limits: DecodeLimits) -> None:
    width, height = picture.size
    if width < 1 or height < 1:
        raise ValueError(f"{width} x {height} pixels")
    areas = [(width, height)]
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        # A tile is decoded whole, however small the picture that it belongs to.
        tile_width, tile_height = (picture.tag_v2.get(tag, 1) for tag in _TIFF_TILE_SIDES)
        areas.append((tile_width, tile_height))
    for width, height in areas:
        if width * height > limits.pixels:
            raise _TooManyPixelsError(f"{width} x {height}, at most {limits.pixels} in all")
        if width * height * _bytes_per_pixel(picture) > limits.memory_bytes:
            raise _TooManyPixelsError(
                f"{width} x {height} of mode {picture.mode} take over {limits.memory_bytes} bytes"
            )


def _bytes_per_pixel(picture: ImageFile.ImageFile) -> int:
    if picture.format in _BYTES_PER_PIXEL_OF_FORMATS:
        # All of a file's scans are collected before a pixel is known.
        collected = picture.info.get("progressive") and len(picture.getbands())
        return _BYTES_PER_PIXEL_OF_FORMATS[picture.format] + _BYTES_PER_COEFFICIENT * (
            collected or 0
        )
    found = _BYTES_PER_PIXEL_OF_MODES.get(picture.mode, _BYTES_PER_PIXEL_OF_OTHERS)
    if "transparency" in picture.info:
        found += _BYTES_PER_PIXEL_OF_A_TRANSPARENT_COLOUR
    return found


def _reduced(size: tuple[float, float], share: float = 1.0) -> tuple[int, int]:
    """Within that share of the largest sizes."""
    factor = min(1.0, share * SHORT_SIDE_PIXELS / min(size), share * LONG_SIDE_PIXELS / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _luma(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        return _narrowed(picture)
    if picture.mode == "LAB":
        return picture.getchannel("L")
    if not picture.has_transparency_data:
        return picture.convert("RGB" if picture.mode == "CMYK" else "L").convert("L")
    # Laying luma on white is the same as laying colour on white, with a third of the memory.
    if picture.mode not in {"RGBA", "LA"}:
        picture = picture.convert("RGBA")
    white = Image.new("L", picture.size, 255)
    white.paste(picture.convert("L"), mask=picture.getchannel("A"))
    return white


def _narrowed(picture: Image.Image) -> Image.Image:
    """Samples of 16 or 32 bits, or floating point, as bytes; Pillow itself would clip them."""
    samples = np.nan_to_num(np.asarray(picture, dtype=np.float32), posinf=0.0, neginf=0.0)
    largest = float(samples.max())
    if picture.mode.startswith("I;16"):
        ceiling = _CEILINGS_OF_WIDE_SAMPLES[-1]
    else:
        ceiling = next((c for c in _CEILINGS_OF_WIDE_SAMPLES if largest <= c), largest)
    return Image.fromarray((np.clip(samples / ceiling, 0.0, 1.0) * 255.0).round().astype(np.uint8))


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, read after loading (some formats carry it behind the pixels)."""
    try:
        return int(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - a damaged EXIF block says nothing against the pixels
        return 1


def _is_animated(picture: ImageFile.ImageFile) -> bool:
    """Whether frames follow in time; the further pictures of an MPO are no animation."""
    try:
        return picture.format != "MPO" and bool(getattr(picture, "is_animated", False))
    except Exception:  # noqa: BLE001 - a damaged second frame says nothing against the first
        return False
