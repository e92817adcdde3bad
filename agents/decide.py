"""Do two pictures belong together, and how sure are we? A pure function of two fingerprints.

Called by the matcher for every candidate of the search, by the commands, and by the brute-force
oracle of the tests. All numbers come from the settings record in `index-log`.

Pictures with the same bytes are `identical`. Others are candidates when a code that the one asks
with is within the radius of a code that the index holds of the other. Most of those that met by
chance are told by the two views alone. What decides about the rest is evidence:

- *fine distance*: the smallest distance of the 256-bit codes of two views that met;
- *agreement*: both sketches, laid over each other as those views say, correlate window by window;
- *changed*: single windows of them that do not, where the rest does (another text, a sticker);
- *unexplained*: what either picture shows beside the other (a caption, what a crop left out).

A pair relates when its sketches agree well enough, or less well while its fine codes are close.
It is confirmed only when besides nothing is changed and nothing is left unexplained: another claim
under the same picture must never pass for the same item. Too flat pictures have no views, so they
relate to identical bytes only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from agents.phash import CODE_SIDE, FINE_SIDE
from agents.sketch import WHOLE_BOX, Box, Comparison, Grey, compare, detail, grey, overlap
from agents.windows import asked_count, asked_window
from schemas.records import Fingerprint, MatchSettings, Relation, Tier, View

WHOLE: Final = "whole"
_FRAMES: Final = (WHOLE, "trimmed", "inside")
_ASKED: Final = "asked window"


DECISION_VERSION: Final = 4
# Version 3 laid every pair of views that met over each other: what version 4 does where a log's
# settings have no `least_view_confidence`.
KNOWN_DECISION_VERSIONS: Final = (3, DECISION_VERSION)

# Search radius on the 64-bit codes; the customer's API searches this far.
DEFAULT_RADIUS: Final = 10
# Fixed by the customer's API: what counts as a match unless the caller says otherwise.
DEFAULT_STANDARD_THRESHOLD: Final = 6
# The following on 150 BSDS500 photographs under 15 alterations, those that are hard to find or to
# tell from another text among them (2,250 pairs, 2,244 met), and the 101,025 pairs of those and
# 300 clothing products photographed alike (472 meetings, counting which one asks). At a confidence
# of one half 7 of the former are lost, four of them turned by 5 degrees, and none of the latter
# passes; the closest, two pairs of trousers, has 0.42.
DEFAULT_SUGGESTED_CONFIDENCE: Final = 0.5
DEFAULT_CONFIRMED_CONFIDENCE: Final = 0.95
# However near the codes: two screenshots of one app have half of their views in common. Of 120
# pictures (60 BSDS500 photographs, 60 clothing products) under 22 alterations the pair that agrees
# least has 0.66; of 28,680 pairs of their screenshots in two layouts 127 related without this and
# without looking at each frame by itself.
DEFAULT_LEAST_AGREEMENT: Final = 0.5
# Of 984 meetings of different pictures (150 BSDS500 photographs, 400 clothing products) 71 % have
# no views with more, which takes the time for a chance meeting from 5.0 to 1.5 ms; of 6,285 pairs
# of the photographs and their alterations one has none, a crop of one side. At 0.02 it is two pairs
# and 80 %, at 0.04 five and 88 %.
DEFAULT_LEAST_VIEW_CONFIDENCE: Final = 0.01
# Harmless copies reach 32 (brightness + 30 %, clipped), the closest look-alikes 48.
DEFAULT_CONFIRMED_FINE_DISTANCE: Final = 40
# 99 % of harmless copies have no window below this; of other texts over at least 5 % of the
# picture, 99 % have one.
DEFAULT_CHANGED_CORRELATION: Final = 0.9
# Of 900 pairs under different texts none leaves less than 3.8 grey levels in some window; of
# harmless copies 5 % leave more than this, most of them brightened, and are suggested only.
DEFAULT_CHANGED_GREY_LEVELS: Final = 3.0
# A border or letterbox leaves nothing; text in a caption bar of 10 % leaves more than this.
DEFAULT_UNEXPLAINED_SHARE: Final = 0.004
# At most this many candidates are decided per picture, and this many matches listed.
DEFAULT_CANDIDATES_BOUND: Final = 200
DEFAULT_MATCHES_BOUND: Final = 100

# Logistic regression on those pairs (each kind weighing the same in all): the confidence is the
# share of true pairs to be expected among pairs with this evidence, were half of all candidates
# true. Agreement (the rarer the nearer to 1) and the lowest correlation of the sketches raise it,
# each bit between the closest fine codes and the closest codes lowers it; an asked window, without
# fine code, counts as unrelated.
_EVIDENCE_OF_NOTHING: Final = 2.0
_EVIDENCE_OF_AGREEMENT: Final = 2.96
_PERFECT: Final = 1.02
_EVIDENCE_OF_LOWEST: Final = 2.63
_EVIDENCE_OF_FINE_BIT: Final = -0.04
_EVIDENCE_OF_SCORE_BIT: Final = -0.78

# Logistic regression on those views (true and false weighing the same in all): before two pictures
# are laid over each other exactly, which takes milliseconds, what two views that met say: how far
# their codes lie apart, and how what they show in detail correlates as they lie.
_EVIDENCE_OF_MEETING: Final = 8.07
_EVIDENCE_OF_DISTANCE_BIT: Final = -0.65
_EVIDENCE_OF_VIEW_FINE_BIT: Final = -0.11
_EVIDENCE_OF_ASKED_VIEW: Final = -10.28
_EVIDENCE_OF_DETAIL: Final = 6.52
# A correlation is at most 1, and rounding.
_MOST_ALIKE: Final = 1.01

# Pictures so smooth that their sketches have nothing to compare (fog, a gradient) are related by
# their codes alone, up to 32 of 256 bits, and only suggested.
_EVIDENCE_OF_EQUAL_CODES_ALONE: Final = 4.0
_EVIDENCE_OF_FINE_BIT_ALONE: Final = -1.0 / 8

# Half the bits differ between two pictures that have nothing to do with each other.
_UNRELATED_FINE_DISTANCE: Final = 128
_FINE_DISTANCE_OF_ASKED: Final = 60
_HANDICAP_OF_WINDOWS: Final = 12
# More pairs cost time and found nothing.
_PAIRS_COMPARED: Final = 3
_AGREEMENT_BEYOND_DOUBT: Final = 0.95


@dataclass(frozen=True, slots=True)
class Decision:
    """How a picture relates to an earlier one. `weight` is the confidence."""

    relation: Relation
    tier: Tier
    score: int
    fine_distance: int | None
    views: tuple[str, str]
    weight: float

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Orders decisions best first; a stable sort leaves the older of equals before."""
        fine_distance = (
            _UNRELATED_FINE_DISTANCE if self.fine_distance is None else self.fine_distance
        )
        return self.tier != "confirmed_sibling", self.score, fine_distance


_IDENTICAL: Final = Decision("identical", "confirmed_sibling", 0, 0, (WHOLE, WHOLE), 1.0)


def default_match_settings(partitions: int) -> MatchSettings:
    """The settings record that `topics create` writes into each partition of `index-log`."""
    return MatchSettings(
        record_version=1,
        partitions=partitions,
        decision_version=DECISION_VERSION,
        radius=DEFAULT_RADIUS,
        standard_threshold=DEFAULT_STANDARD_THRESHOLD,
        suggested_confidence=DEFAULT_SUGGESTED_CONFIDENCE,
        confirmed_confidence=DEFAULT_CONFIRMED_CONFIDENCE,
        least_agreement=DEFAULT_LEAST_AGREEMENT,
        least_view_confidence=DEFAULT_LEAST_VIEW_CONFIDENCE,
        confirmed_fine_distance=DEFAULT_CONFIRMED_FINE_DISTANCE,
        changed_correlation=DEFAULT_CHANGED_CORRELATION,
        changed_grey_levels=DEFAULT_CHANGED_GREY_LEVELS,
        unexplained_share=DEFAULT_UNEXPLAINED_SHARE,
        candidates_bound=DEFAULT_CANDIDATES_BOUND,
        matches_bound=DEFAULT_MATCHES_BOUND,
    )


class Ask(NamedTuple):
    """A code to search with, and what it is the code of."""

    code: int
    fine: int | None
    name: str
    box: Box
    mirrored: bool
    turned_degrees: float = 0.0


def _odd_columns(side: int) -> int:
    """The bits of a hash that a mirror image has the other way round.

    Mirroring negates the odd frequencies along a row and leaves the others; the median stays
    close to zero, so a few bits differ from the mirror image's own hash.
    """
    row = sum(1 << (side - 1 - column) for column in range(1, side, 2))
    return sum(row << (side * line) for line in range(side))


_MIRROR_CODE: Final = _odd_columns(CODE_SIDE)
_MIRROR_FINE: Final = _odd_columns(FINE_SIDE)


class Asks:
    """All that a picture is searched with: its views, these mirrored, and its further windows.

    What the codes are of is made when it is asked for: most of them meet nothing.
    """

    def __init__(self, picture: Fingerprint) -> None:
        """Know the codes; a picture without views has none."""
        self._size = picture.decoded_width_pixels, picture.decoded_height_pixels
        self._frame = picture.frame
        self._views = picture.views
        self._frames = [view for view in picture.views if view.name in _FRAMES]
        further: list[int] = []
        if picture.views and picture.asked:
            codes = np.frombuffer(picture.asked, ">u8")
            further = codes[: asked_count(self._size, self._frame)].tolist()
        self.codes = [
            *(int.from_bytes(view.code) for view in self._views),
            *(int.from_bytes(view.code) ^ _MIRROR_CODE for view in self._frames),
            *further,
        ]
        self._made: dict[int, Ask] = {}

    def ask(self, number: int) -> Ask:
        """Give what the code of this number is of."""
        if number not in self._made:
            self._made[number] = self._make(number)
        return self._made[number]

    def _make(self, number: int) -> Ask:
        code = self.codes[number]
        if number < len(self._views):
            view = self._views[number]
            box = _box(view.rectangle, self._size)
            return Ask(code, int.from_bytes(view.fine), view.name, box, mirrored=False)
        number -= len(self._views)
        if number < len(self._frames):
            view = self._frames[number]
            fine = int.from_bytes(view.fine) ^ _MIRROR_FINE
            box = _mirrored(_box(view.rectangle, self._size))
            return Ask(code, fine, view.name, box, mirrored=True)
        rectangle, is_mirrored, degrees = asked_window(
            number - len(self._frames), self._size, self._frame
        )
        box = _box(rectangle, self._size)
        return Ask(code, None, _ASKED, _mirrored(box) if is_mirrored else box, is_mirrored, degrees)


def decide(picture: Fingerprint, earlier: Fingerprint, settings: MatchSettings) -> Decision | None:
    """How `picture` relates to `earlier`; None when it does not."""
    return decide_all(picture, (earlier,), settings)[0]


def decide_all(
    picture: Fingerprint, earlier: Sequence[Fingerprint], settings: MatchSettings
) -> list[Decision | None]:
    """`decide` for each of several earlier pictures, in their order.

    What is forwarded widely comes again and again as the same bytes: those are decided once.
    """
    if not earlier:
        return []
    asking, distinct = _Asking(picture), list(dict.fromkeys(earlier))
    decided = {
        other: _decide(asking, other, met, settings)
        for other, met in zip(distinct, _meet(asking, distinct, settings.radius), strict=True)
    }
    return [decided[other] for other in earlier]


class Met(NamedTuple):
    """Two views within the radius of each other: one asked with, and one of an earlier picture."""

    distance: int
    fine_distance: int | None
    ask: Ask
    view: View


def met_views(picture: Fingerprint, earlier: Fingerprint, radius: int) -> list[Met]:
    """The views of two pictures that are within the radius, the most telling first."""
    return _meet(_Asking(picture), [earlier], radius)[0]


@dataclass(frozen=True, slots=True)
class Meeting:
    """How near two pictures come whose views are within the radius of each other."""

    score: int
    fine_distance: int | None
    views: tuple[str, str]


def meet(picture: Fingerprint, earlier: Fingerprint, radius: int) -> Meeting | None:
    """How two pictures of different bytes meet; None where no two views are within the radius."""
    met = met_views(picture, earlier, radius)
    if not met:
        return None
    score, fine_distance = _nearest(met)
    return Meeting(score, fine_distance, (met[0].ask.name, met[0].view.name))


def asked_codes(picture: Fingerprint) -> list[bytes]:
    """The codes to search the index with, 8 bytes each, without repetition."""
    return [code.to_bytes(CODE_SIDE) for code in dict.fromkeys(Asks(picture).codes)]


class _Asking:
    """A picture with what is the same for all candidates."""

    def __init__(self, picture: Fingerprint) -> None:
        self.picture = picture
        self.asks = Asks(picture)
        self.codes = np.array(self.asks.codes, dtype=np.uint64)
        self.sketch = _sketch(picture)
        self._details: dict[tuple[Box, bool], Grey] = {}

    def detail(self, own: Grey, ask: Ask) -> Grey:
        """Give what the sketch, mirrored as the window that was asked with, shows there."""
        key = ask.box, ask.mirrored
        if key not in self._details:
            self._details[key] = detail(own, ask.box)
        return self._details[key]


def _decide(
    asking: _Asking, earlier: Fingerprint, met: Sequence[Met], settings: MatchSettings
) -> Decision | None:
    if asking.picture.sha256 == earlier.sha256:
        return _IDENTICAL
    closest = _closest(asking, earlier, met, settings.least_view_confidence) if met else None
    if closest is None:
        return None
    pair, comparison = closest
    score, fine_distance = _nearest(met)
    if comparison is not None and comparison.agreement < settings.least_agreement:
        return None
    confidence = _confidence(score, fine_distance, comparison)
    if confidence < settings.suggested_confidence:
        return None
    relation = _relation(pair, comparison, settings)
    confirmed = (
        relation in {"near_identical", "reframed"}
        and confidence >= settings.confirmed_confidence
        and fine_distance is not None
        and fine_distance <= settings.confirmed_fine_distance
        and comparison is not None
        and comparison.lowest >= settings.changed_correlation
        and comparison.residual <= settings.changed_grey_levels
        and max(comparison.unexplained) + comparison.left_out <= settings.unexplained_share
    )
    return Decision(
        relation=relation,
        tier="confirmed_sibling" if confirmed else "suggested_sibling",
        score=score,
        fine_distance=fine_distance,
        views=(pair.ask.name, pair.view.name),
        weight=confidence,
    )


def _meet(asking: _Asking, earlier: Sequence[Fingerprint], radius: int) -> list[list[Met]]:
    """For each earlier picture the pairs within the radius, the most telling first.

    Fingerprints of different versions are never compared.
    """
    met: list[list[Met]] = [[] for _ in earlier]
    views = [
        (of, view)
        for of, other in enumerate(earlier)
        if other.version == asking.picture.version
        for view in other.views
    ]
    codes = np.frombuffer(b"".join(view.code for _, view in views), ">u8").astype(np.uint64)
    distances = np.bitwise_count(asking.codes[:, None] ^ codes)
    rows, columns = np.nonzero(distances <= radius)
    for row, column, distance in zip(
        rows.tolist(), columns.tolist(), distances[rows, columns].tolist(), strict=True
    ):
        ask, (of, view) = asking.asks.ask(row), views[column]
        fine_distance = None
        if ask.fine is not None:
            fine_distance = (ask.fine ^ int.from_bytes(view.fine)).bit_count()
        met[of].append(Met(distance, fine_distance, ask, view))
    return [sorted(pairs, key=_telling) for pairs in met]


def _nearest(met: Sequence[Met]) -> tuple[int, int | None]:
    fine = (pair.fine_distance for pair in met if pair.fine_distance is not None)
    return min(pair.distance for pair in met), min(fine, default=None)


def _telling(pair: Met) -> tuple[int, int, bool]:
    """Close fine codes first; an asked window has none. Larger views lie more exactly."""
    whole = pair.ask.name == pair.view.name == WHOLE
    if pair.fine_distance is None:
        return _FINE_DISTANCE_OF_ASKED + 4 * pair.distance, pair.distance, not whole
    framed = pair.ask.name in _FRAMES and pair.view.name in _FRAMES
    handicap = 0 if framed else _HANDICAP_OF_WINDOWS
    return pair.fine_distance + handicap, pair.distance, not whole


def _closest(
    asking: _Asking, earlier: Fingerprint, met: Sequence[Met], least_view_confidence: float
) -> tuple[Met, Comparison | None] | None:
    """The pair whose views lay both pictures over each other best; None where none is worth it."""
    sketch = _sketch(earlier)
    if asking.sketch is None or sketch is None:
        return met[0], None
    laid: dict[object, tuple[Met, Comparison | None]] = {}
    size = earlier.decoded_width_pixels, earlier.decoded_height_pixels
    for pair in met[:_PAIRS_COMPARED]:
        other_box = _box(pair.view.rectangle, size)
        # Most views of an uncropped copy say that both pictures lie edge to edge.
        way = overlap(pair.ask.box, other_box), pair.ask.mirrored, pair.ask.turned_degrees
        own = asking.sketch[:, ::-1] if pair.ask.mirrored else asking.sketch
        if way in laid:
            continue
        # Close codes leave no doubt, and details take a quarter of the time of a comparison.
        if _view_confidence(pair, -_MOST_ALIKE) < least_view_confidence:
            alike = float((asking.detail(own, pair.ask) * detail(sketch, other_box)).sum())
            if _view_confidence(pair, alike) < least_view_confidence:
                continue
        comparison = compare(
            own,
            sketch,
            pair.ask.box,
            other_box,
            turned_degrees=pair.ask.turned_degrees,
            frames=_frames_of_both(asking.picture, earlier, mirrored=pair.ask.mirrored),
        )
        laid[way] = pair, comparison
        if _agreement(comparison) > _AGREEMENT_BEYOND_DOUBT:
            break
    return max(laid.values(), key=lambda each: _agreement(each[1]), default=None)


def _agreement(comparison: Comparison | None) -> float:
    return -math.inf if comparison is None else comparison.agreement


def _view_confidence(pair: Met, alike: float) -> float:
    """How likely two views that met show the same; 1 where this would not tell.

    `alike`: how they correlate in detail, -1 to 1.
    """
    if pair.ask.turned_degrees:
        return 1.0
    evidence = _EVIDENCE_OF_MEETING + _EVIDENCE_OF_DISTANCE_BIT * pair.distance
    if pair.fine_distance is None:
        evidence += _EVIDENCE_OF_ASKED_VIEW
    else:
        evidence += _EVIDENCE_OF_VIEW_FINE_BIT * pair.fine_distance
    return _logistic(evidence + _EVIDENCE_OF_DETAIL * alike)


def _confidence(score: int, fine_distance: int | None, comparison: Comparison | None) -> float:
    fine = _UNRELATED_FINE_DISTANCE if fine_distance is None else fine_distance
    fine = min(fine, _UNRELATED_FINE_DISTANCE)
    if comparison is None:
        evidence = _EVIDENCE_OF_EQUAL_CODES_ALONE + _EVIDENCE_OF_FINE_BIT_ALONE * fine
    else:
        evidence = (
            _EVIDENCE_OF_NOTHING
            - _EVIDENCE_OF_AGREEMENT * math.log(_PERFECT - max(0.0, comparison.agreement))
            + _EVIDENCE_OF_LOWEST * max(0.0, comparison.lowest)
            + _EVIDENCE_OF_FINE_BIT * fine
            + _EVIDENCE_OF_SCORE_BIT * score
        )
    return _logistic(evidence)


def _logistic(evidence: float) -> float:
    return 1.0 / (1.0 + math.exp(-evidence))


def _relation(pair: Met, comparison: Comparison | None, settings: MatchSettings) -> Relation:
    if pair.ask.mirrored:
        return "mirrored"
    if comparison is None:
        return "near_identical" if pair.ask.name == pair.view.name == WHOLE else "reframed"
    if comparison.aligned:
        changed = comparison.lowest < settings.changed_correlation
        return "other_text" if changed else "near_identical"
    captions = min(comparison.unexplained) > settings.unexplained_share
    if captions and pair.ask.name in _FRAMES and pair.view.name in _FRAMES:
        return "other_text"  # each picture has something beside the same picture
    return "reframed"


def _sketch(picture: Fingerprint) -> Grey | None:
    if not picture.sketch:
        return None
    return grey(picture.sketch, picture.decoded_width_pixels, picture.decoded_height_pixels)


def _frames_of_both(
    picture: Fingerprint, earlier: Fingerprint, *, mirrored: bool
) -> tuple[Box, Box] | None:
    """Where the picture is in each, if each has something around it.

    Where one has not, a frame in the other is what they share, or none: text that was laid over it.
    """
    one, other = (
        _box(each.frame, (each.decoded_width_pixels, each.decoded_height_pixels))
        for each in (picture, earlier)
    )
    if WHOLE_BOX in {one, other}:
        return None
    return _mirrored(one) if mirrored else one, other


def _box(rectangle: tuple[int, int, int, int], size: tuple[int, int]) -> Box:
    left, top, right, bottom = rectangle
    return left / size[0], top / size[1], right / size[0], bottom / size[1]


def _mirrored(box: Box) -> Box:
    return 1.0 - box[2], box[1], 1.0 - box[0], box[3]
