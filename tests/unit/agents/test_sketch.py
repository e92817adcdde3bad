"""Sketches laid over each other."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from agents.sketch import (
    SKETCH_LIMIT_PIXELS,
    WHOLE_BOX,
    Comparison,
    Grey,
    _blurred,
    _mean,
    _mean_along,
    _median,
    _slopes,
    compare,
    grey,
    sketch,
    sketch_size,
)
from streams.evaluation.alterations import overlaid
from tests.unit.agents.pictures import shipped


def sketched(image: Image.Image) -> Grey:
    """A picture's sketch, through the bytes that are stored."""
    luma = image.convert("L")
    return grey(sketch(luma), *luma.size)


def compared(one: Image.Image, other: Image.Image) -> Comparison:
    """Whole over whole."""
    found = compare(sketched(one), sketched(other), WHOLE_BOX, WHOLE_BOX)
    assert found is not None
    return found


@pytest.mark.parametrize("size", [(1, 1), (256, 256), (256, 1024), (1024, 3), (1, 1024), (40, 50)])
def test_sketch_has_the_picture_s_proportions_and_a_limit(size: tuple[int, int]) -> None:
    """Never larger than the record allows, never without a pixel."""
    columns, rows = sketch_size(*size)
    assert 1 <= columns * rows <= SKETCH_LIMIT_PIXELS
    assert len(sketch(Image.new("L", size))) == columns * rows


def test_a_picture_agrees_with_itself() -> None:
    """In every window."""
    found = compared(shipped("coffee"), shipped("coffee"))
    assert found.aligned
    assert found.lowest > 0.999
    assert found.residual < 0.01


def test_brightness_and_contrast_change_nothing() -> None:
    """They act alike everywhere."""
    image = shipped("coffee").convert("L")
    found = compared(image, image.point(lambda value: value * 0.6 + 30))
    assert found.lowest > 0.98


def test_other_text_is_one_window_that_differs() -> None:
    """The rest agrees."""
    image = shipped("coffee").convert("RGB")
    one = overlaid(image, "the minister resigns today", 0.8, 0.95)
    other = overlaid(image, "free water for everybody", 0.8, 0.95)
    found = compared(one, other)
    assert found.agreement > 0.98
    assert found.lowest < 0.7
    assert found.residual > 5


def test_other_pictures_do_not_agree() -> None:
    """However they are laid over each other."""
    assert compared(shipped("coffee"), shipped("rocket")).agreement < 0.5


def test_crop_agrees_where_both_show_it() -> None:
    """And what it leaves out is not explained."""
    image = shipped("coffee")
    width, height = image.size
    crop = image.crop((width // 4, 0, width, height))
    found = compare(sketched(crop), sketched(image), WHOLE_BOX, (0.25, 0.0, 1.0, 1.0))
    assert found is not None
    assert found.agreement > 0.95
    assert not found.aligned
    assert found.unexplained[0] == 0.0
    assert found.unexplained[1] > 0.03


@pytest.mark.parametrize("degrees", [-4, 3])
def test_a_turn_is_corrected(degrees: float) -> None:
    """By the affine step."""
    image = shipped("coffee").convert("L")
    turned = image.rotate(degrees, Image.Resampling.BICUBIC)
    assert compared(turned, image).agreement > 0.85


def test_nothing_to_compare() -> None:
    """Flat sketches, and overlaps of a few pixels, say nothing."""
    flat = np.full((40, 57), 128, np.float32)
    assert compare(flat, flat, WHOLE_BOX, WHOLE_BOX) is None
    coffee = sketched(shipped("coffee"))
    assert compare(coffee, coffee, (0.0, 0.0, 0.1, 0.1), (0.9, 0.9, 1.0, 1.0)) is None


@pytest.mark.parametrize("number_type", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 2), (9, 9), (48, 64), (64, 33)])
def test_what_is_faster_gives_the_same(
    shape: tuple[int, int], number_type: type[np.floating[Any]]
) -> None:
    """To the last bit: outcomes must not depend on how fast they are made."""
    values = np.random.default_rng(shape).normal(size=shape).astype(number_type)
    for count in range(1, values.size, 7):
        assert _median(values.ravel()[:count]) == np.median(values.ravel()[:count])
    assert _mean(values) == values.mean()
    slopes = _slopes(values)
    assert np.array_equal(slopes, np.gradient(values))
    assert {each.dtype for each in slopes} == {values.dtype}
    along = ndimage.uniform_filter1d(values, 5, axis=1, mode="nearest")
    assert np.array_equal(_mean_along(values, 1, 5), along)
    two = np.stack((values, values[::-1]))
    for sigma in (1.0, 2.5):
        blurred = [ndimage.gaussian_filter(each, sigma) for each in two]
        assert np.array_equal(_blurred(two, sigma), blurred)
