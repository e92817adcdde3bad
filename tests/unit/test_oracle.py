"""The oracle finds what is planted, and finds nothing where nothing is wrong.

The clean histories are made by the product's own index and decision, so that a disagreement with
the oracle's brute force would show here, too.
"""

import copy
import random
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from agents.decide import default_match_settings
from agents.match_images import outcomes
from schemas.codec import (
    dead_letter_headers,
    decode_image_ingested,
    decode_log,
    encode_json,
    encode_log,
)
from schemas.reasons import Reason, Rejection
from schemas.records import (
    CheckIds,
    Fingerprint,
    Hashed,
    ImageIngested,
    ImageMatched,
    ImageRemoved,
    LogRecord,
    MatchSettings,
    Removed,
    Source,
    View,
)
from schemas.topics import (
    IMAGE_INGESTED,
    IMAGE_MATCHED,
    IMAGE_REMOVED,
    INDEX_LOG,
    MATCH_ASKED,
    dead_letter_topic_name,
)
from streams.entry import LogEntry
from streams.index.partition import PartitionIndex
from streams.kafka.partitioner import partition_of
from streams.kafka.topics import GROUP_TOPICS, HASHER_GROUP, MATCHER_GROUP
from tests.oracle import (
    GroupPartition,
    History,
    Kind,
    Picture,
    Place,
    Report,
    Violation,
    different_rows,
    verify,
    verify_index,
)

PARTITIONS = 2
DEAD_LETTERS = dead_letter_topic_name(IMAGE_INGESTED)
TOPICS = (
    IMAGE_INGESTED,
    IMAGE_REMOVED,
    DEAD_LETTERS,
    dead_letter_topic_name(IMAGE_REMOVED),
    INDEX_LOG,
    IMAGE_MATCHED,
    MATCH_ASKED,
)
FIRST = default_match_settings(PARTITIONS)


def fingerprint(content: bytes, code: int, *, version: int = 1) -> Fingerprint:
    """Make up a fingerprint: the fine code follows the code, the bytes decide the sha256."""
    view = View("whole", (0, 0, 64, 64), code.to_bytes(8), (code * 3 % 2**64).to_bytes(8) * 4)
    return Fingerprint(version, sha256(content).digest(), "JPEG", 64, 64, 64, 64, (view,))


class World:
    """What the processes would have done, step by step, without any of them."""

    def __init__(self) -> None:
        """Begin as `topics create` leaves a broker."""
        self.records: dict[str, dict[int, list[LogEntry]]] = {
            topic: {partition: [] for partition in range(PARTITIONS)} for topic in TOPICS
        }
        for partition in range(PARTITIONS):
            self.log(FIRST, partition)

    def append(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Iterable[tuple[str, bytes | None]] = (),
    ) -> Place:
        """Append a record to a topic."""
        entries = self.records[topic][partition]
        entry = LogEntry(len(entries), 1_000 + len(entries), key, value, tuple(headers))
        entries.append(entry)
        return Place(topic, partition, entry.offset)

    def log(self, record: LogRecord, partition: int) -> Place:
        """Append a record to the log."""
        key = b"%d/%d" % (partition, len(self.records[INDEX_LOG][partition]))
        return self.append(INDEX_LOG, partition, key, encode_log(record))

    def ingest(self, event: ImageIngested) -> Place:
        """Publish a picture."""
        partition = partition_of(event.image_id, PARTITIONS)
        headers = [("trace", b"1"), ("null", None)]
        return self.append(
            IMAGE_INGESTED, partition, event.image_id.encode(), encode_json(event), headers
        )

    def hashed(self, source: Place, event: ImageIngested, found: Fingerprint) -> Place:
        """Append a picture to the log."""
        record = Hashed(
            1, event.workspace, event.image_id, "event", found, 5, Source(*source), event.check
        )
        return self.log(record, partition_of(event.workspace, PARTITIONS))

    def picture(self, workspace: str, image_id: str, code: int, content: bytes = b"") -> Place:
        """Publish and hash a picture."""
        content = content or b"%s %d" % (image_id.encode(), code)
        event = ImageIngested(
            workspace, image_id, content=content, check=CheckIds(project_media_id=code % 1000)
        )
        return self.hashed(self.ingest(event), event, fingerprint(content, code))

    def removal(self, workspace: str, image_id: str) -> Place:
        """Publish a removal and append it to the log."""
        event = ImageRemoved(workspace, image_id)
        partition = partition_of(workspace, PARTITIONS)
        source = self.append(IMAGE_REMOVED, partition, workspace.encode(), encode_json(event))
        return self.log(Removed(1, workspace, image_id, Source(*source)), partition)

    def poison(self, value: bytes, key: bytes = b"key", reason: Reason | None = None) -> Place:
        """Publish an event that is no good, and its dead letter."""
        source = self.append(IMAGE_INGESTED, 0, key, value, [("trace", b"1"), ("null", None)])
        rejection = decode_image_ingested(key, value)
        if reason is None:
            assert isinstance(rejection, Rejection)
            reason = rejection.reason
        self.dead_letter(source, reason)
        return source

    def dead_letter(self, source: Place, reason: Reason) -> Place:
        """Publish a record's dead letter."""
        original = self.records[source.topic][source.partition][source.offset]
        headers = dead_letter_headers(
            original.headers,
            topic=source.topic,
            partition=source.partition,
            offset=source.offset,
            reason=reason,
        )
        topic = dead_letter_topic_name(source.topic)
        return self.append(topic, source.partition, original.key, original.value, headers)

    def match(self, directory: Path, group_size: int = 3) -> None:
        """Answer the log with the product's own index."""
        for partition in range(PARTITIONS):
            entries = self.records[INDEX_LOG][partition]
            path = directory / str(partition)
            with closing(PartitionIndex(path, "topic", partition)) as index:
                for low in range(0, len(entries), group_size):
                    group = entries[low : low + group_size]
                    arrivals = index.stage(group, group[-1].offset + 1)
                    found = outcomes(index, partition, (arrival.first for arrival in arrivals))
                    index.commit({first: outcome.value for first, outcome in found.items()})
                    for arrival in arrivals:
                        outcome = found[arrival.first]
                        self.append(
                            IMAGE_MATCHED,
                            partition_of(outcome.key.decode(), PARTITIONS),
                            outcome.key,
                            outcome.value,
                            outcome.headers,
                        )

    def history(self, **committed: int | None) -> History:
        """Give what a broker would hold; by default everything is committed."""
        ends = {
            (topic, partition): len(entries)
            for topic, by_partition in self.records.items()
            for partition, entries in by_partition.items()
        }
        offsets: dict[GroupPartition, int | None] = {
            GroupPartition(group, topic, partition): committed.get(group, ends[topic, partition])
            for group, topics in GROUP_TOPICS.items()
            for topic in topics
            for partition in range(PARTITIONS)
        }
        return History(PARTITIONS, self.records, offsets, ends)


@pytest.fixture
def world(unspoilt: World) -> World:
    """Give a history with everything in it, to be spoilt."""
    return copy.deepcopy(unspoilt)


@pytest.fixture(scope="module")
def unspoilt(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Make a history with everything in it."""
    made = World()
    chance = random.Random(7)
    for number in range(40):
        family = chance.choice([1 << 40, (1 << 60) - 1, 0x0F0F0F0F0F0F0F0F])
        made.picture(f"w{number % 3}", f"i{number}", family ^ chance.getrandbits(64) & 0x11)
    made.picture("w0", "i0", 99)  # the id of another picture, other bytes: id reused
    made.picture("w1", "copy", 5, b"i1 bytes")
    made.picture("w1", "same bytes", 5, b"i1 bytes")
    made.removal("w0", "i3")
    made.removal("w0", "never seen")
    made.picture("w0", "never seen", 1 << 40)
    made.picture("w0", "after removal", 1 << 40)
    for partition in range(PARTITIONS):
        made.log(msgspec.structs.replace(FIRST, radius=2, matches_bound=2), partition)
    made.picture("w0", "narrower", 1 << 40)
    made.poison(b"{")
    made.poison(b"", b"")
    made.poison(encode_json(ImageIngested("w0", "bad", content=b"GIF")), b"bad", "not_an_image")
    made.match(tmp_path_factory.mktemp("index"))
    return made


def find(world: World, topic: str, wanted: Callable[[LogEntry], bool]) -> tuple[int, int]:
    """Find the first record of a topic that is as wanted."""
    for partition, entries in world.records[topic].items():
        for position, entry in enumerate(entries):
            if wanted(entry):
                return partition, position
    raise AssertionError("there is no such record")


def edit_outcome(world: World, of: str, **changed: Any) -> LogEntry:  # noqa: ANN401 - any field
    """Give the outcome of a picture with some fields changed."""
    partition, position = find(world, IMAGE_MATCHED, lambda e: e.key == of.encode())
    entry = world.records[IMAGE_MATCHED][partition][position]
    outcome = msgspec.json.decode(entry.value or b"", type=ImageMatched)
    return msgspec.structs.replace(
        entry, value=encode_json(msgspec.structs.replace(outcome, **changed))
    )


def put_outcome(world: World, image_id: str, entry: LogEntry) -> None:
    """Replace the outcome of a picture."""
    partition, position = find(world, IMAGE_MATCHED, lambda e: e.key == image_id.encode())
    world.records[IMAGE_MATCHED][partition][position] = entry


def add_outcome(world: World, entry: LogEntry) -> None:
    """Send one more outcome."""
    partition = partition_of((entry.key or b"").decode(), PARTITIONS)
    world.append(IMAGE_MATCHED, partition, entry.key, entry.value, entry.headers)


def drop(world: World, topic: str, wanted: Callable[[LogEntry], bool]) -> None:
    """Lose a record; the offsets of the others stay."""
    partition, position = find(world, topic, wanted)
    del world.records[topic][partition][position]


def is_about(image_id: str) -> Callable[[LogEntry], bool]:
    """Find the log record of a picture."""

    def wanted(entry: LogEntry) -> bool:
        record = decode_log(entry.value or b"")
        return isinstance(record, Hashed) and record.image_id == image_id

    return wanted


def test_clean(world: World) -> None:
    """Nothing is found where nothing is wrong, and everything is counted."""
    report = verify(world.history())
    assert report.violations == [], str(report)
    assert report.pictures == 46
    assert len(report.outcomes) == 45
    assert report.copies == 1
    assert sorted(report.dead_letters.values()) == ["key_missing", "not_an_image", "not_json"]
    assert report.superseded == 0
    assert report.outcomes[Picture("w1", "same bytes")].matches[0].relation == "identical"
    assert report.outcomes[Picture("w0", "never seen")].removed
    assert report.outcomes[Picture("w0", "narrower")].matches_total > 2


def test_superseded(world: World) -> None:
    """A dead letter of a picture that has an outcome, from another delivery, is no violation."""
    event = ImageIngested("w0", "i0", url="https://example.org/gone.jpg")
    world.dead_letter(world.ingest(event), "http_status")
    report = verify(world.history())
    assert report.violations == [], str(report)
    assert report.superseded == 1


def lose_outcome(world: World) -> None:
    """Plant: an outcome is not there."""
    drop(world, IMAGE_MATCHED, lambda entry: entry.key == b"i7")


def lose_event(world: World) -> None:
    """Plant: an event that nobody did anything with."""
    world.ingest(ImageIngested("w0", "forgotten", content=b"x"))


def lose_removal(world: World) -> None:
    """Plant: a removal that never reached the log."""
    value = encode_json(ImageRemoved("w0", "i0"))
    world.append(IMAGE_REMOVED, partition_of("w0", PARTITIONS), b"w0", value)


def lose_dead_letter(world: World) -> None:
    """Plant: a poison event without its dead letter."""
    world.append(IMAGE_INGESTED, 1, b"key", b"[]")


def second_outcome(world: World) -> None:
    """Plant: two outcomes of one picture."""
    add_outcome(world, edit_outcome(world, "i7", model="another"))


def second_headers(world: World) -> None:
    """Plant: a copy of an outcome with another time in its headers."""
    entry = edit_outcome(world, "i7")
    headers = [(n, b"2020-01-01T00:00:00.000Z" if n == "ce_time" else v) for n, v in entry.headers]
    add_outcome(world, msgspec.structs.replace(entry, headers=tuple(headers)))


def second_dead_letter(world: World) -> None:
    """Plant: one record dead-lettered for two reasons."""
    partition, position = find(world, DEAD_LETTERS, lambda entry: entry.key == b"bad")
    source = Place(
        IMAGE_INGESTED,
        partition,
        int(
            dict(world.records[DEAD_LETTERS][partition][position].headers)["dlq-source-offset"]
            or b""
        ),
    )
    world.dead_letter(source, "picture_truncated")


def second_fingerprint(world: World) -> None:
    """Plant: one event hashed twice, with different results."""
    event = ImageIngested("w0", "twice", content=b"x")
    source = world.ingest(event)
    world.hashed(source, event, fingerprint(b"x", 1))
    world.hashed(source, event, fingerprint(b"x", 2))


def outcome_of_nobody(world: World) -> None:
    """Plant: an outcome of a picture that was never published."""
    entry = edit_outcome(world, "i7", image_id="nobody")
    add_outcome(world, msgspec.structs.replace(entry, key=b"nobody"))


def record_of_nobody(world: World) -> None:
    """Plant: a log record whose source is another picture."""
    event = ImageIngested("w0", "nobody", content=b"x")
    world.hashed(Place(IMAGE_INGESTED, 0, 0), event, fingerprint(b"x", 1))


def dead_letter_of_nobody(world: World) -> None:
    """Plant: a dead letter whose source is not there."""
    headers = dead_letter_headers(
        (), topic=IMAGE_INGESTED, partition=0, offset=10_000, reason="not_json"
    )
    world.append(DEAD_LETTERS, 0, b"key", b"{", headers)


def wrong_match(world: World) -> None:
    """Plant: an outcome that missed a match."""
    entry = edit_outcome(world, "narrower", match=False, closest_match=None, matches=())
    put_outcome(world, "narrower", entry)


def wrong_position(world: World) -> None:
    """Plant: an outcome with another place in the log."""
    outcome = msgspec.json.decode(edit_outcome(world, "i7").value or b"", type=ImageMatched)
    position = msgspec.structs.replace(outcome.position, offset=outcome.position.offset + 1)
    put_outcome(world, "i7", edit_outcome(world, "i7", position=position))


def wrong_bytes(world: World) -> None:
    """Plant: an outcome that says the same in other bytes."""
    entry = edit_outcome(world, "i7")
    put_outcome(world, "i7", msgspec.structs.replace(entry, value=(entry.value or b"") + b" "))


def wrong_dead_letter(world: World) -> None:
    """Plant: a dead letter that is not the record as it was."""
    partition, position = find(world, DEAD_LETTERS, lambda entry: entry.key == b"bad")
    letters = world.records[DEAD_LETTERS][partition]
    letters[position] = msgspec.structs.replace(letters[position], value=b"{}")


def wrong_reason(world: World) -> None:
    """Plant: a dead letter with a reason that is not the record's."""
    source = world.append(IMAGE_INGESTED, 0, b"key", b"{")
    world.dead_letter(source, "fetch_timeout")


def lost_header(world: World) -> None:
    """Plant: a dead letter without one of the original headers."""
    partition, position = find(world, DEAD_LETTERS, lambda entry: entry.key == b"bad")
    letters = world.records[DEAD_LETTERS][partition]
    letters[position] = msgspec.structs.replace(
        letters[position], headers=letters[position].headers[1:]
    )


def other_bytes(world: World) -> None:
    """Plant: the fingerprint of another picture, as when two results are mixed up."""
    event = ImageIngested("w9", "mixed up", content=b"x")
    world.hashed(world.ingest(event), event, fingerprint(b"y", 1))


def wrong_partition(world: World) -> None:
    """Plant: a log record on another workspace's partition."""
    event = ImageIngested("w9", "astray", content=b"x")
    source = world.ingest(event)
    record = Hashed(1, "w9", "astray", "event", fingerprint(b"x", 1), 5, Source(*source))
    world.log(record, 1 - partition_of("w9", PARTITIONS))


def same_key(world: World) -> None:
    """Plant: two log records under one key, of which compaction would erase the first."""
    entries = world.records[INDEX_LOG][0]
    entries[-1] = msgspec.structs.replace(entries[-1], key=entries[0].key)


def before_settings(world: World) -> None:
    """Plant: a picture before the first settings record."""
    partition = partition_of("w0", PARTITIONS)
    drop_first = world.records[INDEX_LOG][partition]
    del drop_first[0]


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (lose_outcome, "lost"),
        (lose_event, "lost"),
        (lose_removal, "lost"),
        (lose_dead_letter, "lost"),
        (second_outcome, "conflict"),
        (second_headers, "conflict"),
        (second_dead_letter, "conflict"),
        (second_fingerprint, "conflict"),
        (outcome_of_nobody, "unknown"),
        (record_of_nobody, "unknown"),
        (dead_letter_of_nobody, "unknown"),
        (wrong_match, "wrong"),
        (wrong_position, "wrong"),
        (wrong_bytes, "wrong"),
        (wrong_dead_letter, "wrong"),
        (wrong_reason, "wrong"),
        (lost_header, "wrong"),
        (other_bytes, "log"),
        (wrong_partition, "log"),
        (same_key, "log"),
        (before_settings, "log"),
    ],
)
def test_planted(world: World, plant: Callable[[World], None], kind: Kind) -> None:
    """What is planted is found, and called by its name."""
    plant(world)
    report = verify(world.history())
    assert kind in report.kinds(), str(report)


@pytest.mark.parametrize("group", [HASHER_GROUP, MATCHER_GROUP])
def test_committed_beyond_the_end(world: World, group: str) -> None:
    """A committed offset that the topic does not have is found."""
    assert verify(world.history(**{group: 10_000})).kinds() == {"committed"}


@pytest.mark.parametrize("group", [HASHER_GROUP, MATCHER_GROUP])
def test_no_committed_offset(world: World, group: str) -> None:
    """A group without a committed offset is found."""
    assert verify(world.history(**{group: None})).kinds() == {"committed"}


@pytest.mark.parametrize("group", [HASHER_GROUP, MATCHER_GROUP])
def test_committed_behind(world: World, group: str) -> None:
    """A group may have committed less than is done: it will do it again."""
    assert verify(world.history(**{group: 0})).violations == []


@pytest.mark.parametrize("plant", [lose_event, lose_outcome])
def test_committed_undone(world: World, plant: Callable[[World], None]) -> None:
    """What is committed and not done is found; what is neither is lost, but not yet for good."""
    plant(world)
    assert "committed" in verify(world.history()).kinds()
    behind = world.history(**{HASHER_GROUP: 0, MATCHER_GROUP: 0})
    assert verify(behind).kinds() == {"lost"}


@pytest.mark.parametrize(
    ("expected", "found", "complaints"),
    [
        ([1, 2, 3], [1, 2, 3], 0),
        ([], [], 0),
        ([1, 2, 3], [1, 2], 1),
        ([1, 2], [1, 2, 3], 1),
        ([1, 2, 3], [1, 9, 3], 1),
        ([1, 2, 3], [2, 3], 3),
    ],
)
def test_rows(expected: list[int], found: list[int], complaints: int) -> None:
    """A stale index, one with rows too many and one with another row are found."""
    assert len(different_rows(0, expected, found)) == complaints


def index_of(
    world: World, directory: Path, *, without: Callable[[LogEntry], bool] | None = None
) -> None:
    """Make the index of w0's partition, as it should be or without one record."""
    partition = partition_of("w0", PARTITIONS)
    with closing(PartitionIndex(directory, "topic", partition)) as index:
        entries = world.records[INDEX_LOG][partition]
        applied = [entry for entry in entries if without is None or not without(entry)]
        arrivals = index.stage(applied, len(entries))
        found = outcomes(index, partition, (arrival.first for arrival in arrivals))
        index.commit({first: outcome.value for first, outcome in found.items()})


def complaints_about(world: World, directory: Path) -> list[Violation]:
    """Compare the index in a directory with the log and the outcomes."""
    partition = partition_of("w0", PARTITIONS)
    entries = world.records[INDEX_LOG][partition]
    report = verify(world.history())
    assert report.violations == []
    return verify_index(directory, "topic", partition, entries, report)


def test_index(world: World, tmp_path: Path) -> None:
    """An index that is a function of the log is found to be one, also when it is behind."""
    index_of(world, tmp_path / "index")
    assert complaints_about(world, tmp_path / "index") == []
    world.picture("w0", "not applied yet", 1)
    world.match(tmp_path / "all")
    assert complaints_about(world, tmp_path / "index") == []


def test_stale_index(world: World, tmp_path: Path) -> None:
    """An index that missed a picture and went on is found."""
    index_of(world, tmp_path / "index", without=is_about("i6"))
    assert complaints_about(world, tmp_path / "index")


def test_index_without_removal(world: World, tmp_path: Path) -> None:
    """An index that missed a removal is found."""

    def is_removal(entry: LogEntry) -> bool:
        return isinstance(decode_log(entry.value or b""), Removed)

    index_of(world, tmp_path / "index", without=is_removal)
    assert complaints_about(world, tmp_path / "index")


def test_index_with_another_outcome(world: World, tmp_path: Path) -> None:
    """An index that would send another outcome than was delivered is found."""
    index_of(world, tmp_path / "index")
    partition = partition_of("w0", PARTITIONS)
    with closing(PartitionIndex(tmp_path / "index", "topic", partition)) as index:
        (row, _), *_ = index.all_rows()
        index.stage((), index.next_offset)
        index.commit({row.ordinal: b"{}"})
    assert complaints_about(world, tmp_path / "index")


def test_report_is_short() -> None:
    """A report with a thousand violations is still one that a person reads."""
    report = Report(violations=[Violation("lost", str(number)) for number in range(1000)])
    assert len(str(report).splitlines()) < 20
    assert "and 990 more" in str(report)


CODES = st.integers(0, 15).map(lambda low: 0x0F0F0F0F0F0F0F0F ^ low)
STEPS = st.one_of(
    st.tuples(st.just("picture"), st.sampled_from("ab"), st.integers(0, 12), CODES),
    st.tuples(st.just("removal"), st.sampled_from("ab"), st.integers(0, 12), CODES),
    st.tuples(st.just("settings"), st.sampled_from("ab"), st.integers(1, 4), CODES),
)


@hypothesis_settings(max_examples=30)
@given(st.lists(STEPS, max_size=40), st.integers(1, 7))
def test_product_agrees(steps: list[tuple[str, str, int, int]], group_size: int) -> None:
    """Whatever comes in whatever order, in groups of any size, the product is as brute force."""
    world = World()
    for kind, workspace, number, code in steps:
        if kind == "picture":
            world.picture(workspace, str(number), code)
        elif kind == "removal":
            world.removal(workspace, str(number))
        else:
            changed: MatchSettings = msgspec.structs.replace(
                FIRST, radius=number - 1, matches_bound=number, candidates_bound=number + 1
            )
            world.log(changed, partition_of(workspace, PARTITIONS))
    with tempfile.TemporaryDirectory() as directory:
        world.match(Path(directory), group_size)
    report = verify(world.history())
    assert report.violations == [], str(report)
