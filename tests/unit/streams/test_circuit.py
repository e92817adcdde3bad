"""The count of unreadable events in turn: when it says stop, and that a restart changes nothing."""

from hypothesis import given
from hypothesis import strategies as st

from streams.circuit import Circuit


def admitted(circuit: Circuit, events: list[bool]) -> int:
    """Count the events that are let in before the first that is not."""
    for number, readable in enumerate(events):
        if not circuit.admits(readable=readable):
            return number
    return len(events)


def test_stops_before_one_too_many() -> None:
    """As many as the limit become dead letters, and not one more."""
    assert admitted(Circuit(3), [False] * 10) == 3


def test_a_good_event_begins_the_count_anew() -> None:
    """A few bad events among good ones stop nothing, however many there are in all."""
    assert admitted(Circuit(3), [False, False, False, True] * 10) == 40


def test_goes_on_with_a_good_event_at_the_limit() -> None:
    """Nothing is refused but one more bad event: a topic that is good again needs no operator."""
    circuit = Circuit(2, [False, False])
    assert circuit.admits(readable=True)
    assert admitted(circuit, [False] * 5) == 2


def test_without_a_limit() -> None:
    """0: everything becomes a dead letter."""
    assert admitted(Circuit(0), [False] * 1000) == 1000


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5), st.data())
def test_a_restart_gets_no_further(events: list[bool], limit: int, data: st.DataObject) -> None:
    """Wherever the committed offset is, and although it looks back no further than its limit."""
    stopped = admitted(Circuit(limit), events)
    committed = data.draw(st.integers(0, stopped))
    before = events[max(0, committed - limit) : committed]
    assert committed + admitted(Circuit(limit, before), events[committed:]) == stopped
