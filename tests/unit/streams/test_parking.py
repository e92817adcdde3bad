"""Shares of the window, and what is parked beyond them."""

from streams.parking import Parked, WindowShares


def test_a_share_is_a_workspaces_own() -> None:
    """One that is full keeps its own events out, and nobody else's."""
    shares = WindowShares(10)
    shares.take("a", 6)
    assert shares.fits("a", 4)
    assert not shares.fits("a", 5)
    assert shares.fits("b", 10)
    assert shares.room_bytes("a") == 4
    shares.give_back("a", 6)
    assert shares.fits("a", 10)


def test_one_event_fits_whatever_its_size() -> None:
    """Else it would wait for ever."""
    shares = WindowShares(10)
    assert shares.fits("a", 11)
    shares.take("a", 11)
    assert not shares.fits("a", 1)


def test_parked_events_come_back_in_order_and_workspaces_in_turn() -> None:
    """Nobody waits behind another's queue; what could not be taken stays."""
    parked = Parked()
    for workspace, offset in (("a", 3), ("b", 4), ("a", 5), ("a", 6)):
        parked.add(workspace, offset)
    assert parked.waiting() == ("a", "b")
    assert parked.first("a", 2) == [3, 5]
    assert parked.waiting() == ("b", "a")
    parked.take("a")
    assert parked.first("a", 9) == [5, 6]
    parked.take("b")
    assert "b" not in parked
    assert "a" in parked
    parked.take("a")
    parked.take("a")
    assert parked.waiting() == ()
