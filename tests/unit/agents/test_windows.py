"""Windows: which codes a picture asks with, and of what."""

import imagehash
import numpy as np
import pytest
from PIL import Image

from agents.decide import asked_codes as codes_asked_with
from agents.decode import DecodeLimits
from agents.fingerprint import fingerprint
from agents.windows import STORED, Cuts, Window, asked_codes, asked_count, asked_window, window
from schemas.records import Fingerprint
from tests.unit.agents.pictures import shipped, written

# Of the others, bricks are all texture, and the rocket's lit part is taken for a frame.
SCENES = ("astronaut", "coffee", "cat", "camera")
PHOTOGRAPHS = ("astronaut", "coffee", "cat", "rocket", "camera", "brick")


def luma(name: str, size: tuple[int, int] = (384, 256)) -> Image.Image:
    """A photograph as decoding leaves it."""
    return shipped(name).convert("L").resize(size)


def asked(picture: Image.Image, frame: tuple[int, int, int, int]) -> list[tuple[int, Window]]:
    """Each code with what it is the code of."""
    codes = np.frombuffer(asked_codes(picture, frame), ">u8").tolist()
    assert len(codes) == asked_count(picture.size, frame)
    return [(code, asked_window(number, picture.size, frame)) for number, code in enumerate(codes)]


def nearest(asking: Image.Image, held: Image.Image) -> int:
    """How near any code that the one asks with is to any that the index holds of the other."""
    newer, older = (
        fingerprint(written(picture), DecodeLimits(pixels=10_000_000)) for picture in (asking, held)
    )
    assert isinstance(newer, Fingerprint)
    assert isinstance(older, Fingerprint)
    codes = np.frombuffer(b"".join(codes_asked_with(newer)), ">u8")
    views = np.frombuffer(b"".join(view.code for view in older.views), ">u8")
    return int(np.bitwise_count(codes[:, None] ^ views).min())


def imagehash_of(picture: Image.Image, of: Window) -> int:
    """What imagehash says of it."""
    left, top, right, bottom = of.rectangle
    turned = picture.rotate(of.turned_degrees, Image.Resampling.BILINEAR)
    cut = turned.crop((left, top, right, bottom))
    if of.mirrored:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return int.from_bytes(np.packbits(imagehash.phash(cut).hash.flatten()).tobytes())


@pytest.mark.parametrize("size", [(384, 256), (256, 480), (256, 256)])
def test_asked_codes_are_nearly_those_of_imagehash(size: tuple[int, int]) -> None:
    """Each is the code of what it is said to be of: its window, mirrored or turned."""
    distances = [
        (code ^ imagehash_of(picture, of)).bit_count()
        for name in PHOTOGRAPHS
        for picture in (luma(name, size),)
        for code, of in asked(picture, (0, 0, *size))
    ]
    assert np.mean(distances) < 1
    assert np.percentile(distances, 95) <= 4
    assert max(distances) <= 8


def test_windows_of_the_whole_are_asked_beside_a_frame() -> None:
    """What was taken for a frame may be none."""
    picture = luma("rocket")
    frame = (40, 30, 340, 250)
    windows = [of.rectangle for _, of in asked(picture, frame)]
    assert window(frame, (0.05, 0.05, 0.05, 0.05)) in windows
    assert window((0, 0, 384, 256), (0.05, 0.05, 0.05, 0.05)) in windows
    assert asked_count(picture.size, (0, 0, 384, 256)) < len(windows) <= 96


def test_some_stored_window_is_free_of_whatever_lies_in_a_corner_or_at_a_side() -> None:
    """A sticker or a text over less than half of a side leaves the other half."""
    whole = (0, 0, 100, 100)
    stored = [window(whole, cuts) for cuts in STORED.values()]
    for left, top in ((0, 0), (60, 0), (0, 60), (60, 60), (35, 0), (35, 60), (0, 35), (60, 35)):
        sticker = (left, top, left + 30, top + 30)
        assert any(
            box[2] <= sticker[0]
            or box[0] >= sticker[2]
            or box[3] <= sticker[1]
            or box[1] >= sticker[3]
            for box in stored
        )


def crops(picture: Image.Image, cuts: Cuts) -> Image.Image:
    """What is left of a picture."""
    return picture.crop(window((0, 0, *picture.size), cuts))


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("cuts", [(0.125, 0, 0.125, 0), (0.167, 0, 0.167, 0), (0, 0.167, 0, 0.167)])
def test_a_square_cut_from_a_picture_meets_it(name: str, cuts: Cuts) -> None:
    """Of 4:3 and 3:2, whichever comes first: the smaller asks, or the larger does."""
    picture = luma(name)
    square = crops(picture, cuts)
    assert nearest(square, picture) <= 10
    assert nearest(picture, square) <= 10


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("cut", [0.05, 0.1])
def test_a_mirrored_crop_meets_its_picture(name: str, cut: float) -> None:
    """Whichever comes first."""
    picture = luma(name)
    crop = crops(picture, (cut,) * 4).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert nearest(crop, picture) <= 10
    assert nearest(picture, crop) <= 10


@pytest.mark.parametrize("size", [(16, 16), (16, 1024), (1024, 16)])
def test_any_shape_gives_all_codes(size: tuple[int, int]) -> None:
    """Small and extremely long pictures, too."""
    noise = np.random.default_rng(2).integers(0, 256, size[::-1]).astype(np.uint8)
    assert len(asked(Image.fromarray(noise), (0, 0, *size))) == 46
