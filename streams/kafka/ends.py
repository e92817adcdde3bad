"""Where the partitions of topics begin and end, asked of the broker.

Not asked of one client for good: one that asks while a broker stops learns that a partition has no
leader, and may keep to that when there is one again ("Unknown partition", for ever; librdkafka
2.16). Asking for the topic's metadata anew helps it mostly, another client always.
"""

import time
from collections.abc import Iterable
from contextlib import closing
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streams.kafka.client import classified, direct_consumer
from streams.settings import Settings

# At a round trip of 2 s: a connection, and an answer.
_QUESTION_SECONDS: Final = 6.0
_BETWEEN_QUESTIONS_SECONDS: Final = 0.2


class Ends:
    """Asks for the first and the last offsets of partitions; in any thread."""

    def __init__(self, settings: Settings) -> None:
        """Connect in the background."""
        self._settings = settings
        self._consumer = direct_consumer(settings)

    def close(self) -> None:
        """Close; nothing may be asked afterwards."""
        self._consumer.close()

    def watermarks(
        self, topic: str, partition: int, timeout_seconds: float = 10.0
    ) -> tuple[int, int]:
        """Ask for a partition's first offset and the one after its last.

        Raises:
            RetryableError: no answer in time, or no such partition (librdkafka's error is the same
                for both; `topics check` tells them apart).
            MisconfiguredError: we may not read it.
        """
        place = TopicPartition(topic, partition)
        deadline, left = time.monotonic() + timeout_seconds, timeout_seconds
        while True:
            consumer = self._consumer
            failure = KafkaError(KafkaError._TIMED_OUT)  # noqa: SLF001 - its own name for it
            try:
                found: tuple[int, int] | None = consumer.get_watermark_offsets(
                    place, timeout=min(left, _QUESTION_SECONDS)
                )
            except KafkaException as error:
                found, failure = None, error.args[0]
            if found is not None:
                return found
            # Not closed: others may be asking it.
            if self._consumer is consumer:
                self._consumer = direct_consumer(self._settings)
            left = deadline - time.monotonic()
            if left <= _BETWEEN_QUESTIONS_SECONDS:
                what = f"{topic}[{partition}], when its watermarks were asked for"
                raise classified(failure, what)
            time.sleep(_BETWEEN_QUESTIONS_SECONDS)


def stand_at_ends(
    settings: Settings,
    consumer: Consumer,
    partitions: Iterable[tuple[str, int]],
    timeout_seconds: float = 10.0,
) -> None:
    """Have a consumer read what comes from now on; errors, and seconds, of each as `watermarks`."""
    with closing(Ends(settings)) as ends:
        consumer.assign(
            [
                TopicPartition(*place, ends.watermarks(*place, timeout_seconds)[1])
                for place in partitions
            ]
        )


def time_ms(
    settings: Settings, topic: str, partition: int, offset: int, timeout_seconds: float
) -> int | None:
    """Read the timestamp of the first record from an offset on; None where none comes in time."""
    with closing(direct_consumer(settings)) as consumer:
        consumer.assign([TopicPartition(topic, partition, offset)])
        for message in consumer.consume(1, timeout_seconds):
            if message.error() is None:
                return int(message.timestamp()[1])
    return None
