"""What was read is known again, and the memory for it is bounded."""

import pytest
from confluent_kafka import TopicPartition as Place

from streams.delivery import TopicPartition
from streams.engine import marks as marks_module
from streams.engine.marks import Marks
from streams.entry import LogEntry, Mark
from streams.kafka.client import Committed, as_committed, commit_metadata

PARTITION = TopicPartition("image-ingested", 3)
TOPIC_ID = "oCdCk5AmTo-t2H3fpIeFnA"


def entries(*offsets: int) -> list[LogEntry]:
    """Give records at these offsets."""
    return [LogEntry(offset, 1000 + offset, b"key", b"value") for offset in offsets]


def test_a_record_is_told_from_others_by_its_time_and_its_key() -> None:
    """A picture may come again, and two may come in one millisecond."""
    one = LogEntry(7, 1_700_000_000_000, b"key", b"value")
    assert one.mark == LogEntry(7, 1_700_000_000_000, b"key", None, (("h", b"1"),)).mark
    others = [
        LogEntry(7, 1_700_000_000_001, b"key", b"value"),
        LogEntry(7, 1_700_000_000_000, b"kez", b"value"),
        LogEntry(7, 1_700_000_000_000, None, b"value"),
        LogEntry(8, 1_700_000_000_000, b"key", b"value"),
    ]
    assert len({each.mark for each in (one, *others)}) == 5


def test_the_last_record_below_an_offset() -> None:
    """Offsets may be missing; what was committed as the last one counts."""
    marks = Marks()
    assert marks.before(PARTITION, 9) is None
    marks.begin(PARTITION, Mark(3, 1))
    marks.read(PARTITION, entries(5, 6, 9))
    assert marks.before(PARTITION, 3) is None
    assert marks.before(PARTITION, 5) == Mark(3, 1)
    assert marks.before(PARTITION, 9) == entries(6)[0].mark
    assert marks.before(PARTITION, 100) == entries(9)[0].mark
    assert marks.below(PARTITION, 6) == [Mark(3, 1), entries(5)[0].mark]
    marks.forget(PARTITION, 9)
    assert marks.below(PARTITION, 100) == [each.mark for each in entries(6, 9)]
    marks.begin(PARTITION, None)
    assert marks.before(PARTITION, 100) is None


def test_the_newest_are_remembered_where_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where no broker tells how often it became the leader."""
    monkeypatch.setattr(marks_module, "_MOST_MARKS", 3)
    marks = Marks()
    marks.begin(PARTITION, None)
    marks.read(PARTITION, entries(0, 1))
    marks.read(PARTITION, entries(2, 3))
    assert marks.below(PARTITION, 9) == [each.mark for each in entries(1, 2, 3)]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (commit_metadata(TOPIC_ID, Mark(41, 0xAB)), Committed(42, TOPIC_ID, Mark(41, 0xAB))),
        (commit_metadata(TOPIC_ID), Committed(42, TOPIC_ID)),
        (commit_metadata("", Mark(41, 0xAB)), Committed(42)),
        (f"{TOPIC_ID} 41", Committed(42)),
        (f"{TOPIC_ID} 41 ab", Committed(42)),
        ("somebody's own words", Committed(42)),
    ],
)
def test_what_is_committed_is_read_back(metadata: str, expected: Committed) -> None:
    """With what was noted: operators commit nothing, and what is not ours says nothing."""
    assert as_committed(Place(*PARTITION, 42, metadata.rstrip("\0"))) == expected
