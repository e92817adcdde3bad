"""An outage of our own is told from dead hosts by how many different hosts are silent."""

import pytest

from streams.fetching import outage
from streams.fetching.outage import HEARD_OF_SECONDS, HOSTS_AT_LEAST, PROBE_SECONDS, Outage


class Clock:
    """Stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """At zero."""
    return Clock()


def silence(watched: Outage, hosts: int, name: str = "h") -> bool:
    """Let so many hosts fail; whether an outage began."""
    begun = [watched.failed(f"{name}{number}") for number in range(hosts)]
    return True in begun


def test_one_dead_host_is_no_outage(clock: Clock) -> None:
    """However often it is asked."""
    watched = Outage(clock)
    for _ in range(1_000):
        assert not watched.failed("dead")
    assert watched.counts() == (1, 1)


def test_the_fifth_silent_host_begins_it_and_no_other_does(clock: Clock) -> None:
    """It begins once, so that it is said once."""
    watched = Outage(clock)
    assert not silence(watched, HOSTS_AT_LEAST - 1)
    assert watched.failed("last")
    assert watched.is_on
    assert not silence(watched, 100)


@pytest.mark.parametrize(("answering", "begins"), [(1, True), (2, False)])
def test_a_fifth_of_all_that_answers_is_too_much_for_an_outage(
    clock: Clock, answering: int, *, begins: bool
) -> None:
    """Four of five are silent, or fewer."""
    watched = Outage(clock)
    for number in range(answering):
        watched.answered(f"alive{number}")
    assert silence(watched, HOSTS_AT_LEAST) is begins


def test_a_hosts_latest_request_counts(clock: Clock) -> None:
    """A host that has answered since is not silent, one that died is."""
    watched = Outage(clock)
    silence(watched, HOSTS_AT_LEAST - 1)
    watched.answered("h0")
    assert not watched.failed("other")
    assert watched.failed("h0")


def test_what_was_long_ago_does_not_count(clock: Clock) -> None:
    """Five hosts that die one by one over minutes are five dead hosts."""
    watched = Outage(clock)
    for number in range(50):
        clock.now += HEARD_OF_SECONDS / (HOSTS_AT_LEAST - 2)
        assert not watched.failed(f"h{number}")


def test_one_answer_ends_it(clock: Clock) -> None:
    """And it is counted as over."""
    watched = Outage(clock)
    silence(watched, HOSTS_AT_LEAST)
    clock.now = 100.0
    assert watched.seconds == 100.0
    assert watched.answered("h3")
    assert not watched.is_on
    assert watched.ended == 1
    assert not watched.answered("h3")


def test_while_it_lasts_somebody_tries_once_a_second(clock: Clock) -> None:
    """Not all who wait, and nobody before or after."""
    watched = Outage(clock)
    assert not watched.may_probe()
    silence(watched, HOSTS_AT_LEAST)
    tried = 0
    for _ in range(100):
        clock.now += PROBE_SECONDS / 10
        tried += watched.may_probe()
    assert 9 <= tried <= 10
    watched.answered("h0")
    clock.now += 10 * PROBE_SECONDS
    assert not watched.may_probe()


def test_hosts_that_stay_dead_do_not_stop_us_again(clock: Clock) -> None:
    """Whoever names a hundred of them stops us once; new ones count, and so do those that lived."""
    watched = Outage(clock)
    silence(watched, 100)
    watched.answered("alive")
    assert not silence(watched, 100)
    watched.answered("h1")
    assert not watched.failed("h1")
    assert silence(watched, 2 * HOSTS_AT_LEAST, "new")


def test_hosts_that_are_given_up_are_forgotten_in_time(clock: Clock) -> None:
    """The next real outage is theirs too."""
    watched = Outage(clock)
    silence(watched, HOSTS_AT_LEAST)
    watched.answered("alive")
    clock.now += HEARD_OF_SECONDS + 1
    assert silence(watched, HOSTS_AT_LEAST)


def test_its_memory_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever number of hosts there is."""
    monkeypatch.setattr(outage, "_HOSTS_REMEMBERED", 10)
    watched = Outage(clock)
    silence(watched, 1_000)
    assert watched.counts() == (10, 10)
    for number in range(1_000):
        watched.answered(f"alive{number}")
        silence(watched, 20, f"dead{number}-")
    assert len(watched._given_up) <= 11
