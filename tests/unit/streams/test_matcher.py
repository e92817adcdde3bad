"""The matcher: who sent a picture is told; questions wait for the log's end, or stay unanswered."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Generator, Iterable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from agents.decide import default_match_settings
from schemas.codec import encode_json, encode_log
from schemas.records import (
    AskCanary,
    Fingerprint,
    Hashed,
    LogRecord,
    MatchAnswered,
    Position,
    ReplyAddress,
)
from schemas.topics import IMAGE_MATCHED, INDEX_LOG, MATCH_ANSWERED, MATCH_ASKED
from streams import heap
from streams import matcher as matcher_module
from streams.delivery import Outgoing, TopicPartition, Watermarks
from streams.engine.feed import Feed, Stretch
from streams.entry import LogEntry
from streams.errors import CorruptStateError, RetryableError
from streams.index import history
from streams.index.partition import PartitionIndex
from streams.kafka.client import Committed, TopicIdentity
from streams.matcher import Matcher, match_all
from streams.settings import Settings

LOG = TopicPartition(INDEX_LOG, 0)
QUESTIONS = TopicPartition(MATCH_ASKED, 0)
FLAT = Fingerprint(1, b"s" * 32, "PNG", 9, 9, 9, 9, (), low_information=True)


class MemoryLog:
    """A partition of `index-log`."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []
        self.answers = True
        self.start = 0

    def watermarks(self, partition: int, _: float = 0.0, /) -> tuple[int, int]:
        """Give the log's bounds, or no answer."""
        assert partition == 0
        if not self.answers:
            raise RetryableError("no answer")
        return self.start, len(self.entries)

    def committed(self, group: str, partition: int, /) -> Committed | None:
        """Nobody asks."""
        raise NotImplementedError(group, partition)

    def identity(self) -> TopicIdentity:
        """Nobody asks."""
        raise NotImplementedError

    def leader_epochs(self, partitions: Iterable[int], /) -> dict[int, int]:
        """Nobody asks."""
        raise NotImplementedError(partitions)

    def read_range(
        self, partition: int, low: int, high: int, /, *, headers: bool
    ) -> Generator[list[LogEntry]]:
        """Give a range."""
        assert (partition, headers) == (0, False)
        if low < high:
            yield self.entries[low:high]

    def append(self, *records: LogRecord) -> Stretch:
        """Append records, which the feed has yet to bring."""
        start = len(self.entries)
        self.entries += [
            LogEntry(start + place, 1000, b"k", encode_log(record))
            for place, record in enumerate(records)
        ]
        return Stretch(LOG, 1, start, self.entries[start:], len(self.entries))


class World:
    """A matcher on a log in memory."""

    def __init__(self, directory: Path) -> None:
        self.log = MemoryLog()
        self.delivered: list[Outgoing] = []
        self.watermarks = Watermarks()
        self.owned = {LOG}
        self.groups: list[int] = []
        self.stops_after: int | None = None
        self.matcher = Matcher(
            Settings(data_directory=directory),
            log=self.log,
            deliver=self.deliver,
            watermarks=self.watermarks,
            topic_id="topic-id",
            is_stopping=lambda: len(self.groups) == self.stops_after,
        )

    async def deliver(self, records: Collection[Outgoing], /) -> None:
        """Take records; those of one group come at once."""
        await asyncio.sleep(0)
        self.delivered.extend(records)
        self.groups.append(len(records))

    async def append(self, *records: LogRecord) -> None:
        """Append records, and match them."""
        await self.matcher.match(self.log.append(*records))

    async def ask(self, *values: bytes) -> None:
        """Bring questions."""
        entries = [LogEntry(place, 2000, b"q", value) for place, value in enumerate(values)]
        stretch = Stretch(QUESTIONS, 1, 0, entries, len(entries))
        await self.matcher.answer(stretch, lambda: self.owned)

    def told(self) -> list[MatchAnswered]:
        """Give the answers so far."""
        return [
            msgspec.json.decode(record.value or b"", type=MatchAnswered)
            for record in self.delivered
            if record.topic == MATCH_ANSWERED
        ]


CANARY = encode_json(AskCanary("canary", "w"))


def picture(image_id: str, request_id: str | None = None) -> Hashed:
    """Give a picture's record; all have the same bytes."""
    reply = None if request_id is None else ReplyAddress(request_id, 6)
    return Hashed(1, "w", image_id, "api", FLAT, 0, reply=reply)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Give a matcher that has applied the log's settings."""
    monkeypatch.setattr(matcher_module, "_CATCH_UP_SECONDS", 0.2)
    made = World(tmp_path)
    await made.append(default_match_settings(1))
    yield made
    await made.matcher.close()


@pytest.mark.parametrize(("seconds", "groups"), [(60.0, [8, 16, 16]), (0.0, [8, *[1] * 32])])
async def test_groups_are_small_where_pictures_take_long(
    world: World, monkeypatch: pytest.MonkeyPatch, seconds: float, groups: list[int]
) -> None:
    """At first, and where one takes longer than a group may; else each twice the one before."""
    monkeypatch.setattr(matcher_module, "_GROUP_SECONDS", seconds)
    world.matcher._group_records = matcher_module._FIRST_GROUP_RECORDS
    world.groups.clear()
    await world.append(*(picture(f"{number}") for number in range(40)))
    assert world.groups == groups
    assert world.watermarks.reached(LOG) == (1, 41)


async def test_what_was_freed_is_given_back_after_small_groups(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of large ones seldom, at full load: what is used again comes from the kernel again."""
    now, given_back = 0.0, list[int]()
    monkeypatch.setattr(heap, "give_back", lambda: given_back.append(world.groups[-1]))
    monkeypatch.setattr(world.matcher, "_giving_back", heap.GivingBack(lambda: now))
    world.groups.clear()
    for size, seconds in ((1, 0.0), (15, 0.1), (16, 1.9), (17, 0.1), (18, 0.1)):
        now += seconds
        world.matcher._group_records = size
        await world.append(*(picture(f"{size}-{number}") for number in range(size)))
    assert world.groups == [1, 15, 16, 17, 18]
    assert given_back == [1, 15, 17]


async def test_a_stop_waits_for_one_group_only(world: World) -> None:
    """What comes behind it is done by whoever starts next."""
    world.groups.clear()
    world.matcher._group_records = 4
    world.stops_after = 1
    await world.append(*(picture(f"{number}") for number in range(40)))
    assert world.groups == [4]
    assert world.watermarks.reached(LOG) == (1, 5)


async def test_who_sent_a_picture_is_told_beside_the_outcome(world: World) -> None:
    """One outcome per picture, and an answer for whom someone waits, in one group."""
    await world.append(picture("a"), picture("b", "request"))
    topics = [record.topic for record in world.delivered]
    assert topics == [IMAGE_MATCHED, IMAGE_MATCHED, MATCH_ANSWERED]
    (answered,) = world.told()
    assert (answered.request_id, answered.position) == ("request", Position(0, 2))
    assert answered.closest_match is not None
    assert answered.closest_match.image_id == "a"
    assert world.delivered[-1].key == b"request"


async def test_a_redelivery_is_told_to_whoever_waits_now(world: World) -> None:
    """A retry gets the first answer under its own request id."""
    await world.append(picture("a"), picture("b", "first"))
    await world.append(picture("b", "again"))
    first, again = world.told()
    assert again == msgspec.structs.replace(first, request_id="again")


async def test_a_question_is_answered_as_of_the_logs_end(world: World) -> None:
    """What was in the log before the question is in the answer."""
    stretch = world.log.append(picture("a"))
    asking = asyncio.create_task(world.ask(CANARY))
    await asyncio.sleep(0.02)
    assert world.told() == []
    await world.matcher.match(stretch)
    await asking
    (answered,) = world.told()
    assert answered.position == Position(0, 2)
    assert world.watermarks.committable({QUESTIONS}, 1) == {QUESTIONS: 1}


async def test_an_index_that_is_behind_does_not_answer(world: World) -> None:
    """Within the bound it is not as new as the log: silence, and on to the next question."""
    world.log.append(picture("a"))
    await world.ask(CANARY)
    assert world.told() == []
    assert world.watermarks.committable({QUESTIONS}, 1) == {QUESTIONS: 1}


async def test_a_broker_that_does_not_say_the_end_is_no_answer(world: World) -> None:
    """Without the log's end nothing is known to be new enough."""
    world.log.answers = False
    await world.ask(CANARY)
    assert world.told() == []


async def test_a_partition_that_is_not_owned_is_not_answered_for(world: World) -> None:
    """Another replica's pictures may be beyond this index."""
    world.owned.clear()
    await world.ask(CANARY)
    assert world.told() == []


async def test_an_unreadable_question_is_dead_lettered(world: World) -> None:
    """As it was, with its reason; the others are answered."""
    await world.ask(b"{", CANARY, b'{"type":"canary"}')
    letters = [r for r in world.delivered if r.topic == f"{MATCH_ASKED}-dlq"]
    assert [letter.value for letter in letters] == [b"{", b'{"type":"canary"}']
    assert [dict(letter.headers)["dlq-reason"] for letter in letters] == [
        b"not_json",
        b"schema_violation",
    ]
    assert len(world.told()) == 1


async def test_questions_and_pictures_take_turns(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked without a pause while pictures arrive, no question sees half a group."""
    monkeypatch.setattr(matcher_module, "_CATCH_UP_SECONDS", 60.0)  # a busy machine is no answer
    pictures = [world.log.append(picture(f"p{number}")) for number in range(20)]
    asking = [asyncio.create_task(world.ask(CANARY)) for _ in range(20)]
    for stretch in pictures:
        await world.matcher.match(stretch)
    await asyncio.gather(*asking)
    assert {answered.position.offset for answered in world.told()} == {21}


async def test_an_index_of_what_the_log_has_lost_is_kept(tmp_path: Path) -> None:
    """It may be the last copy there is: nothing is forgotten that cannot be read again."""
    world = World(tmp_path)
    await world.append(default_match_settings(1), picture("a"))
    await world.matcher.close()
    again = World(tmp_path)
    again.log.entries = world.log.entries
    again.log.start = 2
    with pytest.raises(CorruptStateError, match="begins at offset 2"):
        await again.append(picture("b"))
    index = PartitionIndex(tmp_path / "partition-0", "topic-id", 0)
    assert (len(index), index.next_offset) == (1, 2)
    index.close()


@pytest.mark.parametrize("window", [1, 2, 1000])
async def test_a_log_that_was_truncated_and_has_grown_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """The index is made anew, and told is all that is new, though as much was committed before."""
    monkeypatch.setattr(history, "_COMPARED_RECORDS", window)
    before = World(tmp_path)
    await before.append(default_match_settings(1))
    await before.append(*map(picture, "abcdef"))
    await before.matcher.close()
    world = World(tmp_path)
    world.log.entries = [
        *before.log.entries[:4],
        *(
            LogEntry(offset, 2000, b"another", encode_log(picture(image_id)))
            for offset, image_id in enumerate("xyz", 4)
        ),
    ]
    # Settings and a, b, c are as they were; x, y, z are new, and 6 was committed.
    await world.matcher.match(Stretch(LOG, 1, 6, world.log.entries[6:], 7))
    assert [record.key for record in world.delivered] == [b"x", b"y", b"z"]
    assert world.watermarks.committable({LOG}, 1) == {LOG: 7}
    assert world.matcher.applied() == ((0, 7),)
    await world.matcher.close()


async def test_a_log_that_has_grown_again_under_an_open_index(world: World) -> None:
    """As where the broker came back with a shorter log, and the group formed anew meanwhile."""
    await world.append(*map(picture, "abcd"))
    await world.matcher.assigned({0})
    world.delivered.clear()
    before, world.log.entries = world.log.entries, world.log.entries[:4]
    await world.matcher.assigned({0})  # a new leader may not know the end yet
    # Settings, a and b are as they were, and 5 was committed.
    world.log.entries = [
        *before[:3],
        *(
            LogEntry(offset, 2000, b"another", encode_log(picture(image_id)))
            for offset, image_id in enumerate("xyz", 3)
        ),
    ]
    await world.matcher.assigned({0})
    await world.matcher.match(Stretch(LOG, 2, 5, world.log.entries[5:], 6))
    assert [record.key for record in world.delivered] == [b"x", b"y", b"z"]
    assert world.watermarks.committable({LOG}, 2) == {LOG: 6}


class Gated:
    """A matcher whose stretches end when the test says so; also the feed that brings them."""

    def __init__(self) -> None:
        self.arriving: asyncio.Queue[Stretch | None] = asyncio.Queue()
        self.events: list[str] = []
        self.gates: defaultdict[str, asyncio.Future[None]] = defaultdict(
            asyncio.get_running_loop().create_future
        )

    async def stretches(self, _: object) -> AsyncIterator[Stretch]:
        """Give what the test brings, until it brings None."""
        while (stretch := await self.arriving.get()) is not None:
            yield stretch

    def owned(self) -> set[TopicPartition]:
        """Own one partition."""
        return {LOG}

    async def match(self, stretch: Stretch) -> None:
        """Begin, wait for the gate, and end."""
        name = f"{stretch.partition.partition}@{stretch.start}"
        self.events.append(f"begin {name}")
        try:
            await self.gates[name]
        finally:
            self.events.append(f"end {name}")

    async def assigned(self, owned: set[int]) -> None:
        """Own these."""
        self.events.append(f"assigned {owned}")

    def bring(self, partition: int, start: int, assignment: int = 1) -> None:
        """Let a stretch arrive."""
        place = TopicPartition(INDEX_LOG, partition)
        self.arriving.put_nowait(Stretch(place, assignment, start, (), start))

    async def run(self) -> None:
        """Match what arrives."""
        await match_all(
            cast("Feed", self), cast("Matcher", self), cast("Any", None), taken=lambda _: None
        )


async def test_partitions_are_matched_side_by_side_and_each_in_its_order() -> None:
    """While one waits for the broker another is worked on; a stop ends what is begun."""
    world = Gated()
    running = asyncio.create_task(world.run())
    for partition, start in ((0, 1), (1, 1), (0, 2)):
        world.bring(partition, start)
    world.arriving.put_nowait(None)
    await asyncio.sleep(0.01)
    assert world.events == ["assigned {0}", "begin 0@1", "begin 1@1"]
    world.gates["0@1"].set_result(None)
    await asyncio.sleep(0.01)
    assert world.events[3:] == ["end 0@1", "begin 0@2"]
    assert not running.done()
    for gate in ("1@1", "0@2"):
        world.gates[gate].set_result(None)
    await asyncio.wait_for(running, 1)
    assert sorted(world.events[5:]) == ["end 0@2", "end 1@1"]


async def test_a_new_assignment_waits_for_what_is_in_work() -> None:
    """An index is not closed under the work on it."""
    world = Gated()
    running = asyncio.create_task(world.run())
    world.bring(1, 1)
    world.bring(0, 1, assignment=2)
    await asyncio.sleep(0.01)
    assert world.events == ["assigned {0}", "begin 1@1"]
    world.gates["1@1"].set_result(None)
    await asyncio.sleep(0.01)
    assert world.events[2:] == ["end 1@1", "assigned {0}", "begin 0@1"]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_failure_of_one_partition_ends_all_as_itself() -> None:
    """Also while nothing arrives; its exit status is that of the error."""
    world = Gated()
    running = asyncio.create_task(world.run())
    world.bring(0, 1)
    world.bring(1, 1)
    await asyncio.sleep(0.01)
    world.gates["1@1"].set_exception(CorruptStateError("damaged"))
    with pytest.raises(CorruptStateError, match="damaged"):
        await asyncio.wait_for(running, 1)
    assert world.events[-1] == "end 0@1"
