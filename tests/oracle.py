"""Did anything get lost, doubled with another face, or answered wrongly? Asked after every fault.

`verify` works on plain records in memory and shares no code with the index or the matcher: it
walks the log and compares every picture with every earlier one. What it takes from the product
are the contract (`schemas`) and the decision about one pair (`agents.decide.decide`).
`read_history` reads those records from a broker; `verify_index` compares an index on disk with
one that is made anew from the log.

The rules, for every picture (workspace, image id) that was published:
- it has one outcome, or a dead letter; every copy of an outcome is the same, byte for byte;
- its outcome is what brute force over the log says;
- nobody else has an outcome, a log record or a dead letter;
- what a group has committed is done, and so will never be needed again.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import starmap, zip_longest
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, NamedTuple, get_args

import faiss
import msgspec
import numpy as np
from numpy.typing import NDArray

from agents.decide import Decision, asked_codes, decide
from agents.match_images import MODEL
from schemas.codec import (
    UnknownLogRecordError,
    cloudevents_headers,
    decode_image_ingested,
    decode_image_removed,
    decode_log,
    encode_json,
    event_id,
)
from schemas.reasons import Reason, Rejection
from schemas.records import (
    Fingerprint,
    Hashed,
    ImageIngested,
    ImageMatched,
    ImageRemoved,
    LogRecord,
    Match,
    MatchSettings,
    Position,
    Removed,
)
from schemas.topics import (
    IMAGE_INGESTED,
    IMAGE_MATCHED,
    IMAGE_REMOVED,
    INDEX_LOG,
    MATCH_ASKED,
    dead_letter_topic_name,
)
from streams.entry import LogEntry
from streams.evaluation.cost import bare_pool
from streams.index.partition import PartitionIndex
from streams.kafka.client import committed_offset
from streams.kafka.log import LogReader
from streams.kafka.partitioner import partition_of
from streams.kafka.topics import GROUP_TOPICS, HASHER_GROUP
from streams.settings import Settings

Kind = Literal[
    "lost",  # neither an outcome nor a dead letter
    "conflict",  # two outcomes, or two dead letters, of one input that differ
    "unknown",  # about an input that nobody published
    "wrong",  # not what brute force, or the contract, says
    "log",  # a log record that does not follow from its source, or is in the wrong place
    "committed",  # a group committed more than is done, or than there is
    "index",  # the index on disk is not what the log says
]

SOURCES: Final = {IMAGE_INGESTED: decode_image_ingested, IMAGE_REMOVED: decode_image_removed}
# More of the same kind are counted, not printed.
PRINTED_PER_KIND: Final = 10
# Log records: fewer are decided sooner than a process starts.
WORTH_PROCESSES: Final = 5_000


class Picture(NamedTuple):
    """What outcomes are about."""

    workspace: str
    image_id: str


class Place(NamedTuple):
    """Where a record is."""

    topic: str
    partition: int
    offset: int


class GroupPartition(NamedTuple):
    """What an offset is committed for."""

    group: str
    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class History:
    """All that a broker holds: records by topic and partition, and committed offsets."""

    partitions: int
    records: Mapping[str, Mapping[int, Sequence[LogEntry]]]
    committed: Mapping[GroupPartition, int | None]
    ends: Mapping[tuple[str, int], int]

    def of(self, topic: str) -> Iterator[tuple[Place, LogEntry]]:
        """Give a topic's records with their places."""
        for partition, entries in sorted(self.records.get(topic, {}).items()):
            for entry in entries:
                yield Place(topic, partition, entry.offset), entry


class Violation(NamedTuple):
    """One promise that was not kept."""

    kind: Kind
    what: str


@dataclass(slots=True)
class Report:
    """What was found. `violations` empty: every promise was kept."""

    pictures: int = 0
    outcomes: dict[Picture, ImageMatched] = field(default_factory=dict)
    copies: int = 0
    dead_letters: dict[Place, Reason] = field(default_factory=dict)
    superseded: int = 0
    violations: list[Violation] = field(default_factory=list)

    def kinds(self) -> set[Kind]:
        """Give the kinds of violation that were found."""
        return {violation.kind for violation in self.violations}

    def __str__(self) -> str:
        """Say it in a few lines."""
        lines = [
            (
                f"{self.pictures} pictures, {len(self.outcomes)} outcomes "
                f"(and {self.copies} copies), {len(self.dead_letters)} dead letters "
                f"({self.superseded} superseded), {len(self.violations)} violations"
            )
        ]
        for kind in get_args(Kind):
            found = [what for each, what in self.violations if each == kind]
            lines += [f"  {kind}: {what}" for what in found[:PRINTED_PER_KIND]]
            if len(found) > PRINTED_PER_KIND:
                lines.append(f"  {kind}: and {len(found) - PRINTED_PER_KIND} more")
        return "\n".join(lines)


def verify(history: History) -> Report:
    """Hold a history against every rule."""
    return _Verification(history).run()


class _Verification:
    """The state of one `verify`."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.report = Report()
        self.events: dict[Place, ImageIngested | ImageRemoved] = {}
        self.rejected: dict[Place, Rejection] = {}
        self.log: dict[Place, LogRecord] = {}
        self.logged: dict[Place, LogRecord] = {}
        self.first_outcomes: dict[Picture, LogEntry] = {}

    def violated(self, kind: Kind, what: str) -> None:
        self.report.violations.append(Violation(kind, what))

    def run(self) -> Report:
        self.read_events()
        self.read_log()
        self.read_dead_letters()
        self.read_outcomes()
        self.check_nothing_lost()
        self.check_brute_force()
        self.check_committed()
        return self.report

    def read_events(self) -> None:
        for topic, decode in SOURCES.items():
            for place, entry in self.history.of(topic):
                event = decode(entry.key, entry.value)
                if isinstance(event, Rejection):
                    self.rejected[place] = event
                else:
                    self.events[place] = event

    def published(self) -> set[Picture]:
        """Give every picture that an event, or the API, brought."""
        by_event = {
            Picture(event.workspace, event.image_id)
            for event in self.events.values()
            if isinstance(event, ImageIngested)
        }
        by_api = {
            Picture(record.workspace, record.image_id)
            for record in self.log.values()
            if isinstance(record, Hashed) and record.origin == "api"
        }
        return by_event | by_api

    def in_log(self) -> set[Picture]:
        """Give every picture that was hashed."""
        return {
            Picture(record.workspace, record.image_id)
            for record in self.log.values()
            if isinstance(record, Hashed)
        }

    def read_log(self) -> None:
        """Every record follows from its source, on its workspace's partition, under its own key."""
        keys: dict[bytes | None, Place] = {}
        for place, entry in self.history.of(INDEX_LOG):
            if entry.value is None:
                continue
            if entry.key in keys:
                self.violated("log", f"{place} has the key of {keys[entry.key]}")
            keys[entry.key] = place
            try:
                record = decode_log(entry.value)
            except UnknownLogRecordError as error:
                self.violated("log", f"{place}: {error}")
                continue
            self.log[place] = record
            if isinstance(record, Hashed | Removed):
                self.check_log_record(place, record)

    def check_log_record(self, place: Place, record: Hashed | Removed) -> None:
        if place.partition != partition_of(record.workspace, self.history.partitions):
            self.violated("log", f"{place} is not on the partition of {record.workspace!r}")
        if record.source is None:
            return
        source = Place(record.source.topic, record.source.partition, record.source.offset)
        if self.logged.setdefault(source, record) != record:
            self.violated("conflict", f"{place} differs from an earlier record of {source}")
        event = self.events.get(source)
        kind = ImageIngested if isinstance(record, Hashed) else ImageRemoved
        if (
            not isinstance(event, kind)
            or event.workspace != record.workspace
            or event.image_id != record.image_id
        ):
            self.violated("unknown", f"{place} says that {source} is {record.image_id!r}")
        elif isinstance(record, Hashed) and isinstance(event, ImageIngested):
            if record.check != event.check:
                self.violated("log", f"{place} has other ids of Check's than {source}")
            content = event.content
            if content is not None and sha256(content).digest() != record.fingerprint.sha256:
                self.violated("log", f"{place} is the fingerprint of other bytes than {source}")

    def read_dead_letters(self) -> None:
        """Every dead letter is its source record as it was, and a reason that never varies."""
        first: dict[Place, LogEntry] = {}
        for topic in SOURCES:
            sources = dict(self.history.of(topic))
            for place, letter in self.history.of(dead_letter_topic_name(topic)):
                source, reason = _told_by(letter)
                original = sources.get(source) if source is not None else None
                if source is None or original is None:
                    self.violated("unknown", f"{place} is the dead letter of no record: {source}")
                    continue
                kept = tuple(pair for pair in letter.headers if not pair[0].startswith("dlq-"))
                sent = tuple(pair for pair in original.headers if not pair[0].startswith("dlq-"))
                if (letter.key, letter.value, kept) != (original.key, original.value, sent):
                    self.violated("wrong", f"{place} is not {source} as it was")
                if place.partition != source.partition:
                    self.violated("wrong", f"{place} is not on the partition of {source}")
                if reason not in get_args(Reason):
                    self.violated("wrong", f"{place} has the reason {reason!r}")
                expected = self.rejected.get(source)
                if expected is not None and expected.reason != reason:
                    self.violated("wrong", f"{place}: {reason}, but it is {expected.reason}")
                earlier = first.setdefault(source, letter)
                if _content(earlier) != _content(letter):
                    self.violated("conflict", f"dead letters of {source} differ: {place}")
                self.report.dead_letters[source] = reason  # type: ignore[assignment]

    def read_outcomes(self) -> None:
        first = self.first_outcomes
        published = self.published()
        self.report.pictures = len(published)
        for place, entry in self.history.of(IMAGE_MATCHED):
            try:
                outcome = msgspec.json.decode(entry.value or b"", type=ImageMatched)
            except msgspec.MsgspecError as error:
                self.violated("wrong", f"{place} is no outcome: {error}")
                continue
            picture = Picture(outcome.workspace, outcome.image_id)
            if picture not in published:
                self.violated("unknown", f"{place} is the outcome of {picture}")
            if place.partition != partition_of(outcome.image_id, self.history.partitions):
                self.violated("wrong", f"{place} is not on the partition of its key")
            if picture not in first:
                first[picture] = entry
                self.report.outcomes[picture] = outcome
                continue
            self.report.copies += 1
            if _content(first[picture]) != _content(entry):
                self.violated("conflict", f"{picture}: {first[picture].value!r}, {entry.value!r}")

    def check_nothing_lost(self) -> None:
        """Every record ended in a log record or a dead letter, every picture in one of two ways."""
        for place in (*self.events, *self.rejected):
            if place not in self.logged and place not in self.report.dead_letters:
                self.violated("lost", f"{place} is neither in the log nor a dead letter")
        dead = {
            Picture(event.workspace, event.image_id)
            for place, event in self.events.items()
            if place in self.report.dead_letters
        }
        self.report.superseded = len(dead & self.report.outcomes.keys())
        for place in self.rejected:
            if place in self.logged:
                self.violated("log", f"{place} is no valid event, but in the log")
        for picture in sorted(self.published() - self.in_log() - dead):
            if picture not in self.report.outcomes:
                self.violated("lost", f"{picture} has neither an outcome nor a dead letter")

    def check_brute_force(self) -> None:
        entries: dict[int, list[LogEntry]] = {at: [] for at in range(self.history.partitions)}
        for place, entry in self.history.of(INDEX_LOG):
            if place in self.log:
                entries[place.partition].append(entry)
        for complaints, outcomes in _walked(entries):
            for complaint in complaints:
                self.violated("log", complaint)
            for picture, (expected, headers) in outcomes.items():
                found = self.first_outcomes.get(picture)
                if found is None:
                    self.violated("lost", f"{picture} is in the log, but has no outcome")
                    continue
                self.compare(picture, found, expected, headers)
        for picture in sorted(self.report.outcomes.keys() - self.in_log()):
            self.violated("wrong", f"{picture} has an outcome, but no log record")

    def compare(
        self,
        picture: Picture,
        found: LogEntry,
        expected: ImageMatched,
        headers: Sequence[tuple[str, bytes]],
    ) -> None:
        outcome = self.report.outcomes[picture]
        differing = [
            f"{name} is {getattr(outcome, name)!r} instead of {getattr(expected, name)!r}"
            for name in ImageMatched.__struct_fields__
            if getattr(outcome, name) != getattr(expected, name)
        ]
        if found.value != encode_json(expected) and not differing:
            differing.append("its bytes are not the canonical ones")
        if found.key != picture.image_id.encode():
            differing.append(f"its key is {found.key!r}")
        if list(found.headers) != list(headers):
            differing.append(f"its headers are {found.headers} instead of {headers}")
        if differing:
            self.violated("wrong", f"{picture}: {'; '.join(differing)}")

    def check_committed(self) -> None:
        """A group may have committed less than is done, never more."""
        for at, offset in self.history.committed.items():
            end = self.history.ends.get((at.topic, at.partition), 0)
            if offset is None:
                self.violated("committed", f"{at} has no committed offset")
                continue
            if offset > end:
                self.violated("committed", f"{at}: {offset}, but the topic ends at {end}")
            for entry in self.history.records.get(at.topic, {}).get(at.partition, ()):
                place = Place(at.topic, at.partition, entry.offset)
                if entry.offset < offset and not self.is_done(at.group, place):
                    self.violated("committed", f"{at}: {offset}, but {place} is not done")

    def is_done(self, group: str, place: Place) -> bool:
        if group == HASHER_GROUP:
            return place in self.logged or place in self.report.dead_letters
        record = self.log.get(place)
        return (
            not isinstance(record, Hashed)
            or Picture(record.workspace, record.image_id) in self.report.outcomes
        )


@dataclass(slots=True)
class Indexed:
    """A picture that was seen before; once it is removed it relates to none that comes later."""

    offset: int
    record: Hashed
    removed: bool = False


class Pictures:
    """The pictures of one workspace, by brute force: each code asked meets each code there is.

    FAISS compares them; in numpy the history of half an hour took longer than the half hour.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._by_id: dict[str, Indexed] = {}
        self._by_bytes: defaultdict[bytes, list[Indexed]] = defaultdict(list)
        # Of each version of the fingerprint: the codes, and whose each is.
        self._codes: defaultdict[int, Any] = defaultdict(partial(faiss.IndexBinaryFlat, 64))
        self._owners: defaultdict[int, list[Indexed]] = defaultdict(list)

    def add(self, picture: Indexed) -> None:
        """Let later ones meet it."""
        fingerprint = picture.record.fingerprint
        self._by_id[picture.record.image_id] = picture
        self._by_bytes[fingerprint.sha256].append(picture)
        if fingerprint.views:
            self._codes[fingerprint.version].add(_rows([view.code for view in fingerprint.views]))
            self._owners[fingerprint.version] += [picture] * len(fingerprint.views)

    def remove(self, image_id: str) -> None:
        """Let later ones not meet it."""
        if (picture := self._by_id.get(image_id)) is not None:
            picture.removed = True

    def near(self, record: Hashed, radius: int) -> list[Indexed]:
        """Give all within the radius of a code, nearest first, older first; 0 of the same bytes."""
        version, asked = record.fingerprint.version, asked_codes(record.fingerprint)
        nearest: dict[int, tuple[int, Indexed]] = {}
        if asked and self._owners[version]:
            # Below a bound, not up to it.
            _, distances, rows = self._codes[version].range_search(_rows(asked), radius + 1)
            owners = self._owners[version]
            for distance, row in zip(distances.tolist(), rows.tolist(), strict=True):
                owner = owners[row]
                known = nearest.get(owner.offset, (radius + 1, owner))
                nearest[owner.offset] = min(known, (int(distance), owner), key=itemgetter(0))
        for owner in self._by_bytes[record.fingerprint.sha256]:
            nearest[owner.offset] = (0, owner)
        found = [(distance, owner) for distance, owner in nearest.values() if not owner.removed]
        return [owner for _, owner in sorted(found, key=lambda each: (each[0], each[1].offset))]


def _rows(codes: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(codes), np.uint8).reshape(len(codes), -1)


Outcomes = dict[Picture, tuple[ImageMatched, Sequence[tuple[str, bytes]]]]
Walked = tuple[list[str], Outcomes]


def _walked(entries: Mapping[int, Sequence[LogEntry]]) -> list[Walked]:
    """Walk every partition; those of a long history side by side."""
    if sum(map(len, entries.values())) < WORTH_PROCESSES:
        return list(starmap(walk_partition, entries.items()))
    with bare_pool(os.cpu_count() or 1) as pool:
        return pool.starmap(walk_partition, entries.items(), chunksize=1)


def walk_partition(partition: int, entries: Iterable[LogEntry]) -> Walked:
    """Give what brute force says of a partition: complaints, and its outcomes as they must be."""
    walk = Walk(partition)
    for entry in entries:
        walk.step(entry, decode_log(entry.value or b""))
    return walk.complaints, walk.outcomes


@dataclass(slots=True)
class Walk:
    """Brute force: one partition of the log, record by record, as the design's words say it."""

    partition: int
    settings: MatchSettings | None = None
    pictures: dict[str, Pictures] = field(default_factory=lambda: defaultdict(Pictures))
    outcomes: Outcomes = field(default_factory=dict)
    marks: set[Picture] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    def step(self, entry: LogEntry, record: LogRecord) -> None:
        """Apply one record."""
        if isinstance(record, MatchSettings):
            self.settings = record
        elif isinstance(record, Removed):
            self.remove(record)
        elif isinstance(record, Hashed):
            self.picture(entry, record)

    def remove(self, record: Removed) -> None:
        """A removal counts whenever it comes: its mark is for good."""
        self.marks.add(Picture(record.workspace, record.image_id))
        self.pictures[record.workspace].remove(record.image_id)

    def picture(self, entry: LogEntry, record: Hashed) -> None:
        """Only the first record of an image id counts; a marked one is told, and never indexed."""
        picture = Picture(record.workspace, record.image_id)
        if picture in self.outcomes:
            return
        if self.settings is None:
            self.complaints.append(
                f"{INDEX_LOG}[{self.partition}] offset {entry.offset} comes before any settings"
            )
            return
        removed = picture in self.marks
        found = [] if removed else self.related(record, self.settings)
        matches = [_match(decision, other.record) for decision, other in found]
        same_item = [match for match in matches if match.relation != "other_text"]
        outcome = ImageMatched(
            workspace=record.workspace,
            image_id=record.image_id,
            sha256=record.fingerprint.sha256.hex(),
            position=Position(self.partition, entry.offset),
            match=bool(same_item),
            closest_match=same_item[0] if same_item else None,
            matches=tuple(matches[: self.settings.matches_bound]),
            matches_total=len(matches),
            model=f"{MODEL}/{self.settings.decision_version}",
            hash_version=record.fingerprint.version,
            origin=record.origin,
            check=record.check,
            low_information=record.fingerprint.low_information and not removed,
            removed=removed,
        )
        headers = cloudevents_headers(
            topic=IMAGE_MATCHED,
            identifier=event_id(IMAGE_MATCHED, *picture),
            source="matcher",
            subject=record.image_id,
            time_ms=entry.timestamp_ms,
            content_type="application/json",
        )
        self.outcomes[picture] = (outcome, headers)
        if not removed:
            self.pictures[record.workspace].add(Indexed(entry.offset, record))

    def related(self, record: Hashed, settings: MatchSettings) -> list[tuple[Decision, Indexed]]:
        """Compare with every visible picture of the workspace; give the relations, best first."""
        near = self.pictures[record.workspace].near(record, settings.radius)
        # Equal ones, as forwarded pictures are, need no second look.
        decisions: dict[Fingerprint, Decision | None] = {}
        decided = []
        for other in near[: settings.candidates_bound]:
            fingerprint = other.record.fingerprint
            if fingerprint not in decisions:
                decisions[fingerprint] = decide(record.fingerprint, fingerprint, settings)
            if (decision := decisions[fingerprint]) is not None:
                decided.append((decision, other))
        return sorted(decided, key=lambda pair: (pair[0].rank, pair[1].offset))


def different_rows(
    partition: int, expected: Iterable[object], found: Iterable[object]
) -> list[Violation]:
    """Compare an index's rows, in order, with those of an index made anew from the log."""
    missing = object()
    return [
        Violation(
            "index",
            f"partition {partition}, row {number}: "
            + ("is missing" if row is missing else f"{row!r}")
            + (" and should not be there" if wanted is missing else f" instead of {wanted!r}"),
        )
        for number, (wanted, row) in enumerate(zip_longest(expected, found, fillvalue=missing))
        if wanted is missing or row is missing or wanted != row
    ]


def verify_index(
    directory: Path,
    topic_identity: str,
    partition: int,
    entries: Iterable[LogEntry],
    report: Report,
) -> list[Violation]:
    """Compare an index on disk with one that is made anew from the log, up to the same offset.

    And the outcomes that it keeps with those that were delivered.
    """
    with (
        TemporaryDirectory() as scratch,
        closing(PartitionIndex(directory, topic_identity, partition)) as found,
        closing(PartitionIndex(Path(scratch), topic_identity, partition)) as anew,
    ):
        upto = found.next_offset
        applied = [entry for entry in entries if entry.offset < upto]
        anew.stage(applied, upto)
        anew.commit({})
        violations = different_rows(partition, list(anew.all_rows()), list(found.all_rows()))
        rows = {row.ordinal: row.record for row, _ in found.all_rows()}
        for ordinal, stored in found.outcomes(sorted(rows)).items():
            record = rows[ordinal]
            delivered = report.outcomes.get(Picture(record.workspace, record.image_id))
            if delivered is None or stored != encode_json(delivered):
                violations.append(
                    Violation("index", f"partition {partition}: another outcome of {record}")
                )
        return violations


def read_history(settings: Settings) -> History:
    """Read all that a broker holds of our topics."""
    names = [
        *SOURCES,
        *(dead_letter_topic_name(topic) for topic in SOURCES),
        INDEX_LOG,
        IMAGE_MATCHED,
        MATCH_ASKED,
    ]
    records: dict[str, dict[int, list[LogEntry]]] = {}
    ends: dict[tuple[str, int], int] = {}
    for name in names:
        with closing(LogReader(settings, name)) as reader:
            for partition in range(settings.partitions):
                low, high = reader.watermarks(partition)
                ends[name, partition] = high
                records.setdefault(name, {})[partition] = [
                    entry
                    for batch in reader.read_range(partition, low, high, headers=True)
                    for entry in batch
                ]
    committed = {
        GroupPartition(group, topic, partition): committed_offset(settings, group, topic, partition)
        for group, topics in GROUP_TOPICS.items()
        for topic in topics
        for partition in range(settings.partitions)
    }
    return History(settings.partitions, records, committed, ends)


def _told_by(letter: LogEntry) -> tuple[Place | None, str]:
    """Read a dead letter's source and reason."""
    told = {name: (value or b"").decode("utf-8", "replace") for name, value in letter.headers}
    try:
        source = Place(
            told["dlq-source-topic"],
            int(told["dlq-source-partition"]),
            int(told["dlq-source-offset"]),
        )
    except (KeyError, ValueError):
        return None, ""
    return source, told.get("dlq-reason", "")


def _content(entry: LogEntry) -> tuple[object, ...]:
    """Give what must be the same in every copy of a record."""
    return entry.key, entry.value, entry.headers


def _match(decision: Decision, earlier: Hashed) -> Match:
    return Match(
        sha256=earlier.fingerprint.sha256.hex(),
        image_id=earlier.image_id,
        score=decision.score,
        fine_distance=decision.fine_distance,
        relation=decision.relation,
        tier=decision.tier,
        weight=decision.weight,
        views=decision.views,
        origin=earlier.origin,
        check=earlier.check,
    )
