"""Shares of the window, and what is parked beyond them."""

from streams.parking import Parked, Sharer, WindowShares

A, B = Sharer("workspace", "a"), Sharer("workspace", "b")
HOST = Sharer("host", "a")


def test_a_share_is_ones_own() -> None:
    """A workspace that is full keeps its own events out, and nobody else's; so does a host."""
    shares = WindowShares(10)
    shares.take((A, HOST), 6)
    assert shares.full((A, HOST), 4) is None
    assert shares.full((A,), 5) == A
    assert shares.full((B, HOST), 5) == HOST
    assert shares.full((B,), 10) is None
    assert shares.room_bytes(A) == 4
    shares.give_back((A, HOST), 6)
    assert shares.full((A, HOST), 10) is None


def test_one_event_fits_whatever_its_size() -> None:
    """Else it would wait for ever."""
    shares = WindowShares(10)
    assert shares.full((A,), 11) is None
    shares.take((A,), 11)
    assert shares.full((A,), 1) == A


def test_parked_events_come_back_in_order_and_sharers_in_turn() -> None:
    """Nobody waits behind another's queue; what could not be taken stays."""
    parked = Parked()
    for sharer, offset in ((A, 3), (B, 4), (A, 6), (A, 5)):
        parked.add(sharer, offset)
    assert parked.waiting() == (A, B)
    assert parked.first(A, 2) == [3, 5]
    assert parked.waiting() == (B, A)
    assert parked.take(A) == 3
    assert parked.first(A, 9) == [5, 6]
    assert parked.take(B) == 4
    assert B not in parked
    assert A in parked
    parked.take(A)
    parked.take(A)
    assert parked.waiting() == ()
