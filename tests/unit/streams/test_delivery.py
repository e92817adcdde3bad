"""Delivered, then applied, then committed: the order, and what a failure leaves undone."""

import asyncio
from collections.abc import Collection

import pytest

from streams import delivery as delivery_module
from streams.delivery import Outgoing, TopicPartition, Watermarks, Window, commit_group

PARTITION = TopicPartition("index-log", 3)
RECORDS = [Outgoing("image-matched", b"a", b"1"), Outgoing("image-matched", b"b", b"2")]


class RecordingBroker:
    """Notes the order in which it and its group are used; can refuse to deliver."""

    def __init__(self, *, refuse: bool = False, fail_apply: bool = False) -> None:
        self.order: list[str] = []
        self.refuse = refuse
        self.fail_apply = fail_apply

    async def deliver(self, records: Collection[Outgoing], /) -> None:
        """Acknowledge each record, some later than others."""
        for record in records:
            await asyncio.sleep(0)
            if self.refuse:
                raise ConnectionError
            self.order.append(f"delivered {record.key!r}")

    async def apply(self) -> None:
        """Write the batch."""
        if self.fail_apply:
            raise TimeoutError
        self.order.append("applied")

    def acknowledge(self) -> None:
        """Move the watermark."""
        self.order.append("acknowledged")


async def commit(broker: RecordingBroker) -> None:
    """Commit one group on a recording broker."""
    await commit_group(
        outgoing=RECORDS,
        deliver=broker.deliver,
        apply=broker.apply,
        acknowledge=broker.acknowledge,
    )


async def test_a_group_is_delivered_then_applied_then_acknowledged() -> None:
    """The order is delivered, applied, acknowledged."""
    broker = RecordingBroker()
    await commit(broker)
    assert broker.order == ["delivered b'a'", "delivered b'b'", "applied", "acknowledged"]


async def test_nothing_is_applied_or_acknowledged_after_a_failed_delivery() -> None:
    """A failed delivery leaves the later steps undone."""
    broker = RecordingBroker(refuse=True)
    with pytest.raises(ConnectionError):
        await commit(broker)
    assert broker.order == []


async def test_nothing_is_acknowledged_after_a_failed_write() -> None:
    """A batch that is not written is not acknowledged, though its outcomes are delivered."""
    broker = RecordingBroker(fail_apply=True)
    with pytest.raises(TimeoutError):
        await commit(broker)
    assert "acknowledged" not in broker.order


def test_only_what_was_reached_in_this_assignment_is_committed() -> None:
    """Not an earlier assignment's, not another's partition, nothing between assignments."""
    watermarks = Watermarks()
    watermarks.advance(PARTITION, 4, 10)
    assert watermarks.committable({PARTITION}, 4) == {PARTITION: 10}
    assert watermarks.committable({PARTITION}, 5) == {}
    assert watermarks.committable({PARTITION}, None) == {}
    assert watermarks.committable({TopicPartition("index-log", 1)}, 4) == {}


def test_a_watermark_of_an_earlier_assignment_changes_nothing() -> None:
    """A worker that was frozen and finishes late does not move the watermark."""
    watermarks = Watermarks()
    watermarks.advance(PARTITION, 5, 10)
    watermarks.advance(PARTITION, 4, 99)
    watermarks.advance(PARTITION, 5, 7)
    assert watermarks.committable({PARTITION}, 5) == {PARTITION: 10}


def test_a_new_assignment_may_begin_below_the_last_one() -> None:
    """After a rebalance the committed offset decides, even where it is lower."""
    watermarks = Watermarks()
    watermarks.advance(PARTITION, 5, 10)
    watermarks.advance(PARTITION, 6, 8)
    assert watermarks.committable({PARTITION}, 6) == {PARTITION: 8}


async def test_the_window_acknowledges_below_the_oldest_unfinished_event_only() -> None:
    """Events finish in any order; the watermark waits for the oldest."""
    marks: list[int] = []
    window = Window(10, 5, marks.append)
    for offset in (5, 6, 7):
        await window.enter(offset)
    window.finish(6)
    window.finish(7)
    assert marks == []
    window.finish(5)
    assert marks == [8]
    assert len(window) == 0


async def test_a_hole_in_the_offsets_holds_nothing_up() -> None:
    """Offsets may skip (transactions, compaction)."""
    marks: list[int] = []
    window = Window(10, 0, marks.append)
    await window.enter(3)
    await window.enter(9)
    window.finish(3)
    window.finish(9)
    assert marks == [9, 10]


async def test_what_is_no_event_is_accounted_for() -> None:
    """Behind the last event there may be offsets that never come; below an unfinished one, none."""
    marks: list[int] = []
    window = Window(10, 0, marks.append)
    await window.enter(0)
    window.reach(4)
    assert marks == []
    window.finish(0)
    assert marks == [4]
    window.reach(9)
    window.reach(7)
    assert marks == [4, 9]


async def test_a_full_window_waits_for_its_oldest_event() -> None:
    """The bound holds: room comes only when the oldest finishes."""
    window = Window(2, 0, lambda _: None)
    await window.enter(0)
    await window.enter(1)
    waiting = asyncio.ensure_future(window.enter(2))
    window.finish(1)
    await asyncio.sleep(0)
    assert not waiting.done()
    window.finish(0)
    assert await asyncio.wait_for(waiting, 1)


async def test_behind_a_parked_event_only_what_is_in_work_is_bounded() -> None:
    """It may wait for long, and is not finished; the watermark waits for it."""
    marks: list[int] = []
    window = Window(2, 0, marks.append)
    assert window.park(0)
    for offset in range(1, 9):
        assert await asyncio.wait_for(window.enter(offset), 1)
        window.finish(offset)
    assert (len(window), window.parked, marks) == (0, 1, [])
    assert await window.enter(9)
    assert await window.unpark()
    assert (len(window), window.parked) == (2, 0)
    waiting = asyncio.ensure_future(window.enter(10))
    await asyncio.sleep(0)
    assert not waiting.done()
    window.finish(0)
    assert await asyncio.wait_for(waiting, 1)
    assert marks == [9]


async def test_what_can_be_noted_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is memory, and what is done again after a crash."""
    monkeypatch.setattr(delivery_module, "_SPAN_EVENTS", 2)
    window = Window(9, 0, lambda _: None)
    assert window.park(0)
    assert window.park(1)
    assert not window.park(2)
    waiting = asyncio.ensure_future(window.enter(2))
    await asyncio.sleep(0)
    assert not waiting.done()
    window.abandon()
    assert not await asyncio.wait_for(waiting, 1)
    assert not await window.unpark()


async def test_an_abandoned_window_lets_go_of_whoever_waits() -> None:
    """After a revocation nothing finishes any more; the feed must not wait for ever."""
    window = Window(1, 0, lambda _: None)
    assert await window.enter(0)
    waiting = asyncio.ensure_future(window.enter(1))
    await asyncio.sleep(0)
    window.abandon()
    assert not await asyncio.wait_for(waiting, 1)
