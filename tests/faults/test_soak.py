"""Every fault, mixed, in an order that the seed decides; and what is sent meanwhile."""

import random
from functools import partial
from itertools import islice

import msgspec

from schemas.codec import encode_json
from schemas.records import ImageIngested
from schemas.topics import IMAGE_INGESTED, IMAGE_MATCHED, IMAGE_REMOVED
from streams.kafka.client import producer
from tests.faults.harness import System
from tests.faults.schedule import mixed_faults
from tests.faults.traffic import Event, traffic
from tests.oracle import Report, read_history, verify

# Long enough for work to be in flight again, short enough that recoveries overlap with faults.
BETWEEN_SECONDS = (0.5, 3.0)


def test_mixed_faults(system: System) -> None:
    """Whoever is killed, stopped, frozen or wiped: one outcome each, as brute force says."""
    faults: list[partial[None]] = mixed_faults(system)
    system.chance.shuffle(faults)
    with system.publishing():
        for fault in faults:
            # Half of the faults hit a system that has not recovered from the one before.
            system.pause(system.chance.uniform(*BETWEEN_SECONDS))
            if system.chance.random() < 0.5 or fault.func == system.freeze:
                system.await_members()
            fault()
    report = system.judge()
    assert len(report.outcomes) > 100
    assert report.dead_letters
    notices_what_is_planted(system, report)


def notices_what_is_planted(system: System, report: Report) -> None:
    """The oracle that was content finds a loss and a conflict on the very same broker."""
    outcome = next(iter(report.outcomes.values()))
    other = msgspec.structs.replace(outcome, matches_total=outcome.matches_total + 1)
    # What is planted must stay as it is; nobody uses this system after that.
    system.sound = False
    for worker in system.workers.values():
        worker.freeze()
    event = ImageIngested(outcome.workspace, "nobody takes this one", content=b"x")
    sender = producer(system.settings)
    sender.produce(IMAGE_MATCHED, encode_json(other), outcome.image_id.encode())
    sender.produce(IMAGE_INGESTED, encode_json(event), event.image_id.encode())
    assert sender.flush(30) == 0
    assert verify(read_history(system.settings)).kinds() == {"conflict", "lost"}
    for worker in system.workers.values():
        worker.thaw()


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
