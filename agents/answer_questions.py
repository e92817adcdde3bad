"""What the matcher tells the API: a picture's matches within a threshold, and other questions.

Pure, as `agents.match_images` is: the answer is a function of the log below the position that it
names. Called by `streams.matcher` for pictures that someone waits for, and for `match-asked`.
"""

from collections.abc import Sequence
from typing import Final, Literal, Protocol, TypeVar

import msgspec

from agents.decide import decide, meet
from agents.match_images import Finding, Index, Outcome, Row, findings, related
from schemas.codec import cloudevents_headers, event_id
from schemas.records import (
    AskExplain,
    AskImage,
    AskMatch,
    Fingerprint,
    Hashed,
    ImageMatched,
    KnownImage,
    Match,
    MatchAnswered,
    MatchSettings,
    NearMiss,
    Position,
    Question,
    ReplyAddress,
)
from schemas.topics import MATCH_ANSWERED

# What the contract allows an answer to list; its longest answer then fits the topic.
MATCHES_BOUND: Final = 100
IMAGES_BOUND: Final = 10
IMAGE_MATCHES_BOUND: Final = 10
# No fine codes met: farther than any two that did.
_FARTHEST: Final = 257

RowType = TypeVar("RowType", bound=Row)


class AnsweringIndex(Index[RowType], Protocol[RowType]):
    """What answering asks of a partition's index, beyond matching."""

    @property
    def next_offset(self) -> int:
        """First offset that is not applied."""
        ...

    def asked(self, record: Hashed, /) -> RowType:
        """Give a row for a picture that is not stored: it sees all that is there."""
        ...

    def as_of_now(self, row: RowType, /) -> RowType:
        """Give a stored row that sees what is still there of what came before it."""
        ...

    def visible(self, workspace: str, image_ids: Sequence[str], /) -> list[RowType]:
        """Give the pictures of these ids that are there and not removed."""
        ...


def told(
    index: AnsweringIndex[RowType], partition: int, outcome: Outcome[RowType], reply: ReplyAddress
) -> MatchAnswered:
    """Tell who sent a picture what it matches, as of the picture's own place in the log."""
    answered = _within(index, partition, outcome.row, reply, outcome.finding)
    decoded = msgspec.json.decode(outcome.value, type=ImageMatched)
    return msgspec.structs.replace(answered, outcome=decoded)


def answer(index: AnsweringIndex[RowType], partition: int, question: Question) -> MatchAnswered:
    """Answer a question from all that is applied."""
    if isinstance(question, AskMatch):
        row = index.asked(_unstored(question.workspace, question.fingerprint))
        reply = ReplyAddress(question.request_id, question.threshold)
        return _within(index, partition, row, reply)
    position = Position(partition, index.next_offset)
    if isinstance(question, AskImage):
        return MatchAnswered(
            question.request_id,
            question.workspace,
            position,
            images=_known(index, partition, question),
        )
    if isinstance(question, AskExplain):
        matches, miss = _explained(index, question)
        return MatchAnswered(
            question.request_id,
            question.workspace,
            position,
            closest_match=_closest(matches),
            matches=tuple(matches),
            nearest_miss=miss,
        )
    return MatchAnswered(
        question.request_id,
        question.workspace,
        position,
        settings=index.settings_at(index.next_offset),
    )


def answer_headers(answered: MatchAnswered, time_ms: int) -> tuple[tuple[str, bytes], ...]:
    """Give the CloudEvents headers of an answer."""
    return tuple(
        cloudevents_headers(
            topic=MATCH_ANSWERED,
            identifier=event_id(MATCH_ANSWERED, answered.request_id),
            source="matcher",
            subject=answered.request_id,
            time_ms=time_ms,
            content_type="application/json",
        )
    )


def _within(
    index: AnsweringIndex[RowType],
    partition: int,
    row: RowType,
    reply: ReplyAddress,
    finding: Finding[RowType] | None = None,
) -> MatchAnswered:
    """Answer what a picture matches within a threshold; a finding that is known is not repeated."""
    settings = index.settings_at(row.ordinal)
    if finding is None:
        (finding,) = findings(index, [row], settings)
    matches = [match for match in finding.matches if match.score <= reply.threshold]
    closest = _closest(matches)
    return MatchAnswered(
        request_id=reply.request_id,
        workspace=row.record.workspace,
        position=Position(partition, row.ordinal),
        closest_match=closest,
        matches=tuple(matches[:MATCHES_BOUND]),
        nearest_miss=None if closest else _nearest_miss(row.record, finding.seen, settings),
    )


def _closest(matches: Sequence[Match]) -> Match | None:
    """Give the best match that is the same item: another text is another claim."""
    return next((match for match in matches if match.relation != "other_text"), None)


def _nearest_miss(picture: Hashed, seen: Sequence[Row], settings: MatchSettings) -> NearMiss | None:
    """Give the nearest of what was seen and did not match; the oldest of equally near ones."""
    misses = (_miss(picture, other.record, settings) for other in seen)
    return min(
        (miss for miss in misses if miss is not None),
        key=_distance,
        default=None,
    )


def _distance(miss: NearMiss) -> tuple[int, int]:
    return miss.score, _FARTHEST if miss.fine_distance is None else miss.fine_distance


def _miss(picture: Hashed, other: Hashed, settings: MatchSettings) -> NearMiss | None:
    met = meet(picture.fingerprint, other.fingerprint, settings.radius)
    if met is None:
        return None
    decision = decide(picture.fingerprint, other.fingerprint, settings)
    reason: Literal["threshold", "confidence", "other_text"] = "confidence"
    if decision is not None:
        reason = "other_text" if decision.relation == "other_text" else "threshold"
    return NearMiss(
        sha256=other.fingerprint.sha256.hex(),
        image_id=other.image_id,
        score=met.score,
        fine_distance=met.fine_distance,
        views=met.views,
        reason=reason,
        origin=other.origin,
        check=other.check,
    )


def _known(
    index: AnsweringIndex[RowType], partition: int, question: AskImage
) -> tuple[KnownImage, ...]:
    """Find the pictures with these bytes, and what they relate to among those still there."""
    bytes_only = Fingerprint(1, question.sha256, "unknown", 1, 1, 1, 1, (), low_information=True)
    asked = index.asked(_unstored(question.workspace, bytes_only))
    (found,) = index.candidates([asked], [()], 0, IMAGES_BOUND)
    rows = index.rows(sorted(found))
    return tuple(
        _known_image(index, partition, row)
        for row in rows
        if row.record.fingerprint.sha256 == question.sha256
    )


def _known_image(index: AnsweringIndex[RowType], partition: int, row: RowType) -> KnownImage:
    settings = index.settings_at(row.ordinal)
    (finding,) = findings(index, [index.as_of_now(row)], settings)
    record = row.record
    return KnownImage(
        sha256=record.fingerprint.sha256.hex(),
        image_id=record.image_id,
        ingested_at_ms=record.ingested_at_ms,
        position=Position(partition, row.ordinal),
        origin=record.origin,
        matches=tuple(finding.matches[:IMAGE_MATCHES_BOUND]),
        check=record.check,
    )


def _explained(
    index: AnsweringIndex[RowType], question: AskExplain
) -> tuple[Sequence[Match], NearMiss | None]:
    """Relate the newer of two pictures to the older one; nothing where either is not there."""
    rows = index.visible(question.workspace, [question.image_id, question.other_image_id])
    if len({row.ordinal for row in rows}) < 2:  # noqa: PLR2004 - a pair
        return (), None
    older, newer = sorted(rows, key=lambda row: row.ordinal)
    settings = index.settings_at(newer.ordinal)
    matches = related(newer.record, [older], settings)
    miss = None if _closest(matches) else _miss(newer.record, older.record, settings)
    return matches, miss


def _unstored(workspace: str, fingerprint: Fingerprint) -> Hashed:
    """Make the record that a picture would have, were it stored."""
    return Hashed(1, workspace, "unstored", "api", fingerprint, 0)
