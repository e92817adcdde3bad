"""A record of `index-log` is one line, whatever it holds; as JSON it is whole."""

import json

import msgspec
import pytest

from agents.decide import default_match_settings
from schemas.codec import encode_log
from schemas.records import (
    CheckIds,
    Fingerprint,
    Hashed,
    LogRecord,
    Removed,
    ReplyAddress,
    Reviewed,
    Source,
    View,
)
from streams.entry import LogEntry
from streams.kafka.log_text import json_line, line

CODE = bytes(range(8))
PICTURE = Hashed(
    1,
    "w",
    "i 1",
    "api",
    Fingerprint(
        3, b"\xab" * 32, "PNG", 9, 8, 9, 8, (View("whole", (0, 0, 9, 8), CODE, CODE * 4),),
        asked=CODE * 2, sketch=b"\x00" * 48,
    ),
    5,
    source=Source("image-ingested", 2, 7),
    check=CheckIds(team_id=4),
    reply=ReplyAddress("r", 10),
)  # fmt: skip
PLACE = Source("image-removed", 0, 9)


def entry(value: bytes | None) -> LogEntry:
    """Give a record at a place in the log."""
    return LogEntry(12, 1_700_000_000_000, b"\xffk", value)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            PICTURE,
            (
                'hashed workspace=w image="i 1" origin=api sha256=abababababab PNG 9x8 views=whole '
                "asked=2 sketch=48B version=3 team_id=4 reply=r threshold=10 "
                "source=image-ingested[2]@7"
            ),
        ),
        (Removed(1, "w", "i", PLACE), "removed workspace=w image=i source=image-removed[0]@9"),
        (
            Reviewed(1, "w", "i", "j", "confirmed", PLACE),
            "reviewed workspace=w image=i other=j verdict=confirmed source=image-removed[0]@9",
        ),
    ],
)
def test_each_type_is_a_line(record: LogRecord, said: str) -> None:
    """Place, time, type, whose, which, and what is special."""
    assert line(3, entry(encode_log(record))) == f"3@12 2023-11-14T22:13:20.000+00:00 {said}"


def test_settings_are_named() -> None:
    """Each of them, as it is declared."""
    settings = default_match_settings(partitions=4)
    found = line(0, entry(encode_log(settings)))
    for name in settings.__struct_fields__:
        assert f" {name}={getattr(settings, name)}" in found


@pytest.mark.parametrize(
    "value", [b"", b"\xc1", b"\x1b[2J\n", msgspec.msgpack.encode({"type": "later\x1b"})]
)
def test_an_unknown_record_is_shown(value: bytes) -> None:
    """As unknown, with its offset, in one line that no terminal obeys; whole as JSON."""
    found = line(0, entry(value))
    assert found.startswith("0@12 ")
    assert " unknown (" in found
    assert found.isprintable()
    told = json.loads(json_line(0, entry(value)))
    assert told["offset"] == 12
    assert told["unknown"]
    assert msgspec.convert(told["value"], bytes, strict=False) == value


def test_ids_are_escaped() -> None:
    """Direction marks and escapes of an id do not reach the terminal."""
    record = msgspec.structs.replace(PICTURE, workspace="a\u202eb", image_id="\x1b]0;x\x07")
    found = line(0, entry(encode_log(record)))
    assert found.isprintable() or "unknown" in found
    assert "\x1b" not in found
    assert "\u202e" not in found


@pytest.mark.parametrize("odd", ["\x85", "\x7f", "\x9b2J", "\u202e", "é\U0001f600"])
def test_json_is_one_line_of_ascii(odd: str) -> None:
    """However a reader parts lines, whatever a terminal obeys; ids and keys are whole in it."""
    record = msgspec.structs.replace(PICTURE, image_id="i\u2028é\U0001f600")
    entries = [LogEntry(12, 5, odd.encode(), value) for value in (encode_log(record), odd.encode())]
    lines = [json_line(0, one) for one in entries]
    assert all(found.isascii() and found.isprintable() for found in lines)
    told, unknown = [json.loads(found) for found in lines]
    assert told["record"]["image_id"] == record.image_id
    assert msgspec.convert(told["key"], bytes, strict=False) == odd.encode()
    assert msgspec.convert(unknown["value"], bytes, strict=False) == odd.encode()


def test_an_erased_record_is_shown() -> None:
    """It has a place and no value."""
    assert line(0, entry(None)).endswith(" erased")
    assert json.loads(json_line(0, entry(None)))["record"] is None


def test_json_holds_all_of_a_record() -> None:
    """It is the record again."""
    told = json.loads(json_line(3, entry(encode_log(PICTURE))))
    assert msgspec.convert(told["record"], Hashed, strict=False, builtin_types=()) == PICTURE
    assert (told["partition"], told["offset"]) == (3, 12)
