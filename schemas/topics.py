"""Every topic, declared once: who writes and reads it, its key, partitioning, retention and size.

`check-dedup topics create` makes them so, `topics check` holds a live broker against them.
"""

from typing import Final, Literal

from msgspec import Struct

from schemas.records import (
    DeadLetterHandled,
    ImageIngested,
    ImageMatched,
    ImageRemoved,
    LogRecord,
    MatchAnswered,
    MatchRetracted,
    MatchReviewed,
    Question,
)

DAY_MS = 24 * 3600 * 1000
HOUR_MS = 3600 * 1000
FOREVER_MS = -1

MEBIBYTE = 1024 * 1024
# A dead letter is its source record plus our headers: reason, topic, partition, offset, id.
DEAD_LETTER_ALLOWANCE_BYTES = 64 * 1024

# Base64 of this many bytes, and the rest of an event, stay below the topic's limit of 1 MiB.
INLINE_PICTURE_LIMIT_BYTES = 700 * 1024

IMAGE_INGESTED = "image-ingested"
MATCH_REVIEWED = "match-reviewed"
IMAGE_REMOVED = "image-removed"
INDEX_LOG = "index-log"
MATCH_ASKED = "match-asked"
IMAGE_MATCHED = "image-matched"
MATCH_RETRACTED = "match-retracted"
MATCH_ANSWERED = "match-answered"
DEAD_LETTERS_HANDLED = "dead-letters-handled"

Encoding = Literal["json", "messagepack", "original"]


class Topic(Struct, frozen=True):
    """One topic's declaration. `record` is None where the value is another topic's original."""

    name: str
    meaning: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    key: str
    partitioned_by: str
    record: object | None
    encoding: Encoding
    cleanup_policy: Literal["delete", "compact"]
    retention_ms: int
    max_message_bytes: int
    compression: Literal["producer", "uncompressed"] = "producer"

    def config(self) -> dict[str, str]:
        """Kafka's topic configuration, as `topics create` sets it and `topics check` wants it."""
        config = {
            "cleanup.policy": self.cleanup_policy,
            "retention.ms": str(self.retention_ms),
            "max.message.bytes": str(self.max_message_bytes),
            "compression.type": self.compression,
        }
        if "Check" not in self.writers:
            # Else the broker would refuse what a clock of ours that is an hour ahead has stamped,
            # and soon expire what one long behind has.
            return config | {"message.timestamp.type": "LogAppendTime"}
        return config | {
            # They say when they happened. One as old as its topic's retention would be gone before
            # it is read, and nobody would know: its producer is told, by INVALID_TIMESTAMP.
            "message.timestamp.type": "CreateTime",
            "message.timestamp.after.max.ms": str(HOUR_MS),
            **(
                {}
                if self.retention_ms == FOREVER_MS
                else {"message.timestamp.before.max.ms": str(self.retention_ms // 2)}
            ),
        }


def dead_letter_topic_name(source: str) -> str:
    """Name the topic that takes `source`'s dead letters."""
    return f"{source}-dlq"


def _dead_letters_of(source: Topic) -> Topic:
    return Topic(
        name=dead_letter_topic_name(source.name),
        meaning=f"A record of {source.name} that could not be processed, as it was, and why.",
        writers=source.readers,
        readers=("operators",),
        key="as the source record",
        partitioned_by="the source record's partition",
        record=None,
        encoding="original",
        cleanup_policy="delete",
        retention_ms=30 * DAY_MS,
        max_message_bytes=source.max_message_bytes + DEAD_LETTER_ALLOWANCE_BYTES,
    )


# A broker measures what it stores. Stored compressed, an event could be larger than its dead-letter
# topic takes; stored as it is, no event is larger than the limit says.
_MEASURED_AS_IT_IS: Final = "uncompressed"

_SOURCES = (
    Topic(
        name=IMAGE_INGESTED,
        meaning="Here is a picture: a URL or inline bytes, its workspace and Check's own ids.",
        writers=("Check",),
        readers=("hasher",),
        key="image id",
        partitioned_by="key (murmur2)",
        record=ImageIngested,
        encoding="json",
        cleanup_policy="delete",
        retention_ms=14 * DAY_MS,
        max_message_bytes=MEBIBYTE,
        compression=_MEASURED_AS_IT_IS,
    ),
    Topic(
        name=MATCH_REVIEWED,
        meaning="An analyst confirmed or dissociated a pair.",
        writers=("Check",),
        readers=("hasher",),
        key="workspace",
        partitioned_by="key (murmur2)",
        record=MatchReviewed,
        encoding="json",
        cleanup_policy="delete",
        retention_ms=FOREVER_MS,
        max_message_bytes=MEBIBYTE,
        compression=_MEASURED_AS_IT_IS,
    ),
    Topic(
        name=IMAGE_REMOVED,
        meaning="Forget this picture (takedown, privacy).",
        writers=("Check",),
        readers=("hasher",),
        key="workspace",
        partitioned_by="key (murmur2)",
        record=ImageRemoved,
        encoding="json",
        cleanup_policy="delete",
        retention_ms=14 * DAY_MS,
        max_message_bytes=MEBIBYTE,
        compression=_MEASURED_AS_IT_IS,
    ),
    Topic(
        name=MATCH_ASKED,
        meaning="A typed question; it never changes the index.",
        writers=("api",),
        readers=("matcher",),
        key="unique per question",
        partitioned_by="workspace (murmur2, given explicitly)",
        record=Question,
        encoding="json",
        cleanup_policy="delete",
        retention_ms=HOUR_MS,
        max_message_bytes=MEBIBYTE,
        compression=_MEASURED_AS_IT_IS,
    ),
)

TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        *_SOURCES,
        *(_dead_letters_of(source) for source in _SOURCES),
        Topic(
            name=INDEX_LOG,
            meaning="The one ordered log that every index is a function of; kept for ever.",
            writers=("hasher", "api", "topics create"),
            readers=("matcher",),
            key="unique per append",
            partitioned_by="workspace (murmur2, given explicitly)",
            record=LogRecord,
            encoding="messagepack",
            # Keys are unique, so compaction removes nothing; a tombstone erases one record.
            cleanup_policy="compact",
            retention_ms=FOREVER_MS,
            max_message_bytes=MEBIBYTE,
        ),
        Topic(
            name=IMAGE_MATCHED,
            meaning="The outcome for one picture; exactly one per image, also without a match.",
            writers=("matcher",),
            readers=("Check", "subscribers"),
            key="image id",
            partitioned_by="key (murmur2)",
            record=ImageMatched,
            encoding="json",
            cleanup_policy="delete",
            retention_ms=30 * DAY_MS,
            max_message_bytes=MEBIBYTE,
        ),
        Topic(
            name=MATCH_RETRACTED,
            meaning="A relation told earlier no longer holds.",
            writers=("matcher",),
            readers=("Check", "subscribers"),
            key="image id",
            partitioned_by="key (murmur2)",
            record=MatchRetracted,
            encoding="json",
            cleanup_policy="delete",
            retention_ms=30 * DAY_MS,
            max_message_bytes=MEBIBYTE,
        ),
        Topic(
            name=MATCH_ANSWERED,
            meaning="The answer to one API request.",
            writers=("matcher",),
            readers=("api",),
            key="request id",
            partitioned_by="key (murmur2)",
            record=MatchAnswered,
            encoding="json",
            cleanup_policy="delete",
            retention_ms=HOUR_MS,
            max_message_bytes=MEBIBYTE,
        ),
        Topic(
            name=DEAD_LETTERS_HANDLED,
            meaning="A dead letter was replayed or dropped, and is listed no more.",
            writers=("dlq",),
            readers=("dlq",),
            key="id of the dead letter",
            partitioned_by="key (murmur2)",
            record=DeadLetterHandled,
            encoding="json",
            cleanup_policy="delete",
            # A mark must outlive its dead letter, and Kafka deletes whole segments: one of a quiet
            # partition is a week longer there than its records are to be kept.
            retention_ms=60 * DAY_MS,
            max_message_bytes=MEBIBYTE,
        ),
    )
}

LARGEST_MESSAGE_BYTES = max(topic.max_message_bytes for topic in TOPICS.values())
