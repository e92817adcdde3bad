"""What is fuzzed: everything of ours that reads bytes of a stranger. Each call raises on a fault.

Called by `tests/fuzz/run.py`, which looks for new inputs, and by the test that repeats those that
once did harm.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final

import msgspec

from agents.decode import DecodeLimits
from agents.fingerprint import fingerprint
from schemas.codec import (
    UnknownLogRecordError,
    decode_image_ingested,
    decode_image_removed,
    decode_log,
    decode_match_reviewed,
    decode_question,
    encode_json,
    encode_log,
)
from schemas.reasons import REASONS, Rejection
from schemas.records import DeadLetterHandled, Fingerprint, ImageMatched, MatchAnswered
from streams.kafka.dead_letter_text import shown
from tests.hostile_pictures import SEEDS, plain

# Small, so that a run is made of many pictures and not of a few large ones.
LIMITS: Final = DecodeLimits(pixels=1_000_000, memory_bytes=20_000_000)
_SEED_LIMIT_BYTES: Final = 20_000
_SHOWN_CHARACTERS: Final = 500


class FaultError(Exception):
    """What was promised does not hold."""


def picture(content: bytes) -> None:
    """A picture's bytes: a fingerprint that can be stored, or a rejection with a known reason."""
    found = fingerprint(content, LIMITS)
    if isinstance(found, Rejection):
        if found.reason not in REASONS:
            raise FaultError(found)
        return
    if found.width_pixels * found.height_pixels > LIMITS.pixels:
        raise FaultError(f"{found.width_pixels} x {found.height_pixels}")
    if msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Fingerprint) != found:
        raise FaultError("a fingerprint is not what is read again")


def record(content: bytes) -> None:
    """A record's bytes, to each decoder; what one takes is the same when it is written anew."""
    for key in (b"w", content[:8], None, *_own_keys(content)):
        for decode in (decode_image_ingested, decode_image_removed, decode_match_reviewed):
            event = decode(key, content)
            if not isinstance(event, Rejection):
                _same(event, decode(key, encode_json(event)))
    question = decode_question(content)
    if not isinstance(question, Rejection):
        _same(question, decode_question(encode_json(question)))
    with suppress(UnknownLogRecordError):
        entry = decode_log(content)
        _same(entry, decode_log(encode_log(entry)))
    for kind in (ImageMatched, MatchAnswered, DeadLetterHandled):
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            msgspec.json.decode(content, type=kind)
    text = shown(content, _SHOWN_CHARACTERS)
    if not text.isprintable():
        raise FaultError(text)


def _own_keys(content: bytes) -> Iterator[bytes]:
    """The keys that a value's own fields ask for, so that more than keys is looked at."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        fields = msgspec.json.decode(content)
        if isinstance(fields, dict):
            for own in (fields.get("image_id"), fields.get("workspace")):
                if isinstance(own, str):
                    yield own.encode("utf-8", "surrogatepass")


def _same(found: object, again: object) -> None:
    if again != found:
        raise FaultError(f"{found} is {again} when it is read again")


def picture_seeds() -> Iterator[bytes]:
    """Small files of each format, good and hostile."""
    yield from plain().values()
    for make in SEEDS:
        for each in make():
            if len(each.content) <= _SEED_LIMIT_BYTES:
                yield each.content


def record_seeds() -> Iterator[bytes]:
    """The contract's examples, good and bad, and the log's in the form that it has there."""
    from schemas.asyncapi import EXAMPLES  # noqa: PLC0415 - for seeds only
    from schemas.records import LogRecord  # noqa: PLC0415

    for path in sorted(EXAMPLES.rglob("*.json")):
        content = path.read_bytes()
        yield content
        if path.parts[-3:-1] == ("index-log", "valid"):
            yield encode_log(msgspec.json.decode(content, type=LogRecord))


TARGETS: Final[Mapping[str, tuple[Callable[[bytes], None], Callable[[], Iterator[bytes]]]]] = {
    "pictures": (picture, picture_seeds),
    "records": (record, record_seeds),
}
