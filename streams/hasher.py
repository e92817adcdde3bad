"""The hasher: Check's events become records of `index-log`, and what is no good dead letters.

A Faust app around `agents.hash_image`. Pictures are fetched and hashed side by side in a bounded
window and complete in any order; removals are appended in the order of their topic. The
watermark stays below the oldest event that is not delivered. Stateless: any number of replicas.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Never, cast

import faust

from agents.hash_image import Fetch, HashPicture, hash_image
from schemas.codec import (
    cloudevents_headers,
    decode_image_ingested,
    decode_image_removed,
    encode_readable_log,
    event_id,
)
from schemas.reasons import Rejection
from schemas.records import Fingerprint, Hashed, ImageIngested, ImageRemoved, Removed, Source
from schemas.topics import (
    IMAGE_INGESTED,
    IMAGE_REMOVED,
    INDEX_LOG,
    MEBIBYTE,
)
from streams.circuit import Circuit
from streams.decoding.hashing import PictureHashing
from streams.decoding.pool import DecodePool
from streams.delivery import (
    Deliver,
    Outgoing,
    TopicPartition,
    Watermarks,
    Window,
    commit_group,
    nothing_to_apply,
)
from streams.engine.feed import Feed, Stretch
from streams.engine.process import die, require_topics
from streams.engine.transport import build_app
from streams.engine.worker import add_agent, run, watched
from streams.entry import LogEntry
from streams.errors import PoisonedError
from streams.fetching.fetch import Fetcher, host_of
from streams.fetching.picture_bytes import PictureBytes
from streams.kafka.dead_letters import DeadLetterDelivery, dead_letter
from streams.kafka.log import LogReader
from streams.kafka.partitioner import partition_of
from streams.kafka.producer import DeliveringProducer
from streams.kafka.topics import HASHER_GROUP, LOG_CONTENT_TYPE
from streams.parking import Parked, Sharer, WindowShares
from streams.settings import Settings
from streams.telemetry import metrics
from streams.telemetry.delivery import CountedDelivery
from streams.telemetry.flow import Flow
from streams.telemetry.process import Telemetry, timed_fetch
from streams.telemetry.registry import Registry, Steps
from streams.telemetry.timeline import Done, Tracer

logger = logging.getLogger(__name__)

# Each event may hold a picture of up to 1 MB.
_BUFFERED_EVENTS = 16
# Of events in work, so 16 of the largest. An inline picture is there about twice: as the event, and
# decoded from base64.
_IN_WORK_BYTES = 32 * MEBIBYTE
_INLINE_COPIES = 2
# A stop waits so long for pictures that are being fetched: nearly all hosts answer within that.
_DRAIN_SECONDS = 5.0
# What an event takes that waits for its host, measured: 7 KB, a task most of it. Those of a dead
# host are to be many before they hold up others, so the bytes bound them and not their number.
_EVENT_BYTES = 8 * 1024

# So many times as many events are looked at where none of the last could be read.
_LOOK_BACK = 10
# Between two looks whether there is room for what is parked; and how much of a share is worth it.
_UNPARK_SECONDS = 0.5
_WORTH_READING = 0.25

ReadBefore = Callable[[TopicPartition, int, int], Awaitable[Sequence[LogEntry]]]
ReadAgain = Callable[[TopicPartition, Sequence[int]], Awaitable[tuple[Sequence[LogEntry], int]]]


def run_hasher(settings: Settings) -> Never:
    """Run a hasher until it is told to stop."""
    telemetry = Telemetry("hasher", settings)
    require_topics(settings)
    sources = (IMAGE_INGESTED, IMAGE_REMOVED)
    app = build_app(settings, HASHER_GROUP, buffered_events=_BUFFERED_EVENTS)
    pool = DecodePool(settings)
    picture_bytes = PictureBytes()
    fetcher = Fetcher(settings, picture_bytes=picture_bytes)
    flow = Flow(telemetry.registry, app, sources)
    steps = Steps(telemetry.registry)
    telemetry.picture_parts(fetcher, pool)
    hashing = PictureHashing(settings, pool, steps.took)

    async def hash_picture(content: bytes, /) -> Fingerprint | Rejection:
        with picture_bytes.waiting(len(content)):
            return await hashing(content)

    pictures, removals = (
        Feed(
            app,
            topic,
            LogReader(settings, topic),
            partitions=settings.partitions,
            gather=settings.group_size,
        )
        for topic in sources
    )

    async def read_before(partition: TopicPartition, offset: int, most: int) -> Sequence[LogEntry]:
        feed = pictures if partition.topic == IMAGE_INGESTED else removals
        return await feed.before(partition, offset, most)

    letters = DeadLetterDelivery(DeliveringProducer(settings))
    hasher = Hasher(
        settings,
        read_before=read_before,
        read_again=pictures.again,
        fetch=timed_fetch(fetcher.fetch, steps),
        hash_picture=hash_picture,
        deliver=CountedDelivery(letters, telemetry.registry, steps, sources),
        watermarks=app.watermarks,
        new_key=lambda: uuid.uuid4().bytes,
        fail=die,
        tracer=telemetry.tracer,
    )
    _tell_of(hasher, letters, telemetry.registry)
    flow.watch(settings)

    async def hash_images(stream: faust.Stream[Any]) -> None:
        async with pool, fetcher:
            try:
                async for stretch in pictures.stretches(stream):
                    flow.taken(stretch)
                    await hasher.ingest(stretch)
                await hasher.drain(_DRAIN_SECONDS)
            except PoisonedError:
                # What was done before the poison need not be done again.
                await app.commit_reached()
                raise
            finally:
                hasher.abandon()

    async def forget_images(stream: faust.Stream[Any]) -> None:
        try:
            async for stretch in removals.stretches(stream):
                flow.taken(stretch)
                await hasher.remove(stretch)
        except PoisonedError:
            await app.commit_reached()
            raise

    async def abandon(*_: object, **__: object) -> None:
        hasher.abandon()

    app.on_partitions_revoked.connect(abandon, weak=False)
    add_agent(app, IMAGE_INGESTED, hash_images)
    add_agent(app, IMAGE_REMOVED, forget_images)
    watchdog = watched(app, settings, (pictures, removals), held=partial(_held, fetcher))
    watchdog.add_to(telemetry.probes)
    telemetry.probes.add("ready", "assignment", flow.unready)
    telemetry.probes.started()
    run(app, watchdog)


def _tell_of(hasher: "Hasher", letters: DeadLetterDelivery, registry: Registry) -> None:
    registry.computed(metrics.IN_WORK_EVENTS, lambda: hasher.in_work)
    registry.computed(metrics.PARKED_EVENTS, lambda: hasher.parked)
    registry.computed(metrics.DEAD_LETTERS_UNDELIVERED, lambda: letters.undelivered)


def _held(fetcher: Fetcher) -> str | None:
    return "no host answers" if fetcher.is_paused else None


class Hasher:
    """What is done with a stretch of `image-ingested` and of `image-removed`."""

    def __init__(
        self,
        settings: Settings,
        *,
        read_before: ReadBefore,
        read_again: ReadAgain,
        fetch: Fetch,
        hash_picture: HashPicture,
        deliver: Deliver,
        watermarks: Watermarks,
        new_key: Callable[[], bytes],
        fail: Callable[[BaseException], None],
        tracer: Tracer | None = None,
    ) -> None:
        """Take the parts; `new_key` gives a key that no log record had before."""
        self._settings = settings
        self._read_before = read_before
        self._read_again = read_again
        self._fetch = fetch
        self._hash_picture = hash_picture
        self._deliver = deliver
        self._watermarks = watermarks
        self._new_key = new_key
        self._fail = fail
        self._tracer = tracer or Tracer()
        self._in_work = Budget(_IN_WORK_BYTES)
        window_bytes = min(_IN_WORK_BYTES, settings.window_size * _EVENT_BYTES)
        self._share_bytes = window_bytes * settings.fetch_share_percent // 100
        self._shares = WindowShares(self._share_bytes)
        self._windows: dict[TopicPartition, tuple[int, Window]] = {}
        self._parked: dict[TopicPartition, Parked] = {}
        self._unparking: set[asyncio.Task[None]] = set()
        self._work: dict[TopicPartition, set[asyncio.Task[None]]] = {}
        self._delivering: set[asyncio.Task[None]] = set()
        self._circuits: dict[TopicPartition, tuple[int, Circuit]] = {}

    @property
    def in_work(self) -> int:
        """Pictures taken in and not finished; in any thread, hence the copy."""
        return sum(len(window) for _, window in list(self._windows.values()))

    @property
    def parked(self) -> int:
        """Pictures that wait for room in the shares of the window; as the above."""
        return sum(window.parked for _, window in list(self._windows.values()))

    async def ingest(self, stretch: Stretch) -> None:
        """Begin work on a stretch of `image-ingested`; waits only where the window is full.

        Raises:
            PoisonedError: too many events in turn cannot be read; what came before them is done.
        """
        window = self._window(stretch)
        circuit = await self._circuit(stretch)
        for entry in stretch.entries:
            event = decode_image_ingested(entry.key, entry.value)
            if not circuit.admits(readable=not isinstance(event, Rejection)):
                self._abandon_parked()
                while work := set().union(*self._work.values()):
                    await asyncio.wait(work)
                raise _poisoned(stretch.partition, entry.offset, circuit)
            full = self._waits_for(stretch.partition, entry, event)
            if full is not None and window.park(entry.offset):
                self._park(stretch.partition, entry.offset, full, window)
            elif await window.enter(entry.offset):
                await self._begin(stretch.partition, entry, event, window)
            else:
                return
        window.reach(stretch.stop)

    async def _begin(
        self,
        partition: TopicPartition,
        entry: LogEntry,
        event: ImageIngested | Rejection,
        window: Window,
    ) -> None:
        """Begin work on an event that the window has admitted."""
        size_bytes, sharers = _size_bytes(entry), _sharers(event)
        await self._in_work.take(size_bytes)
        task = asyncio.create_task(self._picture(partition, entry, event, window))
        task.add_done_callback(partial(self._in_work.give_back, size_bytes))
        self._shares.take(sharers, size_bytes)
        task.add_done_callback(partial(self._shares.give_back, sharers, size_bytes))
        tasks = self._work.setdefault(partition, set())
        tasks.add(task)
        task.add_done_callback(partial(self._done, tasks))

    def _waits_for(
        self, partition: TopicPartition, entry: LogEntry, event: ImageIngested | Rejection
    ) -> Sharer | None:
        """Say whose share of the window leaves no room for an event, or was waited for before."""
        sharers = _sharers(event)
        parked = self._parked.get(partition, ())
        waited_for = next((sharer for sharer in sharers if sharer in parked), None)
        return waited_for or self._shares.full(sharers, _size_bytes(entry))

    def _park(self, partition: TopicPartition, offset: int, full: Sharer, window: Window) -> None:
        """Remember an event that waits for a share; see to it that its turn comes."""
        parked = self._parked.get(partition)
        if parked is None:
            parked = self._parked[partition] = Parked()
            task = asyncio.create_task(self._unpark(partition, parked, window))
            self._unparking.add(task)
            task.add_done_callback(partial(self._done, self._unparking))
        if full not in parked:
            logger.info(
                "%s %d: %s has its share of the window; from here on its pictures wait, "
                "and others' go on",
                partition,
                offset,
                full,
            )
        parked.add(full, offset)

    async def _unpark(self, partition: TopicPartition, parked: Parked, window: Window) -> None:
        """Take parked events into work as there is room for them, until there are none."""
        while parked.waiting():
            await asyncio.sleep(_UNPARK_SECONDS)
            for sharer in parked.waiting():
                room_bytes = self._shares.room_bytes(sharer)
                if room_bytes >= self._share_bytes * _WORTH_READING:
                    offsets = parked.first(sharer, max(1, room_bytes // _EVENT_BYTES))
                    await self._take_in(partition, parked, sharer, offsets, window)
        if self._parked.get(partition) is parked:
            del self._parked[partition]

    async def _take_in(
        self,
        partition: TopicPartition,
        parked: Parked,
        sharer: Sharer,
        offsets: Sequence[int],
        window: Window,
    ) -> None:
        """Take the first events that wait for a share into work, as far as there is room."""
        entries, reached = await self._read_again(partition, offsets)
        found = {entry.offset: entry for entry in entries}
        for offset in offsets:
            entry = found.get(offset)
            if entry is None:
                if offset >= reached or not await window.unpark():
                    return
                logger.critical("%s %d: gone before it was processed", partition, offset)
                window.finish(parked.take(sharer))
                continue
            event = decode_image_ingested(entry.key, entry.value)
            full = self._shares.full(_sharers(event), _size_bytes(entry))
            if full is None and await window.unpark():
                parked.take(sharer)
                await self._begin(partition, entry, event, window)
            elif full is not None and full != sharer:
                # Its host has room and its workspace not, or the other way round.
                parked.add(full, parked.take(sharer))
            else:
                return

    async def remove(self, stretch: Stretch) -> None:
        """Append a stretch of `image-removed` to the log, in its order.

        Raises:
            PoisonedError: too many events in turn cannot be read; what came before them is done.
        """
        circuit = await self._circuit(stretch)
        outgoing: list[Outgoing] = []
        stop, poisoned = stretch.stop, None
        for entry in stretch.entries:
            event = decode_image_removed(entry.key, entry.value)
            if not circuit.admits(readable=not isinstance(event, Rejection)):
                stop, poisoned = entry.offset, _poisoned(stretch.partition, entry.offset, circuit)
                break
            outgoing.append(self._removal(stretch.partition, entry, event))
        await commit_group(
            outgoing=outgoing,
            deliver=self._deliver,
            apply=nothing_to_apply,
            acknowledge=partial(
                self._watermarks.advance, stretch.partition, stretch.assignment, stop
            ),
        )
        if poisoned is not None:
            raise poisoned

    async def drain(self, seconds: float) -> None:
        """End all pictures in work; after so many seconds only those that are being delivered."""
        self._abandon_parked()
        if work := set().union(*self._work.values()):
            await asyncio.wait(work, timeout=seconds)
        for task in set().union(*self._work.values()) - self._delivering:
            task.cancel()
        if self._delivering:
            await asyncio.wait(self._delivering)

    def abandon(self) -> None:
        """Drop all pictures in work: their partitions are revoked, their offsets uncommitted."""
        self._abandon_parked()
        for tasks in self._work.values():
            for task in tasks:
                task.cancel()
        for _, window in self._windows.values():
            window.abandon()
        self._windows.clear()

    def _abandon_parked(self) -> None:
        """Leave what is parked, and not committed, for the next start or the next owner."""
        self._parked.clear()
        for task in self._unparking:
            task.cancel()

    def _window(self, stretch: Stretch) -> Window:
        assignment, window = self._windows.get(stretch.partition, (None, None))
        if window is None or assignment != stretch.assignment:
            advance = partial(self._watermarks.advance, stretch.partition, stretch.assignment)
            self._parked.pop(stretch.partition, None)
            window = Window(self._settings.window_size, stretch.start, advance)
            self._windows[stretch.partition] = (stretch.assignment, window)
        return window

    async def _circuit(self, stretch: Stretch) -> Circuit:
        """Give the partition's circuit; a new assignment's knows what lies before its start."""
        assignment, circuit = self._circuits.get(stretch.partition, (None, None))
        if circuit is None or assignment != stretch.assignment:
            limit = self._settings.unreadable_limit
            before = await self._readable_before(stretch.partition, stretch.start, limit)
            circuit = Circuit(limit, before)
            self._circuits[stretch.partition] = (stretch.assignment, circuit)
        return circuit

    async def _readable_before(
        self, partition: TopicPartition, start: int, limit: int
    ) -> Sequence[bool]:
        """Say which of the events before `start` can be read, back to one that can be.

        That is mostly the last: a hundred of them may hold 100 MB of pictures.
        """
        most, before = 1, list[bool]()
        while most < _LOOK_BACK * limit and not any(before):
            entries = await self._read_before(partition, start, min(most, limit))
            before = [_readable(partition, entry) for entry in entries]
            most *= _LOOK_BACK
        return before

    async def _picture(
        self,
        partition: TopicPartition,
        entry: LogEntry,
        event: ImageIngested | Rejection,
        window: Window,
    ) -> None:
        if isinstance(event, Rejection):
            await self._finish(dead_letter(partition, entry, event), window, entry.offset)
            return
        with self._tracer.noting() as timeline:
            hashed = await hash_image(event, self._fetch, self._hash_picture)
            if isinstance(hashed, Rejection):
                outgoing = dead_letter(partition, entry, hashed, event.workspace)
            else:
                record = Hashed(
                    record_version=1,
                    workspace=event.workspace,
                    image_id=event.image_id,
                    origin="event",
                    fingerprint=hashed,
                    ingested_at_ms=entry.timestamp_ms,
                    source=Source(partition.topic, partition.partition, entry.offset),
                    check=event.check,
                )
                outgoing = self._log_record(partition, entry, record)
            await self._finish(outgoing, window, entry.offset)
        self._tracer.tell(
            timeline,
            Done(
                "ingest",
                event.workspace,
                event.image_id,
                since_ms=entry.timestamp_ms,
                headers=entry.headers,
                place=(*partition, entry.offset),
                failed=hashed.reason if isinstance(hashed, Rejection) else None,
            ),
        )

    async def _finish(self, outgoing: Outgoing, window: Window, offset: int) -> None:
        """Deliver what came of an event, and let the watermark pass it."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._delivering.add(task)
        task.add_done_callback(self._delivering.discard)
        await commit_group(
            outgoing=[outgoing],
            deliver=self._deliver,
            apply=nothing_to_apply,
            acknowledge=partial(window.finish, offset),
        )

    def _removal(
        self, partition: TopicPartition, entry: LogEntry, event: ImageRemoved | Rejection
    ) -> Outgoing:
        if isinstance(event, Rejection):
            return dead_letter(partition, entry, event)
        record = Removed(
            record_version=1,
            workspace=event.workspace,
            image_id=event.image_id,
            source=Source(partition.topic, partition.partition, entry.offset),
        )
        return self._log_record(partition, entry, record)

    def _log_record(
        self, partition: TopicPartition, entry: LogEntry, record: Hashed | Removed
    ) -> Outgoing:
        headers = cloudevents_headers(
            topic=INDEX_LOG,
            identifier=event_id(INDEX_LOG, *partition, entry.offset),
            source="hasher",
            subject=record.image_id,
            time_ms=entry.timestamp_ms,
            content_type=LOG_CONTENT_TYPE,
        )
        return Outgoing(
            topic=INDEX_LOG,
            key=self._new_key(),
            value=encode_readable_log(record),
            headers=tuple(headers),
            partition=partition_of(record.workspace, self._settings.partitions),
        )

    def _done(self, tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)


def _size_bytes(entry: LogEntry) -> int:
    return max(_INLINE_COPIES * len(entry.value or b""), _EVENT_BYTES)


def _sharers(event: ImageIngested | Rejection) -> tuple[Sharer, ...]:
    """Give for whom and from where is fetched; none where nothing is, which is never slow."""
    if isinstance(event, Rejection) or event.url is None:
        return ()
    host = host_of(event.url)
    return (Sharer("workspace", event.workspace), Sharer("host", host)) if host else ()


def _readable(partition: TopicPartition, entry: LogEntry) -> bool:
    decode = decode_image_ingested if partition.topic == IMAGE_INGESTED else decode_image_removed
    return not isinstance(decode(entry.key, entry.value), Rejection)


def _poisoned(partition: TopicPartition, offset: int, circuit: Circuit) -> PoisonedError:
    return PoisonedError(
        f"{partition}: {circuit.unreadable} events in turn are not as the contract says; stopped "
        f"before the next one, offset {offset}. The dead letters before it tell why: either their "
        "producer is wrong, or this version is. CHECK_DEDUP_UNREADABLE_LIMIT=0 dead-letters on"
    )


class Budget:
    """How much may be in memory at once; one taker is let in whatever its size."""

    def __init__(self, size_bytes: int) -> None:
        self._left_bytes = self._size_bytes = size_bytes
        self._changed = asyncio.Event()

    async def take(self, size_bytes: int) -> None:
        """Wait until there is room; takers come one after the other."""
        while self._left_bytes < size_bytes and self._left_bytes < self._size_bytes:
            self._changed.clear()
            await self._changed.wait()
        self._left_bytes -= size_bytes

    def give_back(self, size_bytes: int, _: object = None) -> None:
        """Make room again."""
        self._left_bytes += size_bytes
        self._changed.set()
