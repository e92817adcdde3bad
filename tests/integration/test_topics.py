"""`topics create` and `topics check` on a real broker: all is made, or named."""

import functools
import itertools
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs export less
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
)

from agents.decide import default_match_settings
from deploy.local.broker import Broker
from schemas.codec import decode_log, encode_log
from schemas.records import MatchSettings, Removed, Source
from schemas.topics import IMAGE_INGESTED, IMAGE_MATCHED, INDEX_LOG, MATCH_ASKED, TOPICS
from streams.entry import LogEntry
from streams.errors import MisconfiguredError, RetryableError
from streams.kafka import topics
from streams.kafka.client import admin_client, direct_consumer, producer, topic_id
from streams.kafka.log import LogReader
from streams.settings import Settings
from tests.waiting import wait_until

PARTITIONS = 3
FIRST = default_match_settings(PARTITIONS)
NOW_MS = 1_764_000_000_000
# Kafka deletes what groups have committed with the topic.
NO_OFFSETS = [
    f"check-dedup-matcher on index-log[{n}]: no committed offset" for n in range(PARTITIONS)
]
NO_GROUP = [
    *NO_OFFSETS,
    *[f"check-dedup-matcher on match-asked[{n}]: no committed offset" for n in range(PARTITIONS)],
]


@functools.cache
def admin_of(settings: Settings) -> AdminClient:
    """Give a client that lives on: one without a name is gone before the answer."""
    return admin_client(settings)


@pytest.fixture
def settings(own_broker: Broker) -> Settings:
    """Point at a broker without any of our topics and groups."""
    found = Settings(bootstrap_servers=own_broker.bootstrap, partitions=PARTITIONS)
    admin = admin_of(found)
    for future in (
        *admin.delete_topics(list(TOPICS)).values(),
        *admin.delete_consumer_groups(list(topics.GROUP_TOPICS)).values(),
    ):
        with suppress(KafkaException):
            future.result(30)
    # The broker answers before all of it has forgotten the topics.
    wait_until(lambda: TOPICS.keys().isdisjoint(admin.list_topics(timeout=10).topics), 30)
    return found


def create(settings: Settings, first: MatchSettings = FIRST) -> topics.Created:
    """Create with a fixed clock and random keys."""
    return topics.create(settings, first, clock_ms=lambda: NOW_MS, new_key=lambda: uuid.uuid4().hex)


def renew(settings: Settings) -> dict[int, int]:
    """Renew with a fixed clock and random keys."""
    return topics.renew(settings, FIRST, clock_ms=lambda: NOW_MS, new_key=lambda: uuid.uuid4().hex)


def log_of(settings: Settings, partition: int) -> list[LogEntry]:
    """Read a whole partition of `index-log`."""
    with closing(LogReader(settings, INDEX_LOG)) as reader:
        low, high = reader.watermarks(partition)
        batches = reader.read_range(partition, low, high, headers=True)
        return [entry for batch in batches for entry in batch]


def append(settings: Settings, topic: str, value: bytes, partition: int = 0) -> None:
    """Append a record."""
    sender = producer(settings)
    sender.produce(topic, value, b"key", partition)
    assert sender.flush(30) == 0


def commit(settings: Settings, group: str, topic: str, partition: int, offset: int) -> None:
    """Commit an offset as an operator would."""
    admin = admin_of(settings)
    request = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, partition, offset)])
    admin.alter_consumer_group_offsets([request])[group].result(30)


class TestCreate:
    """What `create` makes."""

    def test_from_nothing(self, settings: Settings) -> None:
        """On an empty broker all is made, and the check finds nothing to say."""
        created = create(settings)
        assert set(created.topics) == set(TOPICS)
        assert created.settings == tuple(range(PARTITIONS))
        assert len(created.offsets) == 4 * PARTITIONS
        assert topics.check(settings) == []

    def test_again(self, settings: Settings) -> None:
        """The second time nothing is made."""
        create(settings)
        assert create(settings) == topics.Created((), (), ())
        assert [len(log_of(settings, partition)) for partition in range(PARTITIONS)] == [1] * 3

    def test_what_is_missing(self, settings: Settings) -> None:
        """After half of it, the other half is made."""
        create(settings)
        admin_of(settings).delete_topics([IMAGE_MATCHED])[IMAGE_MATCHED].result(30)
        assert create(settings).topics == (IMAGE_MATCHED,)
        assert topics.check(settings) == []

    def test_first_settings(self, settings: Settings) -> None:
        """Each partition of the log begins with the settings, under a key and id of its own."""
        create(settings, msgspec.structs.replace(FIRST, partitions=99))
        entries = [entry for part in range(PARTITIONS) for entry in log_of(settings, part)]
        assert [decode_log(entry.value or b"") for entry in entries] == [FIRST] * PARTITIONS
        assert len({entry.key for entry in entries}) == PARTITIONS
        headers = [dict(entry.headers) for entry in entries]
        assert len({header["ce_id"] for header in headers}) == PARTITIONS
        assert {header["ce_time"] for header in headers} == {b"2025-11-24T16:00:00.000Z"}
        # The broker's own time, whatever ours is.
        assert all(entry.timestamp_ms > NOW_MS for entry in entries)

    def test_keys_are_passed_in(self, settings: Settings) -> None:
        """The keys come from the source of ids that the caller gave."""
        keys = map(str, itertools.count())
        topics.create(settings, FIRST, clock_ms=lambda: NOW_MS, new_key=lambda: next(keys))
        found = [entry.key for part in range(PARTITIONS) for entry in log_of(settings, part)]
        assert found == [b"0", b"1", b"2"]

    def test_later_defaults_change_nothing(self, settings: Settings) -> None:
        """A release with other defaults leaves the settings that the log has."""
        create(settings)
        assert create(settings, msgspec.structs.replace(FIRST, radius=3)).settings == ()
        assert topics.check(settings) == []

    def test_two_at_once(self, settings: Settings) -> None:
        """Two that agree leave a broker with which the check is content."""
        errors: list[BaseException] = []

        def run() -> None:
            try:
                create(settings)
            except BaseException as error:  # noqa: BLE001 - handed to the test
                errors.append(error)

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert topics.check(settings) == []
        for partition in range(PARTITIONS):
            records = [decode_log(entry.value or b"") for entry in log_of(settings, partition)]
            assert set(records) == {FIRST}

    def test_two_that_disagree(self, settings: Settings) -> None:
        """Of two that disagree and meet on an empty log, the later one fails and names both."""
        create(settings)
        admin_of(settings).delete_topics([INDEX_LOG])[INDEX_LOG].result(30)
        other = msgspec.structs.replace(FIRST, radius=3)

        def while_the_other_appends() -> str:
            append(settings, INDEX_LOG, encode_log(other))
            return "key"

        with pytest.raises(MisconfiguredError, match=r"already begins with .*radius=3"):
            topics.create(settings, FIRST, clock_ms=lambda: NOW_MS, new_key=while_the_other_appends)

    def test_other_partition_count(self, settings: Settings) -> None:
        """A topic with another partition count is refused before anything is written."""
        admin_of(settings).create_topics([NewTopic(INDEX_LOG, 5, 1)])[INDEX_LOG].result(30)
        with pytest.raises(MisconfiguredError, match="index-log: has 5 partitions"):
            create(settings)
        assert log_of(settings, 0) == []

    def test_offsets_are_kept(self, settings: Settings) -> None:
        """An offset that a group has committed stays."""
        create(settings)
        append(settings, IMAGE_INGESTED, b"{}")
        commit(settings, topics.HASHER_GROUP, IMAGE_INGESTED, 0, 1)
        assert create(settings).offsets == ()
        assert topics.check(settings) == []

    def test_no_broker(self) -> None:
        """Without a broker, the error says that one can try again."""
        nowhere = Settings(bootstrap_servers="127.0.0.1:1")
        with pytest.raises(RetryableError):
            topics.check(nowhere)


class TestRenew:
    """Other settings, from a place in the log on."""

    def test_settings_are_appended(self, settings: Settings) -> None:
        """To each partition, with keys and ids of their own; again, too."""
        earlier = msgspec.structs.replace(FIRST, decision_version=3)
        create(settings, earlier)
        for times in (1, 2):
            assert renew(settings) == dict.fromkeys(range(PARTITIONS), times)
        for partition in range(PARTITIONS):
            entries = log_of(settings, partition)
            found = [decode_log(entry.value or b"") for entry in entries]
            assert found == [earlier, FIRST, FIRST]
            assert len({entry.key for entry in entries}) == 3
            assert len({dict(entry.headers)["ce_id"] for entry in entries}) == 3
        assert topics.check(settings) == []

    def test_a_log_that_is_not_there(self, settings: Settings) -> None:
        """Nothing is appended, and the repair is named."""
        with pytest.raises(MisconfiguredError, match="topics create"):
            renew(settings)

    def test_another_partition_count(self, settings: Settings) -> None:
        """Settings for other partitions would stop every matcher."""
        create(settings)
        with pytest.raises(MisconfiguredError, match="CHECK_DEDUP_PARTITIONS"):
            renew(replace(settings, partitions=PARTITIONS + 1))
        assert len(log_of(settings, 0)) == 1


def change_config(settings: Settings, topic: str, name: str, value: str) -> None:
    """Change one configuration value of a topic."""
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin_of(settings).incremental_alter_configs([resource])[resource].result(30)


def delete_topic(settings: Settings, topic: str) -> None:
    """Delete a topic."""
    admin_of(settings).delete_topics([topic])[topic].result(30)


def make_anew(settings: Settings, partitions: int) -> None:
    """Make `index-log` anew, empty."""
    delete_topic(settings, INDEX_LOG)
    admin = admin_of(settings)
    topic = NewTopic(INDEX_LOG, partitions, 1, config=TOPICS[INDEX_LOG].config())
    admin.create_topics([topic])[INDEX_LOG].result(30)


def add_partitions(settings: Settings) -> None:
    """Give `index-log` two partitions more."""
    admin = admin_of(settings)
    admin.create_partitions([NewPartitions(INDEX_LOG, PARTITIONS + 2)])[INDEX_LOG].result(30)


def log_without_settings(settings: Settings) -> None:
    """Let somebody write to the log before its settings."""
    make_anew(settings, PARTITIONS)
    record = Removed(1, "w", "i", Source("image-removed", 0, 0))
    append(settings, INDEX_LOG, encode_log(record))


def log_of_the_future(settings: Settings) -> None:
    """Begin the log with a record that this program does not know."""
    make_anew(settings, PARTITIONS)
    append(settings, INDEX_LOG, b"\x81\xa4type\xa6merged")


def different_settings(settings: Settings) -> None:
    """Begin two partitions of the log with different settings."""
    make_anew(settings, PARTITIONS)
    for partition in range(PARTITIONS):
        record = msgspec.structs.replace(FIRST, radius=partition + 1)
        append(settings, INDEX_LOG, encode_log(record), partition)


def forget_offsets(settings: Settings) -> None:
    """Delete a group with what it has committed."""
    group = topics.MATCHER_GROUP
    admin_of(settings).delete_consumer_groups([group])[group].result(30)


def lose_records(settings: Settings) -> None:
    """Move a topic's start above what is committed."""
    append(settings, IMAGE_INGESTED, b"{}")
    admin = admin_of(settings)
    for future in admin.delete_records([TopicPartition(IMAGE_INGESTED, 0, 1)]).values():
        future.result(30)


def expire_questions(settings: Settings) -> None:
    """Let a question expire that the matcher has not read."""
    append(settings, MATCH_ASKED, b"{}")
    admin = admin_of(settings)
    for future in admin.delete_records([TopicPartition(MATCH_ASKED, 0, 1)]).values():
        future.result(30)


@pytest.mark.parametrize(
    ("damage", "problems"),
    [
        (lambda s: delete_topic(s, IMAGE_MATCHED), ["image-matched: no such topic"]),
        (
            lambda s: change_config(s, INDEX_LOG, "cleanup.policy", "delete"),
            ["index-log: cleanup.policy is delete instead of compact"],
        ),
        (
            lambda s: change_config(s, IMAGE_INGESTED, "retention.ms", "1000"),
            ["image-ingested: retention.ms is 1000 instead of 1209600000"],
        ),
        (
            lambda s: change_config(s, "image-ingested-dlq", "max.message.bytes", "1000"),
            ["image-ingested-dlq: max.message.bytes is 1000 instead of 1114112"],
        ),
        (
            add_partitions,
            [
                "index-log: has 5 partitions, CHECK_DEDUP_PARTITIONS says 3",
                *[f"index-log[{n}]: was written with 3 partitions, the topic has 5" for n in "012"],
                *[f"index-log[{n}]: no settings record" for n in "34"],
                *[f"check-dedup-matcher on index-log[{n}]: no committed offset" for n in "34"],
            ],
        ),
        (
            lambda s: make_anew(s, PARTITIONS),
            [*[f"index-log[{n}]: no settings record" for n in "012"], *NO_OFFSETS],
        ),
        (
            log_without_settings,
            [
                "index-log[0]: begins with a Removed record",
                *[f"index-log[{n}]: no settings record" for n in "12"],
                *NO_OFFSETS,
            ],
        ),
        (
            log_of_the_future,
            [
                "index-log[0]: its first record is unknown to this program",
                *[f"index-log[{n}]: no settings record" for n in "12"],
                *NO_OFFSETS,
            ],
        ),
        (different_settings, ["index-log: partitions begin with different settings", *NO_OFFSETS]),
        (forget_offsets, NO_GROUP),
        (expire_questions, []),
        (
            lambda s: commit(s, topics.MATCHER_GROUP, INDEX_LOG, 2, 9),
            ["check-dedup-matcher on index-log[2]: committed 9, but the topic ends at 1"],
        ),
        # The hasher tells it, and goes on with what there is.
        (lose_records, []),
    ],
)
def test_check(settings: Settings, damage: Callable[[Settings], None], problems: list[str]) -> None:
    """Each problem is named, and nothing else is."""
    create(settings)
    damage(settings)
    found = topics.check(settings)
    assert len(found) == len(problems)
    for problem in problems:
        assert any(text.startswith(problem) for text in found), (problem, found)


def test_check_without_topics(settings: Settings) -> None:
    """On an empty broker every topic is missing, and that is all."""
    assert sorted(text.partition(":")[0] for text in topics.check(settings)) == sorted(TOPICS)


def test_first_offsets_of_a_running_group(settings: Settings) -> None:
    """While a group has members, its first offsets are not forced on it: that can be retried."""
    create(settings)
    forget_offsets(settings)
    member = Consumer(
        {"bootstrap.servers": settings.bootstrap_servers, "group.id": topics.MATCHER_GROUP}
    )
    member.subscribe([INDEX_LOG])
    while not member.assignment():
        member.poll(0.1)
    try:
        with pytest.raises(RetryableError, match="must have no members"):
            create(settings)
    finally:
        member.close()


def test_no_client_makes_a_topic_by_asking_for_it(tmp_path: Path) -> None:
    """Also where the broker would: such a topic has neither our partitions nor our policies."""
    with Broker(tmp_path, properties="auto.create.topics.enable=true\n") as broker:
        settings = Settings(bootstrap_servers=broker.bootstrap, partitions=PARTITIONS)
        producer(settings).list_topics(IMAGE_INGESTED, 10)
        admin_of(settings).list_topics(IMAGE_INGESTED, 10)
        direct_consumer(settings).list_topics(IMAGE_INGESTED, 10)
        with pytest.raises(MisconfiguredError):
            topic_id(settings, IMAGE_INGESTED)
        time.sleep(1)  # it would be made meanwhile
        assert IMAGE_INGESTED not in admin_of(settings).list_topics(timeout=10).topics


def test_topic_id(settings: Settings) -> None:
    """A topic that was made anew under its old name has another id."""
    create(settings)
    before = topic_id(settings, INDEX_LOG)
    assert topic_id(settings, INDEX_LOG) == before
    make_anew(settings, PARTITIONS)
    assert topic_id(settings, INDEX_LOG) != before
