"""The one producer of a process: idempotent, acknowledged by all replicas, never silent.

`deliver` returns when the broker has every record. A record that cannot be delivered is an
outage: `deliver` raises, and its caller stops before anything is committed. One that does not
stop, as the API, goes on with another producer.
"""

# ruff: noqa: SLF001 - librdkafka names its own error codes with an underscore

import asyncio
import logging
import threading
from collections.abc import Collection
from contextlib import suppress
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams.delivery import Outgoing
from streams.kafka.client import classified, producer
from streams.settings import Settings

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_BY_KEY = -1


class _Delivery:
    """How many records of one `deliver` call are still on their way."""

    def __init__(self, records: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting = records
        self._failure: tuple[str, KafkaError] | None = None
        self.done: asyncio.Future[tuple[str, KafkaError] | None] = self._loop.create_future()

    def on_delivery(self, error: KafkaError | None, message: Message) -> None:
        """Count one down; called in the poll thread only."""
        if error is not None and self._failure is None:
            self._failure = (message.topic() or "", error)
        self._waiting -= 1
        if self._waiting == 0:
            self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(self._failure)


class DeliveringProducer:
    """A producer for asyncio code; delivery reports are served in a thread of its own."""

    def __init__(
        self, settings: Settings, *, linger_ms: int = 5, timeout_seconds: float | None = None
    ) -> None:
        """Connect in the background; `timeout_seconds` as `producer` has it."""
        self._connect = partial(
            producer, settings, linger_ms=linger_ms, timeout_seconds=timeout_seconds
        )
        self._producer = self._connect()
        # Held where another one takes over: what is handed to none is reported by none.
        self._lock = threading.Lock()
        self._earlier: list[Producer] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="delivery-reports", daemon=True)
        self._thread.start()

    async def __call__(self, records: Collection[Outgoing], /) -> None:
        """Deliver all records, in order per partition.

        Raises:
            RetryableError: at least one was not acknowledged within the delivery time-out.
            MisconfiguredError: at least one was refused, and would be again.
        """
        if not records:
            return
        delivery = _Delivery(len(records))
        for record in records:
            while not self._produce(record, delivery):  # noqa: ASYNC110 - no event tells of room
                await asyncio.sleep(_POLL_SECONDS)
        failed = await delivery.done
        if failed is not None:
            topic, failure = failed
            raise classified(failure, f"a record of {topic} was not delivered")

    def close(self, timeout_seconds: float) -> int:
        """Wait for what is on its way; give the number of records that did not make it."""
        left: int = self._producer.flush(timeout_seconds)
        self._closing.set()
        self._thread.join()
        return left + sum(map(len, self._earlier))

    def _produce(self, record: Outgoing, delivery: _Delivery) -> bool:
        """Hand one record to librdkafka; False while its queue is full."""
        try:
            with self._lock:
                self._producer.produce(
                    record.topic,
                    key=record.key,
                    value=record.value,
                    headers=list(record.headers),
                    on_delivery=partial(self._report, self._producer, delivery),
                    partition=_BY_KEY if record.partition is None else record.partition,
                )
        except BufferError:
            return False
        except KafkaException as error:  # it is broken, and about to be replaced
            what = f"a record of {record.topic} was not delivered"
            raise classified(error.args[0], what) from error
        return True

    def _report(
        self, sender: Producer, delivery: _Delivery, error: KafkaError | None, message: Message
    ) -> None:
        """Tell who waits; one that asks while a broker stops may never send again.

        It learns that a partition has no leader, and keeps to that when there is one again
        (librdkafka 2.16, issue 5430). What it has on its way to others may arrive.
        """
        delivery.on_delivery(error, message)
        timed_out = error is not None and error.code() == KafkaError._MSG_TIMED_OUT
        if timed_out and sender is self._producer:
            self._replace(f"a record of {message.topic()} was not delivered in time")

    def _poll(self) -> None:
        while not self._closing.is_set():
            try:
                self._producer.poll(_POLL_SECONDS)
            except KafkaException as error:
                # Fatal: the broker forgot what it had acknowledged, because a log lost its end.
                self._replace(str(error)).purge()
            for earlier in list(self._earlier):
                with suppress(KafkaException):
                    earlier.poll(0)
                if not len(earlier):
                    self._earlier.remove(earlier)

    def _replace(self, why: str) -> Producer:
        """Have another producer go on, and give the one before it; in the thread that polls."""
        logger.critical("another producer goes on: %s", why)
        with self._lock:
            earlier, self._producer = self._producer, self._connect()
        self._earlier.append(earlier)
        return earlier
