"""The decision: what relates, how, how surely, and in which order."""

import msgspec
import pytest

from agents.decide import Decision, decide, decide_all, default_match_settings
from schemas.records import Fingerprint, MatchSettings, View

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


@pytest.mark.parametrize(
    ("fine", "tier"),
    [
        (0, "confirmed_sibling"),
        (SETTINGS.confirmed_fine_distance, "confirmed_sibling"),
        (SETTINGS.confirmed_fine_distance + 1, "suggested_sibling"),
        (SETTINGS.suggested_fine_distance, "suggested_sibling"),
        (SETTINGS.suggested_fine_distance + 1, None),
    ],
)
def test_fine_distance_decides_the_tier(fine: int, tier: str | None) -> None:
    """Both bounds are inclusive; beyond the second there is no relation."""
    decision = decide(picture(2, view(2, fine)), PLAIN, SETTINGS)
    assert (decision and decision.tier) == tier


def test_only_views_that_met_are_compared() -> None:
    """Equal fine codes of views whose codes are far apart say nothing."""
    far = picture(2, view(11, 0), view(4, 200, "trimmed"))
    assert decide(far, PLAIN, SETTINGS) is None


def test_score_and_fine_distance_are_each_the_smallest() -> None:
    """Over all pairs that met, not of one of them."""
    decision = decided(picture(2, view(2, 50), view(8, 10, "trimmed")))
    assert (decision.score, decision.fine_distance) == (2, 10)
    assert decision.tier == "confirmed_sibling"
    assert decision.views == ("whole", "whole")


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
    weights = [decided(picture(2, view(0, fine))).weight for fine in range(0, 65, 4)]
    assert weights[0] == 1.0
    assert weights == sorted(weights, reverse=True)
    assert all(0 < weight <= 1 for weight in weights)
    assert len(set(weights)) == len(weights)


def test_rank_orders_best_first() -> None:
    """Tier, then score, then fine distance; equals keep their order, older first."""
    others = [
        picture(10, view(0, 60)),  # suggested
        picture(11, view(4, 2)),
        picture(12, view(2, 9)),
        picture(13, view(2, 8)),
        picture(14, view(2, 8)),
    ]
    ranked = sorted(
        (decision.rank, other.sha256[-1])
        for other in others
        if (decision := decide(PLAIN, other, SETTINGS)) is not None
    )
    assert [number for _, number in ranked] == [13, 14, 12, 11, 10]


def test_all_at_once_is_one_by_one() -> None:
    """The batch decides as the single function does, in the same order."""
    others = [picture(n, view(n % 14, n % 90, "whole" if n % 3 else "trimmed")) for n in range(90)]
    newer = picture(500, view(1, 4), view(6, 30, "trimmed"))
    assert decide_all(newer, others, SETTINGS) == [decide(newer, o, SETTINGS) for o in others]
    assert decide_all(newer, [], SETTINGS) == []
