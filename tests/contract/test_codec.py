"""Bytes in, record or reason out: every kind of bad input has its reason, and nothing raises."""

import base64
import json
from collections.abc import Callable
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from schemas.codec import (
    UnknownLogRecordError,
    cloudevents_headers,
    dead_letter_headers,
    decode_image_ingested,
    decode_image_removed,
    decode_log,
    decode_match_reviewed,
    encode_json,
    encode_log,
    event_id,
)
from schemas.publish import schemas
from schemas.reasons import Reason, Rejection
from schemas.records import CheckIds, ImageIngested, ImageRemoved, MatchReviewed, Removed, Source
from schemas.topics import (
    IMAGE_INGESTED,
    IMAGE_REMOVED,
    INLINE_PICTURE_LIMIT_BYTES,
    MATCH_REVIEWED,
)

URL = {"workspace": "w", "image_id": "i", "url": "https://example.org/i.jpg"}
REMOVAL = {"workspace": "w", "image_id": "i"}
REVIEW = {"workspace": "w", "image_id": "i", "other_image_id": "j", "verdict": "confirmed"}

Decode = Callable[[bytes | None, bytes | None], msgspec.Struct | Rejection]
DECODERS: list[tuple[Decode, dict[str, str], str]] = [
    (decode_image_ingested, URL, "image_id"),
    (decode_image_removed, REMOVAL, "workspace"),
    (decode_match_reviewed, REVIEW, "workspace"),
]

VALIDATORS: dict[Decode, Draft202012Validator] = {
    decode: Draft202012Validator(schemas()[f"{topic}.v1.schema.json"])
    for decode, topic in (
        (decode_image_ingested, IMAGE_INGESTED),
        (decode_image_removed, IMAGE_REMOVED),
        (decode_match_reviewed, MATCH_REVIEWED),
    )
}


def reason(decoded: object) -> Reason | None:
    """Give the reason of a rejection, None of a record."""
    return decoded.reason if isinstance(decoded, Rejection) else None


def value(**changed: object) -> bytes:
    """Give the JSON of a good event with some fields changed."""
    return json.dumps({**URL, **changed}).encode()


@pytest.mark.parametrize(("decode", "good", "key_field"), DECODERS)
class TestEveryEvent:
    """What holds for the events of all three topics that we consume."""

    def test_good(self, decode: Decode, good: dict[str, str], key_field: str) -> None:
        """A good event is decoded."""
        assert reason(decode(good[key_field].encode(), json.dumps(good).encode())) is None

    @pytest.mark.parametrize(
        ("key", "wanted"),
        [
            (None, "key_missing"),
            (b"", "key_missing"),
            (b"i\n", "key_invalid"),
            (b"\x00i", "key_invalid"),
            (b"i\x7f", "key_invalid"),
            ("i\u0085".encode(), "key_invalid"),
            (b"\xff\xfe", "key_invalid"),
            (b"\xed\xa0\x80", "key_invalid"),
            (b"k" * 201, "key_invalid"),
            (b"another", "key_mismatch"),
        ],
    )
    def test_bad_key(
        self, decode: Decode, good: dict[str, str], key_field: str, key: bytes, wanted: str
    ) -> None:
        """A missing, an unreadable and a wrong key are told apart."""
        assert key_field in good
        assert reason(decode(key, json.dumps(good).encode())) == wanted

    @pytest.mark.parametrize(
        ("changed", "wanted"),
        [
            ({"workspace": None}, "workspace_missing"),
            ({"workspace": ""}, "workspace_missing"),
            ({"workspace": 7}, "workspace_invalid"),
            ({"workspace": ["w"]}, "workspace_invalid"),
            ({"workspace": "w\n"}, "workspace_invalid"),
            ({"workspace": "w\u009f"}, "workspace_invalid"),
            ({"workspace": "w" * 101}, "workspace_invalid"),
            ({"image_id": ""}, "schema_violation"),
            ({"image_id": "i\n"}, "schema_violation"),
            ({"image_id": "i" * 201}, "schema_violation"),
            ({"image_id": None}, "schema_violation"),
        ],
    )
    def test_bad_field(
        self,
        decode: Decode,
        good: dict[str, str],
        key_field: str,
        changed: dict[str, object],
        wanted: str,
    ) -> None:
        """A missing and an invalid workspace have reasons of their own, other fields share one."""
        assert (
            reason(decode(good[key_field].encode(), json.dumps(good | changed).encode())) == wanted
        )

    def test_workspace_absent(self, decode: Decode, good: dict[str, str], key_field: str) -> None:
        """An absent workspace is a missing one."""
        without = {name: text for name, text in good.items() if name != "workspace"}
        assert reason(decode(good[key_field].encode(), json.dumps(without).encode())) == (
            "workspace_missing"
        )

    @pytest.mark.parametrize(
        ("raw", "wanted"),
        [
            (None, "value_missing"),
            (b"", "value_missing"),
            (b" ", "not_json"),
            (b"{", "not_json"),
            (b"\xef\xbb\xbf{}", "not_json"),
            ("{}".encode("utf-16"), "not_json"),
            (b"[]", "not_json"),
            (b"null", "not_json"),
            (b'"text"', "not_json"),
            (b"{} {}", "not_json"),
            (b'{"workspace": NaN}', "not_json"),
            (b"9" * 5000, "not_json"),
            (b"{}", "workspace_missing"),
        ],
    )
    def test_bad_value(
        self,
        decode: Decode,
        good: dict[str, str],
        key_field: str,
        raw: bytes | None,
        wanted: str,
    ) -> None:
        """A null value, one that is no JSON object and one without fields are told apart."""
        assert reason(decode(good[key_field].encode(), raw)) == wanted

    @pytest.mark.parametrize(
        "field",
        [
            b'"\\ud800"',
            b'"\\udc00\\ud800"',
            b'"\xed\xa0\x80"',
            b'"\xff"',
            b'"a\nb"',
            b"9" * 5000,
            b"1e999",
            b"[" * 100_000,
            b"[" * 100_000 + b"]" * 100_000,
            b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        ],
    )
    def test_hostile_json(
        self, decode: Decode, good: dict[str, str], key_field: str, field: bytes
    ) -> None:
        """Lone surrogates, bad UTF-8, absurd numbers and depths are no JSON, even where ignored."""
        raw = json.dumps(good).encode()[:-1] + b', "unknown": ' + field + b"}"
        assert reason(decode(good[key_field].encode(), raw)) == "not_json"

    def test_unknown_fields(self, decode: Decode, good: dict[str, str], key_field: str) -> None:
        """Fields that we do not know are ignored, large numbers and escapes in them too."""
        unknown = {"a": 10**100, "b": [{}, None], "\0": "\0\U0001f30a"}
        key = good[key_field].encode()
        assert decode(key, json.dumps(good | unknown).encode()) == decode(
            key, json.dumps(good).encode()
        )

    def test_duplicate_keys(self, decode: Decode, good: dict[str, str], key_field: str) -> None:
        """Of a field that is given twice, the last wins, even where the first is invalid."""
        raw = json.dumps(good).encode()
        twice = b'{"workspace": 5, "image_id": "other", ' + raw[1:]
        assert decode(good[key_field].encode(), twice) == decode(good[key_field].encode(), raw)
        last_bad = raw[:-1] + b', "image_id": 5}'
        assert reason(decode(good[key_field].encode(), last_bad)) == "schema_violation"

    @given(key=st.none() | st.binary(max_size=300), raw=st.none() | st.binary(max_size=500))
    def test_any_bytes(
        self, decode: Decode, good: dict[str, str], key_field: str, key: bytes, raw: bytes
    ) -> None:
        """Whatever the bytes, decoding returns."""
        assert good[key_field]
        rejection = decode(key, raw)
        assert isinstance(rejection, Rejection)
        assert rejection.reason in get_args(Reason)

    @given(data=st.data())
    def test_any_json(
        self, decode: Decode, good: dict[str, str], key_field: str, data: st.DataObject
    ) -> None:
        """Whatever the fields hold, decoding returns, and agrees with the JSON Schema."""
        scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=300)
        anything = st.recursive(
            scalars | st.sampled_from(["w", "aGk=", "confirmed"]),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["team_id", "project_media_id", "x"]), inner, max_size=3
                )
            ),
            max_leaves=5,
        )
        names = st.sampled_from([*good, "url", "content", "check"])
        fields = good | data.draw(st.dictionaries(names, anything, max_size=3))
        key = fields[key_field]
        decoded = decode(str(key).encode(), json.dumps(fields).encode())
        assert VALIDATORS[decode].is_valid(fields) == (not isinstance(decoded, Rejection))


class TestImageIngested:
    """What is special about the event with a picture in it."""

    def decode(self, **changed: object) -> ImageIngested | Rejection:
        """Decode a good event with some fields changed."""
        return decode_image_ingested(b"i", value(**changed))

    @pytest.mark.parametrize(
        "changed",
        [
            {"content": "aGk="},
            {"url": None},
            {"url": None, "content": None},
            {"url": ""},
            {"url": "x" * 4097},
            {"url": None, "content": "not base64"},
            {"url": None, "content": "aGk"},
            {"url": None, "content": "aGk=\n"},
            {"url": None, "content": "_-8="},
            {"url": None, "content": [104, 105]},
            {"check": {"team_id": "12"}},
            {"check": {"team_id": 1.5}},
            {"check": {"team_id": True}},
            {"check": {"team_id": -1}},
            {"check": {"team_id": 2**63}},
            {"check": 12},
        ],
    )
    def test_schema_violation(self, changed: dict[str, object]) -> None:
        """Both or neither of url and content, no base64, wrong types and ranges."""
        assert reason(self.decode(**changed)) == "schema_violation"

    def test_empty_picture(self) -> None:
        """Zero inline bytes are an event; that they are no picture is for the decoder to say."""
        assert self.decode(url=None, content="") == ImageIngested("w", "i", content=b"")

    def test_largest_ids(self) -> None:
        """The largest id of a 64-bit database survives."""
        assert self.decode(check={"team_id": 2**63 - 1}) == ImageIngested(
            "w", "i", url=URL["url"], check=CheckIds(team_id=2**63 - 1)
        )

    @pytest.mark.parametrize(
        ("size", "wanted"),
        [(INLINE_PICTURE_LIMIT_BYTES, None), (INLINE_PICTURE_LIMIT_BYTES + 1, "picture_too_large")],
    )
    def test_inline_limit(self, size: int, wanted: str | None) -> None:
        """A picture of exactly the limit is taken, one byte more is too large."""
        content = base64.b64encode(bytes(size)).decode()
        assert reason(self.decode(url=None, content=content)) == wanted

    def test_character_limits(self) -> None:
        """Limits count characters, not bytes."""
        image_id, workspace = "\U0001f30a" * 200, "\U0001f30a" * 100
        decoded = decode_image_ingested(
            image_id.encode(), value(image_id=image_id, workspace=workspace)
        )
        assert decoded == ImageIngested(workspace, image_id, url=URL["url"])


PRINTABLE = st.characters(exclude_categories=["Cc", "Cs"])
WORKSPACES = st.text(PRINTABLE, min_size=1, max_size=100)
IMAGE_IDS = st.text(PRINTABLE, min_size=1, max_size=200)
SIXTY_FOUR_BITS = st.none() | st.integers(0, 2**63 - 1)
CHECK_IDS = st.none() | st.builds(
    CheckIds, team_id=SIXTY_FOUR_BITS, project_media_id=SIXTY_FOUR_BITS
)


@given(st.builds(ImageIngested, WORKSPACES, IMAGE_IDS, content=st.binary(), check=CHECK_IDS))
def test_ingested_round_trip(record: ImageIngested) -> None:
    """Any picture event survives, and equal records give equal bytes."""
    encoded = encode_json(record)
    assert decode_image_ingested(record.image_id.encode(), encoded) == record
    assert encoded == encode_json(msgspec.structs.replace(record))


@given(st.builds(ImageRemoved, WORKSPACES, IMAGE_IDS))
def test_removed_round_trip(record: ImageRemoved) -> None:
    """Any removal survives."""
    assert decode_image_removed(record.workspace.encode(), encode_json(record)) == record


@given(
    st.builds(
        MatchReviewed,
        WORKSPACES,
        IMAGE_IDS,
        IMAGE_IDS,
        st.sampled_from(["confirmed", "dissociated"]),
    )
)
def test_reviewed_round_trip(record: MatchReviewed) -> None:
    """Any review survives."""
    assert decode_match_reviewed(record.workspace.encode(), encode_json(record)) == record


@given(
    st.builds(
        Removed,
        st.just(1),
        WORKSPACES,
        IMAGE_IDS,
        st.builds(Source, st.just("image-removed"), st.integers(0, 99), st.integers(0, 2**62)),
    )
)
def test_log_round_trip(record: Removed) -> None:
    """A log record survives, and equal records give equal bytes."""
    encoded = encode_log(record)
    assert decode_log(encoded) == record
    assert encoded == encode_log(msgspec.structs.replace(record))


@given(st.binary(max_size=500))
def test_any_log_bytes(raw: bytes) -> None:
    """Bytes that are no log record raise the one error that is declared for them."""
    with pytest.raises(UnknownLogRecordError):
        decode_log(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        b"\x81\xa4type\xa6merged",
        b"\x82\xa4type\xa7removed\xa9workspace\xa1\xff",
        msgspec.msgpack.encode({"type": "removed", "record_version": 2}),
    ],
)
def test_hostile_log_bytes(raw: bytes) -> None:
    """Nothing at all, depth, bad UTF-8, an unknown type and version: the same error."""
    with pytest.raises(UnknownLogRecordError):
        decode_log(raw)


def test_event_ids() -> None:
    """An id depends on the type and on every part, and not on where one part ends."""
    assert event_id("t", "a", 1) == event_id("t", "a", "1")
    assert len({event_id("t", "ab", "c"), event_id("t", "a", "bc"), event_id("u", "ab", "c")}) == 3


def test_cloudevents_headers() -> None:
    """The attributes that CloudEvents 1.0 wants are there, the time in RFC 3339 with a Z."""
    headers = dict(
        cloudevents_headers(
            topic="image-matched",
            identifier="x",
            source="matcher",
            subject="картинка",
            time_ms=1_764_000_000_007,
            content_type="application/json",
        )
    )
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": b"x",
        "ce_source": b"check-dedup/matcher",
        "ce_type": b"check-dedup.image-matched.v1",
        "ce_subject": "картинка".encode(),
        "ce_time": b"2025-11-24T16:00:00.007Z",
        "content-type": b"application/json",
    }


HEADER_NAMES = st.text(max_size=20).filter(lambda name: not name.startswith("dlq-"))


@given(st.lists(st.tuples(HEADER_NAMES, st.none() | st.binary(max_size=50))))
def test_dead_letters_keep_headers(original: list[tuple[str, bytes | None]]) -> None:
    """The original headers come first, in order, byte for byte, duplicates and nulls included."""
    ours = dead_letter_headers(
        original, topic="image-ingested", partition=2, offset=7, reason="not_json"
    )
    assert ours[: len(original)] == original
    assert dict(ours[len(original) :]) == {
        "dlq-id": event_id("image-ingested-dlq", "image-ingested", 2, 7).encode(),
        "dlq-reason": b"not_json",
        "dlq-source-topic": b"image-ingested",
        "dlq-source-partition": b"2",
        "dlq-source-offset": b"7",
    }


def test_dead_letters_do_not_pile_up() -> None:
    """A replayed dead letter that fails again has one set of our headers, the latest."""
    first = dead_letter_headers(
        [("a", b"1")], topic="image-ingested", partition=0, offset=1, reason="fetch_timeout"
    )
    second = dead_letter_headers(
        first, topic="image-ingested", partition=0, offset=9, reason="fetch_failed"
    )
    assert len(second) == len(first)
    assert dict(second)["dlq-reason"] == b"fetch_failed"
