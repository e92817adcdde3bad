"""Do two pictures belong together, and how sure are we? A pure function of two fingerprints.

Called by the matcher for every candidate of the search, by the commands, and by the brute-force
oracle of the tests. All numbers come from the settings record in `index-log`.

Pictures with the same bytes are `identical`. Others are candidates when any view of the one is
within the radius of any view of the other by its 64-bit code; of the view pairs that met so, the
smallest distance of the 256-bit fine codes decides the tier. Too flat pictures have no views,
so they relate to identical bytes only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from schemas.records import Fingerprint, MatchSettings, Relation, Tier

DECISION_VERSION: Final = 1

WHOLE: Final = "whole"

# Search radius on the 64-bit codes. With several views on both sides, 10 finds 88 % of crops of
# 5 % and 52 % of those of 10 % where 8 finds fewer; the fine code pays for the false candidates.
DEFAULT_RADIUS: Final = 10
# Fixed by the customer's API: what counts as a match unless the caller says otherwise.
DEFAULT_STANDARD_THRESHOLD: Final = 6
# Fine distances, of 256 bits, measured on 300 BSDS500 photographs and 600 clothing products
# photographed alike. Harmless copies of 150 of the photographs: JPEG q 10 at most 26, three
# forwards 6, a quarter of the size 6, border 8, brightness + 30 % (clipped) 32 but for one
# picture that is not found at all. The 404,550 pairs of different pictures: 19 come within
# radius 10, the closest of them at 78. So at 40 every harmless copy is confirmed, and 64 leaves
# room on both sides for copies that were cropped or drawn upon.
DEFAULT_SUGGESTED_FINE_DISTANCE: Final = 64
DEFAULT_CONFIRMED_FINE_DISTANCE: Final = 40
# At most this many candidates are decided per picture, and this many matches listed.
DEFAULT_CANDIDATES_BOUND: Final = 1000
DEFAULT_MATCHES_BOUND: Final = 100

# Half the bits differ between two pictures that have nothing to do with each other.
_UNRELATED_FINE_DISTANCE: Final = 128


@dataclass(frozen=True, slots=True)
class Decision:
    """How a picture relates to an earlier one."""

    relation: Relation
    tier: Tier
    score: int
    fine_distance: int
    views: tuple[str, str]
    weight: float

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Orders decisions best first; a stable sort leaves the older of equals before."""
        return self.tier != "confirmed_sibling", self.score, self.fine_distance


_IDENTICAL: Final = Decision("identical", "confirmed_sibling", 0, 0, (WHOLE, WHOLE), 1.0)


def default_match_settings(partitions: int) -> MatchSettings:
    """The settings record that `topics create` writes into each partition of `index-log`."""
    return MatchSettings(
        record_version=1,
        partitions=partitions,
        decision_version=DECISION_VERSION,
        radius=DEFAULT_RADIUS,
        standard_threshold=DEFAULT_STANDARD_THRESHOLD,
        suggested_fine_distance=DEFAULT_SUGGESTED_FINE_DISTANCE,
        confirmed_fine_distance=DEFAULT_CONFIRMED_FINE_DISTANCE,
        candidates_bound=DEFAULT_CANDIDATES_BOUND,
        matches_bound=DEFAULT_MATCHES_BOUND,
    )


def decide(picture: Fingerprint, earlier: Fingerprint, settings: MatchSettings) -> Decision | None:
    """How `picture` relates to `earlier`; None when it does not."""
    return decide_all(picture, (earlier,), settings)[0]


def decide_all(
    picture: Fingerprint, earlier: Sequence[Fingerprint], settings: MatchSettings
) -> list[Decision | None]:
    """`decide` for each of several earlier pictures, in their order."""
    views = [
        (int.from_bytes(view.code), int.from_bytes(view.fine), view.name) for view in picture.views
    ]
    return [_decide(picture, views, other, settings) for other in earlier]


def _decide(
    picture: Fingerprint,
    views: Sequence[tuple[int, int, str]],
    earlier: Fingerprint,
    settings: MatchSettings,
) -> Decision | None:
    if picture.sha256 == earlier.sha256:
        return _IDENTICAL
    if picture.version != earlier.version:
        return None
    radius = settings.radius
    met: list[tuple[int, int, str, str]] = []
    for other in earlier.views:
        other_code = int.from_bytes(other.code)
        for code, fine, name in views:
            distance = (code ^ other_code).bit_count()
            if distance <= radius:
                fine_distance = (fine ^ int.from_bytes(other.fine)).bit_count()
                met.append((distance, fine_distance, name, other.name))
    if not met:
        return None
    fine_distance = min(pair[1] for pair in met)
    if fine_distance > settings.suggested_fine_distance:
        return None
    confirmed = fine_distance <= settings.confirmed_fine_distance
    # The closest pair; of equals, whole against whole before names in their order.
    score, _, name, other_name = min(
        met, key=lambda pair: (pair[0], pair[1], pair[2:] != (WHOLE, WHOLE), pair[2:])
    )
    return Decision(
        relation="near_identical" if name == other_name == WHOLE else "reframed",
        tier="confirmed_sibling" if confirmed else "suggested_sibling",
        score=score,
        fine_distance=fine_distance,
        views=(name, other_name),
        weight=max(0.0, 1.0 - fine_distance / _UNRELATED_FINE_DISTANCE),
    )
