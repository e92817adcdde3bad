"""Making the topics, the settings and the groups' first offsets; checking a live broker.

Called by `check-dedup topics`, and by every process when it starts.
The declarations are those of `schemas.topics`; nothing here changes a topic that exists.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs export less
    AdminClient,
    ConfigResource,
    NewTopic,
    TopicMetadata,
)

from schemas.codec import (
    UnknownLogRecordError,
    cloudevents_headers,
    decode_log,
    encode_log,
    event_id,
)
from schemas.records import LogRecord, MatchSettings
from schemas.topics import IMAGE_INGESTED, IMAGE_REMOVED, INDEX_LOG, MATCH_ASKED, TOPICS
from streams.errors import MisconfiguredError, RetryableError
from streams.kafka.client import (
    Committed,
    TopicIdentity,
    admin_client,
    classified,
    committed_of,
    producer,
    require_access,
)
from streams.kafka.log import LogReader
from streams.settings import Settings

HASHER_GROUP: Final = "check-dedup-hasher"
MATCHER_GROUP: Final = "check-dedup-matcher"

# What each group commits. A group without a commit would begin at a place that nobody chose.
GROUP_TOPICS: Final[Mapping[str, tuple[str, ...]]] = {
    HASHER_GROUP: (IMAGE_INGESTED, IMAGE_REMOVED),
    MATCHER_GROUP: (INDEX_LOG, MATCH_ASKED),
}

# Kept for an hour: whoever asked waits no longer, so what expires unread is not lost.
EXPIRING_TOPICS: Final = frozenset({MATCH_ASKED})

CREATE: Final = "run check-dedup topics create"
LOG_CONTENT_TYPE: Final = "application/vnd.msgpack"

_ANSWER_SECONDS: Final = 10.0

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Created:
    """What `create` made; empty where all was there already."""

    topics: tuple[str, ...]
    settings: tuple[int, ...]
    """Partitions of `index-log` that got their first settings record."""
    offsets: tuple[tuple[str, str, int], ...]
    """(group, topic, partition) that got their first committed offset, 0."""


def create(
    settings: Settings,
    first: MatchSettings,
    *,
    clock_ms: Callable[[], int],
    new_key: Callable[[], str],
) -> Created:
    """Make every topic, first settings record and committed offset that is not there yet.

    May be repeated, and may run twice at once: both may then append the same first settings
    record, which is harmless (settings are in force from their offset on, and these are equal).
    Two that disagree are found by reading back, and the later one fails.

    Raises:
        MisconfiguredError: a topic has another partition count, or the log other settings.
        RetryableError: the broker does not answer, or a group has members.
    """
    require_access(settings)
    admin = admin_client(settings)
    topics = _create_topics(admin, settings)
    wrong = _wrong_counts(_await_leaders(admin), settings)
    if wrong:
        raise MisconfiguredError("\n".join(wrong))
    first = msgspec.structs.replace(first, partitions=settings.partitions)
    appended = _append_first(settings, first, clock_ms, new_key)
    return Created(topics, appended, _commit_first_offsets(admin, settings))


def renew(
    settings: Settings,
    renewed: MatchSettings,
    *,
    clock_ms: Callable[[], int],
    new_key: Callable[[], str],
) -> dict[int, int]:
    """Append match settings to each partition of `index-log`; give the offsets that they got.

    They are in force from there on: what came before keeps its outcome. A matcher or API that does
    not know their decision version stops there. May be repeated: equal settings change nothing.

    Raises:
        MisconfiguredError: the log is not there, or not as `create` makes it.
        RetryableError: the broker does not answer; some partitions may have them.
    """
    require_access(settings)
    counts = _partition_counts(admin_client(settings))
    if INDEX_LOG not in counts:
        raise MisconfiguredError(f"{INDEX_LOG}: no such topic; {CREATE}")
    wrong = _wrong_counts(counts, settings) + _wrong_settings(settings, counts[INDEX_LOG])
    if wrong:
        raise MisconfiguredError("\n".join(wrong))
    renewed = msgspec.structs.replace(renewed, partitions=settings.partitions)
    name = f"settings {new_key()}"
    return _append(settings, renewed, range(settings.partitions), clock_ms, new_key, name=name)


def check(settings: Settings) -> list[str]:
    """Hold the broker against the declarations; name each problem and its repair.

    Raises:
        RetryableError: the broker does not answer.
        MisconfiguredError: the broker does not take us, or we do not take it.
    """
    require_access(settings)
    admin = admin_client(settings)
    counts = _partition_counts(admin)
    problems = [f"{name}: no such topic; {CREATE}" for name in TOPICS if name not in counts]
    problems += _wrong_counts(counts, settings)
    problems += _wrong_configs(admin, [name for name in TOPICS if name in counts])
    problems += _wrong_settings(settings, counts.get(INDEX_LOG, 0))
    for group, topics in GROUP_TOPICS.items():
        committed = _committed(settings, group, {topic: counts.get(topic, 0) for topic in topics})
        for topic in topics:
            with closing(LogReader(settings, topic)) as reader:
                for partition in range(counts.get(topic, 0)):
                    _, high = reader.watermarks(partition)
                    problem = _wrong_offset(committed[topic, partition], high, reader.identity)
                    if problem:
                        problems.append(f"{group} on {topic}[{partition}]: {problem}")
    return problems


# --- making -----------------------------------------------------------------------------------


def _create_topics(admin: AdminClient, settings: Settings) -> tuple[str, ...]:
    wanted = [
        NewTopic(
            topic.name,
            settings.partitions,
            settings.replication_factor,
            config=topic.config(),
        )
        for topic in TOPICS.values()
    ]
    created = []
    for name, future in admin.create_topics(wanted, request_timeout=_ANSWER_SECONDS).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise classified(error.args[0], f"creating {name}") from error
        else:
            created.append(name)
    return tuple(created)


def _await_leaders(admin: AdminClient) -> dict[str, int]:
    """Wait until each partition can be used, which is a moment after its topic is created."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    while True:
        topics = _metadata(admin)
        leaders = {
            name: [part.leader >= 0 for part in topics[name].partitions.values()]
            for name in TOPICS
            if name in topics
        }
        if len(leaders) == len(TOPICS) and all(all(led) for led in leaders.values()):
            return {name: len(led) for name, led in leaders.items()}
        if time.monotonic() > deadline:
            waiting = sorted(name for name in TOPICS if not all(leaders.get(name, [False])))
            raise RetryableError(f"no leader in {_ANSWER_SECONDS:g} s: {', '.join(waiting)}")
        time.sleep(0.1)


def _append_first(
    settings: Settings,
    first: MatchSettings,
    clock_ms: Callable[[], int],
    new_key: Callable[[], str],
) -> tuple[int, ...]:
    with closing(LogReader(settings, INDEX_LOG)) as reader:
        empty = [
            partition
            for partition in range(settings.partitions)
            if reader.watermarks(partition) == (0, 0)
        ]
        appended = _append(settings, first, empty, clock_ms, new_key, name="first settings")
        for partition, offset in appended.items():
            found = _first_record(reader, partition, 0, offset + 1)
            if found != first:
                raise MisconfiguredError(
                    f"{INDEX_LOG}[{partition}] already begins with {found}; ours, at offset "
                    f"{offset}, says otherwise: {first}. Delete {INDEX_LOG} and {CREATE} once"
                )
    return tuple(empty)


def _append(
    settings: Settings,
    record: MatchSettings,
    partitions: Sequence[int],
    clock_ms: Callable[[], int],
    new_key: Callable[[], str],
    *,
    name: str,
) -> dict[int, int]:
    """Append to each of the partitions; give the offsets that the records got.

    With the partition, `name` makes the record's id.
    """
    failures: list[KafkaError] = []
    offsets: dict[int, int] = {}

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failures.append(error)
        else:
            offsets[message.partition() or 0] = message.offset() or 0

    sender = producer(settings)
    for partition in partitions:
        now_ms = clock_ms()
        sender.produce(
            INDEX_LOG,
            encode_log(record),
            new_key().encode(),
            partition,
            on_delivery=delivered,
            timestamp=now_ms,
            headers=list(
                cloudevents_headers(
                    topic=INDEX_LOG,
                    identifier=event_id(INDEX_LOG, name, partition),
                    source="topics-create",
                    subject="settings",
                    time_ms=now_ms,
                    content_type=LOG_CONTENT_TYPE,
                )
            ),
        )
    sender.flush(_ANSWER_SECONDS)
    if failures:
        raise classified(failures[0], f"appending settings to {INDEX_LOG}")
    if len(offsets) < len(partitions):
        raise RetryableError(f"appending settings to {INDEX_LOG}: no answer")
    return offsets


def _commit_first_offsets(
    admin: AdminClient, settings: Settings
) -> tuple[tuple[str, str, int], ...]:
    made = []
    for group, topics in GROUP_TOPICS.items():
        committed = _committed(settings, group, dict.fromkeys(topics, settings.partitions))
        missing = [place for place, found in committed.items() if found is None]
        if not missing:
            continue
        offsets = [TopicPartition(topic, partition, 0) for topic, partition in missing]
        request = ConsumerGroupTopicPartitions(group, offsets)
        altered = admin.alter_consumer_group_offsets([request], request_timeout=_ANSWER_SECONDS)
        what = f"committing the first offsets of {group}, which must have no members"
        for place in _answer(altered[group], what).topic_partitions:
            if place.error is not None:
                raise classified(place.error, what)
        made += [(group, topic, partition) for topic, partition in missing]
    return tuple(made)


# --- checking ---------------------------------------------------------------------------------


def _wrong_counts(counts: Mapping[str, int], settings: Settings) -> list[str]:
    return [
        f"{name}: has {counts[name]} partitions, CHECK_DEDUP_PARTITIONS says "
        f"{settings.partitions}; set it to what the topic has, or make all topics anew"
        for name in TOPICS
        if name in counts and counts[name] != settings.partitions
    ]


def _wrong_configs(admin: AdminClient, names: Sequence[str]) -> list[str]:
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
    if not resources:
        return []
    described = admin.describe_configs(resources, request_timeout=_ANSWER_SECONDS)
    problems = []
    for resource, future in described.items():
        name = resource.name
        found = _answer(future, f"reading the configuration of {name}")
        for key, wanted in TOPICS[name].config().items():
            if found[key].value != wanted:
                problems.append(
                    f"{name}: {key} is {found[key].value} instead of {wanted}; kafka-configs.sh "
                    f"--alter --entity-type topics --entity-name {name} --add-config {key}={wanted}"
                )
    return problems


def _wrong_settings(settings: Settings, partitions: int) -> list[str]:
    problems = []
    firsts: dict[MatchSettings, list[int]] = {}
    with closing(LogReader(settings, INDEX_LOG)) as reader:
        for partition in range(partitions):
            place = f"{INDEX_LOG}[{partition}]"
            low, high = reader.watermarks(partition)
            if low > 0:
                # Whoever made the log anew would lose the rest of it too.
                problems.append(
                    f"{place}: begins at offset {low}: what came before is gone, and no index can "
                    f"be rebuilt from the rest; restore {INDEX_LOG} from a copy, and keep the "
                    "matchers' data directories, which still hold it"
                )
                continue
            try:
                found = _first_record(reader, partition, low, high)
            except UnknownLogRecordError as error:
                problems.append(f"{place}: its first record is unknown to this program: {error}")
                continue
            if found is None:
                problems.append(f"{place}: no settings record; {CREATE}")
            elif not isinstance(found, MatchSettings):
                problems.append(
                    f"{place}: begins with a {type(found).__name__} record, written before its "
                    f"settings; delete {INDEX_LOG} and {CREATE}"
                )
            else:
                firsts.setdefault(found, []).append(partition)
                if found.partitions != partitions:
                    problems.append(
                        f"{place}: was written with {found.partitions} partitions, the topic has "
                        f"{partitions}: workspaces are on other partitions than their pictures"
                    )
    if len(firsts) > 1:
        problems.append(f"{INDEX_LOG}: partitions begin with different settings: {firsts}")
    return problems


def _first_record(reader: LogReader, partition: int, low: int, high: int) -> LogRecord | None:
    with closing(reader.read_range(partition, low, high)) as batches:
        for batch in batches:
            for entry in batch:
                if entry.value is not None:
                    return decode_log(entry.value)
    return None


def _wrong_offset(
    committed: Committed | None, high: int, identity: Callable[[], TopicIdentity]
) -> str | None:
    """Say what stops a start. What does not, lost records, the process tells that goes on."""
    if committed is None:
        return f"no committed offset; {CREATE}"
    if committed.offset > high and committed.topic_id in (None, identity().topic_id):
        return (
            f"committed {committed.offset}, but the topic ends at {high}: it was truncated; "
            "reset the group's offsets when you know to where"
        )
    return None


# --- asking -----------------------------------------------------------------------------------


def _metadata(admin: AdminClient) -> dict[str, TopicMetadata]:
    try:
        return admin.list_topics(timeout=_ANSWER_SECONDS).topics
    except KafkaException as error:
        raise classified(error.args[0], "listing the topics") from error


def _partition_counts(admin: AdminClient) -> dict[str, int]:
    return {name: len(found.partitions) for name, found in _metadata(admin).items()}


def _committed(
    settings: Settings, group: str, counts: Mapping[str, int]
) -> dict[tuple[str, int], Committed | None]:
    """Give what a group has committed of each partition, None where there is nothing."""
    places = [(topic, part) for topic, count in counts.items() for part in range(count)]
    return committed_of(settings, group, places, _ANSWER_SECONDS)


def _answer(future: "Future[Answer]", what: str) -> Answer:
    try:
        return future.result(_ANSWER_SECONDS)
    except KafkaException as error:
        raise classified(error.args[0], what) from error
    except TimeoutError as error:
        raise RetryableError(f"{what}: no answer in {_ANSWER_SECONDS:g} s") from error
