"""What operators do with dead letters: find them, send them again, mark them as handled.

Called by `check-dedup dlq`. Dead-letter topics are only ever appended to by the processes that
reject; what is handled is told by marks in a topic of its own (`dead-letters-handled`). A letter
is handled where a mark of its id reaches beyond its offset, so that the same event rejected anew
(another offset of its source, another id) is a letter of its own.

Promises: a replay delivers the original record to its source partition before it marks it, so an
interrupted one may send a record again and never loses one; sending again is harmless, because a
picture that has its outcome gets the same outcome again.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec
from confluent_kafka import KafkaError, Message, Producer

from schemas.codec import Headers, cloudevents_headers, encode_json, event_id
from schemas.records import DeadLetterHandled
from schemas.topics import (
    DEAD_LETTERS_HANDLED,
    IMAGE_INGESTED,
    MATCH_ASKED,
    MEBIBYTE,
    TOPICS,
    dead_letter_topic_name,
)
from streams.entry import LogEntry
from streams.errors import MisconfiguredError, RetryableError
from streams.kafka.client import producer
from streams.kafka.log import LogReader
from streams.settings import Settings

Action = Literal["replayed", "dropped"]

DEAD_LETTER_TOPICS: Final = tuple(
    name for name, topic in TOPICS.items() if topic.encoding == "original"
)
# Nobody waits for the answer to an old question.
NOT_REPLAYED: Final = frozenset({dead_letter_topic_name(MATCH_ASKED)})

_PLACE: Final = re.compile(
    r"(?P<topic>[a-z-]+)\[(?P<partition>[0-9]{1,9})\]@(?P<offset>[0-9]{1,18})"
)
# Sent, delivered and marked together; what an interruption makes us send again.
_GROUP_LETTERS: Final = 100
_GROUP_BYTES: Final = 8 * MEBIBYTE


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a dead letter lies."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        """Name it as everywhere in logs and errors."""
        return f"{self.topic}[{self.partition}]@{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Read what `str` gives; the source's name stands for its dead letters too.

        Raises:
            ValueError: it is none.
        """
        found = _PLACE.fullmatch(text)
        if found is None:
            raise ValueError("topic[partition]@offset is wanted, as `dlq list` prints it")
        topic = dead_letter_topic(found["topic"])
        return cls(topic, int(found["partition"]), int(found["offset"]))


def dead_letter_topic(name: str) -> str:
    """Give the dead-letter topic that a name means: its own, or its source's.

    Raises:
        ValueError: there is none.
    """
    topic = name if name in DEAD_LETTER_TOPICS else dead_letter_topic_name(name)
    if topic not in DEAD_LETTER_TOPICS:
        raise ValueError(f"no such topic; there are {', '.join(DEAD_LETTER_TOPICS)}")
    return topic


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter: the record as it was, and what our headers say of it."""

    place: Place
    timestamp_ms: int
    letter_id: str
    reason: str
    source: tuple[str, int, int] | None
    """Topic, partition and offset; None where the headers do not say, or another topic."""
    key: bytes | None
    value: bytes | None
    headers: Headers
    """Without ours."""
    workspace: str | None
    """As far as the record can be read, and so is the image id."""
    image_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which dead letters; what is left out does not restrict."""

    topics: tuple[str, ...] = DEAD_LETTER_TOPICS
    places: frozenset[Place] = frozenset()
    reasons: frozenset[str] = frozenset()
    workspace: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def restricts(self) -> bool:
        """Whether anything but the topics is said."""
        return bool(
            self.places
            or self.reasons
            or self.workspace is not None
            or self.since_ms is not None
            or self.until_ms is not None
        )

    def takes(self, letter: DeadLetter) -> bool:
        """Whether a dead letter of these topics is meant."""
        return (
            (not self.places or letter.place in self.places)
            and (not self.reasons or letter.reason in self.reasons)
            and (self.workspace is None or letter.workspace == self.workspace)
            and (self.since_ms is None or letter.timestamp_ms >= self.since_ms)
            and (self.until_ms is None or letter.timestamp_ms < self.until_ms)
        )


Advance = Callable[[int, int], None]
"""Told how many records were read, of how many."""


def _tell_nobody(_: int, __: int) -> None:
    pass


@dataclass(slots=True)
class Scan:
    """Dead letters that are wanted and not handled, read as one asks for them; each id once."""

    settings: Settings
    wanted: Wanted
    advance: Advance = _tell_nobody
    upto: dict[tuple[str, int], int] = field(default_factory=dict)
    """Per partition that was read: the end that it had."""

    def __iter__(self) -> Iterator[DeadLetter]:
        """Read.

        Raises:
            RetryableError: the broker does not answer.
            MisconfiguredError: there are no topics, or we may not read them.
        """
        handled = _handled(self.settings)
        ranges = self._ranges()
        total, read = sum(high - low for _, _, low, high in ranges), 0
        for topic, partition, low, high in ranges:
            seen: set[str] = set()
            for entry in _entries(self.settings, topic, partition, low, high):
                letter = _dead_letter(Place(topic, partition, entry.offset), entry)
                reach = handled.get((topic, partition, letter.letter_id), 0)
                if (
                    entry.offset >= reach
                    and letter.letter_id not in seen
                    and self.wanted.takes(letter)
                ):
                    seen.add(letter.letter_id)
                    yield letter
                self.advance(read + entry.offset + 1 - low, total)
            read += high - low
        self.advance(total, total)

    def _ranges(self) -> list[tuple[str, int, int, int]]:
        """Topic, partition and offsets of all that is to be read."""
        places = sorted(self.wanted.places)
        ranges = []
        for topic in self.wanted.topics:
            with closing(LogReader(self.settings, topic)) as reader:
                for partition in range(self.settings.partitions):
                    low, high = reader.watermarks(partition)
                    self.upto[topic, partition] = high
                    if places:
                        # Each id once, wherever its first delivery is.
                        here = [
                            p.offset for p in places if (p.topic, p.partition) == (topic, partition)
                        ]
                        ranges += [
                            (topic, partition, at, at + 1) for at in here if low <= at < high
                        ]
                        continue
                    if self.wanted.since_ms is not None:
                        low = max(low, reader.offset_at(partition, self.wanted.since_ms))
                    if low < high:
                        ranges.append((topic, partition, low, high))
        return ranges


def find(settings: Settings, place: Place) -> DeadLetter | None:
    """Give one dead letter, handled or not; None where there is none.

    Raises:
        RetryableError: the broker does not answer.
        MisconfiguredError: there is no such topic, or we may not read it.
    """
    if place.partition >= settings.partitions:
        return None
    with closing(LogReader(settings, place.topic)) as reader:
        low, high = reader.watermarks(place.partition)
    if not low <= place.offset < high:
        return None
    entries = _entries(settings, place.topic, place.partition, place.offset, place.offset + 1)
    return next((_dead_letter(place, entry) for entry in entries), None)


class Handling:
    """Sends dead letters again, or not, and marks them as handled."""

    def __init__(self, settings: Settings, scan: Scan, action: Action) -> None:
        """Connect; `scan` gave the letters, and knows how far it read."""
        self._producer = producer(settings)
        self._scan = scan
        self._action = action
        self.handled = 0
        self.refused: list[Place] = []
        """What cannot be sent again: its headers do not say where from, or nobody reads it."""

    def handle(self, letters: Iterable[DeadLetter]) -> Iterator[int]:
        """Handle all, a group at a time; give the number handled after each group.

        Raises:
            RetryableError: one was not acknowledged; those of its group may be sent, not marked.
        """
        group: list[DeadLetter] = []
        group_bytes = 0
        for letter in letters:
            if self._action == "replayed" and (
                letter.source is None or letter.place.topic in NOT_REPLAYED
            ):
                self.refused.append(letter.place)
                continue
            group.append(letter)
            group_bytes += len(letter.value or b"")
            if len(group) >= _GROUP_LETTERS or group_bytes >= _GROUP_BYTES:
                yield self._handle(group)
                group, group_bytes = [], 0
        if group:
            yield self._handle(group)

    def _handle(self, group: list[DeadLetter]) -> int:
        if self._action == "replayed":
            _deliver(self._producer, (_original(letter) for letter in group))
        _deliver(self._producer, (self._mark(letter) for letter in group))
        self.handled += len(group)
        return self.handled

    def _mark(self, letter: DeadLetter) -> "_Record":
        place = letter.place
        upto = self._scan.upto[place.topic, place.partition]
        mark = DeadLetterHandled(letter.letter_id, place.topic, place.partition, upto, self._action)
        headers = cloudevents_headers(
            topic=DEAD_LETTERS_HANDLED,
            identifier=event_id(DEAD_LETTERS_HANDLED, letter.letter_id, upto),
            source="dlq",
            subject=letter.letter_id,
            time_ms=time.time_ns() // 1_000_000,
            content_type="application/json",
        )
        return _Record(
            DEAD_LETTERS_HANDLED, None, letter.letter_id.encode(), encode_json(mark), headers
        )


@dataclass(frozen=True, slots=True)
class _Record:
    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers


def _original(letter: DeadLetter) -> _Record:
    if letter.source is None:
        raise MisconfiguredError(f"{letter.place}: its headers do not say where it came from")
    topic, partition, _ = letter.source
    return _Record(topic, partition, letter.key, letter.value, letter.headers)


def _deliver(sender: Producer, records: Iterable[_Record]) -> None:
    failures: list[KafkaError] = []

    def on_delivery(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(error)

    for record in records:
        sender.produce(
            record.topic,
            key=record.key,
            value=record.value,
            headers=list(record.headers),
            partition=-1 if record.partition is None else record.partition,
            on_delivery=on_delivery,
        )
    sender.flush()
    if failures:
        raise RetryableError(f"not delivered: {failures[0]}; run the same command again")


def _handled(settings: Settings) -> Mapping[tuple[str, int, str], int]:
    """Give how far each dead letter is handled: by topic, partition and id."""
    found: dict[tuple[str, int, str], int] = {}
    with closing(LogReader(settings, DEAD_LETTERS_HANDLED)) as reader:
        ends = [reader.watermarks(partition) for partition in range(settings.partitions)]
    for partition, (low, high) in enumerate(ends):
        for entry in _entries(settings, DEAD_LETTERS_HANDLED, partition, low, high):
            try:
                mark = msgspec.json.decode(entry.value or b"", type=DeadLetterHandled)
            except msgspec.DecodeError as error:
                place = Place(DEAD_LETTERS_HANDLED, partition, entry.offset)
                raise MisconfiguredError(
                    f"{place}: no mark that this program knows: {error}"
                ) from error
            key = mark.topic, mark.partition, mark.letter_id
            found[key] = max(mark.upto, found.get(key, 0))
    return found


def _entries(
    settings: Settings, topic: str, partition: int, low: int, high: int
) -> Iterator[LogEntry]:
    with (
        closing(LogReader(settings, topic)) as reader,
        closing(reader.read_range(partition, low, high, headers=True)) as batches,
    ):
        for batch in batches:
            yield from batch


def _dead_letter(place: Place, entry: LogEntry) -> DeadLetter:
    ours = {
        name.removeprefix("dlq-"): (value or b"").decode(errors="replace")
        for name, value in entry.headers
        if name.startswith("dlq-")
    }
    workspace, image_id = _readable(place.topic, entry)
    return DeadLetter(
        place=place,
        timestamp_ms=entry.timestamp_ms,
        letter_id=_identified(place, ours),
        reason=ours.get("reason", "(none)"),
        source=_source(place, ours),
        key=entry.key,
        value=entry.value,
        headers=tuple(pair for pair in entry.headers if not pair[0].startswith("dlq-")),
        workspace=workspace,
        image_id=image_id,
    )


def _identified(place: Place, ours: Mapping[str, str]) -> str:
    given = ours.get("id", "")
    if re.fullmatch(r"[0-9a-f]{32}", given):
        return given
    return event_id(place.topic, place.topic, place.partition, place.offset)


def _source(place: Place, ours: Mapping[str, str]) -> tuple[str, int, int] | None:
    topic, partition, offset = (
        ours.get(f"source-{name}", "") for name in ("topic", "partition", "offset")
    )
    if dead_letter_topic_name(topic) != place.topic:
        return None
    if not (re.fullmatch("[0-9]{1,9}", partition) and re.fullmatch("[0-9]{1,18}", offset)):
        return None
    return topic, int(partition), int(offset)


def _readable(topic: str, entry: LogEntry) -> tuple[str | None, str | None]:
    """Workspace and image id, from the value where that is JSON, else from the key."""
    key = (entry.key or b"").decode(errors="replace") or None
    of_pictures = topic == dead_letter_topic_name(IMAGE_INGESTED)
    named: tuple[str | None, str | None] = (None, key) if of_pictures else (key, None)
    try:
        fields = msgspec.json.decode(entry.value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return named
    if not isinstance(fields, dict):
        return named
    found = (fields.get("workspace"), fields.get("image_id"))
    workspace, image_id = (
        value if isinstance(value, str) else fallback
        for value, fallback in zip(found, named, strict=True)
    )
    return workspace, image_id
