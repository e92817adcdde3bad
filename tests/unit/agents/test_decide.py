"""The decision: what relates, how, how surely, and in which order."""

import random
from unittest.mock import Mock

import msgspec
import pytest
from PIL import Image, ImageDraw, ImageFont

import agents.decide
from agents.decide import Decision, asked_codes, decide, decide_all, default_match_settings, meet
from agents.decode import DecodeLimits
from agents.fingerprint import fingerprint
from agents.sketch import compare, detail
from schemas.codec import decode_log
from schemas.records import Fingerprint, MatchSettings, View
from streams.evaluation.alterations import barred, overlaid, screenshot
from tests.unit.agents.pictures import shipped, written

SETTINGS = default_match_settings(partitions=4)


def bits(count: int, size_bytes: int) -> bytes:
    """A code at this distance from zero."""
    return ((1 << count) - 1).to_bytes(size_bytes)


def view(code: int = 0, fine: int = 0, name: str = "whole") -> View:
    """A view at these distances from zero."""
    return View(name, (0, 0, 256, 256), bits(code, 8), bits(fine, 32))


def picture(number: int, *views: View, version: int = 1) -> Fingerprint:
    """A picture with these bytes (their hash, as a number) and views."""
    return Fingerprint(
        version=version,
        sha256=number.to_bytes(32),
        format="JPEG",
        width_pixels=256,
        height_pixels=256,
        decoded_width_pixels=256,
        decoded_height_pixels=256,
        views=views,
        low_information=not views,
    )


PLAIN = picture(1, view())


def decision_3(settings: MatchSettings) -> MatchSettings:
    """The settings as they were before views were looked at one by one."""
    return msgspec.structs.replace(settings, decision_version=3, least_view_confidence=0.0)


def decided(other: Fingerprint, settings: MatchSettings = SETTINGS) -> Decision:
    """How it relates to the plain picture; it must."""
    decision = decide(other, PLAIN, settings)
    assert decision is not None
    return decision


def test_same_bytes_are_identical() -> None:
    """Whatever the views say, also where there are none."""
    for views in ((view(),), (), (view(40, 100),)):
        assert decide(picture(1, *views), PLAIN, SETTINGS) == Decision(
            "identical", "confirmed_sibling", 0, 0, ("whole", "whole"), 1.0
        )


def test_flat_pictures_relate_to_identical_bytes_only() -> None:
    """Without views nothing meets."""
    assert decide(picture(2), picture(3), SETTINGS) is None
    assert decide(picture(2), PLAIN, SETTINGS) is None
    assert decide(PLAIN, picture(2), SETTINGS) is None


@pytest.mark.parametrize("distance", [0, 1, 9, 10])
def test_radius_is_inclusive(distance: int) -> None:
    """Up to the radius a pair meets."""
    assert decided(picture(2, view(distance))).score == distance
    assert decide(picture(2, view(11)), PLAIN, SETTINGS) is None


def test_radius_comes_from_the_settings() -> None:
    """Nothing is fixed in the code."""
    narrow = msgspec.structs.replace(SETTINGS, radius=3)
    assert decide(picture(2, view(3)), PLAIN, narrow) is not None
    assert decide(picture(2, view(4)), PLAIN, narrow) is None


@pytest.mark.parametrize(("fine", "related"), [(0, True), (32, True), (33, False), (128, False)])
def test_codes_alone_are_never_confirmed(fine: int, *, related: bool) -> None:
    """Where the sketches have nothing to compare, close fine codes suggest and no more."""
    decision = decide(picture(2, view(2, fine)), PLAIN, SETTINGS)
    assert (decision and decision.tier) == ("suggested_sibling" if related else None)


def test_only_views_that_met_are_compared() -> None:
    """Equal fine codes of views whose codes are far apart say nothing."""
    far = picture(2, view(11, 0), view(4, 200, "trimmed"))
    assert decide(far, PLAIN, SETTINGS) is None


def test_score_and_fine_distance_are_each_the_smallest() -> None:
    """Over all pairs that met, not of one of them."""
    decision = decided(picture(2, view(2, 50), view(8, 10, "trimmed")))
    assert (decision.score, decision.fine_distance) == (2, 10)


def test_relation_is_that_of_the_closest_pair() -> None:
    """Whole against whole is the same picture again, anything else was reframed."""
    assert decided(picture(2, view(2))).relation == "near_identical"
    reframed = decided(picture(2, view(8), view(2, 0, "trimmed")))
    assert reframed.relation == "reframed"
    assert reframed.views == ("trimmed", "whole")


def test_whole_pictures_win_a_tie() -> None:
    """Two pairs as close as each other: the simpler explanation."""
    assert decided(picture(2, view(2, 0, "trimmed"), view(2))).relation == "near_identical"


def test_views_are_named_newer_first() -> None:
    """This picture's view, then the earlier one's."""
    bordered = picture(2, view(40, 200), view(1, 0, "trimmed"))
    assert decided(bordered).views == ("trimmed", "whole")
    turned = decide(PLAIN, bordered, SETTINGS)
    assert turned is not None
    assert turned.views == ("whole", "trimmed")


def test_other_versions_are_not_comparable() -> None:
    """Codes of different versions live in different spaces; bytes do not."""
    assert decide(picture(2, view(), version=2), PLAIN, SETTINGS) is None
    same = decide(picture(1, view(), version=2), PLAIN, SETTINGS)
    assert same is not None
    assert same.relation == "identical"


def test_weight_falls_with_the_fine_distance() -> None:
    """1 for equal fine codes, never below 0, and always less for less alike."""
    weights = [decided(picture(2, view(0, fine))).weight for fine in range(0, 33, 4)]
    assert weights[0] > 0.9
    assert weights == sorted(weights, reverse=True)
    assert all(0 < weight <= 1 for weight in weights)
    assert len(set(weights)) == len(weights)


def test_rank_orders_best_first() -> None:
    """Tier, then score, then fine distance; equals keep their order, older first."""
    others = [
        picture(11, view(4, 2)),
        picture(12, view(2, 9)),
        picture(13, view(2, 8)),
        picture(14, view(2, 8)),
        picture(1, view(40)),  # the same bytes: confirmed
    ]
    ranked = sorted(
        (decision.rank, other.sha256[-1])
        for other in others
        if (decision := decide(PLAIN, other, SETTINGS)) is not None
    )
    assert [number for _, number in ranked] == [1, 13, 14, 12, 11]


def test_all_at_once_is_one_by_one() -> None:
    """The batch decides as the single function does, in the same order."""
    others = [picture(n, view(n % 14, n % 50, "whole" if n % 3 else "trimmed")) for n in range(90)]
    newer = picture(500, view(1, 4), view(6, 30, "trimmed"))
    assert decide_all(newer, others, SETTINGS) == [decide(newer, o, SETTINGS) for o in others]
    assert decide_all(newer, [], SETTINGS) == []


# --- real pictures ------------------------------------------------------------------------------


def fingerprinted(image: Image.Image, form: str = "JPEG") -> Fingerprint:
    """The fingerprint of a readable picture."""
    made = fingerprint(written(image.convert("RGB"), form), DecodeLimits(pixels=10_000_000))
    assert isinstance(made, Fingerprint)
    return made


def related(one: Image.Image, other: Image.Image) -> Decision:
    """How two pictures relate; they must, whichever came first."""
    decision = decide(fingerprinted(one), fingerprinted(other), SETTINGS)
    turned = decide(fingerprinted(other), fingerprinted(one), SETTINGS)
    assert decision is not None
    assert turned is not None
    assert (decision.relation, decision.tier) == (turned.relation, turned.tier)
    return decision


PHOTOGRAPHS = ("astronaut", "coffee", "cat", "rocket")


@pytest.fixture(params=PHOTOGRAPHS)
def photograph(request: pytest.FixtureRequest) -> Image.Image:
    """One of several photographs."""
    return shipped(request.param).convert("RGB")


def test_smaller_copy_is_confirmed(photograph: Image.Image) -> None:
    """Resized and recompressed: the same item."""
    small = photograph.resize((photograph.width // 2, photograph.height // 2))
    decision = related(photograph, small)
    assert (decision.relation, decision.tier) == ("near_identical", "confirmed_sibling")
    assert decision.weight > 0.99


def test_mirror_image_is_named(photograph: Image.Image) -> None:
    """Found without a stored code of its own, and only suggested: writing turns into nonsense."""
    decision = related(photograph, photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert (decision.relation, decision.tier) == ("mirrored", "suggested_sibling")


def test_crop_is_reframed(photograph: Image.Image) -> None:
    """What the crop left out is not explained, so it is suggested."""
    width, height = photograph.size
    crop = photograph.crop((width // 10, height // 10, width * 9 // 10, height * 9 // 10))
    decision = related(photograph, crop)
    assert (decision.relation, decision.tier) == ("reframed", "suggested_sibling")


@pytest.mark.parametrize("top", [True, False])
def test_caption_is_never_confirmed(photograph: Image.Image, *, top: bool) -> None:
    """A plain picture and the same with a caption bar: found, and left to a person."""
    text = "they do not want you to know this"
    captioned = barred(photograph, 0.2, text, top=top, colour=(255, 255, 255))
    decision = related(photograph, captioned)
    assert decision.relation in {"reframed", "other_text"}
    assert decision.tier == "suggested_sibling"


@pytest.mark.parametrize("in_bar", [True, False])
def test_other_text_is_never_confirmed(photograph: Image.Image, *, in_bar: bool) -> None:
    """The same picture under two claims: named so."""
    texts = ("the minister resigns over flood photo", "free water for all, share before monday")
    if in_bar:
        one, other = (
            barred(photograph, 0.2, text, top=True, colour=(255, 255, 255)) for text in texts
        )
    else:
        one, other = (overlaid(photograph, text, 0.78, 0.98) for text in texts)
    decision = related(one, other)
    assert (decision.relation, decision.tier) == ("other_text", "suggested_sibling")


def test_equal_bytes_are_decided_once(
    photograph: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often they were forwarded."""
    looked = Mock(wraps=compare)
    monkeypatch.setattr(agents.decide, "compare", looked)
    newer, older = fingerprinted(photograph.resize((300, 300))), fingerprinted(photograph)
    once = decide_all(newer, [older], SETTINGS)
    comparisons = looked.call_count
    assert comparisons >= 1
    again = [older, msgspec.structs.replace(older), older]
    assert decide_all(newer, again, SETTINGS) == 3 * once
    assert looked.call_count == 2 * comparisons


def test_chance_meetings_are_seldom_laid_over_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most are told by what their views show in detail; none of them relates either way."""
    looked = Mock(wraps=compare)
    monkeypatch.setattr(agents.decide, "compare", looked)
    made = [
        (name, fingerprinted(quarter))
        for name in ("astronaut", "cat", "coins", "horse", "coffee", "rocket", "clock", "camera")
        for quarter in quarters(shipped(name))
    ]
    compared = []
    for settings in (decision_3(SETTINGS), SETTINGS):
        looked.reset_mock()
        for name, one in made:
            others = [other for other_name, other in made if other_name != name]
            assert not any(decide_all(one, others, settings))
        compared.append(looked.call_count)
    before, after = compared
    assert 0 < after < before / 2


def test_views_that_show_the_same_are_compared_as_ever(photograph: Image.Image) -> None:
    """Version 3 is what version 4 does where no view is unsure."""
    older = fingerprinted(photograph)
    width, height = photograph.size
    for newer in (
        fingerprinted(photograph.resize((300, 300))),
        fingerprinted(photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        fingerprinted(photograph.rotate(4, Image.Resampling.BICUBIC)),
        fingerprinted(photograph.crop((20, 20, width - 20, height - 20))),
    ):
        before = decide(newer, older, decision_3(SETTINGS))
        assert before is not None
        assert decide(newer, older, SETTINGS) == before
    surest = msgspec.structs.replace(SETTINGS, least_view_confidence=1.0)
    assert decide(fingerprinted(photograph.resize((300, 300))), older, surest) is None


def test_details_are_looked_at_only_where_codes_leave_a_doubt(
    photograph: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the codes lie close, no detail could change the decision."""
    looked = Mock(wraps=detail)
    monkeypatch.setattr(agents.decide, "detail", looked)
    width, height = photograph.size
    older = [fingerprinted(photograph), *map(fingerprinted, quarters(shipped("chelsea")))]
    newer = [
        fingerprinted(photograph.resize((300, 300))),
        fingerprinted(photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        fingerprinted(photograph.crop((20, 20, width - 20, height - 20))),
        *map(fingerprinted, quarters(photograph)),
    ]
    made = []
    for most_alike in (agents.decide._MOST_ALIKE, 50.0):
        looked.reset_mock()
        monkeypatch.setattr(agents.decide, "_MOST_ALIKE", most_alike)
        made.append(([decide_all(one, older, SETTINGS) for one in newer], looked.call_count))
    (decisions, few), (as_with_details, all_of_them) = made
    assert decisions == as_with_details
    assert any(any(found) for found in decisions)
    assert few < all_of_them


def test_settings_of_version_3_are_still_read() -> None:
    """They had no confidence of views, which is to compare all of them."""
    before = {**msgspec.to_builtins(SETTINGS), "decision_version": 3}
    del before["least_view_confidence"]
    decoded = decode_log(msgspec.msgpack.encode(before))
    assert decoded == decision_3(SETTINGS)


def test_different_pictures_do_not_relate() -> None:
    """None of the shipped photographs relates to another."""
    names = (*PHOTOGRAPHS, "camera", "moon", "grass", "gravel", "brick", "hubble_deep_field")
    made = [fingerprinted(shipped(name)) for name in names]
    for number, one in enumerate(made):
        assert not any(decide_all(one, made[:number], SETTINGS)), names[number]


def test_different_pictures_in_the_same_screenshot_frame_do_not_relate() -> None:
    """The frame is equal, the picture is what counts."""
    one, other = (
        screenshot(shipped(name).convert("RGB").resize((600, 400)), random.Random(5))[0]
        for name in ("coffee", "rocket")
    )
    assert decide(fingerprinted(one), fingerprinted(other), SETTINGS) is None


def quarters(image: Image.Image) -> list[Image.Image]:
    """A picture cut in four."""
    width, height = (side // 2 for side in image.size)
    return [
        image.crop((left, top, left + width, top + height))
        for left in (0, width)
        for top in (0, height)
    ]


def post(image: Image.Image, colours: tuple[str, str]) -> Image.Image:
    """A screenshot that is more page than picture: below it comments, the same in all of them."""
    page, ink = colours
    screen = Image.new("RGB", (540, 1110), page)
    screen.paste(image.resize((540, 360)), (0, 200))
    draw = ImageDraw.Draw(screen)
    draw.ellipse((20, 60, 70, 110), fill="royalblue")
    draw.text((90, 70), "Some Person shared a post", fill=ink, font=ImageFont.load_default(22))
    for number in range(6):
        top = 640 + 60 * number
        draw.ellipse((20, top, 55, top + 35), fill="coral")
        draw.rounded_rectangle((65, top, 450, top + 45), 10, fill="grey")
        draw.text((75, top + 10), f"comment {number}", fill=ink, font=ImageFont.load_default(16))
    return screen


@pytest.mark.parametrize("colours", [("#14181c", "white"), ("white", "black")])
def test_the_page_of_an_app_relates_nothing(colours: tuple[str, str]) -> None:
    """Views of the page meet, with codes that are equal; what the posts show decides."""
    made = [fingerprinted(post(shipped(name), colours)) for name in PHOTOGRAPHS]
    for number, one in enumerate(made):
        for other in made[:number]:
            assert meet(one, other, SETTINGS.radius) is not None
            assert decide(one, other, SETTINGS) is None


def test_a_post_relates_to_the_picture_that_it_shows() -> None:
    """And to another screenshot of it, in other colours."""
    image = shipped("coffee")
    dark, light = post(image, ("#14181c", "white")), post(image, ("white", "black"))
    assert related(dark, image).relation == "reframed"
    assert related(dark, light).tier == "suggested_sibling"


def test_mirrored_code_is_that_of_the_mirror_image() -> None:
    """Within a few bits, without looking at a pixel."""
    for name in PHOTOGRAPHS:
        image = shipped(name).convert("RGB")
        mirror = fingerprinted(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).views[0].code
        asked = [int.from_bytes(code) for code in asked_codes(fingerprinted(image))]
        assert min((code ^ int.from_bytes(mirror)).bit_count() for code in asked) <= 4
