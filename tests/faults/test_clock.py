"""Wall clocks that jump, ours and those of who sends."""

import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka import KafkaError, Message

from schemas.topics import IMAGE_INGESTED
from streams.kafka.client import producer
from tests.faults.harness import System

DAY_SECONDS: Final = 86_400
JUMPS_SECONDS: Final = (3600, -3600, 400 * DAY_SECONDS, -400 * DAY_SECONDS, 0)
# What the topic takes: a week behind, an hour ahead.
STAMPED_SECONDS: Final = (-6 * DAY_SECONDS, 50 * 60)
REFUSED_SECONDS: Final = (-8 * DAY_SECONDS, 2 * 3600)


class Clock:
    """Seconds that the wall clock of the processes is ahead."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.set(0)

    def set(self, seconds: int) -> None:
        """Let it jump."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.replace(self.file)


@pytest.fixture
def clock(system: System) -> Iterator[Clock]:
    """Give all processes a wall clock that can be set; the true one afterwards."""
    set_by_us = Clock(system.directory / "clock")
    ours = {
        "PYTHONPATH": str(Path(__file__).parent / "clock"),
        "FAULT_CLOCK": str(set_by_us.file),
        "CHECK_DEDUP_LOG_LEVEL": "DEBUG",  # matchers tell each outcome, hashers each dead letter
    }
    for worker in system.workers.values():
        system.restart(worker, **ours)
    yield set_by_us
    for worker in system.workers.values():
        system.restart(worker, **dict.fromkeys(ours))


def test_clock_jumps(system: System, clock: Clock) -> None:
    """By an hour or a year, there and back: one outcome each, no time-out, no stall, no end."""
    system.await_members()
    with system.publishing():
        for seconds in JUMPS_SECONDS:
            system.pause(2)
            system.timeline.add(f"the wall clock is {seconds} s ahead")
            clock.set(seconds)
            if abs(seconds) > DAY_SECONDS:
                # A hasher tells dead letters only, and one comes every other second.
                month = time.strftime("%Y-%m", time.gmtime(time.time() + seconds))
                system.await_true(
                    f"hashers and matchers have jumped to {month}", partial(told, system, month)
                )
        system.pause(2)
    assert system.judge().outcomes


def told(system: System, month: str) -> bool:
    """Whether some process of each role has logged something in this month."""
    return all(
        any(f'"time":"{month}' in worker.said() for worker in system.of(role))
        for role in ("hasher", "matcher")
    )


def test_events_of_wrong_clocks(system: System) -> None:
    """Stamped within what the topic takes, they have their outcomes as all others."""
    for seconds in STAMPED_SECONDS:
        events = list(islice(system.events, 30))
        system.publish(*events, timestamp_ms=int((time.time() + seconds) * 1000))
        report = system.judge()
        pictures = {event.picture for event in events} - {None}
        assert pictures <= report.outcomes.keys()


@pytest.mark.parametrize("seconds", REFUSED_SECONDS)
def test_an_event_that_would_expire_unread_is_refused(system: System, seconds: int) -> None:
    """Its producer is told; one in the future would never expire."""
    answers: list[KafkaError | None] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        answers.append(error)

    sender = producer(system.settings)
    stamped_ms = int((time.time() + seconds) * 1000)
    sender.produce(IMAGE_INGESTED, b"{}", b"k", on_delivery=delivered, timestamp=stamped_ms)
    sender.flush(30)
    (error,) = answers
    assert error is not None
    assert error.code() == KafkaError.INVALID_TIMESTAMP
    system.judge()
