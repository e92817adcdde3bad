"""The hasher: pictures in any order, removals in theirs, nothing acknowledged before delivery."""

import asyncio
from collections.abc import Collection, Sequence
from itertools import count

import pytest

from schemas.codec import decode_log, encode_json
from schemas.reasons import Rejection
from schemas.records import Fingerprint, Hashed, ImageIngested, ImageRemoved, Removed, Source
from schemas.topics import IMAGE_INGESTED, IMAGE_REMOVED, INDEX_LOG
from streams import hasher as hasher_module
from streams.delivery import Outgoing, TopicPartition, Watermarks
from streams.engine.feed import Stretch
from streams.entry import LogEntry
from streams.errors import PoisonedError
from streams.hasher import Budget, Hasher
from streams.kafka.partitioner import partition_of
from streams.settings import Settings

PICTURES = TopicPartition(IMAGE_INGESTED, 2)
REMOVALS = TopicPartition(IMAGE_REMOVED, 1)
WORKSPACES = ("w", "v", "u")


class World:
    """A hasher whose pictures are fetched and hashed when the test says so."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.delivered: list[Outgoing] = []
        self.failures: list[BaseException] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.watermarks = Watermarks()
        self.broken = False
        self.delivery: asyncio.Event | None = None
        self.log: dict[TopicPartition, list[LogEntry]] = {}
        self.looked_back: list[int] = []
        keys = count()
        self.hasher = Hasher(
            settings or Settings(),
            read_before=self.read_before,
            read_again=self.read_again,
            fetch=self.fetch,
            hash_picture=self.hash_picture,
            deliver=self.deliver,
            watermarks=self.watermarks,
            new_key=lambda: b"key-%d" % next(keys),
            fail=self.failures.append,
        )

    async def read_before(
        self, partition: TopicPartition, offset: int, most: int
    ) -> Sequence[LogEntry]:
        """Read the records of a source's log before an offset."""
        self.looked_back.append(most)
        before = [entry for entry in self.log.get(partition, ()) if entry.offset < offset]
        return before[-most:] if most else []

    async def read_again(
        self, partition: TopicPartition, offsets: Sequence[int]
    ) -> tuple[Sequence[LogEntry], int]:
        """Read records once more, half of them at a time."""
        some = offsets[: (len(offsets) + 1) // 2]
        found = [entry for entry in self.log.get(partition, ()) if entry.offset in some]
        return found, some[-1] + 1

    async def fetch(self, url: str, workspace: str, /) -> bytes | Rejection:
        """Give a picture once its gate is open."""
        assert workspace in WORKSPACES
        name = url.rpartition("/")[2]
        await self.gates.setdefault(name, asyncio.Event()).wait()
        return Rejection("http_status") if "404" in name else name.encode()

    async def hash_picture(self, content: bytes, /) -> Fingerprint | Rejection:
        """Give a fingerprint whose sha256 tells the picture."""
        return Fingerprint(1, content.ljust(32)[:32], "PNG", 9, 9, 9, 9, (), low_information=True)

    async def deliver(self, records: Collection[Outgoing], /) -> None:
        """Take records, or fail."""
        await asyncio.sleep(0)
        if self.delivery is not None:
            await self.delivery.wait()
        if self.broken:
            raise ConnectionError
        self.delivered.extend(records)

    def committable(self, partition: TopicPartition) -> int | None:
        """Say what would be committed of a partition."""
        return self.watermarks.committable({partition}, 1).get(partition)

    async def settle(self) -> None:
        """Let everything run that can."""
        for _ in range(20):
            await asyncio.sleep(0)


def picture(offset: int, name: str, workspace: str = "w", host: str | None = None) -> LogEntry:
    """Give an event of `image-ingested`; each picture is on a host of its own by default."""
    url = f"http://{host or f'{offset}.example'}/{name}"
    event = ImageIngested(workspace, f"image-{offset}", url=url)
    return LogEntry(offset, 5000, event.image_id.encode(), encode_json(event), (("trace", b"t"),))


def stretch(partition: TopicPartition, *entries: LogEntry) -> Stretch:
    """Give a stretch of the first assignment."""
    return Stretch(partition, 1, entries[0].offset, entries, entries[-1].offset + 1)


async def test_pictures_complete_in_any_order_and_the_watermark_waits_for_the_oldest() -> None:
    """A slow host holds up the commit, not the other pictures."""
    world = World()
    await world.hasher.ingest(stretch(PICTURES, picture(4, "slow"), picture(5, "quick")))
    await world.settle()
    world.gates["quick"].set()
    await world.settle()
    assert [record.topic for record in world.delivered] == [INDEX_LOG]
    assert world.committable(PICTURES) is None
    world.gates["slow"].set()
    await world.settle()
    assert world.committable(PICTURES) == 6


async def test_a_drain_ends_what_it_can_and_leaves_what_is_delivered_acknowledged() -> None:
    """Within its time everything; after it what is being delivered, and nothing else."""
    world = World()
    await world.hasher.ingest(stretch(PICTURES, picture(4, "a"), picture(5, "b"), picture(6, "c")))
    await world.settle()
    draining = asyncio.create_task(world.hasher.drain(5))
    await world.settle()
    for name in "abc":
        world.gates[name].set()
    await asyncio.wait_for(draining, 1)
    assert world.committable(PICTURES) == 7
    assert len(world.delivered) == 3

    world = World()
    world.delivery = asyncio.Event()
    await world.hasher.ingest(stretch(PICTURES, picture(4, "delivered"), picture(5, "never")))
    await world.settle()
    world.gates["delivered"].set()
    await world.settle()
    draining = asyncio.create_task(world.hasher.drain(0.01))
    await asyncio.sleep(0.05)
    world.delivery.set()
    await asyncio.wait_for(draining, 1)
    assert world.committable(PICTURES) == 5
    assert (len(world.delivered), world.failures) == (1, [])


async def test_a_log_record_names_its_source_and_goes_to_its_workspaces_partition() -> None:
    """What the matcher and an auditor need to know of a picture."""
    world = World()
    await world.hasher.ingest(stretch(PICTURES, picture(4, "a")))
    await world.settle()
    world.gates["a"].set()
    await world.settle()
    (record,) = world.delivered
    hashed = decode_log(record.value or b"")
    assert isinstance(hashed, Hashed)
    assert hashed.source == Source(IMAGE_INGESTED, 2, 4)
    assert (hashed.workspace, hashed.image_id, hashed.ingested_at_ms) == ("w", "image-4", 5000)
    assert record.partition == partition_of("w", Settings().partitions)
    assert record.key == b"key-0"


async def test_a_rejected_picture_is_dead_lettered_as_it_was() -> None:
    """Original bytes, key, headers and partition; the reason beside them."""
    world = World()
    entry = picture(4, "404")
    await world.hasher.ingest(stretch(PICTURES, entry))
    await world.settle()
    world.gates["404"].set()
    await world.settle()
    (letter,) = world.delivered
    assert (letter.topic, letter.partition) == ("image-ingested-dlq", 2)
    assert (letter.key, letter.value) == (entry.key, entry.value)
    headers = dict(letter.headers)
    assert (headers["trace"], headers["dlq-reason"]) == (b"t", b"http_status")
    assert world.committable(PICTURES) == 5


async def test_nothing_is_acknowledged_when_delivery_fails() -> None:
    """The process is told to end; the event is delivered again after its next start."""
    world = World()
    world.broken = True
    await world.hasher.ingest(stretch(PICTURES, picture(4, "a")))
    await world.settle()
    world.gates["a"].set()
    await world.settle()
    assert [type(error) for error in world.failures] == [ConnectionError]
    assert world.committable(PICTURES) is None


async def test_a_revocation_abandons_what_is_in_flight_at_once() -> None:
    """Neither the pictures in work nor an ingest that waits for room outlive the partition."""
    world = World(Settings(window_size=2))
    entries = [
        picture(offset, "never", workspace) for offset, workspace in enumerate(("w", *WORKSPACES))
    ]
    ingesting = asyncio.ensure_future(world.hasher.ingest(stretch(PICTURES, *entries)))
    await world.settle()
    assert not ingesting.done()
    assert (world.hasher.in_work, world.hasher.parked) == (2, 1)
    world.hasher.abandon()
    assert (world.hasher.in_work, world.hasher.parked) == (0, 0)
    await asyncio.wait_for(ingesting, 1)
    world.gates["never"].set()
    await world.settle()
    assert world.delivered == []
    assert world.failures == []
    assert world.committable(PICTURES) is None


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for room again at once."""
    monkeypatch.setattr(hasher_module, "_UNPARK_SECONDS", 0)


A_WORKSPACES = [picture(offset, f"slow-{offset}") for offset in range(6)]
A_HOSTS = [
    picture(offset, f"slow-{offset}", WORKSPACES[offset % 3], "slow.example") for offset in range(6)
]


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("flood", [A_WORKSPACES, A_HOSTS], ids=["workspace", "host"])
async def test_what_one_has_beyond_its_share_waits_and_holds_up_nobody(
    flood: Sequence[LogEntry],
) -> None:
    """Its pictures come in their order, when there is room; the watermark waits for all of them."""
    world = World(Settings(window_size=4))  # so the share is two events
    others = [picture(offset, "quick", "v") for offset in range(6, 20)]
    world.log[PICTURES] = [*flood, *others]
    world.gates["quick"] = asyncio.Event()
    world.gates["quick"].set()
    for one in (*flood, *others):
        await asyncio.wait_for(world.hasher.ingest(stretch(PICTURES, one)), 1)
        await world.settle()
    assert [decode_log(each.value or b"").image_id for each in world.delivered] == [  # type: ignore[union-attr]
        f"image-{offset}" for offset in range(6, 20)
    ]
    assert (world.hasher.in_work, world.hasher.parked) == (2, 4)
    assert set(world.gates) == {"quick", "slow-0", "slow-1"}
    assert world.committable(PICTURES) is None
    for offset in range(6):
        world.gates.setdefault(f"slow-{offset}", asyncio.Event()).set()
        await asyncio.sleep(0.01)
    assert world.committable(PICTURES) == 20
    assert (world.hasher.in_work, world.hasher.parked) == (0, 0)
    assert len(world.delivered) == 20


@pytest.mark.usefixtures("no_pause")
async def test_what_waited_for_its_workspace_may_have_to_wait_for_its_host() -> None:
    """It begins when both have room for it."""
    world = World(Settings(window_size=8, fetch_share_percent=25))  # so the share is two events
    events = (
        picture(0, "a"),
        picture(1, "b"),
        picture(2, "both", host="shared.example"),
        picture(3, "c", "v", "shared.example"),
        picture(4, "d", "u", "shared.example"),
    )
    world.log[PICTURES] = list(events)
    await world.hasher.ingest(stretch(PICTURES, *events))
    await world.settle()
    for finished, begun in (("a", False), ("c", True)):
        world.gates[finished].set()
        await asyncio.sleep(0.01)
        assert ("both" in world.gates) is begun
    for gate in world.gates.values():
        gate.set()
    await asyncio.sleep(0.01)
    assert world.committable(PICTURES) == 5
    assert world.hasher.parked == 0


@pytest.mark.usefixtures("no_pause")
async def test_a_parked_event_that_is_gone_from_the_log_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Retention was shorter than the wait; what is left is not held up by it."""
    world = World(Settings(window_size=2))
    await world.hasher.ingest(stretch(PICTURES, picture(0, "a"), picture(1, "b")))
    await world.settle()
    world.gates["a"].set()
    await asyncio.sleep(0.01)
    assert "image-ingested[2] 1: gone before it was processed" in caplog.text
    assert world.committable(PICTURES) == 2


async def test_removals_are_appended_in_their_order() -> None:
    """Good ones and dead letters alike, then the watermark moves."""
    world = World()
    good = encode_json(ImageRemoved("w", "a"))
    entries = [
        LogEntry(7, 1, b"w", good),
        LogEntry(8, 1, b"w", b"no json"),
        LogEntry(9, 1, b"w", good),
    ]
    await world.hasher.remove(stretch(REMOVALS, *entries))
    assert [record.topic for record in world.delivered] == [
        INDEX_LOG,
        "image-removed-dlq",
        INDEX_LOG,
    ]
    first, _, last = world.delivered
    sources = [decode_log(record.value or b"") for record in (first, last)]
    assert [each.source.offset for each in sources if isinstance(each, Removed)] == [7, 9]
    assert world.committable(REMOVALS) == 10


def unreadable(offset: int) -> LogEntry:
    """Give an event that is no JSON, in either topic."""
    return LogEntry(offset, 5000, b"w", b"no json")


async def test_all_poison_stops_pictures_when_what_came_before_is_done() -> None:
    """The limit is dead-lettered and committed, the next one is left; the good one is done."""
    world = World(Settings(unreadable_limit=3))
    entries = [picture(4, "slow"), *(unreadable(offset) for offset in range(5, 11))]
    ingesting = asyncio.ensure_future(world.hasher.ingest(stretch(PICTURES, *entries)))
    await world.settle()
    assert not ingesting.done()
    world.gates["slow"].set()
    with pytest.raises(PoisonedError, match=r"image-ingested\[2\]: 3 events .* offset 8\."):
        await asyncio.wait_for(ingesting, 10)
    assert world.committable(PICTURES) == 8
    assert sorted(record.topic for record in world.delivered) == ["image-ingested-dlq"] * 3 + [
        INDEX_LOG
    ]


async def test_all_poison_stops_removals_in_their_order() -> None:
    """The limit is dead-lettered and committed, the next one is left."""
    world = World(Settings(unreadable_limit=3))
    with pytest.raises(PoisonedError):
        await world.hasher.remove(stretch(REMOVALS, *(unreadable(n) for n in range(7, 20))))
    assert len(world.delivered) == 3
    assert world.committable(REMOVALS) == 10


async def test_a_hasher_started_again_does_not_creep_into_the_poison() -> None:
    """It knows from the topic what came before its offset; a good event lets it go on."""
    world = World(Settings(unreadable_limit=3))
    world.log[PICTURES] = [unreadable(offset) for offset in range(4)]
    with pytest.raises(PoisonedError):
        await world.hasher.ingest(stretch(PICTURES, unreadable(4), picture(5, "a")))
    again = World(Settings(unreadable_limit=3))
    again.log = world.log
    await again.hasher.ingest(stretch(PICTURES, picture(4, "a"), unreadable(5)))
    await again.settle()
    assert len(again.delivered) == 1


@pytest.mark.parametrize(
    ("poison", "looked_back"), [(0, [1]), (1, [1, 10]), (10, [1, 10, 25]), (25, [1, 10, 25])]
)
async def test_a_hasher_looks_back_to_an_event_that_can_be_read_and_no_further(
    poison: int, looked_back: list[int]
) -> None:
    """Mostly to the last one: as many as the limit may hold 100 MB of pictures."""
    world = World(Settings(unreadable_limit=25))
    world.log[PICTURES] = [
        picture(offset, "a") if offset < 90 else unreadable(offset) for offset in range(90 + poison)
    ]
    more = [unreadable(90 + poison + number) for number in range(26 - poison)]
    with pytest.raises(PoisonedError, match=r"offset 115\."):
        await world.hasher.ingest(stretch(PICTURES, *more))
    assert world.looked_back == looked_back


async def test_bad_pictures_are_no_poison() -> None:
    """People forward what is no picture: however many in turn, only events are counted."""
    world = World(Settings(unreadable_limit=3))
    entries = [picture(offset, f"404-{offset}") for offset in range(20)]
    await world.hasher.ingest(stretch(PICTURES, *entries))
    await world.settle()
    for gate in world.gates.values():
        gate.set()
    await world.settle()
    assert len(world.delivered) == 20


async def test_the_budget_lets_one_in_whatever_its_size_and_makes_the_next_wait() -> None:
    """Memory stays bounded, and nothing waits for ever."""
    budget = Budget(10)
    await asyncio.wait_for(budget.take(25), 1)
    waiting = asyncio.ensure_future(budget.take(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    budget.give_back(25)
    await asyncio.wait_for(waiting, 1)
