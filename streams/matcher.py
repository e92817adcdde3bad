"""The matcher: reads `index-log`, answers each picture, adds it, in that order.

A Faust app around `agents.match_images` and `streams.index`. Per stretch of the log: apply it in
memory, decide the outcomes, deliver them, write rows and next offset in one batch, move the
watermark. What lies below the group's committed offset is only rebuilt.

Questions of `match-asked` are answered between two groups, once the index has applied all that the
log held when they came; where that cannot be, they are not answered.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Never, ParamSpec, TypeVar

import faust

from agents.answer_questions import answer, answer_headers, told
from agents.match_images import Outcome, outcomes
from schemas.codec import decode_question, encode_json
from schemas.reasons import Rejection
from schemas.records import MatchAnswered, Question
from schemas.topics import IMAGE_MATCHED, INDEX_LOG, MATCH_ANSWERED, MATCH_ASKED
from streams.delivery import (
    Deliver,
    Outgoing,
    TopicPartition,
    Watermarks,
    commit_group,
    nothing_to_apply,
)
from streams.engine.asking import Log, until_answered
from streams.engine.feed import Feed, Stretch
from streams.engine.process import require_topics
from streams.engine.transport import build_app
from streams.engine.worker import add_agent, run, watched
from streams.entry import LogEntry
from streams.errors import CorruptStateError, RetryableError
from streams.heap import GivingBack, give_back
from streams.index.applying import applied
from streams.index.history import differs_from
from streams.index.partition import Arrival, PartitionIndex
from streams.index.store import Row
from streams.integrity import index_directory
from streams.kafka.client import topic_id
from streams.kafka.dead_letters import DeadLetterDelivery, dead_letter
from streams.kafka.log import LogReader
from streams.kafka.producer import DeliveringProducer
from streams.kafka.topics import MATCHER_GROUP
from streams.log_fields import outcome_fields
from streams.settings import Settings
from streams.telemetry import metrics
from streams.telemetry.delivery import CountedDelivery
from streams.telemetry.flow import Flow
from streams.telemetry.matching import MatchMetrics
from streams.telemetry.process import Telemetry
from streams.telemetry.registry import Registry
from streams.telemetry.timeline import Done, Tracer

logger = logging.getLogger(__name__)

# Rebuilding says where it is this often.
_PROGRESS_SECONDS = 5.0
# Two groups of log records, of at most 10 KB each.
_BUFFERED_EVENTS = 512
# A group's outcomes are told together, and a stop waits for the group in hand: where pictures take
# long to decide, groups are to be small.
_GROUP_SECONDS = 1.0
_FIRST_GROUP_RECORDS = 8
# Whoever asked waits no longer than that for an index that is behind.
_CATCH_UP_SECONDS = 2.0

# Every row is read where the band files are lost: 36 million codes take minutes, not an hour.
_LONGEST_OPENING_SECONDS = 3600.0

P = ParamSpec("P")
T = TypeVar("T")


def run_matcher(settings: Settings) -> Never:
    """Run a matcher until it is told to stop."""
    telemetry = Telemetry("matcher", settings)
    require_topics(settings)
    app = build_app(settings, MATCHER_GROUP, buffered_events=_BUFFERED_EVENTS)
    flow = Flow(telemetry.registry, app, (INDEX_LOG, MATCH_ASKED))
    log = LogReader(settings, INDEX_LOG)
    matcher = Matcher(
        settings,
        log=log,
        deliver=DeliveringProducer(settings),
        watermarks=app.watermarks,
        topic_id=topic_id(settings, INDEX_LOG),
        registry=telemetry.registry,
        tracer=telemetry.tracer,
        is_stopping=lambda: app.is_stopping,
    )
    flow.watch(settings)
    feed, questions = (
        Feed(app, topic, reader, partitions=settings.partitions, gather=settings.group_size)
        for topic, reader in ((INDEX_LOG, log), (MATCH_ASKED, LogReader(settings, MATCH_ASKED)))
    )

    # Questions that were taken before a stop need the indexes open.
    all_answered = asyncio.Event()

    async def match_images(stream: faust.Stream[Any]) -> None:
        try:
            await match_all(feed, matcher, stream, flow.taken)
            await all_answered.wait()
        finally:
            await asyncio.shield(matcher.close())

    async def answer_questions(stream: faust.Stream[Any]) -> None:
        async for stretch in questions.stretches(stream):
            flow.taken(stretch)
            await matcher.answer(stretch, feed.owned)
        all_answered.set()

    add_agent(app, INDEX_LOG, match_images)
    add_agent(app, MATCH_ASKED, answer_questions)
    watchdog = watched(
        app, settings, (feed, questions), moves=matcher.applied, held=matcher.opening
    )
    watchdog.add_to(telemetry.probes)
    telemetry.probes.add("ready", "assignment", flow.unready)
    telemetry.probes.add("ready", "index", matcher.unready)
    telemetry.probes.started()
    run(app, watchdog)


@dataclass(frozen=True, slots=True)
class Group:
    """One group of log records, applied in memory and answered, not yet delivered."""

    arrivals: Sequence[Arrival]
    outcomes: dict[int, Outcome[Row]]
    answers: Sequence[Outgoing]
    reused: set[int]
    """Offsets of arrivals with the id of another picture."""

    def outgoing(self) -> list[Outgoing]:
        """Give one outcome per picture record, in the order of the log, then the answers."""
        answered = (self.outcomes[arrival.first] for arrival in self.arrivals)
        return [
            *(
                Outgoing(IMAGE_MATCHED, outcome.key, outcome.value, outcome.headers)
                for outcome in answered
            ),
            *self.answers,
        ]

    def fresh(self) -> dict[int, bytes]:
        """Give the outcomes that are not stored yet, by ordinal."""
        return {
            ordinal: outcome.value for ordinal, outcome in self.outcomes.items() if outcome.fresh
        }


class Matcher:
    """The indexes of the partitions that this process owns, and what is done with a stretch."""

    def __init__(
        self,
        settings: Settings,
        *,
        log: Log,
        deliver: Deliver,
        watermarks: Watermarks,
        topic_id: str,
        registry: Registry | None = None,
        tracer: Tracer | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Own nothing yet; once `is_stopping`, no group is begun."""
        self._tracer = tracer or Tracer()
        self._is_stopping = is_stopping
        self._group_records = min(_FIRST_GROUP_RECORDS, settings.group_size)
        registry = registry or Registry("matcher")
        self._settings = settings
        self._log = log
        self._watermarks = watermarks
        self._topic_id = topic_id
        self._indexes: dict[int, PartitionIndex] = {}
        # Of partitions whose log has another history than their index had: from where on.
        self._untold: dict[int, int] = {}
        self._opening: tuple[int, float] | None = None
        self._metrics = MatchMetrics(
            registry, indexes=lambda: self._indexes, data_directory=settings.data_directory
        )
        self._steps = self._metrics.steps
        letters = DeadLetterDelivery(deliver)
        registry.computed(metrics.DEAD_LETTERS_UNDELIVERED, lambda: letters.undelivered)
        self._deliver = CountedDelivery(letters, registry, self._steps, (MATCH_ASKED,))
        # One thread: an index is used by one thread at a time, and the event loop stays free.
        self._thread = ThreadPoolExecutor(1, "index")
        # Held from a group's staging to its commit: in between the index is ahead of itself.
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._committed = asyncio.Event()
        self._giving_back = GivingBack()

    def applied(self) -> tuple[tuple[int, int], ...]:
        """Give the next offset of each open index; in any thread."""
        return tuple((number, index.next_offset) for number, index in list(self._indexes.items()))

    def opening(self) -> str | None:
        """Say which index is being opened, which tells of no progress; in any thread."""
        if self._opening is None or time.monotonic() - self._opening[1] > _LONGEST_OPENING_SECONDS:
            return None
        return f"the index of partition {self._opening[0]} is being opened"

    async def match(self, stretch: Stretch) -> None:
        """Answer and apply one stretch; its watermark moves when all of it is durable."""
        number = stretch.partition.partition
        index = await self._index(number)
        # What is committed counts outcomes of a history that is no more; this one's are to be told.
        start = min(stretch.start, self._untold.pop(number, stretch.start))
        if start < stretch.start:
            self._watermarks.advance(stretch.partition, stretch.assignment, start)
        if index.next_offset < start:  # again, it goes on behind what is applied
            await self._patiently(self._rebuild, index, stretch.partition, start)
        while start < stretch.start and not self._is_stopping():
            stop = min(start + self._settings.group_size, stretch.start)
            entries = await self._patiently(self._read, number, start, stop)
            await self._tell(
                index, Stretch(stretch.partition, stretch.assignment, start, entries, stop)
            )
            start = stop
        self._metrics.ready(number)
        await self._tell(index, stretch)

    async def _tell(self, index: PartitionIndex, stretch: Stretch) -> None:
        for entries, stop in _groups(stretch, lambda: self._group_records):
            if self._is_stopping():
                return
            async with self._turns[stretch.partition.partition]:
                with self._tracer.noting() as timeline:
                    match = partial(self._match, index, stretch.partition, entries, stop)
                    group = await self._in_thread(self._paced, match, len(entries))
                    await commit_group(
                        outgoing=group.outgoing(),
                        deliver=self._deliver,
                        apply=partial(
                            self._in_thread, self._commit, index, group.fresh(), len(entries)
                        ),
                        acknowledge=partial(
                            self._watermarks.advance, stretch.partition, stretch.assignment, stop
                        ),
                    )
                for arrival in group.arrivals:
                    record, place = arrival.record, (*stretch.partition, arrival.offset)
                    done = Done("match", record.workspace, record.image_id, place=place)
                    self._tracer.tell(timeline, done)
            self._metrics.told(len(entries), group.arrivals, group.outcomes, group.reused)
            if logger.isEnabledFor(logging.DEBUG):
                _log(stretch.partition, group)
            self._committed.set()
            self._committed = asyncio.Event()

    async def answer(self, stretch: Stretch, owned: Callable[[], set[TopicPartition]]) -> None:
        """Answer a stretch of questions, or let them be where the index cannot be as new."""
        outgoing: list[Outgoing] = []
        questions: list[tuple[LogEntry, Question]] = []
        for entry in stretch.entries:
            question = decode_question(entry.value)
            if isinstance(question, Rejection):
                outgoing.append(dead_letter(stretch.partition, entry, question))
            else:
                questions.append((entry, question))
        if questions:
            outgoing += await self._answers(stretch.partition.partition, questions, owned)
        await commit_group(
            outgoing=outgoing,
            deliver=self._deliver,
            apply=nothing_to_apply,
            acknowledge=partial(
                self._watermarks.advance, stretch.partition, stretch.assignment, stretch.stop
            ),
        )

    async def _answers(
        self,
        number: int,
        questions: Sequence[tuple[LogEntry, Question]],
        owned: Callable[[], set[TopicPartition]],
    ) -> list[Outgoing]:
        try:
            async with asyncio.timeout(_CATCH_UP_SECONDS):
                _, end = await asyncio.to_thread(self._log.watermarks, number)
                while TopicPartition(INDEX_LOG, number) in owned():
                    committed = self._committed
                    async with self._turns[number]:
                        index = self._indexes.get(number)
                        if index is None:
                            break
                        if index.next_offset >= end:
                            with self._steps.time("answer"):
                                return await self._in_thread(_answered, index, number, questions)
                    await committed.wait()
        except (TimeoutError, RetryableError) as error:
            logger.warning("partition %d: questions are not answered: %r", number, error)
        return []

    def unready(self) -> str | None:
        """Say what is still to be rebuilt; in any thread."""
        left = self._metrics.remaining
        return f"{left} log records are still to be applied" if left else None

    async def assigned(self, owned: set[int]) -> None:
        """Begin an assignment: close the indexes of partitions that are no longer owned.

        The logs of those that stay open may have lost their ends meanwhile, and have grown again.
        """
        await self._close_all_but(owned)
        for number, index in self._indexes.items():
            async with self._turns[number]:
                await self._patiently(self._follow_log, index, number, was_open=True)
        self._metrics.assigned(owned)

    async def close(self) -> None:
        """Close all indexes."""
        await self._close_all_but(set())
        self._thread.shutdown()

    async def _close_all_but(self, owned: set[int]) -> None:
        left = self._indexes.keys() - owned
        for partition in left:
            await self._in_thread(self._indexes.pop(partition).close)
        if left:
            await self._in_thread(give_back)

    def _paced(self, match: Callable[[], Group], records: int) -> Group:
        """Match, and let the next group be one that takes a second, at most twice this one."""
        began = time.perf_counter()
        group = match()
        if records:
            within = _GROUP_SECONDS * records / (time.perf_counter() - began)
            most = min(self._settings.group_size, 2 * self._group_records)
            self._group_records = max(1, min(most, int(within)))
        return group

    def _match(
        self,
        index: PartitionIndex,
        partition: TopicPartition,
        entries: Sequence[LogEntry],
        stop: int,
    ) -> Group:
        with self._steps.time("stage"):
            arrivals = index.stage(entries, stop)
        firsts = (arrival.first for arrival in arrivals)
        searched = self._metrics.searched(index)
        began = time.perf_counter()
        found = outcomes(searched, partition.partition, firsts)
        decide_seconds = time.perf_counter() - began - searched.seconds
        self._steps.took("search", searched.seconds, decide_seconds)
        self._steps.took("decide", decide_seconds)
        reused = set[int]()
        for arrival in arrivals:
            record, first = arrival.record, found[arrival.first].row.record
            if record.fingerprint.sha256 != first.fingerprint.sha256:
                reused.add(arrival.offset)
                logger.warning(
                    "%s %d: id_reused: image id %r of workspace %r came with other bytes; its "
                    "first outcome is sent again",
                    partition,
                    arrival.offset,
                    record.image_id,
                    record.workspace,
                    extra=outcome_fields(record, *partition, arrival.offset),
                )
        answers = [
            _answer(
                told(index, partition.partition, found[arrival.first], arrival.record.reply),
                found[arrival.first].row.timestamp_ms,
            )
            for arrival in arrivals
            if arrival.record.reply is not None
        ]
        return Group(arrivals, found, answers, reused)

    def _commit(self, index: PartitionIndex, fresh: dict[int, bytes], records: int) -> None:
        with self._steps.time("apply"):
            index.commit(fresh)
        self._giving_back.after(records)

    def _rebuild(self, index: PartitionIndex, partition: TopicPartition, upto: int) -> None:
        """Apply what lies below `upto` without answering: it was answered before."""
        start = index.next_offset
        self._metrics.rebuilt(partition.partition, 0, upto - start)
        began = said = time.monotonic()
        batches = self._log.read_range(partition.partition, start, upto, headers=False)
        for records in applied(index, batches, upto):
            left = upto - index.next_offset
            self._metrics.rebuilt(partition.partition, records, left)
            now = time.monotonic()
            if now - said >= _PROGRESS_SECONDS:
                said = now
                logger.info("%s: rebuilt up to %d of %d", partition, index.next_offset, upto)
        seconds = time.monotonic() - began
        logger.info("%s: rebuilt %d to %d in %.2f s", partition, start, upto, seconds)
        give_back()

    async def _index(self, partition: int) -> PartitionIndex:
        index = self._indexes.get(partition)
        if index is None:
            index = self._indexes[partition] = await self._in_thread(self._open, partition)
        return index

    def _open(self, number: int) -> PartitionIndex:
        self._opening = number, time.monotonic()
        try:
            return self._opened(number)
        finally:
            self._opening = None

    def _opened(self, number: int) -> PartitionIndex:
        index = PartitionIndex(index_directory(self._settings, number), self._topic_id, number)
        try:
            self._follow_log(index, number, was_open=False)
        except BaseException:
            index.close()
            raise
        return index

    def _follow_log(self, index: PartitionIndex, number: int, *, was_open: bool) -> None:
        """Make sure that an index is one of this very log; make it anew where it is not.

        Raises:
            CorruptStateError: it cannot be made anew, because the log has lost its beginning.
        """
        last = index.progress.last_offset
        if last < 0:
            return
        partition = TopicPartition(INDEX_LOG, number)
        low, high = self._log.watermarks(number)
        if last < low:
            directory = index_directory(self._settings, number)
            raise CorruptStateError(
                f"{partition}: begins at offset {low}, and the index in {directory} ends at "
                f"{last}: it is kept, because it could not be rebuilt; restore the log"
            )
        read = partial(self._read, number)
        untold = differs_from(index, read, low, high, was_open=was_open)
        if untold is not None:
            self._untold[number] = untold
            logger.critical(
                "%s: another history than the index's, from offset %d on; the index is made "
                "anew, and the outcomes from there on are told",
                partition,
                untold,
            )
            index.wipe()

    def _read(self, number: int, low: int, high: int) -> list[LogEntry]:
        batches = self._log.read_range(number, low, high, headers=False)
        return [entry for batch in batches for entry in batch]

    async def _patiently(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do in the index's thread what reads the log, and again while the broker is silent."""
        return await until_answered(partial(self._in_thread, function, *args, **kwargs))

    async def _in_thread(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        run = copy_context().run  # what is noted in the thread is noted for this group
        return await loop.run_in_executor(self._thread, partial(run, function, *args, **kwargs))


def _log(partition: TopicPartition, group: Group) -> None:
    for arrival in group.arrivals:
        fields = outcome_fields(arrival.record, *partition, arrival.offset)
        logger.debug("outcome: %s %d", partition, arrival.offset, extra=fields)


def _answered(
    index: PartitionIndex, partition: int, questions: Sequence[tuple[LogEntry, Question]]
) -> list[Outgoing]:
    return [
        _answer(answer(index, partition, question), entry.timestamp_ms)
        for entry, question in questions
    ]


def _answer(answered: MatchAnswered, time_ms: int) -> Outgoing:
    headers = answer_headers(answered, time_ms)
    return Outgoing(MATCH_ANSWERED, answered.request_id.encode(), encode_json(answered), headers)


def _groups(stretch: Stretch, size: Callable[[], int]) -> Iterator[tuple[Sequence[LogEntry], int]]:
    """Cut a stretch into groups; each with the offset up to which it accounts for the log.

    `size` is asked for each anew.
    """
    low = 0
    while low < len(stretch.entries):
        entries = stretch.entries[low : low + size()]
        low += len(entries)
        last = low == len(stretch.entries)
        yield entries, stretch.stop if last else entries[-1].offset + 1
    if not stretch.entries and stretch.stop > stretch.start:
        yield (), stretch.stop


async def match_all(
    feed: Feed,
    matcher: Matcher,
    stream: faust.Stream[Any],
    taken: Callable[[Stretch], None],
) -> None:
    """Match a partition's stretches in turn, and those of several partitions side by side.

    So the index works for one of them while another waits for the broker. Only the indexes of the
    present assignment are kept open.
    """
    assignment = None
    matching: dict[TopicPartition, asyncio.Task[None]] = {}
    try:
        async with asyncio.TaskGroup() as tasks:
            async for stretch in feed.stretches(stream):
                taken(stretch)
                if stretch.assignment != assignment:
                    assignment = stretch.assignment
                    await _ended(matching.values())
                    matching.clear()
                    await matcher.assigned({partition.partition for partition in feed.owned()})
                elif stretch.partition in matching:
                    await _ended({matching[stretch.partition]})
                matching[stretch.partition] = tasks.create_task(matcher.match(stretch))
    except BaseExceptionGroup as errors:  # the first has ended the others
        raise errors.exceptions[0] from None


async def _ended(tasks: Collection[asyncio.Task[None]]) -> None:
    """Wait until all have ended; an error is their group's to raise."""
    if tasks:
        await asyncio.wait(tasks)
