"""Reading a Kafka partition directly: from offset to offset, outside of any consumer group.

Used by the matcher to bring its index up to a place in `index-log`, by `topics check`, by the
commands that print the log, and by the tests' oracle. What it yields is complete: a range that
cannot be read to its end raises, it never ends early. Safe to use from several threads.
"""

# ruff: noqa: SLF001 - librdkafka names its own error codes with an underscore

import logging
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import Final, NoReturn, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streams.entry import LogEntry
from streams.errors import CorruptStateError, RetryableError
from streams.kafka.client import (
    Committed,
    TopicIdentity,
    classified,
    committed,
    direct_consumer,
    leader_epochs,
    topic_identity,
)
from streams.kafka.ends import Ends
from streams.settings import Settings

logger = logging.getLogger(__name__)

# The largest log record is below 10 KB (tests/contract), so a batch stays below 10 MB. Measured,
# records/s: 183,000 of 5 KB in batches of 500, 118,000 in batches of 5000; 330,000 of 500 bytes.
BATCH_RECORDS: Final = 1000
# librdkafka collects a batch for at most this long; only the end of a range with a hole waits.
_COLLECT_SECONDS: Final = 0.2

_OUT_OF_RANGE: Final = {KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET}
# librdkafka skips what fails its checksum and goes on: for us that would be a lost record.
_CORRUPT: Final = {KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION, KafkaError.INVALID_MSG}


class LogReader:
    """Reads the partitions of one topic.

    Watermarks are asked through one client that stays open; each range is read by a client of
    its own (5 to 20 ms to open), so that partitions are read side by side.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        *,
        stall_timeout_seconds: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Give up on a range after `stall_timeout_seconds` without a new record."""
        self._settings = settings
        self._topic = topic
        self._stall_timeout_seconds = stall_timeout_seconds
        self._monotonic = monotonic
        self._ends = Ends(settings)

    def close(self) -> None:
        """Close; nothing may be asked afterwards."""
        self._ends.close()

    def watermarks(self, partition: int, timeout_seconds: float = 10.0) -> tuple[int, int]:
        """Ask for a partition's first offset and the one after its last; errors as those there."""
        return self._ends.watermarks(self._topic, partition, timeout_seconds)

    def offset_at(self, partition: int, time_ms: int, timeout_seconds: float = 10.0) -> int:
        """Ask for the first offset whose record is not older; the log's end where there is none.

        Raises:
            RetryableError: no answer in time.
            MisconfiguredError: we may not read it.
        """
        place = TopicPartition(self._topic, partition, time_ms)
        try:
            with closing(direct_consumer(self._settings)) as asker:
                (found,) = asker.offsets_for_times([place], timeout=timeout_seconds)
        except KafkaException as error:
            self._fail(error.args[0], partition, "an offset was asked for by its time")
        if found.error is not None:
            self._fail(found.error, partition, "an offset was asked for by its time")
        return found.offset if found.offset >= 0 else self.watermarks(partition)[1]

    def committed(self, group: str, partition: int) -> Committed | None:
        """Ask for what a consumer group has committed; None where it has nothing.

        Raises:
            RetryableError: no answer in time.
        """
        return committed(self._settings, group, self._topic, partition)

    def identity(self) -> TopicIdentity:
        """Ask for what the topic is.

        Raises:
            RetryableError: no answer in time.
            MisconfiguredError: there is no such topic.
        """
        return topic_identity(self._settings, self._topic)

    def leader_epochs(self, partitions: Iterable[int]) -> dict[int, int]:
        """Ask how often each partition has got a leader; without those that get no answer."""
        return leader_epochs(self._settings, self._topic, partitions)

    def read_range(
        self, partition: int, low: int, high: int, *, headers: bool = False
    ) -> Generator[list[LogEntry]]:
        """Read all records of `low` <= offset < `high`, in order, in batches that are not empty.

        Offsets may be missing (erased records). Headers are left out unless asked for: they cost
        a third of the speed.

        Raises:
            CorruptStateError: the log begins above `low`, or a record fails its checksum.
            RetryableError: no progress for the stall timeout, or the log ends below `high`.
            MisconfiguredError: we may not read it.
        """
        if low >= high:
            return
        self._check_start(partition, low)
        with closing(direct_consumer(self._settings)) as consumer:
            consumer.assign([TopicPartition(self._topic, partition, low)])
            position, moved_at = low, self._monotonic()
            while position < high:
                wanted = min(BATCH_RECORDS, high - position)
                messages, upto = self._collect(consumer, partition, wanted, position)
                entries = [_entry(message, headers=headers) for message in messages]
                if entries and entries[-1].offset >= high:
                    entries = [entry for entry in entries if entry.offset < high]
                if upto > position:
                    position, moved_at = upto, self._monotonic()
                elif self._monotonic() - moved_at > self._stall_timeout_seconds:
                    raise RetryableError(
                        f"{self._topic}[{partition}]: reading {low} to {high} stands at {position} "
                        f"since {self._stall_timeout_seconds:g} s"
                    )
                if entries:
                    yield entries

    def _collect(
        self, consumer: Consumer, partition: int, wanted: int, position: int
    ) -> tuple[list[Message], int]:
        """Give what arrived, and the offset below which nothing is to come any more."""
        messages: list[Message] = []
        for message in consumer.consume(wanted, _COLLECT_SECONDS):
            error = message.error()
            if error is None:
                messages.append(message)
                position = _offset(message) + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                position = max(position, _offset(message))
            else:
                if error.code() in _OUT_OF_RANGE:
                    self._check_start(partition, position)
                self._fail(error, partition, f"offset {position} was read")
        return messages, position

    def _check_start(self, partition: int, low: int) -> None:
        start, _ = self.watermarks(partition)
        if low < start:
            raise CorruptStateError(
                f"{self._topic}[{partition}]: offsets {low} to {start - 1} are gone, "
                f"the log begins at {start}"
            )

    def _fail(self, error: KafkaError, partition: int, when: str) -> NoReturn:
        what = f"{self._topic}[{partition}], when {when}"
        if error.code() in _CORRUPT:
            raise CorruptStateError(f"{what}: {error}")
        raise classified(error, what)


def _entry(message: Message, *, headers: bool) -> LogEntry:
    found = _headers(message) if headers else ()
    return LogEntry(
        _offset(message),
        message.timestamp()[1],
        message.key(),
        message.value(),
        cast("tuple[tuple[str, bytes | None], ...]", found),
    )


def _headers(message: Message) -> tuple[object, ...]:
    try:
        return tuple(message.headers() or ())
    except (SystemError, UnicodeDecodeError):
        # Kafka takes any bytes as a name; confluent-kafka, like aiokafka, reads UTF-8 only.
        logger.warning(
            "%s[%s] %s: a header's name is not UTF-8; the record is taken without its headers",
            message.topic(),
            message.partition(),
            message.offset(),
        )
        return ()


def _offset(message: Message) -> int:
    offset = message.offset()
    if offset is None:
        raise CorruptStateError("a record came without an offset")
    return offset
