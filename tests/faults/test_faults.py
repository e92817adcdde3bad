"""Two hashers and two matchers under load, while everything that can be killed is killed.

The order and the pauses come from a seed, which is printed; FAULT_SEED=<seed> replays it.
"""

import random
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice

import msgspec
import pytest

from schemas.codec import encode_json
from schemas.records import ImageIngested
from schemas.topics import IMAGE_INGESTED, IMAGE_MATCHED, IMAGE_REMOVED
from streams.kafka.client import producer
from tests.faults.harness import (
    ROOT,
    SESSION_TIMEOUT_SECONDS,
    Publisher,
    System,
    seed_from_environment,
)
from tests.faults.traffic import Event, traffic
from tests.oracle import Report, read_history, verify

EVENTS_PER_SECOND = 25.0
# Long enough for work to be in flight again, short enough that recoveries overlap with faults.
BETWEEN_SECONDS = (0.5, 3.0)
# Mostly back within the session, as a static member; sometimes the others have taken over.
DOWN_SECONDS = (0.0, 3.0)
TAKEN_OVER_SECONDS = SESSION_TIMEOUT_SECONDS + 3.0


def schedule(system: System) -> list[partial[None]]:
    """Give every fault once, in an order and with pauses that the seed decides."""
    chance = system.chance

    def down() -> float:
        return chance.uniform(*DOWN_SECONDS)

    frozen = chance.choice(list(system.workers.values()))
    wiped = chance.choice(system.of("matcher"))
    faults: list[partial[None]] = [
        *(partial(system.kill, worker, down()) for worker in system.workers.values()),
        *(partial(system.terminate, worker, down()) for worker in system.workers.values()),
        partial(system.freeze, frozen, TAKEN_OVER_SECONDS),
        partial(system.kill_broker, down()),
        partial(system.wipe, wiped, chance.choice([down(), TAKEN_OVER_SECONDS])),
    ]
    chance.shuffle(faults)
    return faults


@pytest.fixture
def system() -> Iterator[System]:
    """Start a whole system; its logs stay in build/faults."""
    seed = seed_from_environment()
    directory = ROOT / "build" / "faults" / f"{seed}-{time.time_ns()}"
    directory.mkdir(parents=True)
    with System(directory, seed) as started:
        started.timeline.add(f"seed {seed}; logs in {directory}")
        yield started


def test_nothing_is_lost(system: System) -> None:
    """Whoever is killed, stopped, frozen or wiped: one outcome each, as brute force says."""
    publisher = Publisher(system.settings, system.seed, system.pictures, EVENTS_PER_SECOND)
    publisher.start()
    system.await_members()
    for fault in schedule(system):
        # Half of the faults hit a system that has not recovered from the one before.
        system.pause(system.chance.uniform(*BETWEEN_SECONDS))
        if system.chance.random() < 0.5 or fault.func == system.freeze:
            system.await_members()
        fault()
    publisher.finish()
    system.timeline.add(f"{len(publisher.sent)} events published")
    system.await_settled()
    system.timeline.add("settled")
    system.stop_workers()
    report = system.judge(publisher.sent)
    system.timeline.add(str(report))
    assert len(report.outcomes) > 100
    assert report.dead_letters
    notices_what_is_planted(system, report)


def notices_what_is_planted(system: System, report: Report) -> None:
    """The oracle that was content finds a loss and a conflict on the very same broker."""
    outcome = next(iter(report.outcomes.values()))
    other = msgspec.structs.replace(outcome, matches_total=outcome.matches_total + 1)
    event = ImageIngested(outcome.workspace, "nobody takes this one", content=b"x")
    sender = producer(system.settings)
    sender.produce(IMAGE_MATCHED, encode_json(other), outcome.image_id.encode())
    sender.produce(IMAGE_INGESTED, encode_json(event), event.image_id.encode())
    assert sender.flush(30) == 0
    assert verify(read_history(system.settings)).kinds() == {"conflict", "lost"}


def events(seed: int, count: int) -> list[Event]:
    """Give the first events of a seed."""
    return list(islice(traffic(seed, "http://127.0.0.1:1"), count))


def test_traffic_is_a_function_of_the_seed() -> None:
    """The same seed gives the same events, another one gives others."""
    assert events(1, 100) == events(1, 100)
    assert events(1, 100) != events(2, 100)


def test_traffic_has_everything() -> None:
    """A few hundred events have pictures of every kind, redeliveries, removals and poison."""
    sent = events(random.randrange(1000), 400)
    pictures = [event for event in sent if event.picture is not None]
    values = {event.value for event in pictures}
    assert len({event.picture for event in pictures}) < len(values) < len(pictures)
    assert 0 < sum(b'"url"' in (value or b"") for value in values) < len(values)
    assert any(event.reason is not None for event in sent)
    assert any(event.topic == IMAGE_REMOVED for event in sent)
