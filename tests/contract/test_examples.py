"""Every example says what it is by its place and name; decoder and JSON Schema agree with it."""

import json
import shutil
import typing
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from jsonschema import Draft202012Validator

from schemas.codec import (
    decode_image_ingested,
    decode_image_removed,
    decode_log,
    decode_match_reviewed,
    encode_log,
)
from schemas.publish import DIRECTORY, stale
from schemas.reasons import Rejection
from schemas.records import LogRecord
from schemas.topics import IMAGE_INGESTED, IMAGE_REMOVED, INDEX_LOG, MATCH_REVIEWED, TOPICS, Topic

EXAMPLES = Path(__file__).resolve().parents[2] / "schemas" / "examples"
LEAST_VALID, LEAST_INVALID = 2, 5

DECODERS = {
    IMAGE_INGESTED: (decode_image_ingested, "image_id"),
    IMAGE_REMOVED: (decode_image_removed, "workspace"),
    MATCH_REVIEWED: (decode_match_reviewed, "workspace"),
}
DECLARED = [topic for topic in TOPICS.values() if topic.record is not None]


def examples(topic: Topic, kind: str) -> list[Path]:
    """Give a topic's `valid` or `invalid` examples."""
    return sorted((EXAMPLES / topic.name / kind).glob("*.json"))


def every(kind: str) -> list[tuple[Topic, Path]]:
    """Give all topics' `valid` or `invalid` examples."""
    return [(topic, path) for topic in DECLARED for path in examples(topic, kind)]


def identify(value: object) -> str:
    """Name a parameter in pytest's output."""
    return value.name if isinstance(value, Topic) else getattr(value, "stem", "")


def types(topic: Topic) -> Sequence[type[msgspec.Struct]]:
    """Give the record types that a topic carries."""
    return typing.get_args(topic.record) or [typing.cast("type[msgspec.Struct]", topic.record)]


def accepted(topic: Topic, value: bytes) -> bool:
    """Say whether our own decoder takes this value, under the key that belongs to it."""
    if topic.name in DECODERS:
        decode, key_field = DECODERS[topic.name]
        fields = json.loads(value)
        key = fields.get(key_field) if isinstance(fields, dict) else None
        return not isinstance(decode(str(key or "key").encode(), value), Rejection)
    try:
        msgspec.json.decode(value, type=typing.cast("type[object]", topic.record))
    except msgspec.ValidationError:
        return False
    return True


def complaints(topic: Topic, value: bytes) -> list[str]:
    """Give what the published JSON Schema has against this value."""
    schema = json.loads((DIRECTORY / "json" / f"{topic.name}.v1.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return [error.message for error in Draft202012Validator(schema).iter_errors(json.loads(value))]


@pytest.mark.parametrize(("topic", "path"), every("valid"), ids=identify)
def test_valid_example(topic: Topic, path: Path) -> None:
    """A valid example is taken by the decoder and by the JSON Schema."""
    value = path.read_bytes()
    assert complaints(topic, value) == []
    assert accepted(topic, value)


@pytest.mark.parametrize(("topic", "path"), every("invalid"), ids=identify)
def test_invalid_example(topic: Topic, path: Path) -> None:
    """An invalid example is refused by the decoder and by the JSON Schema."""
    value = path.read_bytes()
    assert complaints(topic, value) != []
    assert not accepted(topic, value)


@pytest.mark.parametrize("path", examples(TOPICS[INDEX_LOG], "valid"), ids=identify)
def test_log_example_survives_messagepack(path: Path) -> None:
    """What the JSON form of a log record says, its MessagePack form says too."""
    record: LogRecord = msgspec.json.decode(path.read_bytes(), type=LogRecord)
    assert decode_log(encode_log(record)) == record


@pytest.mark.parametrize("topic", DECLARED, ids=identify)
def test_enough_examples(topic: Topic) -> None:
    """Each record type has at least two valid and five invalid examples; of a union, by prefix."""
    records = types(topic)
    prefixes = [
        f"{record.__struct_config__.tag}-" if len(records) > 1 else "" for record in records
    ]
    for prefix in prefixes:
        for kind, least in (("valid", LEAST_VALID), ("invalid", LEAST_INVALID)):
            named = [path for path in examples(topic, kind) if path.name.startswith(prefix)]
            assert len(named) >= least, f"{topic.name}: {kind} {prefix}*.json"


def test_no_orphans() -> None:
    """There is no example of an unknown topic, and none outside of `valid` and `invalid`."""
    found = {path for path in EXAMPLES.rglob("*") if path.is_file()}
    assert found == {path for kind in ("valid", "invalid") for _, path in every(kind)}


def test_documents_are_fresh() -> None:
    """The published documents are those of the records, and there are no others."""
    assert stale() == []


def test_staleness_is_noticed(tmp_path: Path) -> None:
    """An outdated, a missing and a surplus document are each named."""
    shutil.copytree(DIRECTORY / "json", tmp_path / "json")
    outdated, missing, *_ = sorted((tmp_path / "json").glob("*.json"))
    outdated.write_text("{}")
    missing.unlink()
    (tmp_path / "json" / "surplus.v1.schema.json").write_text("{}")
    named = [f"json/{name}" for name in (outdated.name, missing.name, "surplus.v1.schema.json")]
    assert stale(tmp_path) == sorted(["asyncapi.json", *named])
