"""A stop takes no more, ends what is begun and commits it: nothing is done twice for it."""

import os
import random
import signal
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest

from deploy.local.broker import Broker
from deploy.local.client import Client
from deploy.local.stack import Stack, without_settings
from schemas.codec import decode_log
from schemas.records import Hashed, ImageIngested
from schemas.topics import IMAGE_INGESTED, IMAGE_MATCHED, INDEX_LOG
from streams.delivery import TopicPartition
from streams.kafka.client import committed_offset
from streams.kafka.log import LogReader
from streams.kafka.topics import HASHER_GROUP, MATCHER_GROUP
from tests.integration.picture_host import serving
from tests.integration.pictures import photograph_file

WAIT_SECONDS = 60.0
STOP_SECONDS = 25.0
PICTURES = 60
PICTURE = photograph_file(8_000)
# A stop waits five seconds for pictures on their way.
SLOWEST_SECONDS = 0.5


@pytest.fixture
def origin() -> Iterator[str]:
    """Give the address of a host that answers each request when it likes."""
    chance = random.Random(1)
    with serving(PICTURE, delay_seconds=lambda _: chance.uniform(0, SLOWEST_SECONDS)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def stack(own_broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Give a running system of one hasher and one matcher."""
    with Stack(
        tmp_path_factory.mktemp("stack"),
        broker=own_broker,
        environment=without_settings(os.environ),
    ) as running:
        running.await_ready()
        yield running


def appended(stack: Stack) -> Counter[tuple[TopicPartition, int]]:
    """Count the pictures of `index-log` by the place of their event."""
    found: Counter[tuple[TopicPartition, int]] = Counter()
    with closing(LogReader(stack.settings, INDEX_LOG)) as reader:
        for partition in range(stack.settings.partitions):
            low, high = reader.watermarks(partition)
            for batch in reader.read_range(partition, low, high):
                for entry in batch:
                    record = decode_log(entry.value or b"")
                    if isinstance(record, Hashed) and record.source is not None:
                        source = record.source
                        place = TopicPartition(source.topic, source.partition)
                        found[place, source.offset] += 1
    return found


def committed(stack: Stack, group: str, topic: str) -> dict[TopicPartition, int]:
    """Give what a group has committed of a topic."""
    return {
        TopicPartition(topic, partition): committed_offset(stack.settings, group, topic, partition)
        or 0
        for partition in range(stack.settings.partitions)
    }


def test_what_is_delivered_at_a_stop_is_committed(stack: Stack, origin: str) -> None:
    """In the middle of its work: last delivered is last committed, and nothing comes twice."""
    with Client(stack.settings) as client:
        events = [
            ImageIngested("w", uuid.uuid4().hex, url=f"{origin}/{number}")
            for number in range(PICTURES)
        ]
        client.ingest(*events)
        assert client.wait(lambda: len(client.records(IMAGE_MATCHED)) > PICTURES / 10, WAIT_SECONDS)
        for member in stack.members:
            member.signal(signal.SIGTERM)
        assert [member.wait(STOP_SECONDS) for member in stack.members] == [0, 0]

        done = committed(stack, HASHER_GROUP, IMAGE_INGESTED)
        assert appended(stack) == Counter(
            {(place, offset): 1 for place, end in done.items() for offset in range(end)}
        )
        answered = committed(stack, MATCHER_GROUP, INDEX_LOG)
        client.wait(lambda: False, 2.0)  # whatever was delivered is read
        told = Counter(
            (TopicPartition(INDEX_LOG, position.partition), position.offset)
            for record in client.records(IMAGE_MATCHED)
            for position in (record.outcome().position,)
        )
        assert set(told.values()) == {1}
        assert all(offset < answered[place] for place, offset in told)
        # The first record of each partition is its settings.
        assert sum(told.values()) == sum(max(0, end - 1) for end in answered.values())

        stack.start()
        ids = [event.image_id for event in events]
        assert client.wait(
            lambda: all(map(client.ended, ids)), WAIT_SECONDS, meanwhile=stack.require_alive
        )
        assert [len(client.outcomes(image_id)) for image_id in ids] == [1] * PICTURES
