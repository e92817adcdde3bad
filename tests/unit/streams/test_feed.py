"""A feed gives everything of a partition, in order, whatever Faust delivers of it."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

import faust
import msgspec
import pytest

from schemas.topics import IMAGE_INGESTED, MATCH_ASKED
from streams.delivery import TopicPartition, Watermarks
from streams.engine import asking, same_log
from streams.engine import feed as feed_module
from streams.engine.feed import Feed, Stretch
from streams.engine.marks import Marks
from streams.engine.transport import App
from streams.entry import LogEntry, Mark
from streams.errors import CorruptStateError, MisconfiguredError, RetryableError
from streams.kafka.client import Committed, TopicIdentity

TOPIC = "index-log"
PARTITION = TopicPartition(TOPIC, 0)


def entry(offset: int) -> LogEntry:
    """Give the record at an offset."""
    return LogEntry(offset, 1000 + offset, b"k%d" % offset, b"v%d" % offset, (("h", None),))


def another(offset: int) -> LogEntry:
    """Give a record of the same picture that is at the offset now, as published again."""
    return msgspec.structs.replace(entry(offset), timestamp_ms=5000 + offset)


@dataclass
class Message:
    """A message as Faust has it; its timestamp in seconds."""

    offset: int
    generation_id: int = 1
    topic: str = TOPIC
    partition: int = 0

    def __post_init__(self) -> None:
        as_logged = entry(self.offset)
        self.key, self.value, self.headers = as_logged.key, as_logged.value, as_logged.headers
        self.timestamp = as_logged.timestamp_ms / 1000


@dataclass
class Event:
    """An event as an agent sees it."""

    message: Message
    acknowledged: bool = False

    def ack(self) -> None:
        """Acknowledge."""
        self.acknowledged = True


class Stream:
    """A stream whose events are put in by hand."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def noack(self) -> Self:
        """Acknowledge by hand."""
        return self

    async def events(self) -> AsyncIterator[Event]:
        """Give the events; None ends them."""
        while (event := await self.queue.get()) is not None:
            yield event

    def deliver(self, *offsets: int, generation: int = 1, topic: str = TOPIC) -> None:
        """Deliver the events at these offsets."""
        for offset in offsets:
            self.queue.put_nowait(Event(Message(offset, generation, topic)))


@dataclass
class Log:
    """A log in memory."""

    end: int = 100
    start: int = 0
    committed_offset: int | None = 0
    committed_of: str | None = None
    committed_last: Mark | None = None
    topic_id: str = "id-1"
    epochs: dict[int, int] = field(default_factory=lambda: {0: 4})
    anew_from: int = 10**9
    partitions: int = 1
    erased: set[int] = field(default_factory=set)
    failures: int = 0
    reads: list[tuple[int, int]] = field(default_factory=list)
    is_slow: bool = False
    asked: threading.Event = field(default_factory=threading.Event)
    told: threading.Event = field(default_factory=threading.Event)

    def watermarks(self, partition: int, _: float = 0.0, /) -> tuple[int, int]:
        """Give start and end; fails as often as told, and where slow tells what was long ago."""
        assert partition == 0
        if self.failures:
            self.failures -= 1
            raise RetryableError("no answer")
        found = self.start, self.end
        if self.is_slow:
            self.asked.set()
            assert self.told.wait(5)
            self.told.clear()
        return found

    def committed(self, group: str, partition: int, /) -> Committed | None:
        """Give what is committed."""
        assert (group, partition) == ("group", 0)
        if self.committed_offset is None:
            return None
        return Committed(self.committed_offset, self.committed_of, self.committed_last)

    def identity(self) -> TopicIdentity:
        """Give what the topic is."""
        return TopicIdentity(self.topic_id, self.partitions)

    def leader_epochs(self, partitions: Iterable[int], /) -> dict[int, int]:
        """Give them; without those that are not known."""
        assert list(partitions) == [0]
        return self.epochs

    def read_range(
        self, partition: int, low: int, high: int, /, *, headers: bool
    ) -> Generator[list[LogEntry]]:
        """Read what was not erased; from `anew_from` on, what came after it was cut off there."""
        assert headers
        assert partition == 0
        self.reads.append((low, high))
        yield [
            entry(offset) if offset < self.anew_from else another(offset)
            for offset in range(low, high)
            if offset not in self.erased
        ]


@dataclass
class Consumer:
    """What is assigned."""

    assigned: set[TopicPartition]

    def assignment(self) -> set[TopicPartition]:
        """Give it."""
        return self.assigned


class Assignments:
    """Faust's signal."""

    def connect(self, handler: Any) -> None:  # noqa: ANN401 - as Faust's
        """Note who wants to hear."""
        self.handler = handler


class Application:
    """What a feed sees of a Faust app."""

    def __init__(self) -> None:
        self.consumer = Consumer({TopicPartition("another", 0)})
        self.consumer_generation_id = 1
        self.assignment: int | None = None
        self.on_partitions_assigned = Assignments()
        self.watermarks = Watermarks()
        self.identities: dict[str, str] = {}
        self.marks = Marks()
        self.rejoined = asyncio.Event()
        self.stop_asked = asyncio.Event()
        self.sought: dict[TopicPartition, int] = {}
        self.conf = type("Conf", (), {"id": "group"})

    @property
    def is_stopping(self) -> bool:
        """As the app says."""
        return self.stop_asked.is_set()

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        """Note it."""
        self.sought[partition] = offset

    async def rejoin(self) -> None:
        """Note it; the test begins the new assignment."""
        self.rejoined.set()


class World:
    """A feed with everything around it."""

    def __init__(
        self, log: Log, topic: str = TOPIC, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.app, self.stream, self.log = Application(), Stream(), log
        self.partition = TopicPartition(topic, 0)
        self.app.consumer.assigned.add(self.partition)
        self.feed = Feed(cast("App", self.app), topic, log, partitions=1, gather=50, clock=clock)
        self.assignments = 0
        self.stretches = aiter(self.feed.stretches(cast("faust.Stream[Any]", self.stream)))

    async def next(self) -> Stretch:
        """Give the next stretch, in bounded time."""
        return await asyncio.wait_for(anext(self.stretches), 5)

    async def begin(self) -> Stretch:
        """Have the partition assigned; give its first stretch."""
        self.assignments += 1
        self.app.assignment = self.assignments
        await self.app.on_partitions_assigned.handler()
        return await self.next()

    def revoke(self) -> None:
        """Have everything revoked."""
        self.app.assignment = None


def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is looked at every few seconds looked at at once."""
    monkeypatch.setattr(feed_module, "_IDLE_SECONDS", 0.02)
    monkeypatch.setattr(same_log, "_LOOK_SECONDS", 0.02)


def offsets(stretch: Stretch) -> list[int]:
    """Name what a stretch holds; it must be as logged, whichever way it came."""
    assert list(stretch.entries) == [entry(each.offset) for each in stretch.entries]
    return [each.offset for each in stretch.entries]


async def test_an_assignment_begins_with_an_empty_stretch_at_the_committed_offset() -> None:
    """So an index can be brought up before the first event, and a quiet partition too."""
    first = await World(Log(committed_offset=7)).begin()
    assert (first.partition, first.assignment, first.start, first.stop) == (PARTITION, 1, 7, 7)
    assert not first.entries


async def test_events_in_order_are_handed_on_as_they_are() -> None:
    """Without a hole nothing is read from the log."""
    world = World(Log())
    await world.begin()
    world.stream.deliver(0, 1, 2)
    stretch = await world.next()
    assert (stretch.start, offsets(stretch), stretch.stop) == (0, [0, 1, 2], 3)
    assert world.log.reads == []


async def test_no_more_is_taken_ahead_than_one_round_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events may hold whole pictures: by number, and by bytes; the rest waits where it is."""
    world = World(Log(end=200))
    await world.begin()
    world.stream.deliver(*range(120))
    assert offsets(await world.next()) == list(range(50))
    await asyncio.sleep(0.01)
    assert world.stream.queue.qsize() == 20
    assert offsets(await world.next()) == list(range(50, 100))
    assert offsets(await world.next()) == list(range(100, 120))
    monkeypatch.setattr(feed_module, "PIECE_BYTES", 8)
    world.stream.deliver(*range(120, 124))
    assert [offsets(await world.next()) for _ in range(2)] == [[120, 121], [122, 123]]


async def test_a_hole_in_delivery_is_read_from_the_log() -> None:
    """Before the first event and between two."""
    world = World(Log())
    await world.begin()
    world.stream.deliver(2, 3, 6)
    found = [await world.next() for _ in range(4)]
    assert [offsets(stretch) for stretch in found] == [[0, 1], [2, 3], [4, 5], [6]]
    assert [(stretch.start, stretch.stop) for stretch in found] == [(0, 2), (2, 4), (4, 6), (6, 7)]
    assert world.log.reads == [(0, 2), (4, 6)]


async def test_what_was_seen_already_is_dropped() -> None:
    """A redelivered offset, and one below the committed offset."""
    world = World(Log(committed_offset=2))
    await world.begin()
    world.stream.deliver(0, 1, 2, 3, 3, 2, 4)
    assert offsets(await world.next()) == [2, 3, 4]


async def test_erased_records_leave_a_stretch_that_accounts_for_them() -> None:
    """A hole that is one in the log too is accounted for by a stretch without entries."""
    world = World(Log(erased={0, 1, 4}))
    await world.begin()
    world.stream.deliver(2, 3, 5)
    found = [await world.next() for _ in range(4)]
    assert [(stretch.start, offsets(stretch), stretch.stop) for stretch in found] == [
        (0, [], 2),
        (2, [2, 3], 4),
        (4, [], 5),
        (5, [5], 6),
    ]


async def test_events_of_an_earlier_generation_are_dropped() -> None:
    """What slipped through a rebalance is not processed; the log gives it again."""
    world = World(Log())
    await world.begin()
    world.stream.deliver(0, generation=0)
    world.stream.deliver(1)
    assert offsets(await world.next()) == [0]
    assert offsets(await world.next()) == [1]
    assert world.log.reads == [(0, 1)]


async def test_a_new_generation_begins_at_its_own_committed_offset() -> None:
    """Another member may have gone on meanwhile, or less may have been committed."""
    world = World(Log(committed_offset=0))
    await world.begin()
    world.stream.deliver(0, 1)
    await world.next()
    world.app.consumer_generation_id, world.log.committed_offset = 2, 9
    assert (await world.begin()).start == 9
    world.stream.deliver(9, generation=2)
    stretch = await world.next()
    assert (stretch.assignment, offsets(stretch)) == (2, [9])


async def test_what_was_in_work_when_its_partition_was_revoked_comes_again() -> None:
    """Also where the same generation brings the partition back: its work was abandoned."""
    world = World(Log(committed_offset=0))
    await world.begin()
    world.stream.deliver(0, 1, 2, 3)
    assert offsets(await world.next()) == [0, 1, 2, 3]
    world.revoke()
    again = await world.begin()
    assert (again.assignment, again.start) == (2, 0)
    world.stream.deliver(4, 5)
    assert offsets(await world.next()) == [0, 1, 2, 3]
    assert offsets(await world.next()) == [4, 5]


async def test_nothing_is_given_between_two_assignments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what was gathered nor what the log holds: nobody may work on it now."""
    monkeypatch.setattr(feed_module, "_IDLE_SECONDS", 0.01)
    world = World(Log(end=9))
    await world.begin()
    world.revoke()
    world.stream.deliver(0, 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(world.stretches), 0.2)


async def test_a_large_hole_is_read_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events may hold whole pictures; not all of a hole is in memory at once."""
    monkeypatch.setattr(asking, "PIECE_BYTES", 4)
    world = World(Log())
    await world.begin()
    world.stream.deliver(5)
    found = [await world.next() for _ in range(4)]
    assert [offsets(stretch) for stretch in found] == [[0, 1], [2, 3], [4], [5]]


async def test_a_silent_partition_is_read_from_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that never come are found by comparing with the log's end."""
    monkeypatch.setattr(feed_module, "_IDLE_SECONDS", 0.01)
    world = World(Log(end=3))
    await world.begin()
    assert offsets(await world.next()) == [0, 1, 2]


async def test_what_has_just_come_to_the_log_is_left_to_faust(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Read from the log is only what was there a while ago; the rest is on its way."""
    monkeypatch.setattr(feed_module, "_IDLE_SECONDS", 0.02)
    now = 0.0
    world = World(Log(end=3), clock=lambda: now)
    await world.begin()
    coming = asyncio.ensure_future(world.next())
    await asyncio.sleep(0.05)
    now += 0.03
    await asyncio.sleep(0.2)
    assert not coming.done()
    world.log.end = 9
    now += 0.03
    assert offsets(await coming) == [0, 1, 2]
    assert world.log.reads == [(0, 3)]


async def test_what_is_dropped_tells_that_more_is_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust goes through what was read from the log already; nothing is read for it meanwhile."""
    monkeypatch.setattr(feed_module, "_FIRST_IDLE_SECONDS", 0.02)
    monkeypatch.setattr(feed_module, "_IDLE_SECONDS", 0.02)
    now = 0.0
    world = World(Log(end=10), clock=lambda: now)
    await world.begin()
    world.stream.deliver(8)
    assert offsets(await world.next()) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert offsets(await world.next()) == [8]
    world.log.reads.clear()
    coming = asyncio.ensure_future(world.next())
    for offset in range(9):
        world.stream.deliver(offset)
        await asyncio.sleep(0.05)
        now += 0.01
    assert world.log.reads == []
    world.stream.deliver(9)
    assert offsets(await coming) == [9]


async def test_what_comes_right_after_an_assignment_and_is_dropped_is_read_soon() -> None:
    """Faust drops what it fetched while the group formed anew; who waits for it waits no 5 s."""
    world = World(Log(end=3))
    await world.begin()
    assert offsets(await asyncio.wait_for(world.next(), 2)) == [0, 1, 2]


async def test_ends_are_asked_for_the_less_often_the_longer_nothing_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Soon after the assignment, and then ever later, up to a bound; never between assignments."""
    monkeypatch.setattr(feed_module, "_FIRST_IDLE_SECONDS", 0.02)
    monkeypatch.setattr(feed_module, "_IDLE_SECONDS", 0.2)
    world = World(Log(end=0))
    asked: list[float] = []
    watermarks = world.log.watermarks

    def counted(partition: int, _: float = 0.0, /) -> tuple[int, int]:
        asked.append(time.monotonic())
        return watermarks(partition)

    monkeypatch.setattr(world.log, "watermarks", counted)
    await world.begin()
    asked.clear()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(world.stretches), 1.5)
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert all(gap >= least for gap, least in zip(gaps, (0.04, 0.08, 0.16), strict=False))
    assert all(gap >= 0.2 for gap in gaps[3:])
    assert 5 <= len(gaps) <= 11


async def test_between_two_assignments_a_feed_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not turn round and round over partitions whose turn it would be."""
    monkeypatch.setattr(feed_module, "_FIRST_IDLE_SECONDS", 0.01)
    world = World(Log(end=0))
    await world.begin()
    waiting = asyncio.ensure_future(anext(world.stretches))
    await asyncio.sleep(0.1)
    world.revoke()
    await world.app.on_partitions_assigned.handler()
    rounds = 0
    present = world.feed._present

    def counted(messages: Sequence[Any]) -> AsyncIterator[Stretch]:
        nonlocal rounds
        rounds += 1
        return present(messages)

    monkeypatch.setattr(world.feed, "_present", counted)
    await asyncio.sleep(0.3)
    waiting.cancel()
    assert rounds <= 2


async def test_a_broker_that_does_not_answer_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broker that restarts must not end the process."""
    monkeypatch.setattr(asking, "_ASK_AGAIN_SECONDS", 0.01)
    assert (await World(Log(failures=3)).begin()).start == 0


async def test_no_committed_offset_is_an_error_with_its_repair() -> None:
    """A group without a place would begin at one that nobody chose."""
    with pytest.raises(MisconfiguredError, match="topics create"):
        await World(Log(committed_offset=None)).begin()


async def test_a_committed_offset_beyond_the_end_is_an_error() -> None:
    """The log is another one, or was cut: going on would skip what comes."""
    with pytest.raises(CorruptStateError, match="101 committed, but the log ends at 100"):
        await World(Log(committed_offset=101)).begin()


async def test_a_committed_offset_below_the_start_begins_at_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What retention has taken is gone; it is said how much, and committed."""
    world = World(Log(start=10, committed_offset=4), IMAGE_INGESTED)
    first = await world.begin()
    assert (first.start, first.lost) == (10, "expired")
    assert "offsets 4 to 9 are gone" in caplog.text
    assert "6 records are lost" in caplog.text
    assert world.app.watermarks.reached(world.partition) == (1, 10)


async def test_expired_questions_are_nobodys_loss(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever asked waits no longer."""
    first = await World(Log(start=10, committed_offset=4), MATCH_ASKED).begin()
    assert (first.start, first.lost) == (10, None)
    assert not caplog.records


@pytest.mark.parametrize("committed", [4, 0])
async def test_a_log_without_its_beginning_stops(committed: int) -> None:
    """Of `index-log` every record counts: an index without some would find less, in silence."""
    with pytest.raises(CorruptStateError, match=f"offsets {committed} to 9 are gone"):
        await World(Log(start=10, committed_offset=committed)).begin()


async def test_a_beginning_that_moves_past_a_running_feed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A feed that is behind its topic's retention: the same as at a start."""
    world = World(Log(end=20), IMAGE_INGESTED)
    await world.begin()
    world.stream.deliver(0, 1, topic=IMAGE_INGESTED)
    await world.next()
    world.log.start = 12
    world.stream.deliver(14, topic=IMAGE_INGESTED)
    found = [await world.next() for _ in range(3)]
    assert [(each.start, offsets(each), each.stop, each.lost) for each in found] == [
        (12, [], 12, "expired"),
        (12, [12, 13], 14, None),
        (14, [14], 15, None),
    ]
    assert "offsets 2 to 11 are gone" in caplog.text


async def test_a_log_whose_beginning_moves_past_a_running_feed_stops() -> None:
    """The matcher may not apply what comes behind a gap."""
    world = World(Log(end=20))
    await world.begin()
    world.log.start = 12
    world.stream.deliver(14)
    with pytest.raises(CorruptStateError, match="offsets 0 to 11 are gone"):
        await world.next()


async def test_an_offset_of_an_earlier_topic_means_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also where it lies within the new one, whose first records it would skip."""
    log = Log(end=9, committed_offset=5, committed_of="id-1", topic_id="id-2")
    world = World(log, IMAGE_INGESTED)
    first = await world.begin()
    assert (first.start, first.lost) == (0, "made_anew")
    assert "from id id-1 to id-2" in caplog.text
    assert world.app.watermarks.reached(world.partition) == (1, 0)
    assert world.app.identities == {IMAGE_INGESTED: "id-2"}
    assert world.app.sought == {world.partition: 0}


async def test_a_topic_that_is_made_anew_under_a_running_feed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The group forms anew; without a committed offset, which went with the topic, it begins."""
    look_often(monkeypatch)
    world = World(Log(end=3), IMAGE_INGESTED)
    await world.begin()
    assert offsets(await world.next()) == [0, 1, 2]
    world.log.topic_id, world.log.end, world.log.committed_offset = "id-2", 2, None
    waiting = asyncio.ensure_future(world.next())
    await asyncio.wait_for(world.app.rejoined.wait(), 5)
    world.revoke()
    world.app.assignment = 2
    await world.app.on_partitions_assigned.handler()
    first = await waiting
    assert (first.assignment, first.start, first.lost) == (2, 0, "made_anew")
    assert offsets(await world.next()) == [0, 1]


async def test_an_index_log_that_is_made_anew_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index on disk may be all that is left of the old one."""
    look_often(monkeypatch)
    world = World(Log(end=0))
    await world.begin()
    world.log.topic_id = "id-2"
    with pytest.raises(CorruptStateError, match="was deleted and made anew"):
        await world.next()


async def test_partitions_that_are_added_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are on other partitions from then on."""
    look_often(monkeypatch)
    world = World(Log(end=0), IMAGE_INGESTED)
    await world.begin()
    world.log.partitions = 2
    with pytest.raises(MisconfiguredError, match="has 2 partitions, had 1"):
        await world.next()


async def test_partitions_that_were_added_before_the_first_assignment_stop_as_well() -> None:
    """The start found the topic as it was declared; the group formed some seconds later."""
    world = World(Log(end=0, partitions=2), IMAGE_INGESTED)
    with pytest.raises(MisconfiguredError, match="has 2 partitions, had 1"):
        await world.begin()


@pytest.mark.parametrize(
    ("became", "error"),
    [
        pytest.param({"topic_id": "id-2", "committed_offset": None}, CorruptStateError, id="gone"),
        pytest.param({"topic_id": "id-2", "committed_of": "id-1"}, CorruptStateError, id="kept"),
        pytest.param({"partitions": 2}, MisconfiguredError, id="partitions"),
    ],
)
async def test_an_assignment_that_meets_another_topic_first_stops_as_well(
    became: dict[str, Any], error: type[Exception]
) -> None:
    """A group forms anew where a topic is deleted, before anybody looks; offsets go with it."""
    world = World(Log(end=0))
    await world.begin()
    for name, value in became.items():
        setattr(world.log, name, value)
    with pytest.raises(error, match=r"was deleted and made anew|has 2 partitions, had 1"):
        await world.begin()


async def test_a_log_that_ends_before_what_was_read_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was truncated: what comes next would have offsets that were seen already."""
    look_often(monkeypatch)
    world = World(Log(end=3), IMAGE_INGESTED)
    await world.begin()
    await world.next()
    world.log.end = 2
    with pytest.raises(CorruptStateError, match="was read up to 3, and ends at 2"):
        await world.next()


async def test_a_new_leader_gets_time_to_find_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """However soon after an assignment one looks: the second look is seconds after the first."""
    monkeypatch.setattr(feed_module, "_FIRST_IDLE_SECONDS", 0.01)
    world = World(Log(end=3), IMAGE_INGESTED)
    await world.begin()
    assert offsets(await world.next()) == [0, 1, 2]
    world.log.end = 2
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(world.stretches), 1)


async def test_another_record_at_the_committed_offset_stops() -> None:
    """The log was truncated and has grown again: some of it was never read."""
    log = Log(end=9, committed_offset=5, committed_last=entry(4).mark, anew_from=4)
    with pytest.raises(CorruptStateError, match="offset 4 is another record than was read there"):
        await World(log, IMAGE_INGESTED).begin()


@pytest.mark.parametrize(
    "log",
    [
        Log(committed_offset=5, committed_last=entry(4).mark),
        Log(committed_offset=5, committed_last=entry(2).mark, erased={3, 4}),
        Log(committed_offset=5, committed_last=another(4).mark, start=5),
        Log(committed_offset=5, committed_last=another(4).mark, erased={4}),
        Log(committed_offset=5),
    ],
    ids=["as read", "a marker behind it", "expired", "erased", "nothing noted"],
)
async def test_what_was_read_last_is_no_obstacle_otherwise(log: Log) -> None:
    """It is as it was, or nothing contradicts it."""
    world = World(log, IMAGE_INGESTED)
    first = await world.begin()
    assert (first.start, first.lost) == (5, None)
    assert world.app.marks.before(world.partition, 5) == log.committed_last


async def test_an_index_log_with_another_record_is_left_to_its_index() -> None:
    """It is made anew, and knows from where on outcomes are to be told."""
    first = await World(Log(committed_offset=5, committed_last=entry(4).mark, anew_from=4)).begin()
    assert first.start == 5


@pytest.mark.parametrize(
    ("topic", "repair"),
    [(IMAGE_INGESTED, "at most 3$"), (TOPIC, "at most 3 and delete its index$")],
)
async def test_a_log_that_has_grown_past_what_was_read_stops(
    topic: str, repair: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where what was read since is in it: the records before that were not read."""
    look_often(monkeypatch)
    world = World(Log(end=6), topic)
    await world.begin()
    assert offsets(await world.next()) == [0, 1, 2, 3, 4, 5]
    world.log.anew_from, world.log.epochs = 3, {0: 5}
    with pytest.raises(CorruptStateError, match=f"offset 3 is another record.*{repair}"):
        await world.next()


async def test_a_new_leader_with_the_same_log_is_nothing() -> None:
    """The log is read once for it, as far as it is not known for good; then that is forgotten."""
    world = World(Log(), IMAGE_INGESTED)
    await world.begin()
    world.stream.deliver(0, 1, 2, 3, 4, 5, topic=IMAGE_INGESTED)
    await world.next()
    world.app.watermarks.advance(world.partition, 1, 4)
    for epochs in ({0: 5}, {}, {0: 6}, {0: 6}):
        world.log.epochs = epochs
        await world.feed._same.check_records()
    assert world.log.reads == [(0, 6), (3, 6)]
    assert world.app.marks.before(world.partition, 4) == entry(3).mark
    assert world.app.marks.before(world.partition, 3) is None


async def test_a_new_leader_whose_end_is_not_known_yet() -> None:
    """Its records are compared once it has as many as were read."""
    world = World(Log(), IMAGE_INGESTED)
    await world.begin()
    world.stream.deliver(0, 1, 2, topic=IMAGE_INGESTED)
    await world.next()
    world.log.epochs, world.log.end, world.log.anew_from = {0: 5}, 2, 2
    await world.feed._same.check_records()
    world.log.end = 3
    with pytest.raises(CorruptStateError, match="offset 2 is another record"):
        await world.feed._same.check_records()


async def test_a_broker_that_does_not_tell_an_end_holds_up_no_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor is it a truncated log where the end that it tells at last was passed meanwhile."""
    look_often(monkeypatch)
    world = World(Log(end=0, is_slow=True), IMAGE_INGESTED)
    world.log.told.set()
    await world.begin()
    for offset in range(3):
        arriving = asyncio.ensure_future(world.next())
        assert await asyncio.to_thread(world.log.asked.wait, 5)
        world.log.end = offset + 1
        world.stream.deliver(offset, topic=IMAGE_INGESTED)
        assert offsets(await arriving) == [offset]
        world.log.asked.clear()
        world.log.told.set()
    world.log.is_slow = False


async def test_a_stream_that_ends_ends_the_feed() -> None:
    """A stopping worker is no error."""
    world = World(Log())
    await world.begin()
    world.stream.queue.put_nowait(None)
    with pytest.raises(StopAsyncIteration):
        await world.next()


async def test_records_are_read_again_as_far_as_they_exist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some of many; as much at a time as may be in memory; those that are gone are passed over."""
    world = World(Log(erased={5}, failures=1))
    entries, reached = await world.feed.again(PARTITION, [2, 5, 7])
    assert ([each.offset for each in entries], reached) == ([2, 7], 8)
    world.log.start = 6
    assert await world.feed.again(PARTITION, [2, 3]) == ([], 4)
    assert ([each.offset for each in (await world.feed.again(PARTITION, [2, 7]))[0]]) == [7]
    world.log.start = 0
    monkeypatch.setattr(feed_module, "PIECE_BYTES", 4)
    monkeypatch.setattr(asking, "PIECE_BYTES", 4)
    entries, reached = await world.feed.again(PARTITION, [1, 2, 3, 4])
    assert ([each.offset for each in entries], reached) == ([1, 2], 3)


async def test_a_feed_gives_nothing_more_once_the_app_stops() -> None:
    """Not what arrived, nor what of it is left; at once, also where nothing arrives."""
    world = World(Log(end=9), IMAGE_INGESTED)
    await world.begin()
    world.stream.deliver(0, 4, topic=IMAGE_INGESTED)
    assert offsets(await world.next()) == [0]
    world.app.stop_asked.set()
    with pytest.raises(StopAsyncIteration):
        await world.next()
    idle = World(Log(end=0), IMAGE_INGESTED)
    await idle.begin()
    waiting = asyncio.ensure_future(idle.next())
    await asyncio.sleep(0)
    idle.app.stop_asked.set()
    with pytest.raises(StopAsyncIteration):
        await waiting


async def test_what_came_before_an_offset_is_read_as_far_as_it_exists() -> None:
    """Bounded, in order, asked for again when the broker does not answer."""
    world = World(Log(start=3, erased={5}, failures=1))
    before = await world.feed.before(PARTITION, 8, 4)
    assert [each.offset for each in before] == [4, 6, 7]
    assert [each.offset for each in await world.feed.before(PARTITION, 5, 4)] == [3, 4]
    assert await world.feed.before(PARTITION, 3, 4) == []
    assert await world.feed.before(PARTITION, 8, 0) == []
