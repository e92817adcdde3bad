"""Asking the matcher and hearing its answers: what the API needs of Kafka, and nothing else.

Every replica reads all of `match-answered` from where it ended before the replica accepted
requests, without a group: whoever answers need not know which replica waits. A canary question for
each partition, every few seconds, tells whether anybody answers there, and by which settings.
"""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import msgspec
from confluent_kafka import Consumer, KafkaError, Message

from schemas.codec import cloudevents_headers, encode_json, encode_readable_log, event_id
from schemas.records import AskCanary, Hashed, MatchAnswered, MatchSettings, Question
from schemas.topics import INDEX_LOG, MATCH_ANSWERED, MATCH_ASKED
from streams.delivery import Deliver, Outgoing
from streams.errors import RetryableError
from streams.kafka.client import classified, direct_consumer
from streams.kafka.ends import stand_at_ends
from streams.kafka.partitioner import partition_of
from streams.kafka.topics import LOG_CONTENT_TYPE
from streams.settings import Settings

logger = logging.getLogger(__name__)

_CANARY_SECONDS: Final = 2.0
# The matcher answers within two seconds or not at all.
_CANARY_TIMEOUT_SECONDS: Final = 4.0
_CANARY_WORKSPACE: Final = "canary"
_POLL_SECONDS: Final = 0.1
_BATCH: Final = 500
# Canaries are answered in partitions at random, so each has some of the last seconds.
_SILENT_SECONDS: Final = 30.0
# librdkafka names its own error codes with an underscore.
_GONE: Final = {KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET}  # noqa: SLF001

Heard = Callable[[Sequence[tuple[bytes, bytes]]], None]


class Answers:
    """Questions and pictures on their way to the matcher, and who waits for what it says."""

    def __init__(
        self,
        settings: Settings,
        *,
        deliver: Deliver,
        clock: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        """Ask nothing yet; `clock` counts seconds."""
        self._settings = settings
        self._deliver = deliver
        self._clock = clock
        self._clock_ms = clock_ms
        self._new_id = new_id
        self._waiting: dict[bytes, tuple[int, float, asyncio.Future[MatchAnswered]]] = {}
        # When the newest question that was answered had been asked, by partition.
        self._answered: dict[int, float] = {}
        self._match_settings: dict[int, MatchSettings] = {}

    def partition_of(self, workspace: str) -> int:
        """Give the partition of a workspace."""
        return partition_of(workspace, self._settings.partitions)

    def settings_of(self, partition: int) -> MatchSettings | None:
        """Give the settings that count for a partition; None where nobody answers for it now."""
        limit = self._settings.answer_age_limit_seconds
        asked = self._answered.get(partition)
        if asked is None or self._clock() - asked > limit:
            return None
        return self._match_settings.get(partition)

    def late_partitions(self) -> tuple[int, ...]:
        """Name the partitions for which nobody answers now."""
        every = range(self._settings.partitions)
        return tuple(partition for partition in every if self.settings_of(partition) is None)

    @contextmanager
    def expect(self, partition: int) -> Iterator[tuple[str, asyncio.Future[MatchAnswered]]]:
        """Give a fresh request id, and what will hold its answer, for as long as the context."""
        request_id = self._new_id()
        future = asyncio.get_running_loop().create_future()
        self._waiting[request_id.encode()] = (partition, self._clock(), future)
        try:
            yield request_id, future
        finally:
            del self._waiting[request_id.encode()]

    def hear(self, answers: Sequence[tuple[bytes, bytes]]) -> None:
        """Give answers, (request id, value), to those of this replica who wait for them."""
        for request_id, value in answers:
            if request_id not in self._waiting:
                continue
            partition, asked, future = self._waiting[request_id]
            try:
                answered = msgspec.json.decode(value, type=MatchAnswered)
            except msgspec.DecodeError as error:  # of a later release, which this one cannot tell
                logger.error("an answer cannot be read: %s", error)  # noqa: TRY400 - says it all
                continue
            self._answered[partition] = max(asked, self._answered.get(partition, asked))
            if answered.settings is not None:
                self._match_settings[partition] = answered.settings
            if not future.done():
                future.set_result(answered)

    async def append(self, record: Hashed) -> None:
        """Append a picture to the log; on an error, or cancelled, it may be there or not.

        Raises:
            RetryableError: it was not acknowledged in time.
            UnknownLogRecordError: it could not be read again; nothing was appended.
        """
        identifier = self._new_id()
        headers = cloudevents_headers(
            topic=INDEX_LOG,
            identifier=event_id(INDEX_LOG, "api", identifier),
            source="api",
            subject=record.image_id,
            time_ms=record.ingested_at_ms,
            content_type=LOG_CONTENT_TYPE,
        )
        await self._deliver(
            [
                Outgoing(
                    topic=INDEX_LOG,
                    key=identifier.encode(),
                    value=encode_readable_log(record),
                    headers=tuple(headers),
                    partition=self.partition_of(record.workspace),
                )
            ]
        )

    async def ask(self, question: Question, partition: int) -> None:
        """Send a question."""
        headers = cloudevents_headers(
            topic=MATCH_ASKED,
            identifier=event_id(MATCH_ASKED, question.request_id),
            source="api",
            subject=question.request_id,
            time_ms=self._clock_ms(),
            content_type="application/json",
        )
        await self._deliver(
            [
                Outgoing(
                    topic=MATCH_ASKED,
                    key=question.request_id.encode(),
                    value=encode_json(question),
                    headers=tuple(headers),
                    partition=partition,
                )
            ]
        )

    async def watch(self) -> None:
        """Send canaries for ever."""
        every = range(self._settings.partitions)
        await asyncio.gather(*(self._watch(partition) for partition in every))

    async def _watch(self, partition: int) -> None:
        while True:
            began = self._clock()
            try:
                async with asyncio.timeout(_CANARY_TIMEOUT_SECONDS):
                    with self.expect(partition) as (request_id, answer):
                        await self.ask(AskCanary(request_id, _CANARY_WORKSPACE), partition)
                        await answer
            except (TimeoutError, RetryableError) as error:
                logger.warning("partition %d: no answer to a canary: %r", partition, error)
            await asyncio.sleep(max(0.0, began + _CANARY_SECONDS - self._clock()))


class AnswerReader:
    """Reads `match-answered` in a thread of its own and hands all of it to the event loop.

    Where a partition is silent for long another client reads on: of 96 that lived through a
    broker's restart one heard nothing of it any more, and no error (librdkafka 2.16).
    """

    def __init__(
        self, settings: Settings, hear: Heard, fail: Callable[[BaseException], None]
    ) -> None:
        """Take whom to tell of answers, and of an end that was not asked for."""
        self._settings = settings
        self._hear = hear
        self._fail = fail
        self._consumer: Consumer = direct_consumer(settings)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)

    async def start(self) -> None:
        """Stand at the topic's ends: from here on, no answer is missed.

        Raises:
            RetryableError: the broker does not answer.
        """
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._stand_at_ends)
        self._thread.start()

    async def close(self) -> None:
        """Stop reading."""
        self._closing.set()
        await asyncio.to_thread(self._thread.join)
        self._consumer.close()

    def _stand_at_ends(self) -> None:
        every = range(self._settings.partitions)
        places = [(MATCH_ANSWERED, partition) for partition in every]
        stand_at_ends(self._settings, self._consumer, places)

    def _run(self) -> None:
        every = range(self._settings.partitions)
        heard_at = dict.fromkeys(every, time.monotonic())
        try:
            while not self._closing.is_set():
                if time.monotonic() - min(heard_at.values()) > _SILENT_SECONDS:
                    self._begin_again()
                    heard_at = dict.fromkeys(every, time.monotonic())
                # The first message comes without waiting for a whole batch of them.
                first = self._consumer.poll(_POLL_SECONDS)
                if first is None:
                    continue
                messages = [first, *self._consumer.consume(_BATCH, 0)]
                answers = list(self._values(messages))
                if answers:
                    self._loop.call_soon_threadsafe(self._hear, answers)
                for message in messages:
                    if message.error() is None:
                        heard_at[message.partition() or 0] = time.monotonic()
        except Exception as error:  # noqa: BLE001 - without answers there is nothing to serve
            if not self._closing.is_set():
                self._fail(error)

    def _begin_again(self) -> None:
        logger.info("no answers for %g s: another client reads them", _SILENT_SECONDS)
        self._consumer.close()
        self._consumer = direct_consumer(self._settings)
        with suppress(RetryableError):  # the next silence
            self._stand_at_ends()

    def _values(self, messages: Sequence[Message]) -> Iterator[tuple[bytes, bytes]]:
        for message in messages:
            error = message.error()
            if error is None:
                key, value = message.key(), message.value()
                if key is not None and value is not None:
                    yield key, value
            elif error.code() in _GONE:  # out of touch for as long as answers are kept
                logger.warning("answers have expired unread; going on at the end")
                with suppress(RetryableError):
                    self._stand_at_ends()
            elif error.fatal():
                raise classified(error, "reading answers")
            elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - its name
                logger.warning("reading answers: %s", error)
