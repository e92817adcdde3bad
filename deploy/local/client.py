"""What Check is to the product: one who publishes events, and one who reads what comes of them.

Used by the demo and the integration tests. Reads as any subscriber would, without a group, from
the ends that the topics had when it was made, and keeps every record as it was delivered.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, cast

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message

from schemas.codec import Headers, cloudevents_headers, encode_json, event_id
from schemas.records import ImageIngested, ImageMatched, ImageRemoved
from schemas.topics import IMAGE_INGESTED, IMAGE_MATCHED, IMAGE_REMOVED, dead_letter_topic_name
from streams.kafka.client import direct_consumer, producer
from streams.kafka.ends import stand_at_ends
from streams.settings import Settings

ANSWER_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05
_BY_KEY: Final = -1


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it was delivered."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    def header(self, name: str) -> str:
        """Give a header's text; empty where there is none."""
        return (dict(self.headers).get(name) or b"").decode()

    @property
    def same(self) -> tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]:
        """What is equal in two deliveries of one event."""
        return self.key, self.value, self.headers

    def outcome(self) -> ImageMatched:
        """Decode a record of `image-matched`."""
        return msgspec.json.decode(self.value or b"", type=ImageMatched)


class Client:
    """Publishes, and remembers all that `topics` said since it was made."""

    def __init__(self, settings: Settings, topics: Sequence[str] | None = None) -> None:
        self._producer = producer(settings)
        self._consumer = direct_consumer(settings)
        names = topics or (IMAGE_MATCHED, dead_letter_topic_name(IMAGE_INGESTED))
        self._records: dict[str, list[Record]] = {name: [] for name in names}
        found = self._consumer.list_topics(timeout=ANSWER_SECONDS).topics
        places = [(name, partition) for name in names for partition in found[name].partitions]
        stand_at_ends(settings, self._consumer, places, ANSWER_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._consumer.close()

    def ingest(self, *events: ImageIngested) -> list[tuple[int, int]]:
        """Publish pictures as Check does; give the partition and offset of each."""
        return self.send(
            *(
                (IMAGE_INGESTED, event.image_id.encode(), encode_json(event), _headers(event))
                for event in events
            )
        )

    def remove(self, workspace: str, image_id: str) -> None:
        """Publish a removal as Check does."""
        event = ImageRemoved(workspace, image_id)
        self.send((IMAGE_REMOVED, workspace.encode(), encode_json(event), _headers(event)))

    def send(
        self, *records: tuple[str, bytes | None, bytes | None, Headers], partition: int = _BY_KEY
    ) -> list[tuple[int, int]]:
        """Publish records (topic, key, value, headers) as they are, and wait for the broker.

        Raises:
            KafkaException: one was refused.
        """
        places: dict[int, tuple[int, int]] = {}
        failures: list[KafkaError] = []

        def delivered(number: int) -> Callable[[KafkaError | None, Message], None]:
            def report(error: KafkaError | None, message: Message) -> None:
                if error is not None:
                    failures.append(error)
                places[number] = (message.partition() or 0, message.offset() or 0)

            return report

        for number, (topic, key, value, headers) in enumerate(records):
            self._producer.produce(
                topic,
                key=key,
                value=value,
                headers=list(headers),
                partition=partition,
                on_delivery=delivered(number),
            )
            self._producer.poll(0)
        left = self._producer.flush(ANSWER_SECONDS)
        if failures or left:
            raise KafkaException(failures[0] if failures else KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001 - its name
        return [places[number] for number in range(len(records))]

    def records(self, topic: str, key: str | None = None) -> list[Record]:
        """What a topic has said so far, of one key or all."""
        return [
            record for record in self._records[topic] if key is None or record.key == key.encode()
        ]

    def outcomes(self, image_id: str) -> list[Record]:
        """The outcomes of one picture so far."""
        return self.records(IMAGE_MATCHED, image_id)

    def dead_letters(self, image_id: str | None = None) -> list[Record]:
        """The dead letters of `image-ingested` so far, of one picture or all."""
        return self.records(dead_letter_topic_name(IMAGE_INGESTED), image_id)

    def ended(self, image_id: str) -> bool:
        """Whether a picture has an outcome or a dead letter."""
        return bool(self.outcomes(image_id) or self.dead_letters(image_id))

    def wait(
        self,
        condition: Callable[[], bool],
        timeout_seconds: float,
        *,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> bool:
        """Read until the condition holds; False where it does not within the time.

        `meanwhile` is called now and then: what it raises ends the wait.
        """
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            meanwhile()
            self._read(_POLL_SECONDS)
        return True

    def _read(self, seconds: float) -> None:
        for message in self._consumer.consume(500, seconds):
            error = message.error()
            if error is None:
                record = _record(message)
                self._records[record.topic].append(record)
            elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - its name
                raise KafkaException(error)


def _record(message: Message) -> Record:
    headers = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    return Record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        key=message.key(),
        value=message.value(),
        headers=tuple(headers),
    )


def _headers(event: ImageIngested | ImageRemoved) -> Headers:
    """Give the headers that Check would: equal for each delivery of one event."""
    topic = IMAGE_INGESTED if isinstance(event, ImageIngested) else IMAGE_REMOVED
    return cloudevents_headers(
        topic=topic,
        identifier=event_id(topic, event.workspace, event.image_id),
        source="client",
        subject=event.image_id,
        time_ms=time.time_ns() // 1_000_000,
        content_type="application/json",
    )
