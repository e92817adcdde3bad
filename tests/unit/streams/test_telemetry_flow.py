"""How far a process is: lag in records and seconds, and whether a partition stands still."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streams.delivery import TopicPartition, Watermarks
from streams.engine.feed import Stretch
from streams.engine.watchdog import LoopBeat
from streams.entry import LogEntry
from streams.telemetry.flow import Flow
from streams.telemetry.registry import Registry

PART = TopicPartition("image-ingested", 0)


class Signal:
    """A signal as Faust's."""

    def __init__(self) -> None:
        self.handlers: list[Callable[..., Any]] = []

    def connect(self, handler: Callable[..., Any], **_: object) -> None:
        """Take a handler."""
        self.handlers.append(handler)

    def send(self, *arguments: object) -> None:
        """Tell all."""
        for handler in self.handlers:
            asyncio.run(handler(*arguments))


class World:
    """A flow without a broker."""

    def __init__(self) -> None:
        self.watermarks = Watermarks()
        self.beat = LoopBeat()
        self.on_partitions_assigned, self.on_partitions_revoked = Signal(), Signal()
        self.now_ms = 100_000
        self.registry = Registry("hasher")
        app: Any = self
        topics = ("image-ingested", "image-removed")
        self.flow = Flow(self.registry, app, topics, clock_ms=lambda: self.now_ms)
        self.on_partitions_assigned.send(self, {PART})

    def take(self, start: int, *times_ms: int, assignment: int = 1) -> None:
        """Take in records with these timestamps."""
        entries = [LogEntry(start + place, ms, b"", b"") for place, ms in enumerate(times_ms)]
        self.flow.taken(Stretch(PART, assignment, start, entries, start + len(entries)))

    def value(self, name: str, **labels: str) -> float | None:
        """One number of a scrape."""
        text = generate_latest(self.registry.prometheus).decode()
        wanted = labels or {"topic": PART.topic, "partition": "0"}
        return next(
            (
                sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == f"check_dedup_{name}" and wanted.items() <= sample.labels.items()
            ),
            None,
        )


@pytest.fixture
def world() -> World:
    """One partition is assigned, and taken up at offset 10."""
    made = World()
    made.take(10)
    return made


def no_log(offset: int) -> int:
    """Nothing is read."""
    raise AssertionError(offset)


def test_nothing_waits(world: World) -> None:
    """No lag, in records and in seconds."""
    world.flow.saw(PART, 10, no_log)
    for name in ("lag_records", "lag_seconds", "watermark_age_seconds"):
        assert world.value(name) == 0
    assert world.value("watermark_offset") == world.value("end_offset") == 10


def test_what_is_in_work_waits(world: World) -> None:
    """Until its watermark has passed it; its age is that of its own timestamp."""
    world.take(10, 90_000, 95_000)
    world.flow.saw(PART, 12, no_log)
    assert (world.value("lag_records"), world.value("lag_seconds")) == (2, 10)
    world.watermarks.advance(PART, 1, 11)
    assert world.value("lag_records") == 1  # known at once, without asking the broker
    world.flow.saw(PART, 12, no_log)
    assert world.value("lag_seconds") == 5
    world.watermarks.advance(PART, 1, 12)
    assert (world.value("lag_records"), world.value("lag_seconds")) == (0, 0)
    assert world.value("events_total", topic=PART.topic) == 2


def test_what_was_not_taken_in_is_read_from_the_log(world: World) -> None:
    """A matcher that rebuilds takes nothing in for minutes."""
    asked: list[int] = []

    def read(offset: int) -> int:
        asked.append(offset)
        return 40_000

    world.flow.saw(PART, 500, read)
    assert asked == [10]
    assert (world.value("lag_records"), world.value("lag_seconds")) == (490, 60)


def test_a_partition_that_stands_still(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its age rises from when it last moved; a move ends it."""
    now = 1000.0
    monkeypatch.setattr("streams.telemetry.flow.time.monotonic", lambda: now)
    world.take(10, 90_000, 90_000)
    world.flow.saw(PART, 12, no_log)
    now = 1030.0
    world.flow.saw(PART, 12, no_log)
    assert world.value("watermark_age_seconds") == 30
    world.watermarks.advance(PART, 1, 11)
    assert world.value("watermark_age_seconds") == 0
    now = 1040.0
    world.flow.saw(PART, 12, no_log)
    assert world.value("watermark_age_seconds") == 0


def test_a_new_assignment_begins_anew(world: World) -> None:
    """At its committed offset, whatever was reached before; and counts as a rebalance."""
    world.take(10, 90_000, 90_000)
    world.watermarks.advance(PART, 1, 12)
    world.on_partitions_revoked.send(world, {PART})
    assert world.value("assigned_partitions", topic=PART.topic) == 0
    assert world.value("lag_records") is None
    world.on_partitions_assigned.send(world, {PART})
    world.take(11, 90_000, assignment=2)
    world.flow.saw(PART, 12, no_log)
    assert (world.value("watermark_offset"), world.value("lag_records")) == (11, 1)
    assert world.value("rebalances_total", process="") is None
    assert "check_dedup_rebalances_total 2.0" in generate_latest(world.registry.prometheus).decode()
    assert world.value("assigned_partitions", topic=PART.topic) == 1


def test_ready_is_assigned(world: World) -> None:
    """Not between two assignments; a replica that was given none of the partitions is ready."""
    assert world.flow.unready() is None
    world.on_partitions_revoked.send(world, {PART})
    assert world.flow.unready() is not None
    world.on_partitions_assigned.send(world, set())
    assert world.flow.unready() is None
