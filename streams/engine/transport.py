"""The Faust that loses nothing: no tables, no ack lists, only watermarks are committed.

Stock Faust commits past work that is not durable (a raising agent, a failed produce, an
out-of-order ack each do it). Here its part is agents and group membership; what is committed
are the watermarks of `streams.delivery`, and what it delivers is checked by `streams.engine.feed`.
"""

# ruff: noqa: SLF001 - what is private to Faust and aiokafka is what is replaced here

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, ClassVar, cast

import aiokafka
import faust
import mode
from aiokafka.errors import CommitFailedError, ConsumerStoppedError
from aiokafka.structs import OffsetAndMetadata
from faust.tables.manager import TableManager
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from schemas.topics import LARGEST_MESSAGE_BYTES
from streams import failpoints
from streams.delivery import TopicPartition, Watermarks
from streams.engine.marks import Marks
from streams.engine.watchdog import LoopBeat
from streams.errors import MisconfiguredError
from streams.kafka.client import commit_metadata
from streams.kafka.security import faust_credentials
from streams.settings import Settings

logger = logging.getLogger(__name__)

_SCHEME = "kafka"
# Commits are cheap, and what was not committed is delivered again after a crash.
_COMMIT_SECONDS = 0.5
_HEARTBEATS_PER_SESSION = 6
# Before partitions go; what is not committed then is only delivered again.
_LAST_COMMIT_SECONDS = 2.0
# A fetch waits so long at the broker where there is nothing, and while it does no other goes there:
# one that asks for a silent topic, because what came of the busy one is still in work, holds up the
# busy one. With Faust's 1.5 s a hasher with a backlog got nothing for a second at a time.
_FETCH_WAIT_MS = 50
# A rebuild may keep the agent busy; the group must not take that for a dead member.
_LONGEST_REBUILD_SECONDS = 3600.0
# What is in flight at a stop gets this long; the rest is delivered again after the next start.
STOP_SECONDS = 20.0
# Of these, so long for the agents to end what they have in hand; then the rest is cancelled.
DRAIN_SECONDS = 10.0
_EXIT_STOPPED_BY_DEADLINE = 3


class WatermarkConsumer(driver.Consumer):
    """A consumer that commits watermarks, and ignores which events were acknowledged."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Faust's own
        """Begin with nothing committed."""
        super().__init__(*args, **kwargs)
        self._reached: dict[TP, tuple[int | None, int]] = {}
        self.callback = partial(self._hand_over, self.callback)

    async def _drain_messages(self, fetcher: Any) -> None:  # noqa: ANN401 - Faust's own
        """Hand over what is fetched; where the group forms anew the rest is dropped.

        As stock Faust does, but in one task for each fetch and not in four for each record, which
        took a tenth of a matcher's time.
        """
        try:
            while not (self.should_stop or fetcher.should_stop):
                await asyncio.sleep(0)  # a fetch need not have waited
                messages = [message async for _, message in self.getmany(timeout=1.0)]
                await self.wait_first(self._hand_over_all(messages), self.suspend_flow.wait())
        except (ConsumerStoppedError, asyncio.CancelledError):
            if not self.app.should_stop:
                raise

    async def _hand_over_all(self, messages: Sequence[faust.types.Message]) -> None:
        for message in messages:
            await self.callback(message)

    async def _hand_over(
        self,
        deliver: Callable[[faust.types.Message], Awaitable[None]],
        message: faust.types.Message,
    ) -> None:
        """Deliver an event; drop it where Faust knows no agent for its partition, and would crash.

        So it is for a moment where the group forms anew twice in a row: fetching is resumed for
        the first assignment while the second is taken up. The feed misses what is dropped.
        """
        try:
            await deliver(message)
        except KeyError as error:
            if error.args != (message.tp,):
                raise
            logger.info("%s[%d] %d: came before its partition", *message.tp, message.offset)

    async def force_commit(
        self,
        topics: AbstractSet[TP] | AbstractSet[str] | None = None,  # noqa: ARG002 - all watermarks are safe
        start_new_transaction: bool = True,  # noqa: ARG002, FBT001, FBT002 - Faust's signature
    ) -> bool:
        """Commit the watermarks reached in the present assignment; none between two of them.

        A commit while the group forms anew would be refused, and make it form once more.
        """
        # The feed acknowledges events on arrival; the lists must not grow for ever.
        self._acked.clear()
        self._acked_index.clear()
        app = cast("App", self.app)
        committable = app.watermarks.committable(self.assignment(), app.assignment)
        # Not compared with what was committed earlier: that may have been another topic's.
        offsets: Mapping[TP, int] = {
            TP(*partition): offset
            for partition, offset in committable.items()
            if self._reached.get(TP(*partition)) != (app.assignment, offset)
        }
        if not offsets:
            return False
        assignment = app.assignment
        failpoints.reach("commit.before")
        committed: bool = await self._commit(offsets)
        failpoints.reach("commit.after")
        if committed:
            self._reached.update({tp: (assignment, offset) for tp, offset in offsets.items()})
        return committed

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """End the assignment: what was reached is committed, what comes later is not."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.commit(), _LAST_COMMIT_SECONDS)
        cast("App", self.app).assignment = None
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Begin a new assignment, also where the generation is the old one."""
        app = cast("App", self.app)
        app.assignments += 1
        app.assignment = app.assignments
        await super().on_partitions_assigned(assigned, generation_id)

    def on_buffer_full(self, tp: TP) -> None:
        """Go on: a full queue makes Faust wait for room in it, which is all that is needed.

        Stock Faust stops fetching the partition, and where all are stopped sleeps for a second:
        with a small buffer that second is the throughput (measured: 95 pictures a second of 300).
        """

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Leave it to our watchdog whether a partition moves.

        Stock Faust counts from the start of the process: to one that takes over a partition a day
        later it says at once, as an error, that the partition was never processed.
        """

    def _new_consumer_thread(self) -> "WatermarkThread":
        return WatermarkThread(self, loop=self.loop, beacon=self.beacon)


class WatermarkThread(driver.AIOKafkaConsumerThread):
    """The thread with aiokafka's consumer: commits say of which log, no record stops it."""

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS
        return consumer

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit what tells each log from another as metadata; False where the group forms anew."""
        app = cast("App", self.app)
        committed = {
            driver.ensure_aiokafka_TP(tp): OffsetAndMetadata(
                offset,
                commit_metadata(app.identities.get(tp.topic, ""), app.marks.before(tp, offset)),
            )
            for tp, offset in offsets.items()
            if tp in self.assignment()
        }
        try:
            await self._ensure_consumer().commit(committed)
        except CommitFailedError as error:
            logger.info("not committed, the group forms anew: %s", error)
            return False
        except Exception as error:
            logger.exception("not committed: %s", committed)
            await self.crash(error)
            return False
        return True

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 - Faust's signature
        max_records: int | None = None,
    ) -> Any:  # noqa: ANN401 - Faust's own
        """Fetch, and leave to the feed, which reads the log, what aiokafka cannot decode.

        aiokafka wants UTF-8 in the names of headers. Kafka does not, so that anyone who may
        write to the topic could end every process that reads it, again at each start.
        """
        try:
            return await super()._fetch_records(
                consumer, active_partitions, timeout=timeout, max_records=max_records
            )
        except UnicodeDecodeError as error:
            for tp, fetched in list(consumer._fetcher._records.items()):
                records: Any = getattr(fetched, "_partition_records", None)
                reading = getattr(records, "_records_iterator", None)
                if reading is not None and reading.gi_frame is None:  # the one that raised
                    offset = records.next_fetch_offset
                    logger.warning("%s[%d] %d: %s", tp.topic, tp.partition, offset, error)
                    consumer.seek(tp, offset + 1)
                    return {}
            raise

    async def rejoin(self) -> None:
        """Have the group form anew, on what the broker knows of the topics now."""
        await self.call_thread(self._rejoin)

    async def _rejoin(self) -> None:
        consumer = self._ensure_consumer()
        await consumer._client.force_metadata_update()
        consumer._coordinator.request_rejoin()


class WatermarkTransport(driver.Transport):
    """Faust's aiokafka transport with our consumer."""

    Consumer: ClassVar[Any] = WatermarkConsumer


class NoTables(TableManager):
    """Faust's tables, of which we have none: for some to be declared, stock waits a second."""

    async def on_start(self) -> None:
        """Start at once."""
        await self._update_channels()
        await self.recovery.start()


class App(faust.App):
    """A Faust app with the watermarks that its consumer commits.

    `assignment` is the number of the present assignment of partitions; None between two. `beat`
    shows whether the event loop turns. `identities` are the ids of the topics that the watermarks
    are of, by name, and `marks` what was read of them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Faust's own
        """Start without watermarks."""
        super().__init__(*args, **kwargs)
        self.watermarks = Watermarks()
        self.assignments = 0
        self.assignment: int | None = None
        self.beat = LoopBeat()
        self.identities: dict[str, str] = {}
        self.marks = Marks()
        self.stop_asked = asyncio.Event()
        self._at_work: set[asyncio.Future[None]] = set()

    def _create_directories(self) -> None:
        """Make none: they are for Faust's tables."""

    async def commit_reached(self) -> None:
        """Commit what is reached, if the broker answers soon; before an end that is no stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.consumer.commit(), _LAST_COMMIT_SECONDS)

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop: the feeds give nothing more then."""
        return self.stop_asked.is_set()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Have a stop wait for what is done inside, within its bound."""
        done = asyncio.get_running_loop().create_future()
        self._at_work.add(done)
        try:
            yield
        finally:
            self._at_work.discard(done)
            done.set_result(None)

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        """Have the events of a partition from an offset on, also where that is a step back."""
        await self.consumer.seek(TP(*partition), offset)

    async def rejoin(self) -> None:
        """Begin a new assignment, of what the topics are now."""
        await cast("WatermarkThread", cast("WatermarkConsumer", self.consumer)._thread).rejoin()

    async def on_start(self) -> None:
        """Show from now on that the event loop turns."""
        await super().on_start()
        self.add_future(self.beat.run())

    async def on_stop(self) -> None:
        """Stop within a bound, whatever the broker does: take no more, end what is begun, commit.

        Cancelled at once, what is delivered and not committed would be delivered again.
        """
        self.stop_asked.set()
        deadline = threading.Timer(STOP_SECONDS, os._exit, (_EXIT_STOPPED_BY_DEADLINE,))
        deadline.daemon = True
        deadline.start()
        if self._at_work:
            await asyncio.wait(self._at_work, timeout=DRAIN_SECONDS)
            await self.commit_reached()
        await super().on_stop()


def build_app(settings: Settings, group: str, *, buffered_events: int) -> App:
    """Build a Faust app for one consumer group; so many events wait between Kafka and an agent.

    Raises:
        MisconfiguredError: Faust's compiled stream iterator is missing; the pure-Python one
            acknowledges events of an earlier generation that it never processed.
    """
    if getattr(faust.streams, "_CStreamIterator", None) is None:
        message = "faust-streaming is installed without its compiled parts (is NO_CYTHON set?)"
        raise MisconfiguredError(message)
    TRANSPORTS.aliases[_SCHEME] = f"{__name__}:{WatermarkTransport.__name__}"
    brokers = ";".join(
        f"{_SCHEME}://{server.strip()}" for server in settings.bootstrap_servers.split(",")
    )
    session = settings.session_timeout_seconds
    return App(
        group,
        broker=brokers,
        broker_credentials=faust_credentials(settings),
        autodiscover=False,
        web_enabled=False,
        processing_guarantee="at_least_once",
        agent_supervisor=mode.CrashingSupervisor,
        TableManager=NoTables,
        # Nothing waits for acknowledgements, so a revocation never waits for a slow picture.
        stream_wait_empty=False,
        stream_buffer_maxsize=buffered_events,
        stream_recovery_delay=0.0,
        broker_session_timeout=session,
        broker_request_timeout=max(60, 2 * session),
        broker_heartbeat_interval=max(1, session // _HEARTBEATS_PER_SESSION),
        broker_commit_interval=_COMMIT_SECONDS,
        broker_commit_every=None,
        broker_max_poll_interval=_LONGEST_REBUILD_SECONDS,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=LARGEST_MESSAGE_BYTES,
        # None, not "": an empty id would be a static member's, the same for every replica.
        consumer_group_instance_id=(
            f"{group}-{settings.instance_id}" if settings.instance_id else None
        ),
        topic_allow_declare=False,
        topic_disable_leader=True,
        key_serializer="raw",
        value_serializer="raw",
        worker_redirect_stdouts=False,
    )


def source_topic(app: App, name: str) -> faust.types.TopicT:
    """Declare a topic whose keys and values are left as bytes."""
    return app.topic(
        name,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
        internal=False,
    )
