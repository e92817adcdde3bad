"""Records of `index-log` as text and as JSON, for a person and for scripts.

Called by `check-dedup log show`. Promises: one line for each record, whatever it holds and by
whatever a reader parts lines; ids reach the terminal without control characters; a record that
this program does not know is shown as one.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import msgspec

from schemas.codec import UnknownLogRecordError, decode_log
from schemas.records import CheckIds, Hashed, LogRecord, MatchSettings, Removed, Source
from streams.entry import LogEntry
from streams.kafka.dead_letter_text import printable, shown

_SHA256_DIGITS: Final = 12
_UNKNOWN_CHARACTERS: Final = 100


def line(partition: int, entry: LogEntry) -> str:
    """Give a record as one line: place, time, type, workspace, image id, what is special."""
    time = datetime.fromtimestamp(entry.timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds")
    head = f"{partition}@{entry.offset} {time}"
    if entry.value is None:
        return f"{head} erased"
    try:
        record = decode_log(entry.value)
    except UnknownLogRecordError as error:
        value = shown(entry.value, _UNKNOWN_CHARACTERS)
        return f"{head} unknown ({printable(str(error))}): {value}"
    return f"{head} {' '.join(_words(record))}"


def json_line(partition: int, entry: LogEntry) -> str:
    """Give all of a record as one line of JSON in ASCII, bytes as base64 as in the JSON Schemas."""
    told: dict[str, object] = {
        "partition": partition,
        "offset": entry.offset,
        "time_ms": entry.timestamp_ms,
        "key": entry.key,
        "record": None,
    }
    if entry.value is not None:
        try:
            told["record"] = decode_log(entry.value)
        except UnknownLogRecordError as error:
            told |= {"unknown": str(error), "value": entry.value}
    # In ASCII, as JSON leaves U+0085 and U+2028 as they are, which end a line for many readers, and
    # the controls from U+007F on, which a terminal obeys.
    return json.dumps(msgspec.to_builtins(told), separators=(",", ":")).replace("\x7f", "\\u007f")


def _words(record: LogRecord) -> Iterator[str]:
    kind = str(type(record).__struct_config__.tag)
    if isinstance(record, MatchSettings):
        yield kind
        for name in record.__struct_fields__:
            yield f"{name}={getattr(record, name)}"
        return
    yield f"{kind} workspace={_id(record.workspace)} image={_id(record.image_id)}"
    if isinstance(record, Hashed):
        yield from _picture(record)
    elif isinstance(record, Removed):
        yield _source(record.source)
    else:
        yield f"other={_id(record.other_image_id)} verdict={record.verdict}"
        yield _source(record.source)


def _picture(record: Hashed) -> Iterator[str]:
    found = record.fingerprint
    yield f"origin={record.origin} sha256={found.sha256.hex()[:_SHA256_DIGITS]}"
    yield f"{printable(found.format)} {found.width_pixels}x{found.height_pixels}"
    yield f"views={','.join(printable(view.name) for view in found.views) or 'none'}"
    yield f"asked={len(found.asked) // 8} sketch={len(found.sketch)}B version={found.version}"
    for name in ("low_information", "animated"):
        if getattr(found, name):
            yield name
    if record.check is not None:
        yield from _check(record.check)
    if record.reply is not None:
        yield f"reply={_id(record.reply.request_id)} threshold={record.reply.threshold}"
    if record.source is not None:
        yield _source(record.source)


def _check(check: CheckIds) -> Iterator[str]:
    for name in check.__struct_fields__:
        value = getattr(check, name)
        if value is not None:
            yield f"{name}={value}"


def _source(source: Source) -> str:
    return f"source={_id(source.topic)}[{source.partition}]@{source.offset}"


def _id(text: str) -> str:
    """A blank in an id would look like its end: such an id is quoted."""
    text = printable(text)
    return f'"{text}"' if " " in text else text
