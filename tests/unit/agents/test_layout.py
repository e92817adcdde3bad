"""The picture inside the picture: what is cut, and what is left alone."""

import random

import numpy as np
import pytest
from PIL import Image

from agents.layout import inside, trimmed
from agents.phash import Luma, Rectangle
from streams.evaluation.alterations import barred, screenshot
from tests.unit.agents.pictures import shipped


def luma(image: Image.Image) -> Luma:
    """As the fingerprint sees it."""
    return np.asarray(image.convert("L"))


def assert_near(found: Rectangle, wanted: Rectangle, pixels: int = 3) -> None:
    """Each side within a few pixels."""
    assert np.abs(np.subtract(found, wanted)).max() <= pixels, (found, wanted)


@pytest.fixture(params=["astronaut", "coffee", "cat", "rocket"])
def photograph(request: pytest.FixtureRequest) -> Image.Image:
    """A photograph of 300 x 200."""
    return shipped(request.param).convert("RGB").resize((300, 200))


def test_plain_photograph_is_left_alone(photograph: Image.Image) -> None:
    """Nothing is cut from a picture without bars."""
    assert trimmed(luma(photograph)) == (0, 0, 300, 200)


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (245, 220, 60), (30, 60, 140)])
@pytest.mark.parametrize("top", [True, False])
def test_caption_bar_is_cut(
    photograph: Image.Image, colour: tuple[int, int, int], *, top: bool
) -> None:
    """Light, dark and coloured, with its text, above and below."""
    page = barred(photograph, 0.25, "what they do not tell you", top=top, colour=colour)
    assert_near(trimmed(luma(page)), (0, 50, 300, 250) if top else (0, 0, 300, 200))


def test_wide_bars_at_the_sides_are_cut(photograph: Image.Image) -> None:
    """And not the rows between them, which begin and end in the same colour."""
    page = Image.new("RGB", (700, 200))
    page.paste(photograph, (200, 0))
    assert_near(trimmed(luma(page)), (200, 0, 500, 200))


@pytest.mark.parametrize("seed", range(8))
def test_picture_of_a_screenshot_is_found(photograph: Image.Image, seed: int) -> None:
    """Among status bar, text, buttons, in several layouts, light and dark."""
    page, first, last = screenshot(photograph, random.Random(seed))
    height = page.height * 256 // page.width
    _, top, _, bottom = inside(luma(page.resize((256, height))))
    scale = 256 / page.width
    assert abs(top - first * scale) <= 5
    assert abs(bottom - last * scale) <= 5


@pytest.mark.parametrize("value", [0, 90, 255])
def test_flat_picture_is_left_whole(value: int) -> None:
    """Where all is bar, nothing is."""
    flat = np.full((120, 200), value, np.uint8)
    assert trimmed(flat) == inside(flat) == (0, 0, 200, 120)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (16, 16), (33, 1024), (1024, 16)])
def test_any_shape_gives_a_rectangle_within(shape: tuple[int, int]) -> None:
    """Tiny and extremely long pictures, too."""
    noise = np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)
    for left, top, right, bottom in (trimmed(noise), inside(noise)):
        assert 0 <= left < right <= shape[1]
        assert 0 <= top < bottom <= shape[0]


@pytest.mark.filterwarnings("error")
def test_two_thin_strips_are_no_picture() -> None:
    """Page runs between them, where the middle of a picture would be."""
    page = np.full((200, 200), 255, np.uint8)
    noise = np.random.default_rng(3).integers(20, 230, (20, 200))
    page[80:100] = noise
    page[88:92] = 255
    assert inside(page) == (0, 0, 200, 200)
