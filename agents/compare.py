"""`check-dedup compare`: two pictures' views, which met, all distances, the decision, and why.

Pure. Called by the CLI and the API; the pictures need not be in any index.
"""

import msgspec

from agents.decide import Decision, decide, met_views
from schemas.records import Fingerprint, MatchSettings


class MetPair(msgspec.Struct, frozen=True):
    """Two views within the radius; `fine_distance` is None for windows that are only asked."""

    picture_view: str
    earlier_view: str
    distance: int
    fine_distance: int | None
    mirrored: bool


class Compared(msgspec.Struct, frozen=True):
    """All that is known of two pictures together."""

    picture_views: list[str]
    earlier_views: list[str]
    met: list[MetPair]
    whole_distance: int | None
    decision: Decision | None
    explanation: str


def compare(picture: Fingerprint, earlier: Fingerprint, settings: MatchSettings) -> Compared:
    """How `picture`, arriving later, relates to `earlier`, and what speaks for it."""
    met = [
        MetPair(pair.ask.name, pair.view.name, pair.distance, pair.fine_distance, pair.ask.mirrored)
        for pair in met_views(picture, earlier, settings.radius)
    ]
    decision = decide(picture, earlier, settings)
    whole = None
    if picture.views and earlier.views:
        one, other = (int.from_bytes(each.views[0].code) for each in (picture, earlier))
        whole = (one ^ other).bit_count()
    return Compared(
        picture_views=[view.name for view in picture.views],
        earlier_views=[view.name for view in earlier.views],
        met=sorted(met, key=lambda pair: pair.distance),
        whole_distance=whole,
        decision=decision,
        explanation=_explanation(picture, earlier, met, decision, settings),
    )


def _explanation(
    picture: Fingerprint,
    earlier: Fingerprint,
    met: list[MetPair],
    decision: Decision | None,
    settings: MatchSettings,
) -> str:
    if decision is None:
        if not picture.views or not earlier.views:
            return "Not related: too plain or too small a picture matches identical bytes only."
        if not met:
            return f"Not related: no two views are within {settings.radius} of 64 bits."
        return (
            f"Not related: {len(met)} pairs of views met, but laid over each other as they say, "
            "the pictures do not show the same."
        )
    ours, theirs = decision.views
    where = f"'{ours}' lies on '{theirs}', {decision.score} of 64 bits apart at the closest"
    return {
        "identical": "The same bytes.",
        "near_identical": f"The same picture again: {where}, and no part of it differs.",
        "reframed": f"The same picture in another frame: {where}.",
        "mirrored": f"The mirror image: {where}, once mirrored.",
        "other_text": f"The same picture with something else written or drawn on it: {where}, "
        "but some part differs.",
    }[decision.relation]
