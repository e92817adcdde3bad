"""The topic declarations keep their own rules, and the largest records fit their topics."""

import re
from typing import get_args

from msgspec import Struct
from msgspec.inspect import IntType, Metadata, StructType, Type, VarTupleType, type_info

from agents import answer_questions
from agents.decide import default_match_settings
from schemas.codec import cloudevents_headers, encode_json, encode_log
from schemas.reasons import REASONS, Reason
from schemas.records import (
    CheckIds,
    Fingerprint,
    Hashed,
    ImageMatched,
    KnownImage,
    Match,
    MatchAnswered,
    MatchSettings,
    NearMiss,
    Position,
    ReplyAddress,
    Source,
    View,
)
from schemas.topics import (
    DEAD_LETTER_ALLOWANCE_BYTES,
    FOREVER_MS,
    IMAGE_INGESTED,
    IMAGE_MATCHED,
    INDEX_LOG,
    INLINE_PICTURE_LIMIT_BYTES,
    LARGEST_MESSAGE_BYTES,
    MATCH_ANSWERED,
    TOPICS,
    dead_letter_topic_name,
)

# Of the characters that JSON leaves alone, none takes more bytes than this one; those that it
# escapes take two.
WIDEST = "\U0001f30a"
LARGEST_INT = 2**63 - 1
LIST_BOUND = 400
# Longest text of a float: all digits, and an exponent of three.
LONGEST_FRACTION = 2.2250738585072014e-308
# A record batch's header, one record's frame and the lengths of its fields, generously.
FRAMING_BYTES = 200
LARGEST_IDS = CheckIds(team_id=LARGEST_INT, project_media_id=LARGEST_INT)


def largest_match() -> Match:
    """Give the longest match that the types allow."""
    return Match(
        sha256="f" * 64,
        image_id=WIDEST * 200,
        score=64,
        fine_distance=256,
        relation="near_identical",
        tier="confirmed_sibling",
        weight=LONGEST_FRACTION,
        views=(WIDEST * 40, WIDEST * 40),
        origin="event",
        check=LARGEST_IDS,
    )


def largest_outcome(matches: int) -> ImageMatched:
    """Give the longest outcome with this many matches."""
    return ImageMatched(
        workspace=WIDEST * 100,
        image_id=WIDEST * 200,
        sha256="f" * 64,
        position=Position(partition=LARGEST_INT, offset=LARGEST_INT),
        match=True,
        closest_match=largest_match(),
        matches=(largest_match(),) * matches,
        matches_total=LARGEST_INT,
        model="m" * 100,
        hash_version=LARGEST_INT,
        origin="event",
        check=LARGEST_IDS,
        low_information=True,
        removed=True,
    )


def declared(record: type[Struct], name: str) -> Type:
    """Give the declared type of a record's field, with its bounds."""
    info = type_info(record)
    assert isinstance(info, StructType)
    (found,) = (field.type for field in info.fields if field.name == name)
    return found.type if isinstance(found, Metadata) else found


def bytes_on_the_topic(outcome: ImageMatched) -> int:
    """Count an outcome's bytes with key, CloudEvents headers and framing."""
    headers = cloudevents_headers(
        topic=IMAGE_MATCHED,
        identifier="0" * 32,
        source="matcher",
        subject=outcome.image_id,
        time_ms=0,
        content_type="application/json",
    )
    key = len(outcome.image_id.encode())
    return (
        key
        + len(encode_json(outcome))
        + sum(len(name) + len(value) for name, value in headers)
        + FRAMING_BYTES
    )


def test_names() -> None:
    """Topic names are kebab-case, and each is declared under its own name."""
    for name, topic in TOPICS.items():
        assert name == topic.name
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)


def test_dead_letter_topics() -> None:
    """What we read from others has a dead-letter topic with room for the record and our headers."""
    for topic in TOPICS.values():
        if topic.encoding == "original" or topic.name == INDEX_LOG:
            continue
        consumed_by_agents = {"hasher", "matcher"} & set(topic.readers)
        dead_letters = TOPICS.get(dead_letter_topic_name(topic.name))
        assert (dead_letters is not None) == bool(consumed_by_agents)
        if dead_letters is not None:
            assert dead_letters.max_message_bytes == topic.max_message_bytes + 64 * 1024


def test_the_log_has_no_dead_letters() -> None:
    """A log record that is not understood stops the matcher; nothing of the log is set aside."""
    assert dead_letter_topic_name(INDEX_LOG) not in TOPICS
    assert TOPICS[INDEX_LOG].retention_ms == FOREVER_MS
    assert TOPICS[INDEX_LOG].cleanup_policy == "compact"


def test_our_headers_fit_the_allowance() -> None:
    """What a dead letter adds to its source record is far below the 64 KiB set aside for it."""
    longest_topic = max(len(name) for name in TOPICS)
    ours = 5 * len("dlq-source-partition") + 32 + longest_topic + 2 * 20 + max(map(len, REASONS))
    assert ours * 10 < DEAD_LETTER_ALLOWANCE_BYTES


def test_producers_allow_the_largest_topic() -> None:
    """The limit that every producer is given is that of the topic with the largest one."""
    assert max(topic.max_message_bytes for topic in TOPICS.values()) == LARGEST_MESSAGE_BYTES


def test_every_reason_is_described() -> None:
    """Each reason code has a description, and there is none without a code."""
    assert set(REASONS) == set(get_args(Reason))
    assert all(text.endswith(".") for text in REASONS.values())


def test_largest_inline_picture_fits() -> None:
    """The largest inline picture, in base64, with the longest ids, fits `image-ingested`."""
    base64_bytes = -(-INLINE_PICTURE_LIMIT_BYTES // 3) * 4
    # Keys and texts may be written as \uXXXX\uXXXX: twelve bytes for the widest characters.
    rest = 200 * 4 + (200 + 100) * 12 + 1024
    assert base64_bytes + rest + FRAMING_BYTES < TOPICS[IMAGE_INGESTED].max_message_bytes


def test_largest_outcome_fits() -> None:
    """An outcome with the longest list that any settings allow, and the longest ids, fits."""
    assert default_match_settings(1).matches_bound <= LIST_BOUND
    limit = TOPICS[IMAGE_MATCHED].max_message_bytes
    assert bytes_on_the_topic(largest_outcome(LIST_BOUND)) < limit


def bound(record: type[Struct], name: str) -> int:
    """Give the largest length of a list that a record's type allows."""
    listed = declared(record, name)
    assert isinstance(listed, VarTupleType)
    assert listed.max_length is not None
    return listed.max_length


def test_largest_answer_fits() -> None:
    """An answer with every list as long as its type allows fits `match-answered`."""
    match = largest_match()
    image = KnownImage(
        sha256="f" * 64,
        image_id=WIDEST * 200,
        ingested_at_ms=LARGEST_INT,
        position=Position(LARGEST_INT, LARGEST_INT),
        origin="event",
        matches=(match,) * bound(KnownImage, "matches"),
        check=LARGEST_IDS,
    )
    miss = NearMiss(
        sha256="f" * 64,
        image_id=WIDEST * 200,
        score=64,
        fine_distance=256,
        views=match.views,
        reason="confidence",
        origin="event",
        check=LARGEST_IDS,
    )
    answer = MatchAnswered(
        request_id=WIDEST * 100,
        workspace=WIDEST * 100,
        position=Position(LARGEST_INT, LARGEST_INT),
        settings=default_match_settings(LARGEST_INT),
        outcome=largest_outcome(LIST_BOUND),
        closest_match=match,
        matches=(match,) * bound(MatchAnswered, "matches"),
        nearest_miss=miss,
        images=(image,) * bound(MatchAnswered, "images"),
    )
    envelope_bytes = 4 * 100 + 1024 + FRAMING_BYTES
    limit = TOPICS[MATCH_ANSWERED].max_message_bytes
    assert len(encode_json(answer)) + envelope_bytes < limit


def test_answers_keep_their_bounds() -> None:
    """The lists that the matcher makes are cut to what their types allow."""
    assert bound(MatchAnswered, "matches") == answer_questions.MATCHES_BOUND
    assert bound(MatchAnswered, "images") == answer_questions.IMAGES_BOUND
    assert bound(KnownImage, "matches") == answer_questions.IMAGE_MATCHES_BOUND


def test_list_bounds_agree() -> None:
    """No settings record can ask for a longer list than an outcome may carry."""
    assert declared(MatchSettings, "matches_bound") == IntType(ge=1, le=LIST_BOUND)
    listed = declared(ImageMatched, "matches")
    assert isinstance(listed, VarTupleType)
    assert listed.max_length == LIST_BOUND


def test_largest_log_record_is_small() -> None:
    """A log record stays below 16 KiB, which is what the reader's batch size counts on."""
    view = View(WIDEST * 40, (LARGEST_INT,) * 4, b"8" * 8, b"f" * 32)
    fingerprint = Fingerprint(
        version=LARGEST_INT,
        sha256=b"s" * 32,
        format=WIDEST * 20,
        width_pixels=LARGEST_INT,
        height_pixels=LARGEST_INT,
        decoded_width_pixels=LARGEST_INT,
        decoded_height_pixels=LARGEST_INT,
        views=(view,) * 16,
        animated=True,
        low_information=True,
        sketch=b"s" * 2560,
    )
    record = Hashed(
        record_version=1,
        workspace=WIDEST * 100,
        image_id=WIDEST * 200,
        origin="event",
        fingerprint=fingerprint,
        ingested_at_ms=LARGEST_INT,
        source=Source("t" * 249, LARGEST_INT, LARGEST_INT),
        check=LARGEST_IDS,
        reply=ReplyAddress(WIDEST * 100, 16),
    )
    assert len(encode_log(record)) < 16 * 1024
