"""Fingerprints: imagehash's pHash bit for bit, the two views, and what has no views at all."""

import hashlib
import pickle
import random
from collections.abc import Iterator

import imagehash
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from agents.decode import DecodedPicture, DecodeLimits, decode
from agents.fingerprint import FINGERPRINT_VERSION, fingerprint
from agents.phash import phash_all
from agents.windows import STORED
from schemas.reasons import Rejection
from schemas.records import Fingerprint
from tests.unit.agents.pictures import shipped, written

LIMITS = DecodeLimits(pixels=100_000_000)
SHIPPED = (
    "astronaut",
    "brick",
    "camera",
    "cat",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "horse",
    "hubble_deep_field",
    "immunohistochemistry",
    "logo",
    "moon",
    "page",
    "retina",
    "rocket",
    "text",
)


def fingerprinted(content: bytes) -> Fingerprint:
    """The fingerprint of a readable picture."""
    made = fingerprint(content, LIMITS)
    assert isinstance(made, Fingerprint), made
    return made


def packed(hashed: imagehash.ImageHash) -> bytes:
    """In the byte order of our records."""
    return np.packbits(hashed.hash.flatten()).tobytes()


def pictures() -> Iterator[Image.Image]:
    """Photographs, texts, flat, gradient, symmetric, noisy, tiny and extremely long pictures."""
    for name in SHIPPED:
        yield shipped(name).convert("RGB")
    for photograph in load_sample_images().images:
        yield Image.fromarray(photograph)
    noise = np.random.default_rng(4)
    y, x = np.mgrid[:200, :300]
    drawn: list[NDArray[np.floating]] = [
        np.full((90, 120), 0.0),
        np.full((90, 120), 137.0),
        x * 255 / 299,
        y * 255 / 199,
        (x + y) * 255 / 498,
        np.abs(x - 149.5),
        np.abs(x - 149.5) + np.abs(y - 99.5) / 2,
        np.hypot(x - 149.5, y - 99.5),
        (x // 20 + y // 20) % 2 * 255.0,
        (x % 2) * 255.0,
        127 + 100 * np.sin(x / 9),
        127 + 100 * np.sin(x / 9) * np.cos(y / 7),
        np.where(x < 150, 0.0, 255.0),
        np.where((x == 10) & (y == 10), 255.0, 0.0),
        np.eye(32) * 255,
        np.eye(64) * 255,
    ]
    for shape in ((1, 1), (1, 900), (700, 1), (3, 5), (31, 33), (400, 400), (2000, 40), (8, 8)):
        drawn.extend(noise.integers(0, 256, (3, *shape)).astype(np.float64))
        drawn.append(noise.integers(0, 2, shape) * 255.0)
    for array in drawn:
        yield Image.fromarray(np.clip(array, 0, 255).astype(np.uint8))


def test_hashes_are_those_of_imagehash() -> None:
    """Bit for bit, of whole pictures and of many rectangles of one picture at once."""
    chosen = random.Random(8)
    for image in pictures():
        picture = decode(written(image), LIMITS)
        assert isinstance(picture, DecodedPicture)
        width, height = picture.luma.size
        rectangles = [(0, 0, width, height)]
        for _ in range(2):
            left, top = chosen.randrange(width), chosen.randrange(height)
            rectangles.append(
                (left, top, chosen.randint(left + 1, width), chosen.randint(top + 1, height))
            )
            rectangles.append((0, top, width, height))  # shares its columns with the whole
        luma = np.asarray(picture.luma)
        hashed = phash_all(luma, rectangles)
        for rectangle, ours in zip(rectangles, hashed, strict=True):
            cut = picture.luma.crop(rectangle)
            assert ours.code == packed(imagehash.phash(cut)), (image.size, rectangle)
            assert ours.fine == packed(imagehash.phash(cut, hash_size=16)), (image.size, rectangle)


def test_views_are_crops_of_the_decoded_picture() -> None:
    """Each view's hashes are those of its rectangle, as anybody can check."""
    for image in pictures():
        content = written(image)
        picture = decode(content, LIMITS)
        assert isinstance(picture, DecodedPicture)
        made = fingerprinted(content)
        assert (made.decoded_width_pixels, made.decoded_height_pixels) == picture.luma.size
        for view in made.views:
            cut = picture.luma.crop(view.rectangle)
            assert view.code == packed(imagehash.phash(cut))
            assert view.fine == packed(imagehash.phash(cut, hash_size=16))


def test_record_says_what_was_hashed() -> None:
    """Bytes, format, size as displayed, version."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = written(shipped("coffee"), "JPEG", exif=exif)
    made = fingerprinted(content)
    assert made.version == FINGERPRINT_VERSION
    assert made.sha256 == hashlib.sha256(content).digest()
    assert made.format == "JPEG"
    assert (made.width_pixels, made.height_pixels) == (400, 600)
    assert not made.animated
    assert not made.low_information
    assert [view.name for view in made.views] == ["whole", *STORED]
    assert made.views[0].rectangle == (0, 0, 256, 384)


@pytest.mark.parametrize("colour", ["white", "black", (200, 40, 40)])
@pytest.mark.parametrize("border", [(40, 40), (0, 80), (80, 0)])
def test_border_is_trimmed(colour: str | tuple[int, int, int], border: tuple[int, int]) -> None:
    """A bordered copy's second view is the plain picture's first."""
    plain = shipped("astronaut").resize((256, 256))
    framed = Image.new("RGB", (256 + 2 * border[0], 256 + 2 * border[1]), colour)
    framed.paste(plain, border)
    whole, trimmed, *_ = fingerprinted(written(framed, "JPEG", quality=60)).views
    assert (whole.name, trimmed.name) == ("whole", "trimmed")
    code = fingerprinted(written(plain)).views[0].code
    assert (int.from_bytes(trimmed.code) ^ int.from_bytes(code)).bit_count() <= 4
    assert (int.from_bytes(whole.code) ^ int.from_bytes(code)).bit_count() > 10


def test_equal_views_are_kept_once() -> None:
    """No code is stored twice, and never more than the record allows."""
    for image in pictures():
        codes = [view.code for view in fingerprinted(written(image)).views]
        assert len(set(codes)) == len(codes) <= 16


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(Image.new("L", (1, 1), 90), id="1 x 1"),
        pytest.param(Image.new("RGB", (640, 480), (9, 99, 200)), id="one colour"),
        pytest.param(Image.new("RGBA", (640, 480), (9, 99, 200, 0)), id="transparent"),
        pytest.param(Image.new("L", (20_000, 3), 90), id="extremely long and flat"),
        pytest.param(
            Image.fromarray(
                np.random.default_rng(1).integers(0, 256, (3, 20_000)).astype(np.uint8)
            ),
            id="extremely long",
        ),
        pytest.param(shipped("camera").resize((12, 12)), id="tiny"),
        pytest.param(
            Image.fromarray((np.indices((300, 300)).sum(axis=0) % 2 + 90).astype(np.uint8)),
            id="invisible pattern",
        ),
    ],
)
def test_too_flat_or_too_small_pictures_have_no_views(image: Image.Image) -> None:
    """Nothing in them tells them apart: only their bytes can."""
    made = fingerprinted(written(image))
    assert made.low_information
    assert made.views == ()


def test_noise_and_texture_have_views() -> None:
    """The gate refuses flat pictures, not busy ones."""
    for name in ("grass", "gravel", "brick", "page", "text", "moon"):
        assert not fingerprinted(written(shipped(name))).low_information


def test_unreadable_is_a_rejection() -> None:
    """What decoding refuses is handed on."""
    assert fingerprint(b"no picture", LIMITS) == Rejection(
        "not_an_image", f"begins with {b'no picture'.hex()}"
    )


def test_runs_in_another_process() -> None:
    """Function, arguments and results are picklable."""
    made = fingerprinted(written(shipped("camera")))
    assert pickle.loads(pickle.dumps((fingerprint, LIMITS, made))) == (fingerprint, LIMITS, made)  # noqa: S301
