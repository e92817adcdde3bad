"""`check-dedup canary`: a synthetic picture and its copy go the whole way, every few minutes.

In a workspace of its own, through the same topics as everybody's: what it meets, users meet. Each
round has fresh pictures and removes them at its end. Its numbers are metrics; a broker that
does not answer costs a round, never the process.
"""

import io
import logging
import signal
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from typing import Final, Protocol

import msgspec
import numpy as np
from confluent_kafka import Consumer, KafkaError, Producer
from PIL import Image

from schemas.codec import cloudevents_headers, encode_json, event_id
from schemas.records import ImageIngested, ImageMatched, ImageRemoved
from schemas.topics import IMAGE_INGESTED, IMAGE_MATCHED, IMAGE_REMOVED
from streams.errors import CheckDedupError, RetryableError
from streams.kafka.client import direct_consumer, producer, require_access
from streams.kafka.ends import stand_at_ends
from streams.settings import Settings
from streams.telemetry import metrics
from streams.telemetry.process import Telemetry
from streams.telemetry.registry import Registry

logger = logging.getLogger(__name__)

_ANSWER_SECONDS: Final = 10.0
# A random grid, enlarged, is as unlike any other as two photographs are.
_GRID: Final = (12, 16, 3)
_SIZE: Final = (320, 240)
_COPY_SIZE: Final = (200, 150)


class Path(Protocol):
    """The way of a picture: published, its outcome, removed. `KafkaPath` is the real one."""

    def publish(self, image_id: str, content: bytes, /) -> None:
        """Publish a picture. Raises RetryableError."""
        ...

    def outcome(self, image_id: str, timeout_seconds: float, /) -> ImageMatched | None:
        """Wait for a picture's outcome; None where there is none in time. Raises RetryableError."""
        ...

    def remove(self, image_id: str, /) -> None:
        """Remove a picture. Raises RetryableError."""
        ...


class Canary:
    """Rounds, and what is told of them."""

    def __init__(
        self,
        registry: Registry,
        path: Path,
        *,
        timeout_seconds: float,
        random: np.random.Generator,
        new_id: Callable[[], str] = lambda: f"canary-{uuid.uuid4().hex}",
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the path; a picture without an outcome for `timeout_seconds` is lost."""
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._random = random
        self._new_id = new_id
        self._clock = clock
        self._wall_clock = wall_clock
        self._latency = registry.histogram(metrics.CANARY_LATENCY_SECONDS)
        self._rounds = registry.counter(metrics.CANARY_ROUNDS_TOTAL)
        self._lost = registry.counter(metrics.CANARY_LOST_TOTAL)
        self._wrong = registry.counter(metrics.CANARY_WRONG_TOTAL)
        self._last_success = registry.gauge(metrics.CANARY_LAST_SUCCESS_TIMESTAMP_SECONDS)

    def round(self) -> bool:
        """Send a picture and its copy, look at their outcomes, remove both; True if all is well."""
        self._rounds.inc()
        sent: list[str] = []
        try:
            outcomes = []
            for content in picture_and_copy(self._random):
                image_id = self._new_id()
                sent.append(image_id)
                outcome = self._sent(image_id, content)
                if outcome is None:
                    return False
                outcomes.append(outcome)
            original, copy = outcomes
            found = [match.image_id for match in copy.matches]
            if original.matches or not copy.match or found != sent[:1]:
                logger.error(
                    "wrong: picture %s matched %s, its copy %s matched %s",
                    sent[0],
                    [match.image_id for match in original.matches],
                    sent[1],
                    found,
                )
                self._wrong.inc()
                return False
            self._last_success.set(self._wall_clock())
            return True
        finally:
            self._remove(sent)

    def _sent(self, image_id: str, content: bytes) -> ImageMatched | None:
        began = self._clock()
        try:
            self._path.publish(image_id, content)
            outcome = self._path.outcome(image_id, self._timeout_seconds)
        except RetryableError as error:
            logger.warning("the round is given up: %s", error)
            outcome = None
        if outcome is None:
            logger.error("lost: no outcome of picture %s", image_id)
            self._lost.inc()
        else:
            self._latency.observe(self._clock() - began)
        return outcome

    def _remove(self, image_ids: list[str]) -> None:
        try:
            for image_id in image_ids:
                self._path.remove(image_id)
        except RetryableError as error:
            logger.warning("not removed: %s", error)


class KafkaPath:
    """The path through the topics, as Check takes it."""

    def __init__(self, settings: Settings) -> None:
        """Connect in the background."""
        self._settings = settings
        self._workspace = settings.canary_workspace
        self._producer: Producer = producer(settings, linger_ms=0)
        self._consumer: Consumer = direct_consumer(settings)
        self._stands = False

    def close(self) -> None:
        """Close."""
        self._consumer.close()

    def publish(self, image_id: str, content: bytes, /) -> None:
        """Publish a picture, and hear from now on of outcomes."""
        if not self._stands:
            self._stand_at_ends()
        event = ImageIngested(self._workspace, image_id, content=content)
        self._send(IMAGE_INGESTED, image_id, encode_json(event), image_id)

    def outcome(self, image_id: str, timeout_seconds: float, /) -> ImageMatched | None:
        """Read outcomes until it is this picture's."""
        deadline = time.monotonic() + timeout_seconds
        while (left := deadline - time.monotonic()) > 0:
            message = self._consumer.poll(left)
            if message is None:
                continue
            error = message.error()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - its name
                    self._stands = False
                    raise RetryableError(f"outcomes cannot be read: {error}")
            elif message.key() == image_id.encode():
                outcome = msgspec.json.decode(message.value() or b"", type=ImageMatched)
                if outcome.workspace == self._workspace:
                    return outcome
        return None

    def remove(self, image_id: str, /) -> None:
        """Publish a removal."""
        event = ImageRemoved(self._workspace, image_id)
        self._send(IMAGE_REMOVED, self._workspace, encode_json(event), image_id)

    def rest(self) -> None:
        """Read nothing until the next round: others' outcomes are not to be fetched for nothing."""
        self._consumer.unassign()
        self._stands = False

    def _stand_at_ends(self) -> None:
        places = [(IMAGE_MATCHED, partition) for partition in range(self._settings.partitions)]
        stand_at_ends(self._settings, self._consumer, places, _ANSWER_SECONDS)
        self._stands = True

    def _send(self, topic: str, key: str, value: bytes, image_id: str) -> None:
        failures: list[KafkaError] = []
        headers = cloudevents_headers(
            topic=topic,
            identifier=event_id(topic, self._workspace, image_id),
            source="canary",
            subject=image_id,
            time_ms=time.time_ns() // 1_000_000,
            content_type="application/json",
        )
        self._producer.produce(
            topic,
            key=key,
            value=value,
            headers=list(headers),
            on_delivery=lambda error, _: failures.append(error) if error is not None else None,
        )
        left = self._producer.flush(_ANSWER_SECONDS)
        if left or failures:
            # What is late may still come: it is a picture in our own workspace, and removed.
            self._producer.purge()
            raise RetryableError(f"{topic}: {failures[0] if failures else 'no answer in time'}")


def picture_and_copy(random: np.random.Generator) -> tuple[bytes, bytes]:
    """Make a picture that nobody has seen, and a smaller copy of it, compressed harder."""
    grid = random.integers(0, 256, _GRID, dtype=np.uint8)
    picture = Image.fromarray(grid).resize(_SIZE, Image.Resampling.BICUBIC)
    return _jpeg(picture, 90), _jpeg(picture.resize(_COPY_SIZE), 60)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    with io.BytesIO() as file:
        picture.save(file, "JPEG", quality=quality)
        return file.getvalue()


def run_canary(settings: Settings) -> None:
    """Make rounds until told to stop.

    Raises:
        MisconfiguredError: Kafka refuses us, or metrics cannot be served.
        RetryableError: Kafka does not answer at the start.
    """
    telemetry = Telemetry("canary", settings)
    require_access(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with closing(KafkaPath(settings)) as path:
        canary = Canary(
            telemetry.registry,
            path,
            timeout_seconds=settings.canary_timeout_seconds,
            random=np.random.default_rng(),
        )
        telemetry.probes.started()
        while not stop.is_set():
            began = time.monotonic()
            try:
                logger.info("round: %s", "as it must be" if canary.round() else "not well")
            except CheckDedupError as error:
                logger.warning("round: %s", error)
            path.rest()
            stop.wait(max(0.0, began + settings.canary_interval_seconds - time.monotonic()))
