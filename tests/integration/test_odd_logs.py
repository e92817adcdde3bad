"""What the processes do where a log is not as it should be: the named thing, and they say so.

One system for all: each test begins with all processes at work and leaves them so.
"""

import os
import re
import shutil
import struct
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain

import aiokafka
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import OffsetAndMetadata
from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import NewPartitions, NewTopic  # type: ignore[attr-defined] # its stubs

from deploy.local.broker import Broker
from deploy.local.client import Client
from deploy.local.stack import COMMAND, Member, Stack, without_settings
from schemas.codec import encode_json, encode_log
from schemas.records import Hashed, ImageIngested
from schemas.topics import IMAGE_INGESTED, IMAGE_REMOVED, INDEX_LOG, TOPICS
from streams.delivery import Outgoing
from streams.errors import RetryableError
from streams.evaluation.matching_rate import TWO_VIEWS, made_fingerprint
from streams.kafka.client import Committed, admin_client, commit_metadata, committed, topic_id
from streams.kafka.ends import Ends
from streams.kafka.log import LogReader
from streams.kafka.producer import DeliveringProducer
from streams.kafka.topics import HASHER_GROUP, MATCHER_GROUP
from streams.telemetry.scrape import Scrape
from tests.integration.pictures import copy_file, photograph_file
from tests.waiting import wait_until

WAIT_SECONDS = 60.0
ANSWER_SECONDS = 30.0
SETTINGS = {
    "CHECK_DEDUP_PARTITIONS": "1",
    "CHECK_DEDUP_DECODE_PROCESSES": "1",
    "CHECK_DEDUP_SESSION_TIMEOUT_SECONDS": "6",
}
LAST_LINES = 3
LOST = "check_dedup_lost_ranges_total"


class System:
    """A hasher, a matcher, and one who publishes."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.hasher, self.matcher = stack.members
        self.admin = admin_client(stack.settings)
        self.client = Client(stack.settings)

    def begin(self) -> None:
        """Have everything at work, on new topics where the old ones are not sound."""
        if "all topics are as declared" not in self.stack.try_command("topics", "check").stdout:
            self.start_over()
        self.stack.start()
        self.stack.await_ready()

    def start_over(self) -> None:
        """Stop all, and forget all that is in Kafka and on disk."""
        for member in self.stack.members:
            self.stop(member)
        ours = [name for name in self.client._consumer.list_topics().topics if name in TOPICS]
        for future in self.admin.delete_topics(ours).values():
            future.result(ANSWER_SECONDS)
        for group in (HASHER_GROUP, MATCHER_GROUP):
            self.forget(group)
        shutil.rmtree(self.stack.directory / "data" / self.matcher.name)
        self.stack.command("topics", "create")
        self.client = Client(self.stack.settings)

    def stop(self, member: Member) -> None:
        """Stop one process, where it runs."""
        if (process := member.process()) is not None:
            process.terminate()
            assert member.wait(WAIT_SECONDS) is not None

    def end_of(self, member: Member) -> str:
        """Wait for a process to end by an error; give what it said at last."""
        assert member.wait(WAIT_SECONDS) == 1, member.log_tail()
        return "".join(member.log.read_text().splitlines(keepends=True)[-LAST_LINES:])

    def publish(self, *contents: bytes) -> list[str]:
        """Publish pictures inline; give their ids."""
        events = [ImageIngested("w", uuid.uuid4().hex, content=content) for content in contents]
        self.client.ingest(*events)
        return [event.image_id for event in events]

    def await_ended(self, *image_ids: str) -> None:
        """Wait until each picture has an outcome or a dead letter."""
        assert self.client.wait(
            lambda: all(self.client.ended(image_id) for image_id in image_ids),
            WAIT_SECONDS,
            meanwhile=self.stack.require_alive,
        ), [self.hasher.log_tail(), self.matcher.log_tail()]

    def await_true(self, holds: Callable[[], bool]) -> None:
        """Wait for a condition."""
        wait_until(holds, WAIT_SECONDS, told=lambda: [m.log_tail() for m in self.stack.members])

    def committed(self, topic: str = IMAGE_INGESTED, group: str = HASHER_GROUP) -> Committed | None:
        """Ask for what is committed."""
        return committed(self.stack.settings, group, topic, 0)

    def await_all_committed(self, topic: str = IMAGE_INGESTED, group: str = HASHER_GROUP) -> int:
        """Wait until all of a topic is; give its end."""
        with closing(LogReader(self.stack.settings, topic)) as reader:
            _, end = reader.watermarks(0)
        self.await_true(
            lambda: (found := self.committed(topic, group)) is not None and found.offset == end
        )
        return end

    def lose_end(self, broker: Broker, topic: str, end: int) -> None:
        """Have the broker killed, and a log cut off before it is back."""
        broker.kill()
        truncate(broker, topic, end)
        broker.start()
        # One that lived through a kill -9 was seen to get no answer about groups, for ever.
        self.admin = admin_client(self.stack.settings)
        self.client = Client(self.stack.settings)

    def commit(self, group: str, topic: str, offset: int) -> None:
        """Commit for a group without members, as an operator does."""

        def done() -> bool:
            place = TopicPartition(topic, 0, offset)
            request = ConsumerGroupTopicPartitions(group, [place])
            asked = self.admin.alter_consumer_group_offsets([request])[group]
            return asked.result(ANSWER_SECONDS).topic_partitions[0].error is None

        self.await_true(done)

    def forget(self, group: str) -> None:
        """Delete a group without members, with all that it committed."""

        def done() -> bool:
            try:
                self.admin.delete_consumer_groups([group])[group].result(ANSWER_SECONDS)
            except KafkaException as error:
                return bool(error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND)
            return True

        self.await_true(done)

    def make_anew(self, topic: str) -> None:
        """Delete a topic, and make another one of its name."""
        self.admin.delete_topics([topic])[topic].result(ANSWER_SECONDS)
        made = NewTopic(topic, 1, 1, config=TOPICS[topic].config())
        # Kafka deletes in the background for a moment.
        self.await_true(lambda: topic not in self.client._consumer.list_topics().topics)
        self.admin.create_topics([made])[topic].result(ANSWER_SECONDS)

    def lost(self, topic: str, cause: str) -> float:
        """Read how often the hasher counted a loss."""
        return Scrape.of(self.hasher.metrics_url).total(LOST, topic=topic, cause=cause)


@pytest.fixture(scope="module")
def stack(own_broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Give a stack that is not started."""
    found = Stack(
        tmp_path_factory.mktemp("stack"),
        broker=own_broker,
        settings=SETTINGS,
        environment=without_settings(os.environ),
    )
    found.command("topics", "create")
    # Dynamic members: what stops has left its group at once.
    found._members = [
        found.member(f"{role}-1", [str(COMMAND), role], {"CHECK_DEDUP_INSTANCE_ID": ""})
        for role in ("hasher", "matcher")
    ]
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture
def system(stack: Stack) -> System:
    """Give the system, at work."""
    found = System(stack)
    found.begin()
    return found


def test_odd_keys_and_headers_end_nobody(system: System) -> None:
    """A header's name that is not UTF-8, one without a value, an empty key, no key.

    librdkafka sends them all. The event is processed or a dead letter, and so is the next one.
    """
    odd = uuid.uuid4().hex
    value = encode_json(ImageIngested("w", odd, content=photograph_file(1)))
    headers = (b"-H", b"name\xff\xfe=1", b"-H", b"null", b"-H", b"empty=")
    to = (b"-P", b"-b", system.stack.bootstrap.encode(), b"-t", IMAGE_INGESTED.encode())
    command = [b"kcat", *to, b"-k", odd.encode(), *headers]
    subprocess.run(command, input=value, check=True, timeout=ANSWER_SECONDS)
    system.client.send(
        (IMAGE_INGESTED, b"", value, ()),
        (IMAGE_INGESTED, None, value, ()),
        (IMAGE_INGESTED, odd.encode(), value, (("null", None), ("empty", b""))),
    )
    system.await_ended(odd, *system.publish(photograph_file(2)))
    assert len({record.same for record in system.client.outcomes(odd)}) == 1
    letters = [each for each in system.client.dead_letters() if each.value == value]
    assert [(each.key, each.header("dlq-reason")) for each in letters] == [
        (b"", "key_missing"),
        (None, "key_missing"),
    ]


def test_transaction_markers_are_no_events(system: System) -> None:
    """A producer with transactions leaves offsets that nobody is given; they are passed over."""
    producer = Producer(
        {"bootstrap.servers": system.stack.bootstrap, "transactional.id": uuid.uuid4().hex}
    )
    producer.init_transactions(ANSWER_SECONDS)
    producer.begin_transaction()
    event = ImageIngested("w", uuid.uuid4().hex, content=photograph_file(3))
    producer.produce(IMAGE_INGESTED, encode_json(event), event.image_id.encode())
    producer.commit_transaction(ANSWER_SECONDS)
    system.await_ended(event.image_id)
    system.await_all_committed()


def test_a_topic_that_is_made_anew_under_a_running_hasher(system: System) -> None:
    """Its offsets begin again: the hasher says so, counts it, and reads it from its beginning."""
    system.await_ended(*system.publish(*map(photograph_file, range(10, 15))))
    process, before = system.hasher.process(), system.lost(IMAGE_INGESTED, "made_anew")
    system.make_anew(IMAGE_INGESTED)
    system.await_ended(*system.publish(photograph_file(20), photograph_file(21)))
    assert system.hasher.process() == process
    assert system.lost(IMAGE_INGESTED, "made_anew") == before + 1
    said = system.hasher.log.read_text()
    assert "image-ingested[0]: its topic was deleted and made anew" in said
    now = topic_id(system.stack.settings, IMAGE_INGESTED)
    with closing(LogReader(system.stack.settings, IMAGE_INGESTED)) as reader:
        (last,) = chain(*reader.read_range(0, 1, 2))
    system.await_true(lambda: system.committed() == Committed(2, now, last.mark))


async def test_an_offset_of_a_topic_that_is_gone_means_nothing(system: System) -> None:
    """A commit that comes after the topic was made anew hides none of its records."""
    before = topic_id(system.stack.settings, IMAGE_INGESTED)
    system.stop(system.hasher)
    system.make_anew(IMAGE_INGESTED)
    events = system.publish(*map(photograph_file, range(30, 33)))
    late = AIOKafkaConsumer(
        bootstrap_servers=system.stack.bootstrap, group_id=HASHER_GROUP, enable_auto_commit=False
    )
    await late.start()
    place = aiokafka.TopicPartition(IMAGE_INGESTED, 0)
    late.assign([place])
    await late.commit({place: OffsetAndMetadata(2, commit_metadata(before))})
    await late.stop()
    assert system.committed() == Committed(2, before)
    system.hasher.start()
    system.await_ended(*events)
    assert system.lost(IMAGE_INGESTED, "made_anew") == 1


def test_records_that_expired_before_they_were_read(system: System) -> None:
    """It is said which, and counted; the hasher starts all the same, and goes on with the rest."""
    system.await_ended(*system.publish(photograph_file(40)))
    system.stop(system.hasher)
    events = system.publish(*map(photograph_file, range(41, 45)))
    with closing(LogReader(system.stack.settings, IMAGE_INGESTED)) as reader:
        _, end = reader.watermarks(0)
    place = TopicPartition(IMAGE_INGESTED, 0, end - 2)
    for future in system.admin.delete_records([place]).values():
        future.result(ANSWER_SECONDS)
    assert "all topics are as declared" in system.stack.command("topics", "check")
    system.hasher.start()
    system.await_ended(*events[2:])
    assert system.lost(IMAGE_INGESTED, "expired") == 1
    assert f"offsets {end - 4} to {end - 3} are gone" in system.hasher.log.read_text()
    assert not any(map(system.client.ended, events[:2]))


def test_no_start_where_nobody_knows_where_to_begin(system: System) -> None:
    """No committed offset, and one beyond the log's end: an error with its repair, no guess."""
    system.await_ended(*system.publish(photograph_file(50)))
    for member in system.stack.members:
        system.stop(member)
    found = system.committed(INDEX_LOG, MATCHER_GROUP)
    assert found is not None
    system.commit(MATCHER_GROUP, INDEX_LOG, found.offset + 100)
    system.matcher.start()
    said = system.end_of(system.matcher)
    assert f"committed {found.offset + 100}, but the topic ends at {found.offset}" in said
    system.commit(MATCHER_GROUP, INDEX_LOG, found.offset)
    system.forget(HASHER_GROUP)
    system.hasher.start()
    assert "no committed offset; run check-dedup topics create" in system.end_of(system.hasher)


def truncate(broker: Broker, topic: str, end: int) -> None:
    """Cut a partition's file off, as a disk that lies or an old backup does; no broker runs."""
    folder = broker.data / f"{topic}-0"
    (segment,) = folder.glob("*.log")
    content, position = segment.read_bytes(), 0
    while struct.unpack_from(">q", content, position)[0] < end:  # a batch's first offset and size
        position += 12 + struct.unpack_from(">i", content, position + 8)[0]
    os.truncate(segment, position)
    for made in (*folder.glob("*.index"), *folder.glob("*.timeindex"), *folder.glob("*.snapshot")):
        made.unlink()  # Kafka makes them anew


def test_a_log_that_was_truncated_and_has_grown_again(system: System, own_broker: Broker) -> None:
    """Cut below what is committed it stops the start; grown again, no picture of it is left out."""
    for seed in range(80, 84):  # one by one: a batch each
        system.await_ended(*system.publish(photograph_file(seed)))
    for member in system.stack.members:
        system.stop(member)
    found = system.committed(INDEX_LOG, MATCHER_GROUP)
    assert found is not None
    system.lose_end(own_broker, INDEX_LOG, found.offset - 2)
    system.matcher.start()
    said = system.end_of(system.matcher)
    assert f"committed {found.offset}, but the topic ends at {found.offset - 2}" in said

    system.commit(MATCHER_GROUP, INDEX_LOG, found.offset - 2)
    system.hasher.start()
    new = system.publish(copy_file(81), copy_file(82), photograph_file(85))
    with closing(LogReader(system.stack.settings, INDEX_LOG)) as reader:
        system.await_true(lambda: reader.watermarks(0)[1] > found.offset)
    # As where it has grown before anybody looked.
    system.commit(MATCHER_GROUP, INDEX_LOG, found.offset)
    system.matcher.start()
    system.await_ended(*new)
    # 82 was cut off, 81 was not.
    assert [system.client.outcomes(image_id)[0].outcome().match for image_id in new] == [
        True,
        False,
        False,
    ]
    said = system.matcher.log.read_text()
    assert f"another history than the index's, from offset {found.offset - 2} on" in said


@pytest.mark.parametrize("is_running", [False, True], ids=["while stopped", "while frozen"])
def test_events_that_were_cut_off_and_came_again(
    system: System, own_broker: Broker, *, is_running: bool
) -> None:
    """Grown past what was read, the hasher stops all the same; reset, it leaves out no picture."""
    for seed in range(90, 94):
        system.await_ended(*system.publish(photograph_file(seed)))
    process = system.hasher.process()
    assert process is not None
    end = system.await_all_committed()
    if is_running:
        process.suspend()
    else:
        system.stop(system.hasher)
    system.lose_end(own_broker, IMAGE_INGESTED, end - 2)
    new = system.publish(*map(photograph_file, range(94, 98)))
    if is_running:
        process.resume()
    else:
        system.hasher.start()
    said = system.end_of(system.hasher)
    differs = rf"image-ingested\[0\]: offset ({end - 2}|{end - 1}) is another record"
    assert re.search(differs, said), said
    system.commit(HASHER_GROUP, IMAGE_INGESTED, end - 2)
    system.hasher.start()
    system.await_ended(*new)


async def test_a_producer_whose_log_lost_its_end_is_replaced(
    system: System, own_broker: Broker
) -> None:
    """The broker wants no more of it; what was on its way fails, and what comes then does not."""
    system.admin.create_topics([NewTopic("scratch", 1, 1)])["scratch"].result(ANSWER_SECONDS)
    deliver = DeliveringProducer(system.stack.settings)
    try:
        for number in range(4):
            await deliver([Outgoing("scratch", b"k", b"%d" % number)])
        system.lose_end(own_broker, "scratch", 2)
        with pytest.raises(RetryableError, match="a record of scratch was not delivered"):
            await deliver([Outgoing("scratch", b"k", b"lost")])
        await deliver([Outgoing("scratch", b"k", b"again")])
    finally:
        assert deliver.close(ANSWER_SECONDS) == 0
    with closing(LogReader(system.stack.settings, "scratch")) as reader:
        found = [entry.value for batch in reader.read_range(0, 0, 3) for entry in batch]
    assert found == [b"0", b"1", b"again"]


async def test_a_producer_whose_record_timed_out_is_replaced(
    system: System, own_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """One that may never send again is used no more, whatever the reason was."""
    system.admin.create_topics([NewTopic("slow", 1, 1)])["slow"].result(ANSWER_SECONDS)
    deliver = DeliveringProducer(system.stack.settings, timeout_seconds=2)
    try:
        await deliver([Outgoing("slow", b"k", b"first")])
        own_broker.pause()
        try:
            with pytest.raises(RetryableError, match=r"slow was not delivered.*timed out"):
                await deliver([Outgoing("slow", b"k", b"late")])
        finally:
            own_broker.resume()
        await deliver([Outgoing("slow", b"k", b"again")])
    finally:
        assert deliver.close(ANSWER_SECONDS) == 0
    assert caplog.text.count("another producer goes on: a record of slow was not delivered") == 1
    with closing(Ends(system.stack.settings)) as ends:
        _, end = ends.watermarks("slow", 0)
    with closing(LogReader(system.stack.settings, "slow")) as reader:
        found = [entry.value for batch in reader.read_range(0, 0, end) for entry in batch]
    assert [value for value in found if value != b"late"] == [b"first", b"again"]


def test_an_index_log_that_has_grown_again_under_a_frozen_matcher(
    system: System, own_broker: Broker
) -> None:
    """It stops and says what to do; where its group forms anew before that, it does so itself."""
    for seed in range(100, 104):
        system.await_ended(*system.publish(photograph_file(seed)))
    process = system.matcher.process()
    assert process is not None
    end = system.await_all_committed(INDEX_LOG, MATCHER_GROUP)
    said_before = len(system.matcher.log.read_text())
    process.suspend()
    system.stop(system.hasher)
    system.lose_end(own_broker, INDEX_LOG, end - 2)
    # As another hasher would; one that has written to this log is told by the broker.
    new = [uuid.uuid4().hex for _ in range(4)]
    system.client.send(
        *(
            (
                INDEX_LOG,
                uuid.uuid4().bytes,
                encode_log(Hashed(1, "w", image_id, "event", made, 0)),
                (),
            )
            for number, image_id in enumerate(new)
            for made in [made_fingerprint(number, 1, copy=0, made=TWO_VIEWS)]
        )
    )
    process.resume()
    system.await_true(
        lambda: (
            system.matcher.process() is None
            or "another history" in system.matcher.log.read_text()[said_before:]
        )
    )
    if system.matcher.process() is None:
        said = system.end_of(system.matcher)
        told = re.search(r"index-log\[0\]: offset \d+ is another record .* at most (\d+) and", said)
        assert told, said
        system.commit(MATCHER_GROUP, INDEX_LOG, min(end - 2, int(told[1])))
        shutil.rmtree(system.stack.directory / "data" / system.matcher.name / "partition-0")
        system.matcher.start()
    system.hasher.start()
    system.await_ended(*new)


def test_an_index_log_that_is_made_anew_stops_the_matcher(system: System) -> None:
    """The index may be all that is left of the old one; the next start makes one of the new log."""
    (original,) = system.publish(photograph_file(60))
    system.await_ended(original)
    system.stop(system.hasher)
    system.make_anew(INDEX_LOG)
    assert "index-log was deleted and made anew" in system.end_of(system.matcher)
    assert (system.stack.directory / "data" / system.matcher.name / "partition-0").is_dir()
    system.await_true(lambda: system.stack.try_command("topics", "create").returncode == 0)
    system.hasher.start()
    system.matcher.start()
    copy, again = system.publish(copy_file(60), photograph_file(60))
    system.await_ended(copy, again)
    assert system.client.outcomes(copy)[0].outcome().match is False
    assert system.client.outcomes(again)[0].outcome().match is True


def test_a_record_of_an_unknown_version_stops_the_matcher(system: System) -> None:
    """It names the offset, and answers nothing that comes behind it, at any start."""
    system.await_ended(*system.publish(photograph_file(70)))
    record = b"\x82\xa4type\xa7removed\xaerecord_version\x63"  # MessagePack; version 99
    ((_, offset),) = system.client.send((INDEX_LOG, uuid.uuid4().bytes, record, ()))
    (behind,) = system.publish(photograph_file(71))
    for again in (True, False):
        said = system.end_of(system.matcher)
        assert f"index-log partition 0 offset {offset}: " in said
        assert "upgrade the matcher" in said
        if again:
            system.matcher.start()
    found = system.committed(INDEX_LOG, MATCHER_GROUP)
    assert found is not None
    assert found.offset <= offset
    assert not system.client.ended(behind)
    system.start_over()


def test_partitions_that_are_added_stop_the_process(system: System) -> None:
    """Keys would be on other partitions than before; the next start says what to do."""
    future = system.admin.create_partitions([NewPartitions(IMAGE_REMOVED, 2)])[IMAGE_REMOVED]
    future.result(ANSWER_SECONDS)
    assert "image-removed: has 2 partitions, had 1" in system.end_of(system.hasher)
    system.hasher.start()
    assert "has 2 partitions, CHECK_DEDUP_PARTITIONS says 1" in system.end_of(system.hasher)
