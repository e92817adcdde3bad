"""What the matcher says of a picture: an outcome, from the index as of the picture's place.

Pure: the index is asked through a small protocol, and the same picture of the same log gives the
same bytes whenever it is asked. Called by `streams.matcher` for each group of the log.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from agents.decide import KNOWN_DECISION_VERSIONS, asked_codes, decide_all
from schemas.codec import UnknownLogRecordError, cloudevents_headers, encode_json, event_id
from schemas.records import Hashed, ImageMatched, Match, MatchSettings, Position
from schemas.topics import IMAGE_MATCHED

MODEL = "check-dedup/phash-views"


class Row(Protocol):
    """A picture as the index holds it."""

    @property
    def ordinal(self) -> int:
        """Offset of the first record of its image id."""
        ...

    @property
    def timestamp_ms(self) -> int:
        """Timestamp of that record."""
        ...

    @property
    def record(self) -> Hashed:
        """That record."""
        ...


RowType = TypeVar("RowType", bound=Row)


class Index(Protocol[RowType]):
    """What matching asks of a partition's index."""

    def settings_at(self, offset: int, /) -> MatchSettings:
        """Give the settings in force at an offset."""
        ...

    def rows(self, ordinals: Sequence[int], /) -> list[RowType]:
        """Give the pictures at these ordinals."""
        ...

    def outcomes(self, ordinals: Sequence[int], /) -> dict[int, bytes]:
        """Give the first outcomes that are stored."""
        ...

    def candidates(
        self, rows: Sequence[RowType], codes: Sequence[Sequence[bytes]], radius: int, bound: int, /
    ) -> list[Sequence[int]]:
        """Give, for each picture and its codes, the ordinals of what it saw within the radius."""
        ...


@dataclass(frozen=True, slots=True)
class Finding(Generic[RowType]):
    """What a picture saw, oldest first, and its matches among that, best first."""

    seen: Sequence[RowType]
    matches: Sequence[Match]


@dataclass(frozen=True, slots=True)
class Outcome(Generic[RowType]):
    """The outcome for one picture, as it is delivered and stored.

    `finding` is what it was made from; None where it was stored already.
    """

    row: RowType
    value: bytes
    finding: Finding[RowType] | None

    @property
    def fresh(self) -> bool:
        """Whether it is still to be stored."""
        return self.finding is not None

    @property
    def key(self) -> bytes:
        """The record's key on `image-matched`."""
        return self.row.record.image_id.encode()

    @property
    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """CloudEvents headers, the same for every delivery of this outcome."""
        record = self.row.record
        return tuple(
            cloudevents_headers(
                topic=IMAGE_MATCHED,
                identifier=event_id(IMAGE_MATCHED, record.workspace, record.image_id),
                source="matcher",
                subject=record.image_id,
                time_ms=self.row.timestamp_ms,
                content_type="application/json",
            )
        )


def outcomes(
    index: Index[RowType], partition: int, firsts: Iterable[int]
) -> dict[int, Outcome[RowType]]:
    """Give the outcome of each picture, by the offset of its first record.

    What is stored is given as stored. What is not (a new picture, or one that was only rebuilt)
    is decided as of its own place in the log, so that both give the same bytes.

    Raises:
        UnknownLogRecordError: the settings in force want another version of the decision.
    """
    ordinals = sorted(set(firsts))
    stored = index.outcomes(ordinals)
    rows = index.rows(ordinals)
    decided = {
        row.ordinal: Outcome(row, encode_json(_outcome(row, partition, finding, settings)), finding)
        for row, settings, finding in _decided(
            index, partition, [row for row in rows if row.ordinal not in stored]
        )
    }
    return {
        row.ordinal: decided.get(row.ordinal) or Outcome(row, stored[row.ordinal], None)
        for row in rows
    }


def _decided(
    index: Index[RowType], partition: int, rows: Sequence[RowType]
) -> Iterator[tuple[RowType, MatchSettings, Finding[RowType]]]:
    by_settings: dict[MatchSettings, list[RowType]] = {}
    for row in rows:
        settings = index.settings_at(row.ordinal)
        if settings.decision_version not in KNOWN_DECISION_VERSIONS:
            raise UnknownLogRecordError(
                f"index-log partition {partition} offset {row.ordinal}: decision version "
                f"{settings.decision_version} is in force, this program knows "
                f"{', '.join(map(str, KNOWN_DECISION_VERSIONS))}"
            )
        by_settings.setdefault(settings, []).append(row)
    for settings, asked in by_settings.items():
        for row, finding in zip(asked, findings(index, asked, settings), strict=True):
            yield row, settings, finding


def findings(
    index: Index[RowType], rows: Sequence[RowType], settings: MatchSettings
) -> list[Finding[RowType]]:
    """Search and decide for each picture; each candidate's row is read once."""
    codes = [asked_codes(row.record.fingerprint) for row in rows]
    found = index.candidates(rows, codes, settings.radius, settings.candidates_bound)
    ordinals = sorted({ordinal for candidates in found for ordinal in candidates})
    read = dict(zip(ordinals, index.rows(ordinals), strict=True))
    seen = [[read[ordinal] for ordinal in sorted(candidates)] for candidates in found]
    return [
        Finding(earlier, related(row.record, earlier, settings))
        for row, earlier in zip(rows, seen, strict=True)
    ]


def related(picture: Hashed, seen: Sequence[Row], settings: MatchSettings) -> list[Match]:
    """Give all matches of a picture among those that it saw, best first."""
    decisions = decide_all(
        picture.fingerprint, [other.record.fingerprint for other in seen], settings
    )
    ranked = sorted(
        (
            (decision, other.record)
            for decision, other in zip(decisions, seen, strict=True)
            if decision is not None
        ),
        key=lambda pair: pair[0].rank,
    )
    return [
        Match(
            sha256=other.fingerprint.sha256.hex(),
            image_id=other.image_id,
            score=decision.score,
            fine_distance=decision.fine_distance,
            relation=decision.relation,
            tier=decision.tier,
            weight=decision.weight,
            views=decision.views,
            origin=other.origin,
            check=other.check,
        )
        for decision, other in ranked
    ]


def _outcome(
    row: RowType, partition: int, finding: Finding[RowType], settings: MatchSettings
) -> ImageMatched:
    record, matches = row.record, finding.matches
    same_item = [match for match in matches if match.relation != "other_text"]
    fingerprint = record.fingerprint
    return ImageMatched(
        workspace=record.workspace,
        image_id=record.image_id,
        sha256=fingerprint.sha256.hex(),
        position=Position(partition=partition, offset=row.ordinal),
        match=bool(same_item),
        closest_match=same_item[0] if same_item else None,
        matches=tuple(matches[: settings.matches_bound]),
        matches_total=len(matches),
        model=f"{MODEL}/{settings.decision_version}",
        hash_version=fingerprint.version,
        origin=record.origin,
        check=record.check,
        low_information=fingerprint.low_information,
        removed=fingerprint.is_blank,
    )
