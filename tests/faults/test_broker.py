"""The broker and the network to it: restarts, cuts, silence, slowness."""

from tests.faults.harness import SESSION_TIMEOUT_SECONDS, System


def test_broker_restarts(system: System) -> None:
    """A broker that restarts, cleanly or after kill -9, loses nothing and needs no operator."""
    with system.publishing():
        system.pause(1)
        system.restart_broker(system.chance.uniform(0, 2))
        system.await_members()
        system.kill_broker(system.chance.uniform(0, 2))
        system.pause(1)
    assert system.judge().outcomes


def test_network(system: System) -> None:
    """Cut, half-open past the session, round trips of 2 s: no process ends, nothing is lost."""
    longer_than_a_session = SESSION_TIMEOUT_SECONDS + 3.0
    with system.publishing():
        system.pause(1)
        system.cut(system.proxies, system.chance.uniform(1, 3))
        system.pause(2)
        system.cut(system.proxies[:1], longer_than_a_session)
        system.pause(2)
        # What one half is about to say arrives when the other half has taken over.
        system.stall(system.proxies[1:], longer_than_a_session)
        system.pause(2)
        system.slow_down(2.0, 10)
    report = system.judge()
    assert report.outcomes
    assert not any(worker.unasked_exits for worker in system.workers.values())
