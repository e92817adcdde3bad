"""Processes that die, or are stopped, at any moment."""

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from tests.faults.harness import (
    PARTITIONS,
    STOP_SECONDS,
    Role,
    System,
    Worker,
)
from tests.faults.traffic import Event

KILLS = 10


def test_random_kills(system: System) -> None:
    """Kill -9, at any time: one outcome each, and twice only what was not committed."""
    with system.publishing():
        for _ in range(KILLS):
            system.pause(system.chance.uniform(0.1, 3))
            system.kill(
                system.chance.choice(list(system.workers.values())), system.chance.uniform(0, 1.5)
            )
    assert system.judge().outcomes


def slow(system: System) -> list[Event]:
    """Give pictures that their host holds back for seconds."""
    found = (event for event in system.events if b"/1." in (event.value or b"")[:400])
    return list(islice((event for event in found if event.picture is not None), 20))


def test_drain_with_events_held(system: System) -> None:
    """Pictures on their way are let go, within the bound, and are fetched again after the start."""
    system.await_settled()
    sent = slow(system)
    system.publish(*sent)
    system.pause(0.5)
    for worker in system.of("hasher"):
        started = time.monotonic()
        system.terminate(worker, 0)
        assert time.monotonic() - started < STOP_SECONDS
    assert system.judge().outcomes.keys() >= {event.picture for event in sent}


def test_drain_without_a_broker(system: System) -> None:
    """SIGTERM ends a process within its bound also when there is no broker to say good-bye to."""
    with system.publishing():
        system.pause(2)
    system.broker.kill()
    with ThreadPoolExecutor() as threads:
        ends = list(threads.map(Worker.terminate, system.workers.values()))
    system.broker.start()
    for worker in system.workers.values():
        worker.start()
    assert set(ends) <= {0, 3}, ends
    assert system.judge().outcomes


@pytest.mark.parametrize("role", ["hasher", "matcher"])
def test_one_three_one(system: System, role: Role) -> None:
    """One becomes three and one again; a zombie that wakes after a takeover does no harm."""
    zombie, leaving = system.of(role)[:2]
    with system.publishing():
        system.take_away(leaving)
        system.await_members()
        system.bring_back(leaving)
        newcomer = system.add(role)
        system.await_members()
        zombie.freeze()
        system.timeline.add(f"SIGSTOP {zombie.name}")
        try:
            taken_over = {*range(PARTITIONS)}
            system.await_true(
                "the others take over",
                lambda: (
                    {
                        partition
                        for worker in (leaving, newcomer)
                        for partition in system.partitions_of(worker)
                    }
                    == taken_over
                ),
            )
            # What it had begun is done by others now, before it comes to do it itself.
            system.pause(2)
        finally:
            zombie.thaw()
            system.timeline.add(f"SIGCONT {zombie.name}")
        system.await_members()
        system.take_away(newcomer)
        system.take_away(leaving)
        system.await_members()
    report = system.judge()
    system.bring_back(leaving)
    system.await_members()
    assert report.outcomes
    assert not zombie.unasked_exits
