"""The log reader on a real broker: complete and in order, or an error that names the place."""

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined] # its stubs export less

from deploy.local.broker import Broker, ExternalBroker
from streams.entry import LogEntry
from streams.errors import CorruptStateError, RetryableError
from streams.kafka.client import admin_client, producer
from streams.kafka.log import BATCH_RECORDS, LogReader
from streams.kafka.partitioner import partition_of
from streams.settings import Settings

# Of 20 KB each, this is more than the reader reads ahead: it has to come back to the broker.
MANY = 4 * BATCH_RECORDS
WAIT_SECONDS = 60.0


@pytest.fixture
def settings(broker: Broker | ExternalBroker) -> Settings:
    """Point at the shared broker."""
    return Settings(bootstrap_servers=broker.bootstrap)


def new_topic(settings: Settings, partitions: int = 1, **config: str) -> str:
    """Make a topic of a new name."""
    name = f"log-{uuid.uuid4().hex}"
    admin = admin_client(settings)
    admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(30)
    return name


def append(
    settings: Settings, topic: str, values: Sequence[bytes | None], partition: int = 0
) -> None:
    """Append records with key, timestamp and one header each."""
    sender = producer(settings)
    for number, value in enumerate(values):
        sender.produce(
            topic,
            value,
            b"key %d" % number,
            partition,
            timestamp=1_000 + number,
            headers=[("number", b"%d" % number), ("null", None)],
        )
        sender.poll(0)
    assert sender.flush(30) == 0


def read(
    settings: Settings, topic: str, low: int, high: int, *, headers: bool = False
) -> list[LogEntry]:
    """Read a range as one list."""
    with closing(LogReader(settings, topic, stall_timeout_seconds=1)) as reader:
        batches = reader.read_range(0, low, high, headers=headers)
        return [entry for batch in batches for entry in batch]


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """Start a broker that the test may kill and damage."""
    with Broker(tmp_path) as broker:
        yield broker


def test_whole_range(settings: Settings) -> None:
    """Every record comes once, in order, in bounded batches, with all that was sent."""
    topic = new_topic(settings)
    count = 2 * BATCH_RECORDS + 7
    append(settings, topic, [b"value %d" % number for number in range(count)])
    with closing(LogReader(settings, topic)) as reader:
        assert reader.watermarks(0) == (0, count)
        batches = list(reader.read_range(0, 0, count, headers=True))
    assert all(0 < len(batch) <= BATCH_RECORDS for batch in batches)
    entries = [entry for batch in batches for entry in batch]
    assert [entry.offset for entry in entries] == list(range(count))
    assert entries[7] == LogEntry(
        7,
        1_007,
        b"key 7",
        b"value 7",
        (("number", b"7"), ("null", None)),
    )


@pytest.mark.parametrize(("low", "high"), [(0, 1), (3, 7), (9, 10), (5, 5), (7, 3)])
def test_part_of_a_log(settings: Settings, low: int, high: int) -> None:
    """The range's ends are exact; an empty or inverted range is empty."""
    topic = new_topic(settings)
    append(settings, topic, [b"x"] * 10)
    assert [entry.offset for entry in read(settings, topic, low, high)] == list(range(low, high))


def test_headers_are_left_out(settings: Settings) -> None:
    """Headers come only when asked for."""
    topic = new_topic(settings)
    append(settings, topic, [b"x"])
    assert read(settings, topic, 0, 1)[0].headers == ()


def test_tombstone(settings: Settings) -> None:
    """An erased record's tombstone is a record without a value."""
    topic = new_topic(settings)
    append(settings, topic, [b"x", None])
    assert [entry.value for entry in read(settings, topic, 0, 2)] == [b"x", None]


def test_holes(settings: Settings) -> None:
    """Transaction markers take offsets and are no records; a range may begin and end in a hole."""
    topic = new_topic(settings)
    transactional = Producer(
        {"bootstrap.servers": settings.bootstrap_servers, "transactional.id": topic}
    )
    transactional.init_transactions(30)
    for _ in range(3):
        transactional.begin_transaction()
        transactional.produce(topic, b"x", partition=0)
        transactional.commit_transaction(30)
    assert [entry.offset for entry in read(settings, topic, 0, 6)] == [0, 2, 4]
    assert [entry.offset for entry in read(settings, topic, 1, 4)] == [2]
    assert read(settings, topic, 3, 4) == []
    assert read(settings, topic, 5, 6) == []


def test_log_start_moved(settings: Settings) -> None:
    """A range that begins below the log's start is an error that names what is gone."""
    topic = new_topic(settings)
    append(settings, topic, [b"x"] * 10)
    admin = admin_client(settings)
    for future in admin.delete_records([TopicPartition(topic, 0, 4)]).values():
        future.result(30)
    with pytest.raises(CorruptStateError, match=r"offsets 1 to 3 are gone, the log begins at 4"):
        read(settings, topic, 1, 10)
    assert [entry.offset for entry in read(settings, topic, 4, 10)] == list(range(4, 10))


def test_log_start_moves_while_reading(settings: Settings) -> None:
    """The same holds for what is deleted under the reader."""
    topic = new_topic(settings)
    append(settings, topic, [bytes(20_000)] * MANY)
    with closing(LogReader(settings, topic, stall_timeout_seconds=1)) as reader:
        batches = reader.read_range(0, 0, MANY)
        next(batches)
        admin = admin_client(settings)
        for future in admin.delete_records([TopicPartition(topic, 0, MANY)]).values():
            future.result(30)
        with pytest.raises(CorruptStateError, match=f"to {MANY - 1} are gone"):
            list(batches)


def test_log_ends_early(settings: Settings) -> None:
    """A range that the log does not hold ends in an error after a bounded time, not in silence."""
    topic = new_topic(settings)
    append(settings, topic, [b"x"] * 3)
    started = time.monotonic()
    with pytest.raises(RetryableError, match="0 to 4 stands at 3"):
        read(settings, topic, 0, 4)
    assert time.monotonic() - started < 5


def test_late_records_are_waited_for(settings: Settings) -> None:
    """Records that arrive while the reader waits for them are read."""
    topic = new_topic(settings)
    append(settings, topic, [b"x"] * 3)
    with closing(LogReader(settings, topic)) as reader:
        batches = reader.read_range(0, 0, 5)
        found = len(next(batches))
        append(settings, topic, [b"x"] * 2)
        assert found + sum(len(batch) for batch in batches) == 5


def test_unknown_partition(settings: Settings) -> None:
    """A partition that is not there ends in an error that names it, after the time allowed."""
    topic = new_topic(settings)
    with (
        closing(LogReader(settings, topic)) as reader,
        pytest.raises(RetryableError, match=topic),
    ):
        reader.watermarks(1, timeout_seconds=0.5)


def test_broker_gone(own_broker: Broker) -> None:
    """Without a broker, watermarks and reading end in a bounded time, as something to retry."""
    settings = Settings(bootstrap_servers=own_broker.bootstrap)
    topic = new_topic(settings)
    append(settings, topic, [bytes(20_000)] * MANY)
    with closing(LogReader(settings, topic, stall_timeout_seconds=1)) as reader:
        batches = reader.read_range(0, 0, MANY)
        next(batches)
        own_broker.kill()
        with pytest.raises(RetryableError):
            list(batches)
        with pytest.raises(RetryableError):
            reader.watermarks(0, timeout_seconds=0.5)


def test_broker_back_in_time(own_broker: Broker) -> None:
    """A broker that is killed and comes back costs the reader time, and nothing else."""
    settings = Settings(bootstrap_servers=own_broker.bootstrap)
    topic = new_topic(settings)
    append(settings, topic, [bytes(20_000)] * MANY)
    with closing(LogReader(settings, topic)) as reader:
        assert reader.watermarks(0) == (0, MANY)
        batches = reader.read_range(0, 0, MANY)
        offsets = [entry.offset for entry in next(batches)]
        own_broker.kill()
        own_broker.start()
        offsets += [entry.offset for batch in batches for entry in batch]
        assert reader.watermarks(0) == (0, MANY)
    assert offsets == list(range(MANY))


def test_asking_while_a_broker_stops(own_broker: Broker) -> None:
    """Who asks for ends all the while has them again when the broker is back.

    librdkafka's client alone is told for ever that there is no such partition.
    """
    settings = Settings(bootstrap_servers=own_broker.bootstrap)
    topic = new_topic(settings)
    stopping = threading.Event()

    def ask(reader: LogReader) -> tuple[int, int]:
        while not stopping.is_set():
            with suppress(RetryableError):
                reader.watermarks(0, timeout_seconds=0.2)
        return reader.watermarks(0)

    with ExitStack() as readers, ThreadPoolExecutor(4) as threads:
        asking = [
            threads.submit(ask, readers.enter_context(closing(LogReader(settings, topic))))
            for _ in range(4)
        ]
        for _ in range(2):
            own_broker.stop()
            own_broker.start()
        stopping.set()
        assert [each.result(WAIT_SECONDS) for each in asking] == [(0, 0)] * 4


def test_flipped_bit(own_broker: Broker) -> None:
    """A record that fails its checksum is corrupt state; librdkafka alone would skip it."""
    settings = Settings(bootstrap_servers=own_broker.bootstrap)
    topic = new_topic(settings)
    for number in range(5):
        append(settings, topic, [b"value number %d" % number])
    (segment,) = own_broker.data.glob(f"{topic}-0/*.log")
    found = segment.read_bytes().index(b"value number 2")
    with segment.open("r+b") as file:
        file.seek(found)
        file.write(b"V")
    with pytest.raises(CorruptStateError, match=r"offset 2 .* failed CRC"):
        read(settings, topic, 0, 5)


@pytest.mark.parametrize("partitions", [1, 4, 7])
def test_partitioner_of_librdkafka(settings: Settings, partitions: int) -> None:
    """Our producer puts a workspace's key where `partition_of` says that the workspace lives."""
    topic = new_topic(settings, partitions)
    workspaces = ["w", "newsroom-mx", "редакция", "\U0001f30a" * 100, *map(str, range(200))]
    sender = producer(settings)
    for workspace in workspaces:
        sender.produce(topic, b"", workspace.encode())
    assert sender.flush(30) == 0
    with closing(LogReader(settings, topic)) as reader:
        found = {
            (entry.key or b"").decode(): partition
            for partition in range(partitions)
            for batch in reader.read_range(partition, *reader.watermarks(partition))
            for entry in batch
        }
    assert found == {workspace: partition_of(workspace, partitions) for workspace in workspaces}
