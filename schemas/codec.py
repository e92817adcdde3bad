"""The only way from bytes to a record and back. Bytes in, record or `Rejection` out.

Called by the hasher for events, by the matcher for log records and questions.
Decoding an event or a question never raises; decoding `index-log` does, because nothing may be
skipped there.
"""

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from msgspec import Struct

from schemas.reasons import Reason, Rejection
from schemas.records import (
    WITHOUT_CONTROL_CHARACTERS,
    ImageIngested,
    ImageRemoved,
    LogRecord,
    MatchReviewed,
    Question,
)
from schemas.topics import INLINE_PICTURE_LIMIT_BYTES, dead_letter_topic_name

SourceEvent = ImageIngested | ImageRemoved | MatchReviewed
Event = TypeVar("Event", ImageIngested, ImageRemoved, MatchReviewed)
# Kafka allows a header without a value.
Headers = Sequence[tuple[str, bytes | None]]

_KEY_LIMIT_CHARACTERS = 200
_WORKSPACE_LIMIT_CHARACTERS = 100
_PRINTABLE = re.compile(WITHOUT_CONTROL_CHARACTERS)

_json_value = msgspec.json.Decoder()
_json_encoder = msgspec.json.Encoder()
_log_decoder: msgspec.msgpack.Decoder[LogRecord] = msgspec.msgpack.Decoder(LogRecord)
_log_encoder = msgspec.msgpack.Encoder()
_question_decoder: msgspec.json.Decoder[Question] = msgspec.json.Decoder(Question)


class UnknownLogRecordError(Exception):
    """A record of `index-log` has a type, version or field that this program does not know."""


def decode_image_ingested(key: bytes | None, value: bytes | None) -> ImageIngested | Rejection:
    """Decode one record of `image-ingested`; its key is the image id."""
    event = _decode_event(ImageIngested, key, value)
    if isinstance(event, Rejection):
        return event
    if key != event.image_id.encode():
        return Rejection("key_mismatch", "the key is not the value's image_id")
    if (event.url is None) == (event.content is None):
        return Rejection("schema_violation", "exactly one of url and content is wanted")
    if event.content is not None and len(event.content) > INLINE_PICTURE_LIMIT_BYTES:
        return Rejection("picture_too_large", f"{len(event.content)} inline bytes")
    return event


def decode_image_removed(key: bytes | None, value: bytes | None) -> ImageRemoved | Rejection:
    """Decode one record of `image-removed`; its key is the workspace."""
    return _keyed_by_workspace(_decode_event(ImageRemoved, key, value), key)


def decode_match_reviewed(key: bytes | None, value: bytes | None) -> MatchReviewed | Rejection:
    """Decode one record of `match-reviewed`; its key is the workspace."""
    return _keyed_by_workspace(_decode_event(MatchReviewed, key, value), key)


def decode_question(value: bytes | None) -> Question | Rejection:
    """Decode one record of `match-asked`; its key only tells questions apart."""
    if not value:
        return Rejection("value_missing")
    try:
        return _question_decoder.decode(value)
    except msgspec.ValidationError as error:
        return Rejection("schema_violation", str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Rejection("not_json", str(error))


def encode_json(record: Struct) -> bytes:
    """Encode a record as JSON: fields in declared order, so equal records give equal bytes."""
    return _json_encoder.encode(record)


def encode_log(record: LogRecord) -> bytes:
    """Encode a record of `index-log` as MessagePack."""
    return _log_encoder.encode(record)


def encode_readable_log(record: LogRecord) -> bytes:
    """Encode a record, and make sure that it can be read: the log is kept for ever.

    Raises:
        UnknownLogRecordError: it could not.
    """
    value = encode_log(record)
    decode_log(value)
    return value


def decode_log(value: bytes) -> LogRecord:
    """Decode a record of `index-log`.

    Raises:
        UnknownLogRecordError: the bytes are no record that this program knows.
    """
    try:
        return _log_decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnknownLogRecordError(str(error)) from error


def event_id(event_type: str, *parts: str | int) -> str:
    """Derive an event's id from what it is about: a redelivery has the same id."""
    joined = "\x00".join((event_type, *(str(part) for part in parts)))
    return hashlib.sha256(joined.encode()).hexdigest()[:32]


def cloudevents_headers(
    *, topic: str, identifier: str, source: str, subject: str, time_ms: int, content_type: str
) -> list[tuple[str, bytes]]:
    """Give the headers of the CloudEvents 1.0 Kafka binding, binary content mode."""
    time = datetime.fromtimestamp(time_ms / 1000, tz=UTC).isoformat(timespec="milliseconds")
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": identifier,
        "ce_source": f"check-dedup/{source}",
        "ce_type": f"check-dedup.{topic}.v1",
        "ce_subject": subject,
        "ce_time": time.replace("+00:00", "Z"),
        "content-type": content_type,
    }
    return [(name, value.encode()) for name, value in attributes.items()]


def dead_letter_headers(
    original: Headers, *, topic: str, partition: int, offset: int, reason: Reason
) -> list[tuple[str, bytes | None]]:
    """Give a dead letter's headers: the original ones untouched, then ours, all `dlq-*`.

    A dead letter that is replayed and fails again does not pile up headers: earlier `dlq-*`
    headers are replaced.
    """
    ours = {
        "dlq-id": event_id(dead_letter_topic_name(topic), topic, partition, offset),
        "dlq-reason": reason,
        "dlq-source-topic": topic,
        "dlq-source-partition": str(partition),
        "dlq-source-offset": str(offset),
    }
    kept = [(name, value) for name, value in original if not name.startswith("dlq-")]
    return kept + [(name, value.encode()) for name, value in ours.items()]


def _decode_event(kind: type[Event], key: bytes | None, value: bytes | None) -> Event | Rejection:
    """Decode in the order in which a producer would want to be told: key, JSON, workspace, rest."""
    rejection = _refused_key(key)
    if rejection is not None:
        return rejection
    fields = _json_object(value)
    if isinstance(fields, Rejection):
        return fields
    rejection = _refused_workspace(fields.get("workspace"))
    if rejection is not None:
        return rejection
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        return Rejection("schema_violation", str(error))


def _refused_key(key: bytes | None) -> Rejection | None:
    if not key:
        return Rejection("key_missing")
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return Rejection("key_invalid", "not UTF-8")
    if len(text) > _KEY_LIMIT_CHARACTERS or not _PRINTABLE.match(text):
        return Rejection("key_invalid", "too long, or with control characters")
    return None


def _json_object(value: bytes | None) -> dict[str, object] | Rejection:
    if not value:
        return Rejection("value_missing")
    try:
        fields = _json_value.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Rejection("not_json", str(error))
    return fields if isinstance(fields, dict) else Rejection("not_json", "JSON, but no object")


def _refused_workspace(workspace: object) -> Rejection | None:
    if workspace is None or workspace == "":
        return Rejection("workspace_missing")
    if (
        not isinstance(workspace, str)
        or len(workspace) > _WORKSPACE_LIMIT_CHARACTERS
        or not _PRINTABLE.match(workspace)
    ):
        return Rejection("workspace_invalid")
    return None


def _keyed_by_workspace(event: Event | Rejection, key: bytes | None) -> Event | Rejection:
    if not isinstance(event, Rejection) and key != event.workspace.encode():
        return Rejection("key_mismatch", "the key is not the value's workspace")
    return event
