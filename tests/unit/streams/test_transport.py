"""What is changed of Faust's consumer, without a broker."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import aiokafka
import faust
import pytest
from faust.exceptions import ConsumerNotStarted
from faust.types import TP

from streams.engine.transport import WatermarkConsumer, WatermarkTransport, build_app
from streams.settings import Settings

MESSAGE = cast("faust.types.Message", SimpleNamespace(tp=TP("index-log", 3), offset=7))


def consumer(deliver: Any = None) -> WatermarkConsumer:  # noqa: ANN401 - Faust's callback
    """Give one that hands over to Faust's own conductor, or to something else."""
    app = build_app(Settings(), "group", buffered_events=1)
    return WatermarkConsumer(
        app.transport,
        callback=deliver or app.topics.on_message,
        on_partitions_revoked=None,
        on_partitions_assigned=None,
    )


async def test_an_event_whose_partition_has_no_agent_yet_ends_nobody() -> None:
    """Faust itself raises there; the feed reads it from the log, or it is fetched again."""
    taken = consumer()
    with pytest.raises(KeyError):
        await taken.app.topics.on_message(MESSAGE)
    await taken.callback(MESSAGE)


async def test_what_is_fetched_is_handed_over_until_the_partitions_are_revoked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In order; what is left of a fetch then is dropped, and does not hold up the next one."""
    got: list[int] = []

    async def deliver(message: faust.types.Message) -> None:
        got.append(message.offset)
        if message.offset == 2:
            taken.suspend_flow.set()
            await asyncio.Event().wait()  # an agent's queue is full

    async def getmany(**_: float) -> AsyncIterator[tuple[TP, faust.types.Message]]:
        taken.suspend_flow.clear()
        for offset in fetches.pop(0):
            yield MESSAGE.tp, cast("faust.types.Message", SimpleNamespace(offset=offset))
        fetcher.should_stop = not fetches

    taken, fetcher = consumer(deliver), SimpleNamespace(should_stop=False)
    fetches = [range(2), range(2, 5), range(0), range(5, 7)]
    monkeypatch.setattr(taken, "getmany", getmany)
    await taken._drain_messages(fetcher)
    assert got == [0, 1, 2, 5, 6]


async def test_a_fetch_of_nothing_does_not_wait_for_long() -> None:
    """And it is there that aiokafka keeps what it was given: Faust gives it 1.5 s."""
    given = aiokafka.AIOKafkaConsumer(fetch_max_wait_ms=1234)
    assert given._fetch_max_wait_ms == 1234
    taken = consumer()
    transport = cast("WatermarkTransport", taken.app.transport)
    made = taken._new_consumer_thread()._create_worker_consumer(transport)
    assert made._fetch_max_wait_ms == 50


async def test_other_errors_are_not_hidden() -> None:
    """Also of the same kind."""

    async def fail(_: object) -> None:
        raise KeyError("another")

    with pytest.raises(KeyError, match="another"):
        await consumer(fail).callback(MESSAGE)


def test_fausts_own_guesses_about_slow_partitions_are_not_told() -> None:
    """It errs after each take-over; the watchdog knows, by the log."""
    taken, partition = consumer(), TP("index-log", 3)
    with pytest.raises(ConsumerNotStarted):  # it would look
        super(WatermarkConsumer, taken).verify_event_path(0.0, partition)
    taken.verify_event_path(0.0, partition)
