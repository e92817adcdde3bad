"""Decoding: every format and mode becomes the same small luma; every bad file a reason."""

import random
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from agents.decode import LONG_SIDE_PIXELS, SHORT_SIDE_PIXELS, DecodedPicture, DecodeLimits, decode
from schemas.reasons import Rejection
from tests.unit.agents.pictures import shipped, written

# Pillow warns of damage that it reads over.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

LIMITS = DecodeLimits(pixels=100_000_000)


def decoded(content: bytes, limits: DecodeLimits = LIMITS) -> DecodedPicture:
    """The picture, which must be readable."""
    picture = decode(content, limits)
    assert isinstance(picture, DecodedPicture), picture
    assert picture.luma.mode == "L"
    return picture


def reason(content: bytes, limits: DecodeLimits = LIMITS) -> str:
    """The reason of the rejection that must come."""
    picture = decode(content, limits)
    assert isinstance(picture, Rejection), picture
    return picture.reason


def mean_difference(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference in grey levels."""
    assert one.size == other.size
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


@pytest.fixture(scope="module")
def colour() -> Image.Image:
    """A colour photograph of 300 x 200."""
    return shipped("astronaut").resize((300, 200))


@pytest.fixture(scope="module")
def luma(colour: Image.Image) -> Image.Image:
    """Its luma."""
    return colour.convert("L")


@pytest.mark.parametrize(
    ("form", "options", "name"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}, "JPEG"),
        ("JPEG", {"quality": 95, "progressive": True}, "JPEG"),
        ("PNG", {}, "PNG"),
        ("GIF", {}, "GIF"),
        ("WEBP", {"quality": 95}, "WEBP"),
        ("WEBP", {"lossless": True}, "WEBP"),
        ("BMP", {}, "BMP"),
        ("TIFF", {}, "TIFF"),
        ("TIFF", {"compression": "tiff_lzw"}, "TIFF"),
        ("TIFF", {"compression": "jpeg", "quality": 95}, "TIFF"),
        ("AVIF", {"quality": 95}, "AVIF"),
    ],
)
def test_every_format_gives_the_same_picture(
    colour: Image.Image, luma: Image.Image, form: str, options: dict[str, object], name: str
) -> None:
    """Each format of the list is read, named, and shows what was written."""
    picture = decoded(written(colour, form, **options))
    assert picture.format == name
    assert (picture.width_pixels, picture.height_pixels) == (300, 200)
    assert not picture.animated
    assert mean_difference(picture.luma, luma) < (8 if form == "GIF" else 3)


def _wide(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)


@pytest.mark.parametrize(
    ("form", "convert", "tolerance"),
    [
        pytest.param("PNG", lambda image: image.convert("L"), 0.1, id="L"),
        pytest.param("PNG", lambda image: image.convert("LA"), 0.1, id="LA"),
        pytest.param("PNG", lambda image: image.convert("RGBA"), 1.0, id="RGBA"),
        pytest.param("PNG", lambda image: image.convert("P"), 12.0, id="P"),
        pytest.param("PNG", _wide, 0.1, id="16-bit PNG"),
        pytest.param("TIFF", _wide, 0.1, id="16-bit TIFF"),
        pytest.param(
            "TIFF", lambda image: _wide(image).convert("I"), 0.1, id="32-bit TIFF of 16-bit values"
        ),
        pytest.param("TIFF", lambda image: image.convert("L").convert("F"), 0.1, id="F to 255"),
        pytest.param(
            "TIFF",
            lambda image: Image.fromarray(np.asarray(image.convert("L"), np.float32) / 255),
            0.1,
            id="F to 1",
        ),
        pytest.param("TIFF", lambda image: image.convert("CMYK"), 1.0, id="CMYK TIFF"),
        pytest.param("JPEG", lambda image: image.convert("CMYK"), 3.0, id="CMYK JPEG"),
        pytest.param("TIFF", lambda image: image.convert("YCbCr"), 1.0, id="YCbCr TIFF"),
    ],
)
def test_every_mode_keeps_its_brightness(
    colour: Image.Image,
    luma: Image.Image,
    form: str,
    convert: Callable[[Image.Image], Image.Image],
    tolerance: float,
) -> None:
    """No sample depth, palette or ink is clipped, inverted or wrapped."""
    assert mean_difference(decoded(written(convert(colour), form)).luma, luma) < tolerance


def test_one_bit_picture_is_black_and_white() -> None:
    """Mode `1` becomes 0 and 255."""
    bits = Image.fromarray(np.indices((40, 60)).sum(axis=0) % 2 == 0)
    assert set(np.unique(np.asarray(decoded(written(bits, "PNG")).luma))) == {0, 255}


def test_a_float_picture_without_numbers_is_black() -> None:
    """NaN and infinity do not spread."""
    samples = np.full((20, 30), np.nan, np.float32)
    samples[0, 0] = np.inf
    assert not np.asarray(decoded(written(Image.fromarray(samples), "TIFF")).luma).any()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparency_lies_on_white(colour: Image.Image, mode: str) -> None:
    """Whatever carries the transparency: alpha, a palette's entry, or one transparent colour."""
    if mode in {"RGBA", "LA"}:
        image = colour.convert(mode)
        image.putalpha(0)
        content = written(image, "PNG")
    elif mode == "P":
        image = Image.new("P", colour.size, 3)
        image.putpalette(bytes(range(12)))
        content = written(image, "PNG", transparency=3)
    else:
        content = written(Image.new("RGB", colour.size, (9, 8, 7)), "PNG", transparency=(9, 8, 7))
    assert np.asarray(decoded(content).luma).min() == 255


def test_half_transparent_black_is_grey() -> None:
    """Alpha blends, it does not cut."""
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 128))
    assert set(np.unique(np.asarray(decoded(written(image, "PNG")).luma))) == {127}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(colour: Image.Image, form: str, orientation: int) -> None:
    """A picture counts as it is displayed, and so does its size."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if form in {"JPEG", "WEBP", "AVIF"} else {}
    content = written(colour, form, exif=exif, **options)
    turns: dict[int, Image.Transpose] = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    shown = colour.transpose(turns[orientation]) if orientation in turns else colour
    picture = decoded(content)
    assert (picture.width_pixels, picture.height_pixels) == shown.size
    assert mean_difference(picture.luma, shown.convert("L")) < 4


def test_damaged_exif_does_not_hide_the_picture(luma: Image.Image) -> None:
    """Nonsense in the EXIF block means no orientation."""
    content = written(luma, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense")
    assert decoded(content).luma.size == luma.size


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(form: str) -> None:
    """The first frame is hashed, and the record says that there are more."""
    frames = [Image.new("L", (40, 40), value) for value in (200, 100, 0)]
    options = {"lossless": True} if form == "WEBP" else {}
    content = written(frames[0], form, save_all=True, append_images=frames[1:], **options)
    picture = decoded(content)
    assert picture.animated
    assert abs(int(np.asarray(picture.luma).mean()) - 200) <= 1


def test_multi_picture_jpeg_is_no_animation(colour: Image.Image) -> None:
    """A phone's second picture (depth, gain map) does not make the first an animation."""
    content = written(colour, "MPO", save_all=True, append_images=[colour])
    picture = decoded(content)
    assert picture.format == "MPO"
    assert not picture.animated


@pytest.mark.parametrize(
    ("size", "reduced"),
    [
        ((100, 80), (100, 80)),
        ((512, 512), (SHORT_SIDE_PIXELS, SHORT_SIDE_PIXELS)),
        ((1080, 2340), (SHORT_SIDE_PIXELS, 555)),
        ((8600, 430), (LONG_SIDE_PIXELS, 51)),
        ((9000, 1), (LONG_SIDE_PIXELS, 1)),
        ((1, 1), (1, 1)),
    ],
)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_size_is_reduced_never_enlarged(
    form: str, size: tuple[int, int], reduced: tuple[int, int]
) -> None:
    """Short side at most 256, long side at most 1024, proportions kept, original size told."""
    picture = decoded(written(Image.new("L", size, 90), form))
    assert picture.luma.size == reduced
    assert (picture.width_pixels, picture.height_pixels) == size


@pytest.mark.parametrize(
    ("form", "size", "reduced"),
    [
        ("JPEG", (1224, 816), (306, 204)),  # a quarter
        ("JPEG", (1280, 960), (320, 240)),
        ("JPEG", (8000, 400), (1000, 50)),
        ("JPEG", (1200, 780), (394, 256)),  # a quarter of it would be too little
        ("JPEG", (612, 408), (384, 256)),  # small: as far as it is worth
        ("PNG", (1224, 816), (384, 256)),
        ("WEBP", (1224, 816), (384, 256)),
    ],
)
def test_what_the_decoder_itself_has_reduced_enough_is_reduced_no_further(
    form: str, size: tuple[int, int], reduced: tuple[int, int]
) -> None:
    """JPEGs of at least 0.5 MP, down to a short side of 200."""
    assert decoded(written(Image.new("L", size, 90), form)).luma.size == reduced


def test_reduced_decoding_shows_the_same(colour: Image.Image) -> None:
    """A large JPEG, decoded at a fraction, equals the small one."""
    large = colour.resize((3000, 2000), Image.Resampling.BICUBIC)
    reduced = decoded(written(large, "JPEG", quality=90)).luma
    small = colour.convert("L").resize(reduced.size, Image.Resampling.BICUBIC)
    assert mean_difference(reduced, small) < 3


# --- bad input ----------------------------------------------------------------------------------


def test_nothing_is_empty() -> None:
    """Zero bytes have their own reason."""
    assert reason(b"") == "picture_empty"


@pytest.mark.parametrize(
    "content",
    [b"This is a text, whatever its name.", b"<svg xmlns='...'/>", b"%PDF-1.7", b"\0", b"BM"[:1]],
)
def test_other_content_is_no_image(content: bytes) -> None:
    """What begins like none of our formats is no image, whatever it was called."""
    assert reason(content) == "not_an_image"


@pytest.mark.parametrize("form", ["PPM", "PCX", "TGA", "ICO", "JPEG2000", "DIB", "EPS"])
def test_formats_not_on_the_list_are_refused(colour: Image.Image, form: str) -> None:
    """Pillow could read these; we do not."""
    assert reason(written(colour, form)) == "not_an_image"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_truncated_picture_is_rejected(colour: Image.Image, form: str, kept: float) -> None:
    """Half a picture is none: it would match other halves."""
    content = written(colour, form)
    assert reason(content[: int(len(content) * kept)]) == "picture_truncated"


@pytest.mark.parametrize("kept", range(30, 900, 58))
def test_a_picture_cut_within_its_header_is_truncated(colour: Image.Image, kept: int) -> None:
    """Also where a table or the metadata are cut, of which some are there."""
    metadata = Image.Exif()
    metadata[0x010E] = "a" * 600  # a description
    content = written(colour, "JPEG", exif=metadata)
    assert content.index(b"\xff\xda") > 900
    assert reason(content[:kept]) == "picture_truncated"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_a_mere_header_is_rejected(colour: Image.Image, form: str) -> None:
    """The first bytes alone are rejected as well."""
    assert reason(written(colour, form)[:20]) in {"picture_truncated", "picture_undecodable"}


def test_broken_pixels_are_undecodable(colour: Image.Image) -> None:
    """A complete file whose compressed data is nonsense."""
    content = bytearray(written(colour, "PNG"))
    start = content.index(b"IDAT") + 6
    content[start : start + 2000] = b"\xaa" * 2000
    assert reason(bytes(content)) == "picture_undecodable"


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    line = b"\0" * (1 + (width + 7) // 8)
    body = zlib.compress(line * min(height, 100))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def test_bomb_is_refused_by_its_header() -> None:
    """30,000 x 30,000 pixels are refused before anything is allocated for them."""
    assert reason(_png(30_000, 30_000)) == "too_many_pixels"


def test_limit_is_inclusive() -> None:
    """Exactly as many pixels as the limit are decoded, one more are not."""
    content = written(Image.new("L", (100, 100)), "PNG")
    decoded(content, DecodeLimits(pixels=10_000))
    assert reason(content, DecodeLimits(pixels=9_999)) == "too_many_pixels"


@pytest.mark.parametrize("form", ["JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_limit_holds_for_every_format(form: str) -> None:
    """Also where decoding would be reduced."""
    content = written(Image.new("L", (100, 100)), form)
    assert reason(content, DecodeLimits(pixels=9_999)) == "too_many_pixels"


@pytest.mark.parametrize(
    ("form", "mode", "options", "bytes_per_pixel"),
    [
        ("PNG", "L", {}, 3),
        ("PNG", "L", {"transparency": 0}, 8),
        ("PNG", "RGB", {}, 6),
        ("PNG", "RGBA", {}, 7),
        ("PNG", "I;16", {}, 17),
        ("GIF", "P", {}, 3),
        ("TIFF", "F", {}, 17),
        ("TIFF", "CMYK", {}, 9),
        ("WEBP", "RGB", {}, 17),
        ("AVIF", "RGB", {}, 12),
        ("JPEG", "RGB", {}, 1),
        ("JPEG", "RGB", {"progressive": True}, 7),
        ("JPEG", "CMYK", {"progressive": True}, 9),
    ],
)
def test_what_would_take_too_much_memory_is_refused_beforehand(
    form: str, mode: str, options: dict[str, object], bytes_per_pixel: int
) -> None:
    """By what the format and the mode take while they are decoded; exactly as much is allowed."""
    image = Image.new("L", (100, 100), 7)
    content = written(_wide(image) if mode == "I;16" else image.convert(mode), form, **options)
    needed = 10_000 * bytes_per_pixel
    decoded(content, DecodeLimits(pixels=10_000, memory_bytes=needed))
    limits = DecodeLimits(pixels=10_000, memory_bytes=needed - 1)
    assert reason(content, limits) == "too_many_pixels"


def test_running_out_of_memory_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the estimate did not foresee has the same reason."""

    def load(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert reason(written(Image.new("L", (9, 9)), "PNG")) == "too_many_pixels"


def test_limit_holds_for_the_tiles_of_a_tiff() -> None:
    """A small picture in one huge tile is a bomb too."""
    content = bytearray(written(Image.new("L", (64, 64)), "TIFF"))
    for tag, other in ((278, 322), (279, 323)):  # its rows per strip and strip's bytes
        entry = content.index(struct.pack("<HH", tag, 4) + struct.pack("<I", 1))
        content[entry : entry + 12] = struct.pack("<HHII", other, 4, 1, 30_000)
    assert reason(bytes(content)) == "too_many_pixels"


def test_gif_frame_larger_than_its_canvas() -> None:
    """A first frame beyond the canvas counts with its own size."""
    content = bytearray(written(Image.new("P", (100, 100)), "GIF"))
    descriptor = content.index(b"," + struct.pack("<HHHH", 0, 0, 100, 100))
    content[descriptor + 5 : descriptor + 9] = struct.pack("<HH", 30_000, 30_000)
    assert reason(bytes(content)) == "too_many_pixels"


def test_large_picture_within_our_limit_warns_of_nothing() -> None:
    """Pillow's own bomb limit is not consulted, and not changed."""
    limit, truncated = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    content = _png(20_000, 5_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decoded(content).luma.size == (LONG_SIDE_PIXELS, SHORT_SIDE_PIXELS)
    assert limit == Image.MAX_IMAGE_PIXELS
    assert truncated == ImageFile.LOAD_TRUNCATED_IMAGES


def test_importing_changes_nothing_of_pillow() -> None:
    """No global of Pillow is touched at import."""
    code = (
        "from PIL import Image, ImageFile; before = Image.MAX_IMAGE_PIXELS; import agents.decode; "
        "assert Image.MAX_IMAGE_PIXELS == before; assert not ImageFile.LOAD_TRUNCATED_IMAGES"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


SMALL = shipped("astronaut").resize((48, 32))
SEEDS = [
    written(SMALL, form, **options)
    for form, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
        ("AVIF", {}),
    )
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.randoms(use_true_random=False))
def test_mutated_bytes_never_raise(content: bytes, mutation: random.Random) -> None:
    """Flipped, cut, repeated or inserted bytes give a picture or a reason."""
    mutated = bytearray(content)
    for _ in range(mutation.randint(1, 12)):
        place = mutation.randrange(min(len(mutated), mutation.choice((40, 400, 10_000))))
        match mutation.randrange(4):
            case 0:
                mutated[place] = mutation.randrange(256)
            case 1:
                mutated[place : place + 4] = mutation.choice((b"\xff" * 4, b"\0" * 4, b"\x7f" * 4))
            case 2:
                mutated[place:place] = mutated[place : place + mutation.randrange(1, 30)]
            case _:
                del mutated[place : place + mutation.randrange(1, 30)]
        if not mutated:
            break
    assert isinstance(
        decode(bytes(mutated), DecodeLimits(pixels=1_000_000)), DecodedPicture | Rejection
    )


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([seed[:16] for seed in SEEDS]), st.binary(max_size=300))
def test_arbitrary_bytes_behind_a_signature_never_raise(head: bytes, tail: bytes) -> None:
    """A format's first bytes followed by anything."""
    assert isinstance(
        decode(head + tail, DecodeLimits(pixels=1_000_000)), DecodedPicture | Rejection
    )
