"""Rates and room: what is taken comes back, and what is not there is refused."""

import pytest

from streams.api.limits import Rates, Room
from streams.api.problems import ProblemError


class Clock:
    """Seconds as the test says."""

    now = 0.0

    def __call__(self) -> float:
        """Give them."""
        return self.now


def test_a_burst_and_then_the_rate() -> None:
    """As many at once as the bucket holds, then one per token's time."""
    clock = Clock()
    rates = Rates(2.0, 3, clock)
    taken = [rates.take("key") for _ in range(4)]
    assert [each.retry_after_seconds for each in taken] == [0, 0, 0, 1]
    assert [each.remaining for each in taken] == [2, 1, 0, 0]
    clock.now = 0.5
    assert rates.take("key").retry_after_seconds == 0
    assert rates.take("key").retry_after_seconds == 1


def test_keys_do_not_share() -> None:
    """One client's flood is not another's."""
    rates = Rates(1.0, 1, Clock())
    rates.take("one")
    assert rates.take("one").retry_after_seconds
    assert not rates.take("other").retry_after_seconds


def test_a_bucket_is_never_fuller_than_full() -> None:
    """A night of silence saves nothing up."""
    clock = Clock()
    rates = Rates(1.0, 2, clock)
    rates.take("key")
    clock.now = 1e6
    assert rates.take("key").remaining == 1


def test_the_headers() -> None:
    """Limit, what remains, and when all of it is back."""
    rates = Rates(2.0, 10, Clock())
    assert rates.take("key").headers() == {
        "RateLimit-Limit": "10",
        "RateLimit-Remaining": "9",
        "RateLimit-Reset": "1",
    }


def test_room_for_requests() -> None:
    """A place is free again when its request ends, however that is."""
    room = Room(1, 10)
    with room.enter(), pytest.raises(ProblemError), room.enter():
        pass
    with pytest.raises(ZeroDivisionError), room.enter():
        raise ZeroDivisionError
    with room.enter():
        pass


def test_room_for_bytes() -> None:
    """Counted over all requests, and given back by each."""
    room = Room(2, 10)
    with room.enter() as first:
        first.hold(6)
        with room.enter() as second:
            second.hold(4)
            with pytest.raises(ProblemError) as caught:
                second.hold(1)
            assert caught.value.status == 503
        first.hold(4)
    with room.enter() as again:
        again.hold(10)
