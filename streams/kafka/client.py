"""The confluent-kafka clients, configured once: log reader, producers, administration.

What differs between clients of one process is theirs to say; where the broker is, and how one
speaks to it, is said here only. Faust has a client of its own, configured by the apps.
"""

# ruff: noqa: SLF001 - librdkafka names its own error codes with an underscore

import logging
import re
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs export less
    AdminClient,
    OffsetSpec,
)

from schemas.topics import LARGEST_MESSAGE_BYTES
from streams.entry import Mark
from streams.errors import MisconfiguredError, RetryableError
from streams.kafka.security import librdkafka_security, tls_context
from streams.settings import Settings

_LOGGER: Final = logging.getLogger(__name__)

# What no waiting repairs; everything else may pass.
_MISCONFIGURED: Final = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError._AUTHENTICATION,
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.MSG_SIZE_TOO_LARGE,
}

# The broker does not take us, or we do not take it. librdkafka itself would try for ever.
_REFUSED: Final = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError._SSL,
}
# A topic's id as the broker writes it; the offset and checksum of a record.
_METADATA: Final = re.compile("([A-Za-z0-9+/_-]{22})(?: ([0-9]{1,19}) ([0-9a-f]{8}))?")

_CONNECTING_SECONDS: Final = 10.0
_CONNECT_POLL_SECONDS: Final = 0.2
_OTHERS_SECONDS: Final = 1.0
_BETWEEN_QUESTIONS_SECONDS: Final = 0.1
_LEAST_SECONDS: Final = 0.1

DIRECT_GROUP: Final = "check-dedup-direct"
"""librdkafka insists on one; it is never joined."""

Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TopicIdentity:
    """What a topic is: one of another id under the same name is another topic."""

    topic_id: str
    partitions: int


@dataclass(frozen=True, slots=True)
class Committed:
    """Up to where a group has processed a partition, and of which log.

    A topic that is made anew is another one: its offsets begin again, and an offset that was
    committed on the earlier one means nothing in it. A log that lost its end and has grown again
    has other records below the offset. Our processes commit the topic's id and the last record's
    mark with each offset, as its metadata.
    """

    offset: int
    topic_id: str | None = None
    """None where the offset was committed without it."""
    last: Mark | None = None
    """Of the last record below the offset that its process had read; None where it had none."""


def producer(
    settings: Settings, *, linger_ms: int = 5, timeout_seconds: float | None = None
) -> Producer:
    """Give a producer that loses, doubles and reorders nothing, and partitions as Faust does.

    A record waits `linger_ms` for others to be sent with, and fails after `timeout_seconds`, by
    default the setting.
    """
    if timeout_seconds is None:
        timeout_seconds = settings.delivery_timeout_seconds
    return Producer(
        {
            **_common(settings),
            # librdkafka's own default is another hash: the same key would land elsewhere.
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "acks": "all",
            "message.max.bytes": LARGEST_MESSAGE_BYTES,
            "delivery.timeout.ms": int(timeout_seconds * 1000),
            "linger.ms": linger_ms,
        },
        logger=_LOGGER,
    )


def direct_consumer(settings: Settings) -> Consumer:
    """Give a consumer that is assigned by hand, joins no group and commits nothing."""
    return Consumer(
        {
            **_common(settings),
            "group.id": DIRECT_GROUP,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # An offset that is not there is an error, never another place to begin.
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            # As aiokafka reads, so that both see the same records.
            "isolation.level": "read_uncommitted",
            "check.crcs": True,
            # Read-ahead is memory: 16 MiB is 0.1 s of the fastest reading measured.
            "queued.max.messages.kbytes": 16 * 1024,
            # When that is full, look again soon; the default of 1 s would be the speed limit.
            "fetch.queue.backoff.ms": 2,
            # At the log's end a fetch waits this long for more, and the next assignment waits for
            # that fetch: 0.2 s and more with the default of 0.5 s, 3 to 12 ms with this.
            "fetch.wait.max.ms": 50,
        },
        logger=_LOGGER,
    )


def admin_client(settings: Settings) -> AdminClient:
    """Give a client for topics and groups."""
    return AdminClient(_common(settings), logger=_LOGGER)


def require_access(settings: Settings, timeout_seconds: float = _CONNECTING_SECONDS) -> None:
    """Find out that a broker answers us: first of all, because only here a refusal is told.

    Raises:
        MisconfiguredError: wrong password or mechanism, or a certificate that is not trusted.
        RetryableError: no answer in time.
    """
    if settings.security_protocol.endswith("SSL"):
        tls_context(settings)  # whose errors name the setting
    said: list[KafkaError] = []
    admin = AdminClient(_common(settings) | {"error_cb": said.append}, logger=_LOGGER)
    began = time.monotonic()
    while True:
        try:
            admin.list_topics(timeout=_CONNECT_POLL_SECONDS)
        except KafkaException as error:
            admin.poll(0)
            refused = [one for one in said if one.code() in _REFUSED]
            waited_seconds = time.monotonic() - began
            # One broker of several that refuses us is no reason to stop.
            if refused and waited_seconds > _OTHERS_SECONDS:
                raise MisconfiguredError(
                    f"KAFKA_BOOTSTRAP_SERVERS={settings.bootstrap_servers}, "
                    f"KAFKA_SECURITY_PROTOCOL={settings.security_protocol}: {refused[0].str()}"
                ) from error
            if waited_seconds > timeout_seconds:
                told = [one for one in said if one.code() != KafkaError._ALL_BROKERS_DOWN]
                last = told[-1] if told else error.args[0]
                raise RetryableError(
                    f"no answer from KAFKA_BOOTSTRAP_SERVERS={settings.bootstrap_servers}, "
                    f"KAFKA_SECURITY_PROTOCOL={settings.security_protocol}, in "
                    f"{timeout_seconds:g} s: {last.str()}"
                ) from error
        else:
            return


def classified(error: KafkaError, what: str) -> MisconfiguredError | RetryableError:
    """Turn Kafka's error into ours, by what to do about it."""
    kind = MisconfiguredError if error.code() in _MISCONFIGURED else RetryableError
    return kind(f"{what}: {error}")


def committed_of(
    settings: Settings,
    group: str,
    places: Iterable[tuple[str, int]],
    timeout_seconds: float = 10.0,
) -> dict[tuple[str, int], Committed | None]:
    """Ask for what a group has committed of partitions; None where it has nothing.

    Not asked of an administration client: where the group's coordinator is about to move, which is
    so while a broker comes back, its `list_consumer_group_offsets` ends the process by a
    segmentation fault (librdkafka 2.16 and earlier, issue 5040).

    Raises:
        RetryableError: no answer in time.
        MisconfiguredError: there is no such topic, or we may not see it.
    """
    asked = [TopicPartition(*place) for place in places]
    if not asked:
        return {}
    what = f"asking for the offsets that {group} committed"
    with closing(Consumer({**_common(settings), "group.id": group}, logger=_LOGGER)) as asker:
        try:
            found = asker.committed(asked, timeout_seconds)
        except KafkaException as error:
            raise classified(error.args[0], what) from error
    for place in found:
        if place.error is not None:
            raise classified(place.error, f"{what} on {place.topic}[{place.partition}]")
    return {
        (place.topic, place.partition): as_committed(place) if place.offset >= 0 else None
        for place in found
    }


def committed(settings: Settings, group: str, topic: str, partition: int) -> Committed | None:
    """Ask for what a group has committed of one partition; errors as those of `committed_of`."""
    return committed_of(settings, group, [(topic, partition)])[topic, partition]


def commit_metadata(topic_id: str, last: Mark | None = None) -> str:
    """Give the metadata to commit with an offset of a topic; `last` as in `Committed`.

    With an end of its own: confluent-kafka reads metadata as a C string, which Kafka's is not.
    """
    if not topic_id:
        return ""
    return f"{topic_id}\0" if last is None else f"{topic_id} {last.offset} {last.checksum:08x}\0"


def as_committed(place: TopicPartition) -> Committed:
    """Give what was committed at a place; metadata that is not ours says nothing."""
    try:
        metadata = place.metadata or ""
    except UnicodeDecodeError:
        metadata = ""
    found = _METADATA.fullmatch(metadata)
    if found is None:
        return Committed(place.offset)
    topic_id, offset, checksum = found.groups()
    last = None if offset is None else Mark(int(offset), int(checksum, 16))
    return Committed(place.offset, topic_id, last)


def committed_offset(settings: Settings, group: str, topic: str, partition: int) -> int | None:
    """Ask for the offset that a group has committed; errors as those of `committed`."""
    found = committed(settings, group, topic, partition)
    return None if found is None else found.offset


def topic_identity(settings: Settings, topic: str, timeout_seconds: float = 10.0) -> TopicIdentity:
    """Ask for what a topic is.

    Raises:
        RetryableError: no answer in time.
        MisconfiguredError: there is no such topic, or we may not see it.
    """
    admin = admin_client(settings)  # kept: a client without a name is gone before the answer
    what = f"describing {topic}"
    left_seconds = _await_controller(admin, topic, timeout_seconds, what)
    answers = admin.describe_topics(TopicCollection([topic]), request_timeout=left_seconds)
    try:
        found = answers[topic].result()
    except KafkaException as error:
        raise classified(error.args[0], what) from error
    return TopicIdentity(str(found.topic_id), len(found.partitions))


def _await_controller(admin: AdminClient, topic: str, timeout_seconds: float, what: str) -> float:
    """Have a client know the controller, and give the seconds that are left.

    Told once that there is none, which is so for a moment when a broker comes back, librdkafka
    waits until its time is over (2.16): it does not ask again of itself.
    """
    deadline = time.monotonic() + timeout_seconds
    while (left_seconds := deadline - time.monotonic()) > 0:
        try:
            if admin.list_topics(topic, timeout=left_seconds).controller_id >= 0:
                return max(_LEAST_SECONDS, deadline - time.monotonic())
        except KafkaException as error:
            raise classified(error.args[0], what) from error
        time.sleep(_BETWEEN_QUESTIONS_SECONDS)
    raise RetryableError(f"{what}: the cluster has had no controller for {timeout_seconds:g} s")


def leader_epochs(
    settings: Settings, topic: str, partitions: Iterable[int], timeout_seconds: float = 10.0
) -> dict[int, int]:
    """Ask how often each partition has got a leader: a log loses its end only when it gets one.

    What gets no answer, or has no leader, is not in it.
    """
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call] # its stubs say no more
    places = {TopicPartition(topic, number): latest for number in partitions}
    admin = admin_client(settings)  # kept: a client without a name is gone before the answer
    epochs = {}
    for place, answer in admin.list_offsets(places, request_timeout=timeout_seconds).items():
        with suppress(KafkaException):
            epoch = answer.result().leader_epoch
            if epoch is not None:
                epochs[place.partition] = epoch
    return epochs


def topic_id(settings: Settings, topic: str) -> str:
    """Ask for a topic's id; errors as those of `topic_identity`."""
    return topic_identity(settings, topic).topic_id


def _common(settings: Settings) -> Config:
    return {
        "bootstrap.servers": settings.bootstrap_servers,
        **librdkafka_security(settings),
        # Only `topics create` makes topics: where a broker makes what is asked for, by default a
        # producer and an administration client would.
        "allow.auto.create.topics": False,
        # A broker that comes back is found at once: librdkafka's default grows to 10 s.
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
    }
