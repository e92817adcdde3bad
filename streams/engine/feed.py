"""What arrives of each assigned partition: in order, without holes, from the committed offset on.

Faust delivers events; whether it delivered all of them is checked here by their offsets. What is
missing between two events, or behind the last one, is read straight from the log. The hasher and
the matcher see `Stretch`es only, so that this one mechanism serves first start, restart, a moved
partition and a hole in delivery alike.

Where the log is not what it was, that is named and never guessed over. Of a topic whose beginning
is gone past the place where we read, and of one that was made anew, it is told (`Stretch.lost`),
and reading goes on at the beginning that there is. `index-log`, of which every record counts, stops
the process instead, as does any log that ends before what was read of it, or holds other records
there (`streams.engine.same_log`).
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import faust

from schemas.topics import INDEX_LOG
from streams.delivery import TopicPartition
from streams.engine.asking import PIECE_BYTES, Log, ask, read_piece
from streams.engine.same_log import SameLog
from streams.engine.transport import App
from streams.entry import LogEntry, Mark
from streams.errors import CorruptStateError, MisconfiguredError, RetryableError
from streams.kafka.topics import EXPIRING_TOPICS

logger = logging.getLogger(__name__)

# Waiting this long for more makes groups, which are delivered and committed together.
_GATHER_SECONDS = 0.003
# How often a partition without events is compared with its end in the log: the less often the
# longer nothing was missing. Soon after it was assigned, because where the group forms anew Faust
# may drop what it has fetched already. What the log holds then counts as missing once it has not
# come for so long: at first it may be on its way.
_FIRST_IDLE_SECONDS = 0.25
_IDLE_SECONDS = 5.0

Loss = Literal["expired", "made_anew"]
"""Why records are not there to be read: deleted before they were, or with their whole topic."""
LOSSES: tuple[Loss, ...] = get_args(Loss)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Everything of one partition in [start, stop), as of one assignment of it."""

    partition: TopicPartition
    assignment: int
    start: int
    entries: Sequence[LogEntry]
    stop: int
    lost: Loss | None = None
    """Why records before `start` are gone that were never read, where that is so."""


@dataclass(slots=True)
class _Position:
    """Where a partition's feed stands, in one assignment and the group's generation of it."""

    assignment: int
    generation: int
    start: int
    expected: int
    moved_at: float
    idle_seconds: float
    """After so long without events its end is asked for."""
    is_beyond: bool = False
    """Whether the log ended before `expected` when it was last asked."""
    seen: int = 0
    """Where it ended then: what lies before has had time to come when it is asked again."""

    @property
    def look_at(self) -> float:
        """When its end is asked for, if nothing comes until then."""
        return self.moved_at + min(self.idle_seconds, _IDLE_SECONDS)


class Feed:
    """The stretches of one topic for one consumer group."""

    def __init__(
        self,
        app: App,
        topic: str,
        log: Log,
        *,
        partitions: int,
        gather: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Hear of assignments of `topic`, which had so many partitions when the process started.

        At most `gather` events make one round.
        """
        self._app = app
        self._topic = topic
        self._log = log
        self._gather = gather
        self._clock = clock
        self._positions: dict[TopicPartition, _Position] = {}
        # Events have come, or partitions.
        self._news = asyncio.Event()
        # Asks for the ends of partitions that were silent: by partition what was expected then, and
        # the end.
        self._looking: asyncio.Future[dict[TopicPartition, tuple[int, int]]] | None = None
        self._same = SameLog(app, topic, log, partitions)
        app.on_partitions_assigned.connect(self._on_assigned)

    async def stretches(self, stream: faust.Stream[Any]) -> AsyncIterator[Stretch]:
        """Give stretches until the app stops; the first of each assignment is empty, at its start.

        Raises:
            MisconfiguredError: the group has no committed offset, or partitions were added.
            CorruptStateError: the log ends before what is committed or was read, or holds other
                records there; or records of `index-log` are gone, or it was made anew.
        """
        watching = asyncio.ensure_future(self._same.watch())
        stopping = asyncio.ensure_future(self._app.stop_asked.wait())
        try:
            async for stretch in self._stretches(stream, watching, stopping):
                yield stretch
        finally:
            watching.cancel()
            stopping.cancel()
            if self._looking is not None:
                self._looking.cancel()

    async def _stretches(
        self,
        stream: faust.Stream[Any],
        watching: "asyncio.Future[None]",
        stopping: "asyncio.Future[Any]",
    ) -> AsyncIterator[Stretch]:
        arrivals = _Arrivals(self._gather, self._news)
        gathering = asyncio.ensure_future(arrivals.gather(stream))
        try:
            while not self._app.is_stopping:
                told = asyncio.ensure_future(self._news.wait())
                news: set[asyncio.Future[Any]] = {told, gathering, watching, stopping}
                if self._looking is not None and not self._looking.done():
                    news.add(self._looking)
                await asyncio.wait(
                    news, timeout=self._until_look(), return_when=asyncio.FIRST_COMPLETED
                )
                told.cancel()
                if watching.done():
                    watching.result()
                if gathering.done():  # the stream is stopping
                    gathering.result()
                    return
                self._news.clear()
                async for stretch in self._present(await arrivals.taken()):
                    yield stretch
                    # The time that its work took is no silence.
                    if stretch.partition in self._positions:
                        self._positions[stretch.partition].moved_at = self._clock()
        finally:
            gathering.cancel()

    async def _present(self, messages: Sequence[Any]) -> AsyncIterator[Stretch]:
        """Give what there is now, for as long as the assignment is the same."""
        assignment = self._app.assignment
        if assignment is None:
            return
        parts = [
            self._begun(assignment),
            *(self._joined(*arrived) for arrived in _by_partition(messages).items()),
            self._silent(),
        ]
        for part in parts:
            async for stretch in part:
                if self._app.assignment != assignment or self._app.is_stopping:
                    return
                yield stretch

    async def _on_assigned(self, *_: object, **__: object) -> None:
        self._news.set()

    def owned(self) -> set[TopicPartition]:
        """Give the partitions of the topic that are assigned now."""
        return {
            TopicPartition(*partition)
            for partition in self._app.consumer.assignment()
            if partition.topic == self._topic
        }

    async def before(self, partition: TopicPartition, offset: int, most: int) -> list[LogEntry]:
        """Read the records before an offset, at most so many and as far as they still exist."""
        number = partition.partition
        low, _ = await ask(self._log.watermarks, number)
        entries: list[LogEntry] = []
        position = max(low, offset - most)
        while position < offset:
            read, position = await read_piece(self._log, number, position, offset)
            entries += read
        return entries

    async def again(
        self, partition: TopicPartition, offsets: Sequence[int]
    ) -> tuple[list[LogEntry], int]:
        """Read some records, given in order, once more: those that exist, and the offset reached.

        Bounded in size, so that not all need be reached.
        """
        wanted = set(offsets)
        entries: list[LogEntry] = []
        size_bytes = 0
        number, position, stop = partition.partition, offsets[0], offsets[-1] + 1
        while position < stop and size_bytes < PIECE_BYTES:
            low, _ = await ask(self._log.watermarks, number)
            read, position = await read_piece(self._log, number, max(low, position), stop)
            found = [entry for entry in read if entry.offset in wanted]
            size_bytes += sum(len(entry.value or b"") for entry in found)
            entries += found
        return entries, position

    def taken(self, partition: TopicPartition) -> tuple[int, int, int] | None:
        """Give assignment, start and next offset of a partition; None before it is begun."""
        position = self._positions.get(partition)
        if position is None or position.assignment != self._app.assignment:
            return None
        return position.assignment, position.start, position.expected

    def ends_at(self, partition: int, timeout_seconds: float) -> int:
        """Ask the broker for the offset after a partition's last one; in any thread.

        Raises:
            RetryableError: no answer in time.
        """
        return self._log.watermarks(partition, timeout_seconds)[1]

    async def _begun(self, assignment: int) -> AsyncIterator[Stretch]:
        """Take up the partitions of a new assignment, each at its committed offset."""
        mine = self.owned()
        for partition in self._positions.keys() - mine:
            del self._positions[partition]
            self._same.end(partition)
        fresh = [
            partition
            for partition in sorted(mine)
            if (known := self._positions.get(partition)) is None or known.assignment != assignment
        ]
        if not fresh:
            return
        topic_id = await self._same.identify()
        epochs = await self._same.epochs(fresh)
        for partition in fresh:
            generation = self._app.consumer_generation_id
            start, last, lost = await self._start(partition, topic_id)
            self._app.identities[self._topic] = topic_id
            self._same.begin(partition, start, last, epochs.get(partition.partition))
            self._positions[partition] = _Position(
                assignment, generation, start, start, self._clock(), _FIRST_IDLE_SECONDS
            )
            if lost is not None:
                await self._app.seek(partition, start)
                # Committed at once: whoever starts next is to find no loss again.
                self._app.watermarks.advance(partition, assignment, start)
            yield Stretch(partition, assignment, start, (), start, lost)

    async def _start(
        self, partition: TopicPartition, topic_id: str
    ) -> tuple[int, Mark | None, Loss | None]:
        """Say where to begin, which record was read last there, and what was lost before that."""
        group = self._app.conf.id
        committed = await ask(self._log.committed, group, partition.partition)
        low, high = await ask(self._log.watermarks, partition.partition)
        place = f"group {group} has for {partition.topic} partition {partition.partition}"
        # Kafka deletes with a topic what was committed on it.
        earlier = self._same.earlier_id if committed is None else committed.topic_id
        if earlier is not None and earlier != topic_id:
            logger.critical(
                "%s: its topic was deleted and made anew, from id %s to %s; what was not read of "
                "it is lost. Committed there: %s; reading begins at %d",
                partition,
                earlier,
                topic_id,
                "unknown" if committed is None else committed.offset,
                low,
            )
            return low, None, "made_anew"
        if committed is None:
            message = f"{place} no committed offset; run check-dedup topics create"
            raise MisconfiguredError(message)
        if committed.offset > high:
            message = (
                f"{place} offset {committed.offset} committed, but the log ends at {high}: it was "
                "truncated; reset the group's offsets when you know to where"
            )
            raise CorruptStateError(message)
        if committed.offset < low:
            return low, None, self._expired(partition, committed.offset, low)
        # An index finds out itself, and knows from where on.
        if committed.last is not None and self._topic != INDEX_LOG:
            await self._same.require_as_read(partition, [committed.last], low)
        return committed.offset, committed.last, None

    def _expired(self, partition: TopicPartition, expected: int, low: int) -> Loss | None:
        """Name records that were deleted before they were read; None where nobody misses them."""
        if self._topic in EXPIRING_TOPICS:
            return None
        what = f"{partition}: offsets {expected} to {low - 1} are gone, the log begins at {low}"
        if self._topic == INDEX_LOG:
            raise CorruptStateError(f"{what}; restore the log: no index can be made without them")
        logger.critical("%s; %d records are lost", what, low - expected)
        return "expired"

    async def _joined(
        self, partition: TopicPartition, messages: Sequence[Any]
    ) -> AsyncIterator[Stretch]:
        """Give events as stretches, with what is missing before and between them.

        Events of an earlier generation are dropped, as are those that were seen already.
        """
        position = self._positions.get(partition)
        if position is None:
            return
        joined: list[LogEntry] = []
        for message in messages:
            if message.generation_id != position.generation:
                continue
            # Also where it is dropped: what is expected comes behind it.
            position.moved_at = self._clock()
            want = joined[-1].offset + 1 if joined else position.expected
            if message.offset < want:
                continue
            if message.offset > want:
                if joined:
                    yield self._stretch(partition, joined, want)
                    joined = []
                async for stretch in self._filled(partition, message.offset):
                    yield stretch
            joined.append(_entry(message))
        if joined:
            yield self._stretch(partition, joined, joined[-1].offset + 1)

    def _until_look(self) -> float:
        """Give the seconds until the end of some partition is to be asked for."""
        if self._app.assignment is None:
            return _IDLE_SECONDS
        if self._looking is not None:
            return 0.0 if self._looking.done() else _IDLE_SECONDS
        now = self._clock()
        due = (position.look_at - now for position in self._positions.values())
        return max(0.0, min(due, default=_IDLE_SECONDS))

    async def _silent(self) -> AsyncIterator[Stretch]:
        """Read what the log holds of partitions whose events do not come.

        Their ends are asked for meanwhile: a partition without a leader is not to hold up others.
        """
        if self._looking is None:
            silent = {
                partition: position.expected
                for partition, position in self._positions.items()
                if self._clock() >= position.look_at
            }
            if silent:
                self._looking = asyncio.ensure_future(self._ends(silent))
            return
        if not self._looking.done():
            return
        ends, self._looking = self._looking.result(), None
        for partition, (expected, high) in ends.items():
            position = self._positions.get(partition)
            if position is None or position.expected != expected:  # it has moved since
                continue
            position.moved_at = self._clock()
            await self._check_end(partition, position, high)
            stop = min(position.seen, high, position.expected + self._gather)
            position.seen = high
            if high == position.expected:
                position.idle_seconds = min(2 * position.idle_seconds, _IDLE_SECONDS)
            elif high < position.expected:  # a new leader gets time to find its end
                position.idle_seconds = _IDLE_SECONDS
            else:
                position.idle_seconds = _FIRST_IDLE_SECONDS
            if stop > position.expected:
                logger.warning("%s: reading up to %d from the log", partition, stop)
                async for stretch in self._filled(partition, stop):
                    yield stretch

    async def _ends(
        self, silent: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, tuple[int, int]]:
        """Give what was expected of each partition, and its end in the log; none without answer."""
        found = {}
        for partition, expected in silent.items():
            try:
                _, high = await asyncio.to_thread(self._log.watermarks, partition.partition)
            except RetryableError as error:
                logger.warning("asking again: %s", error)
            else:
                found[partition] = (expected, high)
        return found

    async def _check_end(self, partition: TopicPartition, position: _Position, high: int) -> None:
        """Stop where the log ends before what was read, unless it is another topic's.

        Told twice: a broker that has just become the leader may not know the end at once.
        """
        was_beyond, position.is_beyond = position.is_beyond, high < position.expected
        if not (was_beyond and position.is_beyond):
            return
        if await self._same.is_same_topic():
            raise CorruptStateError(
                f"{partition}: was read up to {position.expected}, and ends at {high} now: it was "
                "truncated; reset the group's offsets when you know to where"
            )

    async def _filled(self, partition: TopicPartition, stop: int) -> AsyncIterator[Stretch]:
        """Read from the expected offset up to `stop`, a bounded piece at a time."""
        position = self._positions[partition]
        while position.expected < stop:
            low, _ = await ask(self._log.watermarks, partition.partition)
            if low > position.expected:
                lost = self._expired(partition, position.expected, low)
                position.expected = low
                yield Stretch(partition, position.assignment, low, (), low, lost)
                continue
            entries, upto = await read_piece(
                self._log, partition.partition, position.expected, stop
            )
            yield self._stretch(partition, entries, upto)

    def _stretch(self, partition: TopicPartition, entries: list[LogEntry], stop: int) -> Stretch:
        position = self._positions[partition]
        start, position.expected = position.expected, stop
        self._app.marks.read(partition, entries)
        return Stretch(partition, position.assignment, start, entries, stop)


class _Arrivals:
    """What Faust hands over, gathered by one task: waiting for each event by itself took two."""

    def __init__(self, most: int, news: asyncio.Event) -> None:
        """Hold at most so many, and no more than a piece's bytes; set `news` where any come."""
        self._most = most
        self._news = news
        self._messages: list[Any] = []
        self._size_bytes = 0
        self._room = asyncio.Event()

    async def gather(self, stream: faust.Stream[Any]) -> None:
        """Gather until the stream stops."""
        async for event in stream.noack().events():
            # Faust must neither wait for an event nor decide by it what is committed.
            event.ack()
            self._messages.append(event.message)
            self._size_bytes += len(event.message.value or b"")
            self._news.set()
            while self._is_full():
                self._room.clear()
                await self._room.wait()

    async def taken(self) -> list[Any]:
        """Take all that is there, as soon as no more comes at once."""
        known = 0
        while known < len(self._messages) and not self._is_full():
            known = len(self._messages)
            await asyncio.sleep(_GATHER_SECONDS)
        messages, self._messages, self._size_bytes = self._messages, [], 0
        self._room.set()
        return messages

    def _is_full(self) -> bool:
        return len(self._messages) >= self._most or self._size_bytes >= PIECE_BYTES


def _by_partition(messages: Iterable[Any]) -> dict[TopicPartition, list[Any]]:
    found: dict[TopicPartition, list[Any]] = {}
    for message in messages:
        found.setdefault(TopicPartition(message.topic, message.partition), []).append(message)
    return found


def _entry(message: Any) -> LogEntry:  # noqa: ANN401 - Faust declares no type for it
    """Copy a Faust message; its timestamp is in seconds, made from whole milliseconds."""
    headers = message.headers or ()
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return LogEntry(
        offset=message.offset,
        timestamp_ms=round((message.timestamp or 0) * 1000),
        key=message.key,
        value=message.value,
        headers=tuple(pairs),
    )
